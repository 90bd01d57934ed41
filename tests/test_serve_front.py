#!/usr/bin/env python3
"""Two kvasir serve behind nginx, with the file that the README shows (only the ports are free ones): conversations stay with the
server that knows them, a server that stops takes none of them along, and streams pass as they come."""
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, "tests/support")
from runner import run_tests  # noqa: E402
from server import KVASIR, SLOW, SMOLLM2, Server, is_idle, read_response, wait_for  # noqa: E402

NGINX = shutil.which("nginx") or "/usr/sbin/nginx"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Front(Server):
    """nginx, with the requests of Server; its backends are two of those."""

    def __init__(self):
        self.backends = [Server(model=SMOLLM2), Server(model=SMOLLM2)]
        self.port, self.folder = free_port(), tempfile.TemporaryDirectory()
        with open("README.md") as f:
            text = re.search(r"```nginx\n(.*?)```", f.read(), re.S)[1]
        for old, new in ((8080, self.port), (8081, self.backends[0].port), (8082, self.backends[1].port)):
            assert text.count(f"127.0.0.1:{old}") == 1, old
            text = text.replace(f"127.0.0.1:{old}", f"127.0.0.1:@{new}")
        self.path = os.path.join(self.folder.name, "nginx.conf")
        with open(self.path, "w") as f:
            f.write(text.replace("@", ""))
        self.log = open(os.path.join(self.folder.name, "log"), "w+")
        self.process = subprocess.Popen([NGINX, "-e", "stderr", "-c", self.path, "-g", f"daemon off; pid {self.folder.name}/pid;"],
                                        stdin=subprocess.DEVNULL, stderr=self.log)
        end = time.monotonic() + 60 * SLOW
        while True:
            try:
                self.connect().close()
                break
            except OSError:
                assert self.process.poll() is None and time.monotonic() < end, self.said()
                time.sleep(0.02)

    def stop(self):
        self.process.terminate()
        self.process.wait(10)
        for b in self.backends:
            b.stop()

    def turns_of(self):
        """Requests that each backend has taken so far."""
        return [b.metrics()["kvasir_requests_total"] for b in self.backends]

    def ask(self, messages, key=None):
        """(backend, answer, key): one turn of a conversation through the front."""
        before = self.turns_of()
        r = self.request("POST", "/v1/chat/completions", {"messages": messages, "max_tokens": 8, "temperature": 0},
                         headers=[f"X-Kvasir-Prefix: {key}"] if key else [])
        assert r.status == 200, (r.status, r.body)
        taken = [b - a for a, b in zip(before, self.turns_of())]
        assert sorted(taken) == [0, 1], taken
        return taken.index(1), r.json(), r.headers["x-kvasir-prefix"]


def user(text):
    return {"role": "user", "content": text}


def conversations_stay_where_they_are_known():
    """With the key of the first answer, every later turn comes to the same server and finds what was read there."""
    where = set()
    for i in range(6):
        messages = [user(f"Conversation {i}: tell me about the number {i}.")]
        first, answer, key = front.ask(messages)
        for turn in range(2):
            messages += [answer["choices"][0]["message"], user(f"Go on, part {turn}.")]
            known = answer["usage"]["prompt_tokens"]
            at, answer, same = front.ask(messages, key)
            assert at == first and same == key, (i, turn, first, at)
            assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] >= known, answer["usage"]
        where.add(first)
    keys = {k: front.ask([user("Hi")], k)[0] for k in map("key-{}".format, range(30))}
    assert where | set(keys.values()) == {0, 1} and min(list(keys.values()).count(b) for b in (0, 1)) >= 3, keys
    assert all(front.ask([user("Hi")], k)[0] == b for k, b in list(keys.items())[:10])


def streams_pass_as_they_come():
    body = json.dumps({"messages": [user("Tell me a story.")], "max_tokens": 4000, "stream": True}).encode()[:-1] + b', "ignore_eos": true}'
    with front.connect() as s:
        s.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        data, pieces = b"", 0
        while pieces < 20:  # each arrives while the reply is far from its end
            piece = s.recv(1 << 16)
            assert piece, data[-300:]
            data += piece
            pieces += 1
        slots = [x for b in front.backends for x in b.get("/slots") if x["is_processing"]]
        assert len(slots) == 1 and slots[0]["n_decoded"] < 3000, slots
    # The client has left the front, so the front leaves the server.
    for b in front.backends:
        wait_for(b, is_idle)
    events = front.stream("/v1/chat/completions", {"messages": [user("Hi")], "max_tokens": 5})
    assert events[0]["choices"][0]["delta"]["role"] == "assistant"


def errors_pass_unchanged():
    direct, through = (s.request("POST", "/v1/chat/completions", {"messages": [user("x")], "temperature": 9}) for s in (front.backends[0], front))
    assert direct.status == through.status == 400 and direct.json() == through.json()


def when_one_server_stops_the_others_go_on():
    keys = {}
    i = 0
    while set(keys.values()) != {0, 1} or len(keys) < 6:
        keys[f"stop-{i}"] = front.ask([user("Hi")], f"stop-{i}")[0]
        i += 1
    alone = front.backends[1].post("/v1/chat/completions", {"messages": [user("Hi")], "max_tokens": 8, "temperature": 0})["choices"]
    # A stream at the server that stops gets its end; one at the other does not notice.
    streams = []
    for b in (0, 1):
        key = next(k for k, at in keys.items() if at == b)
        body = json.dumps({"messages": [user("Count.")], "max_tokens": 250, "ignore_eos": True, "stream": True}).encode()
        s = front.connect()
        s.sendall(f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Kvasir-Prefix: {key}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        streams.append(s)
    end = time.monotonic() + 60 * SLOW
    while not all(any(x["is_processing"] for x in b.get("/slots")) for b in front.backends):
        assert time.monotonic() < end
    stopped = front.backends[0]
    stopped.process.terminate()
    for k in keys:  # while it drains, and after it has gone
        r = front.request("POST", "/v1/chat/completions", {"messages": [user("Hi")], "max_tokens": 8, "temperature": 0}, headers=["X-Kvasir-Prefix: " + k])
        assert r.status == 200 and r.json()["choices"] == alone, (r.status, r.body[:200])
    assert stopped.process.wait(60) == 0
    for s in streams:
        r = read_response(s)
        s.close()
        assert r.status == 200 and r.body.endswith(b"data: [DONE]\n\n"), r.body[-200:]
    for k in keys:
        r = front.request("POST", "/v1/chat/completions", {"messages": [user("Hi")], "max_tokens": 8, "temperature": 0}, headers=["X-Kvasir-Prefix: " + k])
        assert r.status == 200 and r.json()["choices"] == alone, (r.status, r.body[:200])
    assert front.backends[1].is_healthy()


TESTS = [conversations_stay_where_they_are_known, streams_pass_as_they_come, errors_pass_unchanged, when_one_server_stops_the_others_go_on]

if __name__ == "__main__":
    if not os.path.exists(NGINX):
        sys.exit("nginx is not there; run: scripts/setup test")
    with Front() as front:
        run_tests(TESTS, [(KVASIR, "make"), (SMOLLM2, "./kvasir get smollm2")])
