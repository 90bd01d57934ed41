#!/usr/bin/env python3
"""kvasir serve against what is well-formed HTTP and JSON but still hostile: schemas, grammars and patterns that explode or go in circles, chat
templates that never end, a log on a full disk, readers that stop. Each answer is an error object within seconds, over TCP and the unix socket, and the
server is healthy afterwards. Bytes and connections are test_serve_http.py's."""
import json
import os
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, "tests/support")
from runner import run_tests  # noqa: E402
from server import KVASIR, SLOW, TINY, Server, read_response  # noqa: E402

KINDS = ("tcp", "unix")
CHAT = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
PATIENCE = 60 * SLOW  # far below what exponential or quadratic work on these inputs takes, far above a busy machine's delays


def error_of(r, *statuses):
    assert r.status in statuses, (r.status, r.body[:300])
    error = r.json()["error"]
    assert set(error) == {"code", "message", "type", "param"} and error["message"] and error["type"], error
    return error


def ask(body, kind="tcp"):
    start = time.monotonic()
    r = server.request("POST", "/v1/chat/completions", body, kind)
    assert time.monotonic() - start < PATIENCE, (time.monotonic() - start, str(body)[:100])
    return r


def with_schema(schema):
    return dict(CHAT, response_format={"type": "json_schema", "json_schema": {"name": "s", "schema": schema}})


def tool(parameters):
    return dict(CHAT, tools=[{"type": "function", "function": {"name": "f", "parameters": parameters}}], tool_choice="required")


def refused_everywhere(bodies, *params):
    for kind in KINDS:
        for name, body in bodies.items():
            try:
                error = error_of(ask(body, kind), 400)
                assert error["type"] == "invalid_request_error" and (error["param"] or "").startswith(params), error
            except AssertionError as e:
                raise AssertionError(f"{name} over {kind}: {e}") from e
        assert server.is_healthy()


def in_object(name, schema):
    return {"type": "object", "properties": {name: schema}, "required": [name]}


def nested(n):
    schema = {"type": "string"}
    for _ in range(n):
        schema = {"type": "array", "items": schema}
    return schema


IMPOSSIBLE = {
    "reference to itself": {"$ref": "#"},
    "references in a circle": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
    "allOf in a circle": {"allOf": [{"$ref": "#"}]},
    "an object that must hold itself": in_object("a", {"$ref": "#"}),
    "reference to nothing": {"$ref": "#/$defs/nothing"}, "reference to the network": {"$ref": "http://169.254.169.254/latest"},
    "reference to a file": {"$ref": "file:///etc/passwd"}, "reference that is a number": {"$ref": 5},
    "numbers reversed": {"type": "integer", "minimum": 5, "maximum": 1}, "lengths reversed": {"type": "string", "minLength": 5, "maxLength": 1},
    "items reversed": {"type": "array", "items": {"type": "null"}, "minItems": 5, "maxItems": 1},
    "length negative": {"type": "string", "minLength": -1}, "length not whole": {"type": "string", "minLength": 1.5},
    "type of an enum unknown": {"enum": [1], "type": [5]}, "type of a const null": {"const": "a", "type": [None, "string"]}, "type of an enum a number": {"enum": [1], "type": 5},
    "properties that others open": {"allOf": [{"type": "object", "additionalProperties": {"type": "null"}}, {"properties": {"a": {"const": 1}}, "required": ["a"]}]},
    "items that others name": {"allOf": [{"type": "array", "items": {"type": "null"}}, {"prefixItems": [{"const": 1}]}]},
    "type unknown": {"type": "strin"}, "type a number": {"type": 5}, "enum empty": {"enum": []}, "enum a string": {"enum": "ab"},
    "properties a list": {"type": "object", "properties": []}, "required a string": {"type": "object", "properties": {"a": {}}, "required": "a"},
    "anyOf empty": {"anyOf": []}, "keyword unknown to us": {"type": "object", "unevaluatedProperties": False},
    "pattern broken": {"type": "string", "pattern": "["}, "pattern with a reference back": {"type": "string", "pattern": "(a)\\1"},
    "pattern nested": {"type": "string", "pattern": "(" * 50000 + "a" + ")" * 50000},
    "a list": [], "a number": 5, "nothing is allowed": False,
}


