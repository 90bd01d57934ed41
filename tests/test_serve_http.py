#!/usr/bin/env python3
"""kvasir serve against hostile and broken clients: raw bytes over TCP and the unix socket. Every check reads the status and the error
object, and then asks /health on both sockets. The statuses are those of RFC 9110 and 9112 and of OpenAI's API."""
import base64
import errno
import fcntl
import json
import os
import re
import resource
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, "tests/support")
import seccomp  # noqa: E402
from runner import run_tests  # noqa: E402
from server import KVASIR, SLOW, SMOLLM2, TINY, Server, is_idle, read_response, receive, wait_for  # noqa: E402

KINDS = ("tcp", "unix")
CHAT = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
HOST = b"Host: localhost\r\n"


def refused(r, status, word=""):
    """An error object of OpenAI's shape with this status, that says `word`."""
    assert r.status == status, (status, r.status, r.body[:300])
    error = r.json()["error"]
    assert set(error) == {"code", "message", "type", "param"}, error
    assert isinstance(error["message"], str) and error["message"] and isinstance(error["type"], str), error
    assert word in error["message"] or word == error["param"], (word, error)
    return error


def each(cases, status):
    for kind in KINDS:
        for name, data in cases.items():
            try:
                refused(server.raw(data, kind), status)
            except AssertionError as e:
                raise AssertionError(f"{name} over {kind}: {e}") from e
        assert server.is_healthy()


def post(head, body=b"", path=b"/v1/chat/completions"):
    return b"POST " + path + b" HTTP/1.1\r\n" + HOST + head + b"\r\n" + body


# ---- heads -------------------------------------------------------------------------------------------

