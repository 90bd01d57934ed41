#!/usr/bin/env python3
"""Each allocation of `kvasir serve` fails in turn, from a new connection to its answer. A client gets the answer that it would have got, an error
object that speaks of memory, or a connection that ends before an answer is complete; never another answer, one that a broken response
seems to be, or none at all. The library's own allocations are test_alloc_failure.c's."""
import http.server
import json
import os
import re
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, "tests/support")
from failing_malloc import FailingMalloc  # noqa: E402
from runner import run_tests  # noqa: E402
from server import KVASIR, TINY, Server  # noqa: E402

FOLDER = tempfile.TemporaryDirectory()
memory = FailingMalloc(FOLDER.name)
MOST = 4000  # no request here takes half as many
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"],
                                                                   "additionalProperties": False}}}
CHAT = {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is the capital of Norway?"}], "max_tokens": 4, "temperature": 0}


class FailingServer(Server):
    def __init__(self, **more):
        os.environ.update(memory.env())
        try:
            super().__init__(**more)
        finally:
            for name in memory.env():
                del os.environ[name]

    def said_by(self, request):
        """All that comes back until the connection ends. A pause within the request makes its head arrive in pieces."""
        data = b""
        with self.connect("unix", timeout=20) as s:
            try:
                for piece in request:
                    s.sendall(piece)
                while piece := s.recv(1 << 16):
                    data += piece
            except (BrokenPipeError, ConnectionResetError):
                pass
        return data


def request(method, path, body=None, headers=()):
    data = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + "".join(f"{h}\r\n" for h in headers)
    if body is not None:
        head += f"Content-Length: {len(data)}\r\n"
    return [head.encode(), b"\r\n" + data[:50], data[50:]]


def parse(data):
    """(status, body) of a complete response, or None. What is neither that nor the beginning of one is a fault."""
    head, _, body = data.partition(b"\r\n\r\n")
    first = b"HTTP/1.1 "
    assert data[:len(first)] == first[:len(data)], data[:200]
    headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
    if b"\r\n\r\n" not in data:
        return None
    status = int(head.split()[1])
    if headers.get(b"transfer-encoding") != b"chunked":
        n = int(headers[b"content-length"])
        assert len(body) <= n, data
        return (status, body) if len(body) == n else None
    text = b""
    while b"\r\n" in body:
        size, _, body = body.partition(b"\r\n")
        n = int(size, 16)
        if n == 0:
            return status, text
        if len(body) < n + 2:
            return None
        assert body[n:n + 2] == b"\r\n", data
        text, body = text + body[:n], body[n + 2:]
    return None


def essence(body):
    """What two right answers to a request have in common."""
    if body.startswith(b"data: "):
        events = [e[6:] for e in body.decode().split("\n\n") if e.startswith("data: ")]
        if any('"error"' in e for e in events):
            return "an error"
        return events[-1], [c["delta"] for e in events[:-1] for c in json.loads(e)["choices"]]
    if body.startswith(b"#"):
        return [line.split()[0] for line in body.splitlines()]
    answer = json.loads(body)
    if "error" in answer:
        return answer["error"]["message"]
    for choice in answer.get("choices", ()):
        for call in choice.get("message", {}).get("tool_calls", ()):
            del call["id"]
    return answer.get("choices", answer.get("data", answer))


def every_failure_is_said_or_ends_the_connection(name, sent):
    memory.fail_at(0)
    server.said_by(sent)  # what is made once is there
    status, body = parse(server.said_by(sent))
    right, n_other, n = essence(body), 0, 0
    while n < MOST:
        n += 1
        memory.fail_at(n)
        data = server.said_by(sent)
        n_done = memory.n_allocations()
        memory.fail_at(0)
        assert server.process.poll() is None, (name, n, server.process.returncode, server.said())
        got = parse(data)
        if got and not (got[0] == status and essence(got[1]) == right):
            message = essence(got[1])
            assert (got[0] == 500 and "out of memory" in message) or (got[0] == 200 and message == "an error"), (name, n, got)
        n_other += got is None or got[0] != status
        if n_done < n:
            break
    assert 10 < n < MOST and n_other > 5, (name, n, n_other)
    assert server.is_healthy(), name


def chats_fail_cleanly():
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"a\": true}"}}
    messages = CHAT["messages"] + [{"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "c1", "content": "done"}]
    every_failure_is_said_or_ends_the_connection("chat", request("POST", "/v1/chat/completions", CHAT, ["X-Long: " + "a" * 3000]))
    every_failure_is_said_or_ends_the_connection("tools", request("POST", "/v1/chat/completions", dict(CHAT, messages=messages, tools=[TOOL], tool_choice="required", max_tokens=100)))
    nine = [{"type": "function", "function": {"name": name}} for name in "abcdefghi"]  # a list that grows; the last one is called
    every_failure_is_said_or_ends_the_connection("nine tools", request("POST", "/v1/chat/completions", dict(
        CHAT, messages=CHAT["messages"][1:], tools=nine, tool_choice="required", max_tokens=100, logit_bias={72: 100})))
    every_failure_is_said_or_ends_the_connection("schema", request("POST", "/v1/chat/completions", dict(CHAT, response_format={
        "type": "json_schema", "json_schema": {"name": "s", "schema": TOOL["function"]["parameters"]}})))


def streams_fail_cleanly():
    every_failure_is_said_or_ends_the_connection("stream", request("POST", "/v1/chat/completions", dict(CHAT, stream=True)))


def completions_and_embeddings_fail_cleanly():
    every_failure_is_said_or_ends_the_connection("completion", request("POST", "/v1/completions", {"prompt": "abc", "max_tokens": 4, "temperature": 0, "logprobs": 2, "n": 2}))
    every_failure_is_said_or_ends_the_connection("embeddings", request("POST", "/v1/embeddings", {"input": ["abc", "x"]}))


def what_is_answered_at_once_fails_cleanly():
    for path in ("/metrics", "/nothing", "/v1/models"):
        every_failure_is_said_or_ends_the_connection(path, request("GET", path))
    every_failure_is_said_or_ends_the_connection("tokenize", request("POST", "/tokenize", {"content": "abc def", "with_pieces": True}))


def start(n):
    """(A server whose Nth allocation fails, its exit status or None when it listens)."""
    memory.fail_at(n)
    s = FailingServer(wait=False)
    while s.process.poll() is None and s.said().count("listening on") < 2:
        time.sleep(0.002)
    return s, s.process.poll()


def a_server_starts_whole_or_not_at_all():
    """What libevent does not tell of is that nobody is asked for bytes, connections or signals: such a server would be deaf."""
    s, _ = start(MOST)
    n_all, n_failed = memory.n_allocations(), 0
    s.stop()
    assert 100 < n_all < MOST, n_all
    for n in range(1, n_all + 1):
        s, status = start(n)
        memory.fail_at(0)
        try:
            if status is None:
                s.wait_ready(2)
                assert s.is_healthy() and s.post("/v1/completions", {"prompt": "abc", "max_tokens": 2})["choices"] and s.stop() == 0, n
            else:
                assert status in (1, 2) and re.search("memory|thread", s.said(), re.I), (n, status, s.said())
                n_failed += 1
        finally:
            if s.process.poll() is None:
                s.process.kill()
    assert n_failed > 50, n_failed


class Listener(socketserver.ThreadingUnixStreamServer):
    """Answers what `kvasir chat --server` asks, and keeps the bodies."""
    daemon_threads = True

    class RequestHandlerClass(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def say(self, kind, data):
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self):
            self.say("application/json", b'{"model_alias": "m", "default_generation_settings": {"n_ctx": 99}}')

        def do_POST(self):
            self.server.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.say("text/event-stream", b"data: [DONE]\n\n")

        def log_message(self, *_):
            pass

        def handle(self):
            try:
                super().handle()
            except (BrokenPipeError, ConnectionResetError):
                pass

    def __init__(self, path):
        self.bodies = []
        super().__init__(path, self.RequestHandlerClass)
        threading.Thread(target=self.serve_forever, daemon=True).start()


def what_a_chat_asks_of_a_server_is_whole_or_not_asked():
    """Each allocation of the client fails in turn."""
    path = os.path.join(FOLDER.name, "chat.sock")
    biases = [a for i in range(12) for a in ("--logit-bias", f"{i}+{i}")]  # a table that grows
    with Listener(path) as listener:
        def ask(n):
            listener.bodies.clear()
            memory.fail_at(n)
            r = subprocess.run([KVASIR, "chat", "--server", "unix:" + path, "--system", "Be brief.", "-n", "3", "--seed", "1", "--repeat-last-n", "5", *biases],
                               input="Hi\n", text=True, timeout=60, capture_output=True, env=dict(os.environ, **memory.env()))
            n_done = memory.n_allocations()
            memory.fail_at(0)
            return r, n_done

        ask(0)
        right, n, n_unasked, n_done = list(listener.bodies), 0, 0, MOST
        assert len(right) == 1 and len(right[0]["logit_bias"]) == 12, right
        while n <= n_done and n < MOST:
            n += 1
            r, n_done = ask(n)
            assert listener.bodies in (right, []) and 0 <= r.returncode <= 2, (n, listener.bodies, r)
            assert listener.bodies or r.returncode and r.stderr, (n, r)
            n_unasked += not listener.bodies
        listener.shutdown()
    assert 10 < n < MOST and n_unasked > 5, (n, n_unasked)


TESTS = [chats_fail_cleanly, streams_fail_cleanly, completions_and_embeddings_fail_cleanly, what_is_answered_at_once_fails_cleanly,
         what_a_chat_asks_of_a_server_is_whole_or_not_asked, a_server_starts_whole_or_not_at_all]

if __name__ == "__main__":
    if os.environ.get("SANITIZE"):  # sanitizers bring a malloc of their own
        run_tests([], [])
    with FOLDER, FailingServer() as server:
        run_tests(TESTS, [(KVASIR, "make"), (TINY, "git checkout tests/golden")])