def impossible_schemas_are_400():
    refused_everywhere({k: with_schema(s) for k, s in IMPOSSIBLE.items()}, "response_format")
    refused_everywhere({k: tool(in_object("p", s)) for k, s in IMPOSSIBLE.items() if isinstance(s, dict) and "$" not in json.dumps(s) and len(json.dumps(s)) < 1000}, "tools")


def impossible_grammars_are_400():
    refused_everywhere({k: dict(CHAT, grammar=g) for k, g in {
        "empty": "", "no root": 'a ::= "x"', "undefined": "root ::= other", "left recursion": 'root ::= root "a" | "b"',
        "hidden left recursion": 'root ::= a\na ::= b? c\nb ::= "x"\nc ::= a "y" | "z"', "only itself": "root ::= root",
        "unclosed group": 'root ::= ("a"', "unclosed text": 'root ::= "a', "unclosed class": "root ::= [a", "class reversed": "root ::= [z-a]",
        "repeats reversed": 'root ::= "a"{5,1}', "repeats of 2^40": 'root ::= "a"{1099511627776}',
        "nested": "root ::= " + "(" * 100000 + '"a"' + ")" * 100000, "not UTF-8 escape": 'root ::= "\\xZZ"', "a number": 5,
        "two million bytes": 'root ::= "' + "a" * 2_000_000 + '"'}.items()}, "grammar")


def what_is_large_is_answered_or_refused_in_time():
    """These could be meant. A 200 must hold what was asked for, a 400 must say why not."""
    large = {
        "length of 2^40": with_schema({"type": "string", "minLength": 2**40}),
        "items of 2^40": with_schema({"type": "array", "items": {"type": "null"}, "minItems": 2**40}),
        "repeats of repeats in a pattern": with_schema({"type": "string", "pattern": "((a{1000}){1000}){1000}"}),
        "repeats of repeats": dict(CHAT, grammar='root ::= (("a"{1000}){1000}){1000}'),
        "20 k alternatives": with_schema({"enum": [f"word{i}" for i in range(20000)]}),
        "20 k anyOf": with_schema({"anyOf": [{"const": i} for i in range(20000)]}),
        "5 k properties": with_schema({"type": "object", "properties": {f"p{i}": {"type": "null"} for i in range(5000)}, "additionalProperties": False}),
        "100 levels": with_schema(nested(100)),
        "catastrophic pattern": with_schema({"type": "string", "pattern": "^(a+)+$"}),
        "states double": with_schema({"type": "string", "pattern": "^(a|b)*a(a|b){24}$"}),
        "20 k alternatives of a grammar": dict(CHAT, grammar="root ::= " + " | ".join(f'"word{i}"' for i in range(20000))),
        "20 k rules": dict(CHAT, grammar="root ::= r0\n" + "\n".join(f'r{i} ::= "a" r{i + 1}' for i in range(20000)) + '\nr20000 ::= "b"'),
        "ambiguous": dict(CHAT, grammar='root ::= a a a a a a a a\na ::= "x"* | "x"* "x"*'),
    }
    for kind in KINDS:
        for name, body in large.items():
            r = ask(dict(body, max_tokens=40), kind)
            if r.status == 200:
                c = r.json()["choices"][0]
                if c["finish_reason"] == "stop" and "grammar" not in body:
                    json.loads(c["message"]["content"])
            else:
                error_of(r, 400)
            assert server.is_healthy(), name