def malformed_requests_are_400():
    each({
        "no version": b"GET /health\r\n\r\n",
        "two spaces": b"GET  /health HTTP/1.1\r\nHost: x\r\n\r\n",
        "space in target": b"GET /hea lth HTTP/1.1\r\n" + HOST + b"\r\n",
        "bare lf": b"GET /health HTTP/1.1\nHost: localhost\n\n",
        "control in target": b"GET /he\x01alth HTTP/1.1\r\n" + HOST + b"\r\n",
        "no path": b"GET health HTTP/1.1\r\n" + HOST + b"\r\n",
        "fragment": b"GET /health#x HTTP/1.1\r\n" + HOST + b"\r\n",
        "tls hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        "noise": bytes(range(128, 256)) * 4 + b"\r\n\r\n",
        "no colon": b"GET /health HTTP/1.1\r\n" + HOST + b"nonsense\r\n\r\n",
        "space before colon": b"GET /health HTTP/1.1\r\nHost : localhost\r\n\r\n",
        "folded field": b"GET /health HTTP/1.1\r\n" + HOST + b"A: b\r\n c\r\n\r\n",
        "nul in field": b"GET /health HTTP/1.1\r\n" + HOST + b"A: b\0c\r\n\r\n",
        "cr in field": b"GET /health HTTP/1.1\r\n" + HOST + b"A: b\rc\r\n\r\n",
        "empty name": b"GET /health HTTP/1.1\r\n" + HOST + b": x\r\n\r\n",
        "host missing": b"GET /health HTTP/1.1\r\n\r\n",
        "host twice": b"GET /health HTTP/1.1\r\n" + HOST + HOST + b"\r\n",
        "host twice, differing": b"GET /health HTTP/1.1\r\n" + HOST + b"Host: evil.example\r\n\r\n",
        "host with a space": b"GET /health HTTP/1.1\r\nHost: local host\r\n\r\n",
        "length twice": post(b"Content-Length: 2\r\nContent-Length: 2\r\n", b"{}"),
        "lengths differ": post(b"Content-Length: 2\r\nContent-Length: 3\r\n", b"{}"),
        "length list": post(b"Content-Length: 2, 2\r\n", b"{}"),
        "length signed": post(b"Content-Length: +2\r\n", b"{}"),
        "length negative": post(b"Content-Length: -1\r\n", b"{}"),
        "length hexadecimal": post(b"Content-Length: 0x2\r\n", b"{}"),
        "length empty": post(b"Content-Length:\r\n", b"{}"),
        "length and chunks": post(b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", b"2\r\n{}\r\n0\r\n\r\n"),
        "chunked twice": post(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
        "chunks in 1.0": b"POST /v1/completions HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "chunk size empty": post(b"Transfer-Encoding: chunked\r\n", b"\r\n{}\r\n"),
        "chunk size wraps": post(b"Transfer-Encoding: chunked\r\n", b"10000000000000002\r\n{}\r\n0\r\n\r\n"),
        "chunk size signed": post(b"Transfer-Encoding: chunked\r\n", b"-2\r\n{}\r\n0\r\n\r\n"),
        "chunk size is a word": post(b"Transfer-Encoding: chunked\r\n", b"two\r\n{}\r\n0\r\n\r\n"),
        "chunk too long": post(b"Transfer-Encoding: chunked\r\n", b"1\r\n{}\r\n0\r\n\r\n"),
        "chunk with bare lf": post(b"Transfer-Encoding: chunked\r\n", b"2\n{}\n0\n\n"),
    }, 400)


def limits_answer_from_the_head_alone():
    """No case sends what it announces, so an answer can only come from what was sent."""
    each({"target": b"GET /" + b"a" * 20000}, 414)
    each({"whole target": b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n"}, 414)
    each({"no length": post(b"")}, 411)
    each({
        "larger than the limit": post(b"Content-Length: 16777217\r\n"),
        "terabytes": post(b"Content-Length: 1099511627776\r\n"),
        "wraps 64 bits": post(b"Content-Length: 18446744073709551617\r\n"),
        "thirty digits": post(b"Content-Length: " + b"9" * 30 + b"\r\n"),
        "huge chunk": post(b"Transfer-Encoding: chunked\r\n", b"FFFFFFFFFFFFFFF\r\n"),
        "largest chunk": post(b"Transfer-Encoding: chunked\r\n", b"ffffffffffffffff\r\n"),
    }, 413)
    each({
        "fields": b"GET /health HTTP/1.1\r\n" + HOST + b"".join(b"A%d: b\r\n" % i for i in range(101)),
        "one long field": b"GET /health HTTP/1.1\r\n" + HOST + b"A: " + b"b" * 40000,
        "bytes": b"GET /health HTTP/1.1\r\n" + HOST + b"".join(b"A%d: %s\r\n" % (i, b"b" * 1500) for i in range(60)),
        "long origin": b"GET /health HTTP/1.1\r\n" + HOST + b"Origin: http://" + b"a" * 2000 + b"\r\n\r\n",
    }, 431)
    each({
        "method": b"BREW /health HTTP/1.1\r\n" + HOST + b"\r\n",
        "long method": b"A" * 100 + b" / HTTP/1.1\r\n" + HOST + b"\r\n",
        "gzip": post(b"Transfer-Encoding: gzip\r\n"),
        "gzip, chunked": post(b"Transfer-Encoding: gzip, chunked\r\n"),
        "identity": post(b"Transfer-Encoding: identity\r\n"),
    }, 501)
    each({"version": b"GET /health HTTP/2.0\r\n" + HOST + b"\r\n", "h2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"}, 505)
    each({"gzip": post(b"Content-Encoding: gzip\r\nContent-Length: 2\r\n", b"{}"),
          "after another": post(b"Content-Encoding: identity\r\nContent-Encoding: br\r\nContent-Length: 2\r\n", b"{}")}, 415)
    each({"expectation": post(b"Expect: the-unexpected\r\nContent-Length: 2\r\n", b"{}")}, 417)
    each({"method of a path": b"DELETE /health HTTP/1.1\r\n" + HOST + b"\r\n", "get": b"GET /tokenize HTTP/1.1\r\n" + HOST + b"\r\n"}, 405)
    each({"path": b"GET /nothing HTTP/1.1\r\n" + HOST + b"\r\n", "dots": b"GET /../etc/passwd HTTP/1.1\r\n" + HOST + b"\r\n"}, 404)


def a_refusal_reaches_a_client_that_still_sends():
    """Without a lingering close the unread megabytes would reset the connection and the answer with it."""
    for kind in KINDS:
        r = server.raw(post(b"Content-Length: 50000000\r\n", b"x" * 8_000_000), kind)
        refused(r, 413)


def what_is_unusual_but_right_works():
    body = json.dumps(CHAT).encode()
    chunked = b"".join(b"%x;ext=1\r\n%s\r\n" % (len(body[i:i + 7]), body[i:i + 7]) for i in range(0, len(body), 7)) + b"0\r\nTrailer: x\r\n\r\n"
    for kind in KINDS:
        assert server.raw(post(b"Transfer-Encoding: chunked\r\n", chunked), kind).status == 200
        assert server.raw(b"\r\nGET /health HTTP/1.1\r\n" + HOST + b"\r\n", kind).status == 200
        assert server.raw(post(b"Content-Encoding: Identity\r\nContent-Length: %d\r\n" % len(body), body), kind).status == 200
        assert server.raw(b"GET /health?x=1 HTTP/1.1\r\nhOsT:localhost\r\n\r\n", kind).status == 200
        assert server.raw(b"GET http://localhost/health HTTP/1.1\r\n" + HOST + b"\r\n", kind).status == 200
        assert server.raw(b"GET /health HTTP/1.0\r\n\r\n", kind).status == 200
        head = server.raw(b"HEAD /health HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n", kind)
        assert head.status == 200 and head.body == b"" and int(head.headers["content-length"]) > 0
        with server.connect(kind) as s:  # 100-continue: the body is sent when it is wanted
            s.sendall(post(b"Expect: 100-continue\r\nContent-Length: %d\r\n" % len(body)))
            assert s.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
            s.sendall(body)
            assert read_response(s).status == 200
    assert server.is_healthy()


def pipelined_requests_are_answered_in_order():
    n = 2000
    for kind in KINDS:
        with server.connect(kind) as s:
            one = json.dumps(dict(CHAT, max_tokens=1)).encode()
            sender = threading.Thread(target=s.sendall, args=(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * n
                                                              + post(b"Content-Length: %d\r\n" % len(one), one)
                                                              + b"GET /nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",))
            sender.start()
            data = b""
            while True:
                piece = s.recv(1 << 16)
                if not piece:
                    break
                data += piece
            sender.join()
        heads = [int(line.split()[1]) for line in data.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
        # A body may end without CRLF before the next head.
        assert data.count(b"HTTP/1.1 200") == n + 1 and data.count(b"HTTP/1.1 404") == 1, (len(heads), data[-200:])
        assert data.index(b"HTTP/1.1 404") > data.rindex(b"HTTP/1.1 200")
    assert server.is_healthy()


# ---- time and clients that leave -------------------------------------------------------------------------

def slow_clients_are_408_and_delay_nobody():
    """Heads drip for 10 s, bodies for 30; what was written meanwhile does not extend them."""
    def drip(kind, begin, drops):
        with server.connect(kind) as s:
            start = time.monotonic()
            s.sendall(begin)
            s.settimeout(0.7)
            data = None
            while data is None:
                try:
                    data = s.recv(4096)
                except TimeoutError:
                    s.sendall(drops)
            results.append((time.monotonic() - start, data))

    results = []
    cases = [(k, b"GET /health HTTP/1.1\r\nHost: localhost\r\nA", b"A") for k in KINDS] + \
            [(k, post(b"Content-Length: 1000\r\n", b"{"), b" ") for k in KINDS]
    threads = [threading.Thread(target=drip, args=c) for c in cases]
    for t in threads:
        t.start()
    begin = time.monotonic()
    while time.monotonic() - begin < 9:
        start = time.monotonic()
        assert server.post("/v1/chat/completions", CHAT)["usage"]["completion_tokens"] <= 4
        assert time.monotonic() - start < 6 * SLOW  # whom a slow client holds up waits ten
        time.sleep(0.2)
    for t in threads:
        t.join()
    assert all(data.startswith(b"HTTP/1.1 408") and b'"error"' in data for _, data in results), results
    times = sorted(t for t, _ in results)
    # Drops that extended the time would do so for ever; what is above it is the machine's.
    assert 9 < times[0] and times[1] < 20 * SLOW and 29 < times[2] and times[3] < 60 * SLOW, times
    assert server.is_healthy()


def running(s):
    return sum(x["is_processing"] for x in s.get("/slots"))


def clients_that_leave_end_their_sequence_alone():
    # ignore_eos: only the client's leaving, or the end of a context of 8192 tokens, ends these
    long = dict(CHAT, max_tokens=8000, ignore_eos=True, n=2, cache_prompt=False)
    with Server(model=SMOLLM2) as big:
        other = dict(CHAT, max_tokens=40, temperature=0, logprobs=True)
        alone = big.post("/v1/chat/completions", other)["choices"]
        for kind in KINDS:
            for how in ("close", "reset", "half-close"):
                for stream in (False, True):
                    body = json.dumps(dict(long, stream=stream)).encode()
                    s = big.connect(kind)
                    s.sendall(post(b"Content-Length: %d\r\n" % len(body), body))
                    wait_for(big, lambda slots: sum(x["is_processing"] for x in slots) == 2, (kind, how))
                    cancelled = big.metrics()["kvasir_requests_cancelled_total"]
                    company = []
                    t = threading.Thread(target=lambda: company.append(big.post("/v1/chat/completions", other)["choices"]))
                    t.start()
                    time.sleep(0.05)
                    if how == "reset":
                        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    if how == "half-close":
                        s.shutdown(socket.SHUT_WR)
                    else:
                        s.close()
                    t.join()
                    wait_for(big, is_idle, (kind, how, stream))
                    assert big.metrics()["kvasir_requests_cancelled_total"] == cancelled + 1, (kind, how, stream)
                    assert company[0] == alone
                    s.close()
        # A prompt that is being read ends as well.
        text = "one two three four " * 1800
        for kind in KINDS:
            s = big.connect(kind)
            body = json.dumps({"prompt": text, "max_tokens": 1, "cache_prompt": False}).encode()
            s.sendall(post(b"Content-Length: %d\r\n" % len(body), body, b"/v1/completions"))
            reading = {}

            def begins(slots):
                reading.update(next((x for x in slots if x["state"] == "prefill" and x["n_tokens"]), {}))
                return reading

            def ends(slots):
                reading.update(next((x for x in slots if x["is_processing"]), {}))
                return is_idle(slots)
            cancelled = big.metrics()["kvasir_requests_cancelled_total"]
            wait_for(big, begins, kind)
            s.close()
            wait_for(big, ends, kind)
            assert big.metrics()["kvasir_requests_cancelled_total"] == cancelled + 1, kind
            assert reading["n_prompt"] > 7000 and reading["n_tokens"] < 6000, reading  # as it was seen last
        assert big.is_healthy()
        assert big.metrics()["kvasir_kv_pages"] <= 4  # what is kept of `other`


def a_reader_that_stops_is_paused_and_blocks_nobody():
    for kind in KINDS:
        # 1 300 bytes a token: a reply that fits in the kernel's buffers would never pause. Who has little room to receive lets TCP's grow less.
        n = 300 if kind == "unix" else 900
        body = json.dumps(dict(CHAT, max_tokens=n, ignore_eos=True, stream=True, n=8, logprobs=True, top_logprobs=20)).encode()
        s = server.connect(kind, receive_buffer=1 << 16)
        s.sendall(post(b"Content-Length: %d\r\n" % len(body), body))
        before, after = -1, 0
        end = time.monotonic() + 60 * SLOW
        while (before != after or after == 0) and time.monotonic() < end:  # until it stands still
            time.sleep(0.3)
            before, after = after, sum(x["n_decoded"] for x in server.get("/slots"))
        assert before == after and running(server) == 8, (before, after)
        server.post("/v1/chat/completions", CHAT)
        if kind == "unix":  # who reads on gets everything
            r = read_response(s)
            assert r.status == 200 and r.body.endswith(b"data: [DONE]\n\n") and r.body.count(b'"finish_reason":"length"') == 8
        s.close()
        wait_for(server, is_idle, kind)
    assert server.is_healthy()


def unread_bytes_of_all_clients_are_bounded():
    n_clients, n_requests, limit = 12, 400, 1 << 20
    get = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n"

    def leave_unread(s):
        """Each client asks for more than its connection holds, and reads nothing; returns the sockets and the metrics when they stand still."""
        def look():
            m = s.metrics()
            assert m["kvasir_http_unsent_bytes"] <= s.limit + (1 << 19), m  # one more connection may be seen before the cut
            return m["kvasir_http_unsent_bytes"], m["kvasir_http_cut_total"]
        clients = []
        for _ in range(n_clients):
            begin = now = look()
            c = s.connect("unix")
            c.sendall((get + b"\r\n") * (n_requests - 1) + get + b"Connection: close\r\n\r\n")  # 2 MB: the kernel takes 0.2, the server stops at 0.25 more
            clients.append(c)
            before, end = None, time.monotonic() + 60 * SLOW
            while now == begin or now != before:  # until it stands still: one after the other, so their order is known
                assert time.monotonic() < end, (begin, before, now)
                time.sleep(0.03)
                before, now = now, look()
        return clients, *now

    def is_cut(c):
        """Reads to the end; whether an answer is missing."""
        data = b""
        while piece := receive(c):
            data += piece
        return data.count(b"HTTP/1.1 200 OK") < n_requests

    with Server() as s:  # the same within the usual limit: nobody is cut, everybody gets everything
        s.limit = 256 << 20
        clients, unsent, n_cut = leave_unread(s)
        assert unsent > 2 * limit and n_cut == 0, (unsent, n_cut)
        for c in clients:
            c.close()
    with Server("--max-unsent", "1") as s:
        s.limit = limit
        first = s.connect("unix")  # is there for longest, but leaves nothing unread
        clients, unsent, n_cut = leave_unread(s)
        n_cut = int(n_cut)
        assert n_cut >= n_clients // 2 and unsent > limit // 2, (unsent, n_cut)
        first.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert read_response(first).status == 200
        first.close()
        assert s.post("/v1/chat/completions", CHAT)["choices"]
        assert [is_cut(c) for c in clients] == [True] * n_cut + [False] * (n_clients - n_cut)  # in the order in which they stopped
        assert s.metrics()["kvasir_http_unsent_bytes"] == 0
        for c in clients:
            c.close()


# ---- JSON and parameters -----------------------------------------------------------------------------------

def bodies(cases, path="/v1/chat/completions"):
    """{name: (body, word)}: 400, and the message or param is `word`."""
    for kind in KINDS:
        for name, (body, word) in cases.items():
            start = time.monotonic()
            try:
                refused(server.request("POST", path, body, kind), 400, word)
            except AssertionError as e:
                raise AssertionError(f"{name} over {kind}: {e}") from e
            assert time.monotonic() - start < 30 * SLOW, (name, time.monotonic() - start)  # what is quadratic takes minutes
        assert server.is_healthy()


def hostile_json_is_400_with_the_path():
    m = b'{"messages":[{"role":"user","content":'
    bodies({
        "empty": (b"", ""), "no json": (b"hello", "not JSON"), "truncated": (m, "messages[0].content"),
        "array": (b"[]", "object"), "string": (b'"x"', "object"), "number": (b"1", "object"), "two": (b"{}{}", "followed"),
        "deep arrays": (m + b"[" * 100000, "nested"),
        "deep objects": (b'{"a":' * 100000 + b"1" + b"}" * 100000, "nested"),
        "129 levels": (b'{"a":' + b"[" * 128 + b"]" * 128 + b"}", "nested"),
        "300 k keys": (b"{" + b",".join(b'"k%d":1' % i for i in range(300000)) + b"}", "messages"),
        "million values": (b'{"a":[' + b"1," * 1000000 + b"1]}", "values"),
        "bad utf-8": (m + b'"\xff\xfe"}]}', "messages[0].content"),
        "overlong utf-8": (m + b'"\xc0\xaf"}]}', "messages[0].content"),
        "lone high surrogate": (m + b'"\\ud800"}]}', "messages[0].content"),
        "lone low surrogate": (m + b'"\\udc00x"}]}', "messages[0].content"),
        "nul": (m + b'"\\u0000"}]}', "messages[0].content"),
        "duplicate key": (m + b'"a","content":"b"}]}', "messages[0].content"),
        "duplicate at top": (b'{"max_tokens":1,"max_tokens":2}', "max_tokens"),
        "real overflow": (b'{"temperature":1e999}', "temperature"),
        "integer overflow": (b'{"max_tokens":99999999999999999999999}', "max_tokens"),
        "nan": (b'{"temperature":NaN}', "temperature"), "infinity": (b'{"top_p":-Infinity}', "top_p"),
        "comment": (b'{/* */}', "not JSON"), "trailing comma": (b'{"a":1,}', "not JSON"), "single quotes": (b"{'a':1}", "not JSON"),
    })


def parameters_out_of_range_are_400_and_named():
    def one(name, value):
        return (dict(CHAT, **{name: value}), name)
    bad = {}
    for name, values in {
            "temperature": [-0.1, 2.1, "1", True, [], {}], "top_p": [-1, 1.5, "x"], "min_p": [-1, 2], "typical_p": [-1, 2],
            "top_k": [-1, 1.5, "40", 2**40], "presence_penalty": [-2.5, 2.5], "frequency_penalty": [-3, 3, "0"],
            "repeat_penalty": [0, -1, 1000], "n": [0, -1, 129, 1.5, "2", 2**70], "max_tokens": [0, -5, 10**12, "9", 1.5, 2**63],
            "max_completion_tokens": [0, 10**9], "stream": [1, "true"], "seed": ["x", 1.5, 2**80], "stop": [1, [1], "", [""], ["x"] * 17, {}],
            "logprobs": [5, "yes"], "top_logprobs": [-1, 21, 2**40, "3"], "logit_bias": [[], {"x": 1}, {"99999999": 1}, {"1": 101}, {"-1": 0}, {"1": "a"}],
            "stream_options": [1, {"include_usage": 1}], "user": [1], "model": [1, []], "cache_prompt": [1], "response_format": [1, {}, {"type": "x"}],
            "chat_template_kwargs": [1, "x"], "tools": [1, [1]], "functions": [[{"name": "f"}]], "reasoning_effort": [1, ["low"]],
            "modalities": ["text", ["text", "audio"], [1], {}]}.items():
        for i, v in enumerate(values):
            if name == "top_logprobs":
                bad[f"{name} {i}"] = (dict(CHAT, logprobs=True, top_logprobs=v), name)
            elif name == "stream_options":
                bad[f"{name} {i}"] = (dict(CHAT, stream=True, stream_options=v), name)
            else:
                bad[f"{name} {v!r:.20}"] = one(name, v)
    for name, messages, word in [("none", None, "messages"), ("empty", [], "messages"), ("string", "hi", "messages"), ("number", [1], "messages[0]"),
                                 ("no role", [{"content": "x"}], "messages[0].role"), ("role", [{"role": "king", "content": "x"}], "messages[0].role"),
                                 ("no content", [{"role": "user"}], "messages[0].content"), ("content", [{"role": "user", "content": 5}], "messages[0].content"),
                                 ("part", [{"role": "user", "content": [{"type": "image_url"}]}], "messages[0].content[0].type"),
                                 ("text", [{"role": "user", "content": [{"type": "text", "text": 1}]}], "messages[0].content[0].text"),
                                 *((f"call {i}", [{"role": "assistant", "content": "x", **calls}], f"messages[0].{path}") for i, (calls, path) in enumerate([
                                     ({"tool_calls": "x"}, "tool_calls"), ({"tool_calls": {}}, "tool_calls"), ({"tool_calls": [None]}, "tool_calls[0]"),
                                     ({"tool_calls": [{"id": "a", "type": "custom", "custom": {"name": "f", "input": "x"}}]}, "tool_calls[0]"),
                                     ({"tool_calls": [{"type": "custom", "function": {"name": "f"}}]}, "tool_calls[0]"),
                                     ({"tool_calls": [{"function": {"name": "f"}}, {"function": {"name": ""}}]}, "tool_calls[1].function.name"),
                                     ({"tool_calls": [{"function": {"name": 1}}]}, "tool_calls[0].function.name"),
                                     ({"tool_calls": [{"function": {"name": "f", "arguments": [1]}}]}, "tool_calls[0].function.arguments"),
                                     ({"function_call": {"name": "f", "arguments": "{}"}}, "function_call")]))]:
        bad["messages " + name] = (dict(CHAT, messages=messages), word)
    for kind, (body, word) in ((k, case) for k in KINDS for case in bad.values()):
        try:
            error = refused(server.request("POST", "/v1/chat/completions", body, kind), 400, "")
        except AssertionError as e:
            raise AssertionError(f"{body} over {kind}: {e}") from e
        assert (error["param"] or "").startswith(word.split("[")[0]) or word in error["message"], (word, error)
        assert not word.startswith("messages[") or error["param"] == word, (word, error)
    for name, value in (("max_tokens", 0), ("max_completion_tokens", 10**9), ("max_tokens", "9")):
        assert refused(server.request("POST", "/v1/chat/completions", dict(CHAT, **{name: value})), 400, "")["message"].endswith("; -1 means no limit")
    message = refused(server.request("POST", "/v1/embeddings", {"input": "a", "dimensions": 3}), 400, "")["message"]
    assert re.fullmatch(r"dimensions is 3, but must be [0-9]+", message), message
    for no_limit in (-1, -1.0):  # ended by its stop, not by a limit of one token
        done = server.post("/v1/completions", {"prompt": "hello", "max_tokens": no_limit, "seed": 1, "ignore_eos": True, "stop": ["e"]})
        assert done["usage"]["completion_tokens"] > 1, done
    assert server.is_healthy()
    bodies({"no prompt": ({}, "prompt"), "suffix": ({"prompt": "a", "suffix": "b"}, "suffix"), "empty list": ({"prompt": []}, "prompt"),
            "token": ({"prompt": [1, 10**7]}, "prompt[1]"), "mixed": ({"prompt": [1, "a"]}, "prompt[1]"), "object": ({"prompt": {}}, "prompt"),
            "logprobs": ({"prompt": "a", "logprobs": 21}, "logprobs"), "echo": ({"prompt": "a", "echo": 1}, "echo"),
            "best of 3": ({"prompt": "a", "best_of": 3}, "best_of"), "best of 2 of 4": ({"prompt": "a", "n": 2, "best_of": 4}, "best_of"),
            "best of fewer": ({"prompt": "a", "n": 2, "best_of": 1}, "best_of"), "best of a word": ({"prompt": "a", "best_of": "2"}, "best_of")},
           "/v1/completions")
    message = refused(server.request("POST", "/v1/completions", b'{"prompt": "a", "seed": 18446744073709551615}'), 400, "seed")["message"]
    assert "2^63-1" in message, message
    for n in (1, 2):  # there is nothing to choose from
        done = server.post("/v1/completions", {"prompt": "a", "n": n, "best_of": n, "max_tokens": 1})
        assert len(done["choices"]) == n, done
    bodies({"no input": ({}, "input"), "number": ({"input": 5}, "input"), "format": ({"input": "a", "encoding_format": "x"}, "encoding_format"),
            "dimensions": ({"input": "a", "dimensions": 3}, "dimensions")}, "/v1/embeddings")
    bodies({"no content": ({}, "content"), "number": ({"content": 1}, "content")}, "/tokenize")
    bodies({"no tokens": ({}, "tokens"), "id": ({"tokens": [-1]}, "tokens[0]"), "word": ({"tokens": ["a"]}, "tokens[0]")}, "/detokenize")


def a_prompt_longer_than_the_context_is_400_with_both_numbers():
    n_ctx = server.get("/props")["default_generation_settings"]["n_ctx"]
    for kind in KINDS:
        for stream in (False, True):
            text = "a b c d " * n_ctx
            n = len(server.post("/tokenize", {"content": text, "add_special": True})["tokens"])
            evaluated = server.metrics()["kvasir_prompt_tokens_total"]
            error = refused(server.request("POST", "/v1/completions", {"prompt": text, "stream": stream}, kind), 400, str(n_ctx))
            assert error["code"] == "context_length_exceeded" and str(n) in error["message"], (n, error)
            assert server.metrics()["kvasir_prompt_tokens_total"] == evaluated
            tokens = {"prompt": [5] * (n_ctx + 7), "stream": stream}
            assert str(n_ctx + 7) in refused(server.request("POST", "/v1/completions", tokens, kind), 400)["message"]
            refused(server.request("POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": text}], "stream": stream}, kind), 400, str(n_ctx))
    assert server.is_healthy()


# ---- browsers and keys ------------------------------------------------------------------------------------

def foreign_pages_are_403():
    port = server.port
    for host in ("evil.example", "evil.example:%d" % port, "127.0.0.1.evil.example", "localhost.evil.example", "169.254.169.254", "0.0.0.0", "[::2]"):
        refused(server.raw(f"GET /v1/models HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()), 403, "host")
    for host in ("localhost", f"localhost:{port}", "127.0.0.1", f"127.0.0.1:{port}", "[::1]:80", "app.localhost", "LOCALHOST", "127.1.2.3"):
        assert server.raw(f"GET /v1/models HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()).status == 200, host
    assert server.raw(b"GET /v1/models HTTP/1.1\r\nHost: kvasir\r\nConnection: close\r\n\r\n", "unix").status == 200
    for kind in KINDS:
        for origin in ("http://evil.example", "null", "https://localhost.evil.example", "http://localhost:1", "file://", ""):
            r = server.request("POST", "/v1/chat/completions", CHAT, kind, [f"Origin: {origin}"])
            refused(r, 403, "origin")
            assert "access-control-allow-origin" not in r.headers, r.headers
    for origin in (f"http://localhost:{port}", f"http://127.0.0.1:{port}"):
        r = server.raw(f"GET /v1/models HTTP/1.1\r\nHost: localhost:{port}\r\nOrigin: {origin}\r\nConnection: close\r\n\r\n".encode())
        assert r.status == 200 and "access-control-allow-origin" not in r.headers, (origin, r.status)
    assert server.is_healthy()


def keys_and_cors_as_configured():
    with tempfile.NamedTemporaryFile("w") as f:
        f.write("# keys\nsecond key\n\n")
        f.flush()
        with Server("--api-key", "first", "--api-key-file", f.name, "--allow-origin", "https://good.example", "--allow-host", "my.box") as s:
            for kind in KINDS:
                for value in (None, "first", "Bearer", "Bearer ", "Bearer firs", "Bearer firstt", "Basic first", "Bearer first second", "Bearer\tfirst",
                              "Basic " + base64.b64encode(b"first:first").decode()):
                    r = s.request("POST", "/v1/chat/completions", CHAT, kind, [] if value is None else [f"Authorization: {value}"])
                    refused(r, 401)
                    assert r.headers["www-authenticate"] == "Bearer"
                refused(s.request("GET", "/nothing", kind=kind), 401)
                refused(s.request("GET", "/metrics", kind=kind, headers=["X-Api-Key: first", "Cookie: first"]), 401)
                assert s.raw(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer first\r\nAuthorization: Bearer x\r\n\r\n", kind).status == 400
                for key in ("Bearer first", "bearer first", "Bearer second key"):
                    assert s.request("GET", "/v1/models", kind=kind, headers=["Authorization: " + key]).status == 200, key
                assert s.is_healthy()
                r = s.request("GET", "/health", kind=kind, headers=["Origin: https://good.example"])
                assert r.status == 200 and r.headers["access-control-allow-origin"] == "https://good.example"
                r = s.request("OPTIONS", "/v1/chat/completions", kind=kind, headers=["Origin: https://good.example"])
                assert r.status == 204 and "POST" in r.headers["access-control-allow-methods"]
                # What OpenAI's client sends from a page and reads there: headers of its own, and our key of the conversation.
                assert {"*", "Authorization"} <= set(r.headers["access-control-allow-headers"].split(", ")), r.headers
                r = s.request("POST", "/v1/chat/completions", CHAT, kind, ["Origin: https://good.example", "Authorization: Bearer first", "X-Stainless-OS: Linux"])
                assert r.status == 200 and "X-Kvasir-Prefix" in r.headers["access-control-expose-headers"] and r.headers["x-kvasir-prefix"], r.headers
                refused(s.request("OPTIONS", "/v1/chat/completions", kind=kind, headers=["Origin: https://bad.example"]), 403)
            assert s.raw(b"GET /health HTTP/1.1\r\nHost: my.box:80\r\nConnection: close\r\n\r\n").status == 200


# ---- many, and the end -------------------------------------------------------------------------------------

def answers_on_both(s):
    for kind in KINDS:
        s.get("/health", kind)


def fifteen_hundred_idle_connections_and_a_limit_of_descriptors():
    """With 256 descriptors the server can hold 192 of 1 500 connections; it answers all the same, and does not spin."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    try:
        for limit in (4096, 256):
            with Server(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (min(limit, hard), min(limit, hard)))) as s:
                held = []
                for i in range(1500):
                    held.append(s.connect(KINDS[i % 2]))
                answers_on_both(s)
                before = os.times(), cpu_of(s.process.pid)
                time.sleep(1)
                assert cpu_of(s.process.pid) - before[1] < 0.5 * SLOW
                answers_on_both(s)
                assert s.post("/v1/chat/completions", CHAT)["choices"]
                for c in held:
                    c.close()
                answers_on_both(s)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def whoever_asks_among_silent_connections_is_answered():
    """More of them than descriptors. Those of connections that make room are closed a moment later: nobody is turned away for that."""
    request = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with Server(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))) as s:
        held = []
        for i in range(900):
            held.append(s.connect(KINDS[i % 2]))
            if i % 9 == 0:
                held[-1].sendall(request)
        assert [read_response(c).status for c in held[::9]] == [200] * 100
        for c in held:
            c.close()


def clients_that_do_not_close_turn_nobody_away():
    """Three times as many answers as there is room for; who has one leaves its connection open."""
    request = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    for kind in KINDS:
        with Server(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))) as s:
            held = [s.connect(kind) for _ in range(192)]
            for c in held:
                c.sendall(request)
            assert [read_response(c).status for c in held] == [200] * 192
            held += [s.connect(kind) for _ in range(384)]
            for c in held[192:]:
                c.sendall(request)
            assert [read_response(c).status for c in held[192:]] == [200] * 384
            for c in held:
                c.close()


def connections_wait_while_all_others_are_at_work():
    """192 requests that are half there; what comes after them waits until one of them is complete."""
    with Server(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))) as s:
        for kind, other in (KINDS, KINDS[::-1]):
            held = [s.connect(kind) for _ in range(192)]
            for c in held:
                c.sendall(b"GET /health HTTP/1.1\r\n")
            late = [s.connect(other) for _ in range(8)]
            for c in late:
                c.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            time.sleep(0.1)
            for c in held:
                c.sendall(b"Host: localhost\r\n\r\n")
            assert [read_response(c).status for c in held] == [200] * 192
            assert [read_response(c).status for c in late] == [200] * 8
            for c in held + late:
                c.close()


def answered_in_a_rush(asks_before):
    """The server stands still, so that it finds a connection and 400 newer ones at once; it can hold 192."""
    request = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for kind, other in (KINDS, KINDS[::-1]):
        with Server(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))) as s:
            s.process.send_signal(signal.SIGSTOP)
            c = s.connect(kind)
            if asks_before:
                c.sendall(request)
            held = [s.connect(other) for _ in range(400)]
            s.process.send_signal(signal.SIGCONT)
            if not asks_before:
                time.sleep(0.03)  # it is granted 0.2
                c.sendall(request)
            assert read_response(c).status == 200, kind
            for x in held:
                x.close()


def a_request_that_waits_is_not_cut_for_silent_connections():
    answered_in_a_rush(True)


def whoever_has_just_connected_is_not_cut_in_a_rush():
    answered_in_a_rush(False)


def cpu_of(pid):
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def a_full_queue_is_429_with_retry_after():
    with Server("--parallel", "1", "--max-queue", "2") as s:
        body = json.dumps(dict(CHAT, max_tokens=500, ignore_eos=True)).encode()
        for kind in KINDS:
            held = []
            s.process.send_signal(signal.SIGSTOP)  # so that they come at once
            for _ in range(12):
                c = s.connect(kind)
                c.sendall(post(b"Content-Length: %d\r\n" % len(body), body))
                held.append(c)
            s.process.send_signal(signal.SIGCONT)
            answers = [read_response(c) for c in held]
            assert {a.status for a in answers} == {200, 429}, [a.status for a in answers]
            for a in answers:
                if a.status == 429:
                    refused(a, 429)
                    assert int(a.headers["retry-after"]) >= 1
            assert s.is_healthy()


def signals_end_streams_with_a_last_event():
    for number in (signal.SIGTERM, signal.SIGINT):
        s = Server(model=SMOLLM2)
        c = s.connect("tcp" if number == signal.SIGINT else "unix")
        # The stream itself would go on far longer than a stopping server waits.
        body = json.dumps(dict(CHAT, max_tokens=8000, ignore_eos=True, stream=True, n=16)).encode()
        c.sendall(post(b"Content-Length: %d\r\n" % len(body), body))
        while b'"content":"' not in c.recv(1 << 16):
            pass
        start = time.monotonic()
        s.process.send_signal(number)
        if number == signal.SIGINT:  # a second one means: now
            time.sleep(0.2)
            s.process.send_signal(number)
        response = b""
        while True:
            piece = c.recv(1 << 16)
            if not piece:
                break
            response += piece
        assert b"data: [DONE]" in response[-100:], response[-300:]
        assert b'"code":"shutting_down"' in response and b"invalid_request" not in response, response[-600:]  # it is not the client's fault
        assert "stopping: 1 request is still running" in s.said()
        # It waits 7 s for what runs, then 2 for what is to be sent; the stream would go on for minutes.
        assert s.process.wait(60 * SLOW) == 0 and time.monotonic() - start < 30 * SLOW
        assert not os.path.exists(s.path)


def a_server_ends_with_its_terminal_unless_nohup_started_it():
    for is_ignored in (False, True):
        with Server(model=SMOLLM2, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN if is_ignored else signal.SIG_DFL)) as s:
            c = s.connect("unix")
            body = json.dumps(dict(CHAT, max_tokens=100, ignore_eos=True, stream=True)).encode()
            c.sendall(post(b"Content-Length: %d\r\nConnection: close\r\n" % len(body), body))
            response = b""
            while b'"content":"' not in response.replace(b'"content":""', b""):  # it runs, and does not wait any more
                response += c.recv(1 << 16)
            start = time.monotonic()
            for _ in range(2):  # the shell sends one and the kernel another
                s.process.send_signal(signal.SIGHUP)
            while piece := c.recv(1 << 16):
                response += piece
            assert b"data: [DONE]" in response[-100:], response[-300:]
            # Nothing was cut before the time that running requests get.
            assert b'"finish_reason":"length"' in response or time.monotonic() - start > 6, response[-300:]
            if is_ignored:
                assert s.is_healthy()
            else:
                assert s.process.wait(60 * SLOW) == 0 and not os.path.exists(s.path)


def a_signal_while_the_model_loads_ends_the_server_at_once():
    ends = []
    with tempfile.TemporaryDirectory() as folder:
        path = folder + "/s"
        while -signal.SIGTERM not in ends and len(ends) < 20:  # the socket is there before the model is
            p = subprocess.Popen([KVASIR, "serve", "-m", SMOLLM2, "--listen", "unix:" + path], stderr=subprocess.DEVNULL)
            while not os.path.exists(path) and p.poll() is None:
                pass
            time.sleep(0.005)  # loading takes longer
            p.send_signal(signal.SIGTERM)
            ends.append(p.wait(60))
            assert not os.path.exists(path), ends
    assert ends[-1] == -signal.SIGTERM, ends


def a_folder_that_somebody_has_locked_stops_no_server():
    with tempfile.TemporaryDirectory() as folder:
        held = os.open(folder, os.O_RDONLY)
        fcntl.flock(held, fcntl.LOCK_EX)
        with Server(listen=["--listen", f"unix:{folder}/s", "--listen", "127.0.0.1:0"]) as s:
            assert s.request("GET", "/health", kind="tcp").status == 200
        os.close(held)


def no_listen():
    """From here on listen() fails in this process, as where a security module forbids it."""
    seccomp.install((seccomp.LOAD, seccomp.NUMBER), (seccomp.EQUAL, seccomp.NUMBERS["listen"], 0, 1), (seccomp.RETURN, seccomp.FAIL | errno.EACCES),
                    (seccomp.RETURN, seccomp.ALLOW))


def a_socket_that_cannot_listen_is_no_leftover():
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([KVASIR, "serve", "-m", TINY, "--listen", f"unix:{folder}/s"], capture_output=True, text=True, preexec_fn=no_listen,
                              timeout=30 * SLOW)
        assert done.returncode == 1 and done.stderr.count("\n") == 1 and "cannot listen on" in done.stderr, done.stderr
        assert "Permission denied" in done.stderr and os.listdir(folder) == [], (done.stderr, os.listdir(folder))


def sockets_of_others_are_left_alone():
    def start(path):
        return subprocess.run([KVASIR, "serve", "-m", TINY, "--listen", "unix:" + path], capture_output=True, text=True, timeout=30 * SLOW)

    with Server() as s:
        assert stat.S_IMODE(os.stat(s.path).st_mode) == 0o600 and stat.S_ISSOCK(os.stat(s.path).st_mode)
        second = start(s.path)
        assert second.returncode == 1 and second.stderr.count("\n") == 1 and "another server" in second.stderr, second.stderr
        assert s.is_healthy()
        plain = os.path.join(s.folder.name, "plain")
        with open(plain, "w") as f:
            f.write("mine")
        third = start(plain)
        assert third.returncode == 1 and "no socket" in third.stderr and open(plain).read() == "mine", third.stderr
        other = os.path.join(s.folder.name, "other")  # what cannot be connected to as a stream is alive, too
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
            datagrams.bind(other)
            inode = os.stat(other).st_ino
            fourth = start(other)
            assert fourth.returncode == 1 and "another server" in fourth.stderr and os.stat(other).st_ino == inode, fourth.stderr
        os.symlink(plain, plain + ".link")
        assert start(plain + ".link").returncode == 1 and open(plain).read() == "mine"
        # kill -9 leaves the file; the next server takes it over.
        s.process.kill()
        s.process.wait()
        assert os.path.exists(s.path)
        again = subprocess.Popen([KVASIR, "serve", "-m", TINY, "--listen", "unix:" + s.path], stderr=subprocess.PIPE, text=True)
        assert "serving " in again.stderr.readline() and "listening on unix:" in again.stderr.readline()
        assert s.request("GET", "/health", kind="unix").status == 200
        again.terminate()
        assert again.wait(10 * SLOW) == 0 and not os.path.exists(s.path)
    for address in ("nonsense", "127.0.0.1", "127.0.0.1:99999", "unix:", "unix:" + "x" * 200, "[::1", "https://127.0.0.1:80", "http://127.0.0.1:80/v1"):
        r = subprocess.run([KVASIR, "serve", "-m", TINY, "--listen", address], capture_output=True, text=True, timeout=30)
        assert r.returncode == 2 and "--listen" in r.stderr, (address, r.returncode, r.stderr)
    for option, value in (("--allow-origin", "https://chat.example.org/"), ("--allow-origin", "chat.example.org"), ("--allow-origin", ""),
                          ("--allow-host", "my.box:8080"), ("--allow-host", "http://my.box")):  # would fit nothing that browsers send
        r = subprocess.run([KVASIR, "serve", "-m", TINY, option, value], capture_output=True, text=True, timeout=30)
        assert r.returncode == 2 and option in r.stderr and r.stderr.count("\n") == 1, (option, value, r.stderr)
    r = subprocess.run([KVASIR, "serve", "-m", TINY, "--alias", "caf\udce9"], capture_output=True, text=True, timeout=30)
    assert r.returncode == 2 and "--alias" in r.stderr and "UTF-8" in r.stderr, (r.returncode, r.stderr)


def requests_are_logged_when_asked():
    with Server("-v") as s:
        assert re.search(r"^serving model: up to 16 requests at a time, each with a context of \d+ tokens$", s.said(), re.M), s.said()
        before = s.said()
        assert s.request("POST", "/tokenize", {"content": "a b"}).status == 200
        assert s.request("GET", "/%0a?api_key=secret").status == 404
        prompt = s.request("POST", "/v1/completions", {"prompt": "a b c", "max_tokens": 3, "ignore_eos": True}).json()["usage"]["prompt_tokens"]
        with s.connect("tcp") as leaver:
            leaver.sendall(post(b"Content-Length: 100\r\n", b"{"))
        end = time.monotonic() + 60 * SLOW
        while "left" not in s.said():
            assert time.monotonic() < end, s.said()
            time.sleep(0.05)
        with s.connect("tcp") as odd:  # no line: it did not say what it wants
            odd.sendall(b"G\x1b[31mT / HTTP/1.1\r\n\r\n")
            assert b" 400 " in odd.recv(100)
        time_of_day = r"\d\d:\d\d:\d\d  "
        wanted = [r"POST /tokenize  200  \d+ ms", r"GET /%0a  404  \d+ ms",
                  rf"POST /v1/completions  200  \d+ ms, prompt {prompt} \(0 cached\), reply 3 tokens",
                  r"POST /v1/chat/completions  client left after \d+ ms"]
        lines = s.said()[len(before):].splitlines()
        assert len(lines) == len(wanted) and all(re.fullmatch(time_of_day + w, line) for w, line in zip(wanted, lines)), lines
    with Server() as s:
        before = s.said()
        assert s.request("GET", "/health").status == 200 and s.said() == before


TESTS = [malformed_requests_are_400, limits_answer_from_the_head_alone, a_refusal_reaches_a_client_that_still_sends, what_is_unusual_but_right_works,
         pipelined_requests_are_answered_in_order, clients_that_leave_end_their_sequence_alone, a_reader_that_stops_is_paused_and_blocks_nobody,
         unread_bytes_of_all_clients_are_bounded,
         hostile_json_is_400_with_the_path, parameters_out_of_range_are_400_and_named, a_prompt_longer_than_the_context_is_400_with_both_numbers,
         foreign_pages_are_403, keys_and_cors_as_configured, fifteen_hundred_idle_connections_and_a_limit_of_descriptors, whoever_asks_among_silent_connections_is_answered,
         clients_that_do_not_close_turn_nobody_away, connections_wait_while_all_others_are_at_work,
         a_request_that_waits_is_not_cut_for_silent_connections,
         whoever_has_just_connected_is_not_cut_in_a_rush,
         a_full_queue_is_429_with_retry_after, signals_end_streams_with_a_last_event, a_server_ends_with_its_terminal_unless_nohup_started_it,
         a_signal_while_the_model_loads_ends_the_server_at_once, a_folder_that_somebody_has_locked_stops_no_server,
         a_socket_that_cannot_listen_is_no_leftover,
         sockets_of_others_are_left_alone, requests_are_logged_when_asked,
         slow_clients_are_408_and_delay_nobody]

if __name__ == "__main__":
    with Server() as server:
        run_tests(TESTS, [(KVASIR, "make"), (TINY, "git checkout tests/golden"), (SMOLLM2, "./kvasir get smollm2")])
