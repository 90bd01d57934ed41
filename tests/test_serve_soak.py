#!/usr/bin/env python3
"""64 clients at once on one kvasir serve: every answer equals the one given alone, whoever comes, leaves, resets or reads slowly beside it;
afterwards every page that is held is held by the prefix cache, and memory has not grown.

    KVASIR_SOAK=60                 seconds of the soak (12 in make test)
    KVASIR_SOAK_MODEL=models/...   another model than the tiny one

What is alone comes first: each request of the list runs by itself, without the cache. Then the clients draw from the list at random, over
TCP and the unix socket, whole and as streams, on new connections and kept ones."""
import http.client
import json
import os
import random
import socket
import struct
import sys
import threading
import time

sys.path.insert(0, "tests/support")
from runner import run_tests  # noqa: E402
from server import KVASIR, SLOW, TINY, Server  # noqa: E402

SECONDS = float(os.environ.get("KVASIR_SOAK", "12"))
MODEL = os.environ.get("KVASIR_SOAK_MODEL", TINY)
N_CLIENTS, N_REQUESTS = 64, 48


def make_requests(rng, n_vocab):
    """(path, body): prompts of 1 to 400 tokens, many with a beginning in common; greedy and seeded; every way to end."""
    beginnings = [[rng.randrange(3, n_vocab) for _ in range(n)] for n in (64, 130, 300)]
    out = []
    for i in range(N_REQUESTS):
        prompt = [rng.randrange(3, n_vocab) for _ in range(rng.choice([1, 2, 9, 33, 70, 100]))]
        if i % 3:
            prompt = rng.choice(beginnings) + prompt
        body = {"prompt": prompt, "max_tokens": rng.randrange(1, 60), "temperature": rng.choice([0, 1]), "seed": i, "n": rng.choice([1, 1, 1, 2, 3])}
        if i % 4 == 0:
            body["ignore_eos"] = True
        if i % 5 == 0:
            body["stop"] = rng.choice([["e"], [" the", "a"], "."])
        if i % 6 == 0:
            body["logprobs"] = 3
        if i % 7 == 0:
            body["repeat_penalty"] = 1.3
        if i % 11 == 0:
            body["echo"] = True
        if i % 12 == 5:
            body["response_format"] = {"type": "json_schema", "json_schema": {"name": "s", "schema": {
                "type": "object", "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "y"]}}, "required": ["a", "b"], "additionalProperties": False}}}
        out.append(("/v1/completions", body))
    out.append(("/v1/embeddings", {"input": beginnings[1]}))
    out.append(("/v1/embeddings", {"input": [beginnings[0], [5, 6]], "pooling": "last"}))
    return out


def essence(path, answer):
    return answer["data"] if path == "/v1/embeddings" else answer["choices"]


def of_stream(data, n):
    """The choices that a stream says, as a whole answer would have them."""
    events = [e[6:] for e in data.decode().split("\n\n") if e.startswith("data: ")]
    assert events and events[-1] == "[DONE]", data[-200:]
    out = [{"index": i, "text": "", "logprobs": None, "finish_reason": None} for i in range(n)]
    for e in map(json.loads, events[:-1]):
        assert "error" not in e, e
        for c in e["choices"]:
            mine = out[c["index"]]
            assert mine["finish_reason"] is None
            mine["text"] += c["text"]
            mine["finish_reason"] = c["finish_reason"]
            for key, values in (c["logprobs"] or {}).items():
                mine["logprobs"] = mine["logprobs"] or {}
                mine["logprobs"].setdefault(key, []).extend(values)
    return out


def difference(body, said, alone):
    """The parts that differ, and of what."""
    parts = [(i, key, a[key], b.get(key)) for i, (a, b) in enumerate(zip(said, alone)) for key in a if a[key] != b.get(key)]
    return f"{parts} of {len(said)} and {len(alone)} choices of {body}"


class Kept(http.client.HTTPConnection):
    """A connection that is used again, to either socket."""

    def __init__(self, server, kind):
        super().__init__("localhost", timeout=120 * SLOW)
        self.server, self.kind = server, kind

    def connect(self):
        self.sock = self.server.connect(self.kind, timeout=120)


class Client(threading.Thread):
    def __init__(self, soak, index):
        super().__init__()
        self.soak, self.rng, self.kind = soak, random.Random(index), ("tcp", "unix")[index % 2]
        self.kept = Kept(soak.server, self.kind)
        self.error, self.n_equal, self.n_left = None, 0, 0

    def run(self):
        try:
            while time.monotonic() < self.soak.end and not self.soak.failed:
                path, body, alone = self.rng.choice(self.soak.requests)
                body = dict(body, cache_prompt=self.rng.random() < 0.8)
                if path == "/v1/completions" and self.rng.random() < 0.5:
                    body["stream"] = True
                if self.rng.random() < 0.3:
                    self.leave(path, body)
                else:
                    self.compare(path, body, alone)
        except Exception as e:
            self.error = f"{type(e).__name__}: {e}"
            self.soak.failed = True
        self.kept.close()

    def compare(self, path, body, alone):
        if self.rng.random() < 0.2:
            self.kept.close()
        self.kept.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        r = self.kept.getresponse()
        if body.get("stream") and self.rng.random() < 0.2:  # reads slowly
            data = b""
            while piece := r.read(600):
                data += piece
                time.sleep(0.01)
        else:
            data = r.read()
        assert r.status == 200, (r.status, data[:300])
        said = of_stream(data, body["n"]) if body.get("stream") else essence(path, json.loads(data))
        assert said == alone, difference(body, said, alone)
        self.n_equal += 1

    def leave(self, path, body):
        data = json.dumps(body).encode()
        s = self.soak.server.connect(self.kind, timeout=120)
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n".encode()
        how = self.rng.randrange(4)
        s.sendall((head + data)[:self.rng.randrange(1, len(data)) if how == 0 else None])  # 0: in the middle of the request
        time.sleep(self.rng.choice([0, 0.002, 0.02, 0.1]))
        if how == 1:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if how == 2:
            s.shutdown(socket.SHUT_WR)
            while s.recv(1 << 16):
                pass
        s.close()
        self.n_left += 1


def rss_of(pid):
    with open(f"/proc/{pid}/statm") as f:
        return int(f.read().split()[1]) * 4096


class Soak:
    """What the clients share."""


def many_clients_get_what_each_gets_alone():
    with Server("--kv-budget", "64", model=MODEL) as server:
        soak = Soak()
        n_vocab = server.get("/v1/models")["data"][0]["meta"]["n_vocab"]
        made = make_requests(random.Random(7), n_vocab)
        soak.server, soak.failed = server, False
        soak.requests = [(p, b, essence(p, server.post(p, dict(b, cache_prompt=False)))) for p, b in made]
        assert len({json.dumps(a) for _, _, a in soak.requests}) > N_REQUESTS * 3 // 4, "the requests hardly differ"
        begin, rss = time.monotonic(), []
        soak.end = begin + SECONDS
        clients = [Client(soak, i) for i in range(N_CLIENTS)]
        for c in clients:
            c.start()
        while any(c.is_alive() for c in clients):
            rss.append((time.monotonic() - begin, rss_of(server.process.pid)))
            if len(rss) % 8 == 0:
                assert server.is_healthy()
            time.sleep(0.2)
        for c in clients:
            c.join()
        errors = [c.error for c in clients if c.error]
        assert not errors, errors[0][:3000]
        n_equal, n_left = sum(c.n_equal for c in clients), sum(c.n_left for c in clients)
        print(f"{n_equal} answers equal, {n_left} clients left, {server.metrics()['kvasir_preemptions_total']:.0f} preemptions")
        assert n_equal >= N_CLIENTS and n_left >= N_CLIENTS // 2, (n_equal, n_left)

        # Nothing is left behind.
        end = time.monotonic() + 60 * SLOW
        while (m := server.metrics())["kvasir_requests_running"] + m["kvasir_requests_waiting"] and time.monotonic() < end:
            time.sleep(0.05)
        assert m["kvasir_requests_running"] == m["kvasir_requests_waiting"] == 0, m
        assert m["kvasir_kv_pages"] == m["kvasir_kv_cached_pages"], m
        assert m["kvasir_connections"] <= 2 and server.is_healthy(), m
        for path, body, alone in soak.requests[::6]:
            assert essence(path, server.post(path, body)) == alone

        # Caches and pools fill first; then the second half of the rest holds what the first held.
        half, last = ([b for t, b in rss if SECONDS * lo <= t < SECONDS * hi] for lo, hi in ((0.4, 0.7), (0.7, 1)))
        if SLOW == 1:  # sanitizers keep freed memory on purpose
            assert max(last) <= max(half) * 1.02 + (2 << 20), (max(half), max(last))
        print(f"RSS {max(half) >> 20} MiB, then {max(last) >> 20} MiB")


if __name__ == "__main__":
    run_tests([many_clients_get_what_each_gets_alone], [(KVASIR, "make"), (MODEL, "git checkout tests/golden, or ./kvasir get smollm2")])