def many_messages_take_linear_time():
    """The template of TINY knows no tools, so results are made into messages of the user, those of one turn into one."""
    results = [{"role": "tool", "content": f"{i}"} for i in range(60000)]
    texts = ["".join(f"<tool_response>\n{m['content']}\n</tool_response>\n" for m in part)[:-1] for part in (results[:30000], results[30000:])]
    messages = [{"role": "user", "content": "x"}, *results[:30000], {"role": "assistant", "content": "y"}, *results[30000:]]
    start = time.monotonic()
    prompt = server.post("/apply-template", {"messages": messages, "add_generation_prompt": False})["prompt"]
    assert time.monotonic() - start < 10 * SLOW  # 0.3 s; what copies all of them for each takes minutes
    turns = ["user\nx", "user\n" + texts[0], "assistant\ny", "user\n" + texts[1]]
    assert prompt == "".join(f"<|im_start|>{t}<|im_end|>\n" for t in turns), prompt[:300]


def pieces_of_a_large_text_are_refused():
    """Each takes half a kilobyte of the server's memory: 16 MiB of text were 4 GB. The ids alone are given."""
    assert len(server.post("/tokenize", {"content": "a " * 50000, "with_pieces": True})["tokens"]) == 50001
    error = error_of(server.request("POST", "/tokenize", {"content": "a " * 500000, "with_pieces": True}), 400)
    assert error["param"] == "content" and "500001 tokens" in error["message"], error
    assert len(server.post("/tokenize", {"content": "a " * 500000})["tokens"]) == 500001


def queue_large_texts(s, n):
    """n clients whose bodies of 8 MB, a second each, wait for the thread that reads such."""
    body = json.dumps({"content": "a " * 4_000_000}).encode()
    clients = [s.connect("unix") for _ in range(n)]
    for c in clients:
        c.sendall(b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    return clients


def a_server_that_ends_reads_no_more_of_what_waits():
    s = Server()
    clients = queue_large_texts(s, 30)
    start = time.monotonic()
    s.process.send_signal(signal.SIGTERM)
    answers = [read_response(c) for c in clients]
    assert s.process.wait(60 * SLOW) == 0 and time.monotonic() - start < 10 * SLOW, time.monotonic() - start
    refused = [error_of(r, 503)["code"] for r in answers if r.status != 200]
    assert len(refused) > 10 and set(refused) == {"shutting_down"}, refused
    for c in clients:
        c.close()


def bodies_of_clients_that_left_are_not_read():
    with Server() as s:
        for c in queue_large_texts(s, 30):
            c.close()
        start = time.monotonic()
        assert len(s.post("/tokenize", {"content": "a " * 50000})["tokens"]) == 50001  # large enough to wait behind them
        assert time.monotonic() - start < 10 * SLOW


def a_call_without_arguments_has_none():
    called = {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "now"}}]}
    prompt = server.post("/apply-template", {"messages": [CHAT["messages"][0], called], "add_generation_prompt": False})["prompt"]
    assert prompt.endswith('<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call><|im_end|>\n'), prompt


def templates_that_never_end_are_an_error():
    """The endpoints that need no template work all the same."""
    bombs = {
        "steps": "{% for i in range(1000000000) %}{% endfor %}x", "loops": "{% for i in range(9999) %}{% for j in range(9999) %}{% for k in range(9999) %}{% endfor %}{% endfor %}{% endfor %}",
        "doubling": "{% set ns = namespace(s='aaaaaaaaaaaaaaaa') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}",
        "output": "{% for i in range(100000) %}{{ messages[0].content * 1000 }}{% endfor %}", "recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "error": "{{ raise_exception('no') }}", "undefined": "{{ messages[0].nothing.nothing }}",
    }
    for name, source in bombs.items():
        with tempfile.NamedTemporaryFile("w", suffix=".jinja") as f:
            f.write(source)
            f.flush()
            with Server("--chat-template-file", f.name) as s:
                assert f"warning: a message alone cannot be rendered, and chat is refused where that is so: {f.name}: " in s.said(), (name, s.said())
                for kind in KINDS:
                    for stream in (False, True):
                        start = time.monotonic()
                        r = s.request("POST", "/v1/chat/completions", dict(CHAT, stream=stream), kind)
                        assert time.monotonic() - start < PATIENCE, name
                        error_of(r, 400, 500)
                    assert s.request("POST", "/v1/completions", {"prompt": [5, 6], "max_tokens": 2}, kind).status == 200
                assert s.is_healthy(), name


def many_impossible_things_leave_no_memory_behind():
    """Refused schemas are not kept, and those that are have a limit in bytes."""
    def rss():
        with open(f"/proc/{server.process.pid}/statm") as f:
            return int(f.read().split()[1]) * 4096

    def round_of(n):
        for i in range(40):
            ask(with_schema({"enum": [f"{n}-{i}-{j}" for j in range(500)]}))
            error_of(ask(with_schema({"enum": [f"{n}-{i}-{j}" for j in range(500)], "minimum": 5, "unevaluatedItems": i})), 400)
    round_of(0)
    round_of(1)
    before = rss()
    for n in range(2, 5):
        round_of(n)
    assert rss() - before < (64 << 20) * SLOW, (before, rss())
    assert server.is_healthy()


def a_reader_that_stops_gives_its_slot_and_its_pages_to_who_waits():
    """Whoever needs its only slot, or the pages it has in a small budget, does not wait until it is cut; when it reads on, it gets what it would have."""
    # 1 300 bytes a token: more than the kernel and the server keep for a connection.
    stream = {"prompt": [5] * 1300, "max_tokens": 600, "ignore_eos": True, "temperature": 1, "seed": 3, "logprobs": 20}
    for options in (("--parallel", "1"), ("--parallel", "2", "--kv-budget", "1")):
        with Server("-c", "4096", *options) as s:
            alone = [e["choices"] for e in s.stream("/v1/completions", stream)]
            body = json.dumps(dict(stream, stream=True)).encode()
            slow = s.connect("unix")
            slow.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            before, after = -1, 0
            while before != after or after == 0:  # until it stands still
                time.sleep(0.3)
                before, after = after, s.get("/slots")[0]["n_decoded"]
            assert after < 600
            for seed in range(3):
                assert s.post("/v1/completions", {"prompt": [9 + seed] * 900, "max_tokens": 200, "ignore_eos": True})["usage"]["completion_tokens"] == 200
            r = read_response(slow)
            assert [json.loads(e[6:])["choices"] for e in r.body.decode().split("\n\n")[:-2]] == alone
            slow.close()


def a_log_on_a_full_disk_stops_nothing():
    with tempfile.TemporaryDirectory() as folder, open("/dev/full", "w") as full:
        path = os.path.join(folder, "s.sock")
        p = subprocess.Popen([KVASIR, "serve", "-m", TINY, "-v", "--listen", "unix:" + path], stdout=full, stderr=full, stdin=subprocess.DEVNULL)
        s = Server.__new__(Server)
        s.path, s.port = path, None
        end = time.monotonic() + 20 * SLOW
        while not os.path.exists(path) and time.monotonic() < end:
            time.sleep(0.01)
        while s.request("GET", "/health", kind="unix").status != 200:
            assert p.poll() is None and time.monotonic() < end
        for _ in range(20):
            assert s.post("/v1/chat/completions", CHAT, "unix")["choices"]
            error_of(s.request("POST", "/v1/chat/completions", b"{", "unix"), 400)
        assert s.request("GET", "/health", kind="unix").status == 200
        p.send_signal(signal.SIGTERM)
        p.wait(20 * SLOW)
        assert p.returncode in (0, 1) and not os.path.exists(path), p.returncode  # 1: it could not say something


TESTS = [impossible_schemas_are_400, impossible_grammars_are_400, what_is_large_is_answered_or_refused_in_time, many_messages_take_linear_time, pieces_of_a_large_text_are_refused,
         a_server_that_ends_reads_no_more_of_what_waits, bodies_of_clients_that_left_are_not_read,
         a_call_without_arguments_has_none, templates_that_never_end_are_an_error,
         many_impossible_things_leave_no_memory_behind, a_reader_that_stops_gives_its_slot_and_its_pages_to_who_waits, a_log_on_a_full_disk_stops_nothing]

if __name__ == "__main__":
    with Server() as server:
        run_tests(TESTS, [(KVASIR, "make"), (TINY, "git checkout tests/golden")])
