#!/usr/bin/env python3
"""JSON schemas against the jsonschema package: over a hundred in golden/schemas/, each answered twice by SmolLM2 at temperature 1, and
every answer is JSON that validates. What a grammar cannot say is refused with its name. CORPUS_N=n asks for n answers each."""
import datetime
import glob
import ipaddress
import json
import os
import re
import sys
import threading
import uuid

import jsonschema

sys.path.insert(0, "tests/support")
from runner import run_tests  # noqa: E402
from server import KVASIR, SMOLLM2, Server  # noqa: E402

FOLDER = "tests/golden/schemas"
N = int(os.environ.get("CORPUS_N", "2"))
MAX_TOKENS = 512

# Formats as the standards say them, not as the grammar does; jsonschema's own need packages for some.
FORMATS = jsonschema.FormatChecker(formats=())


def format_check(name):
    return FORMATS.checks(name, raises=(ValueError, AssertionError))


@format_check("date")
def _(text):
    return re.fullmatch(r"\d{4}-\d\d-\d\d", text) and datetime.date.fromisoformat(text)


@format_check("time")
def _(text):
    assert re.fullmatch(r"\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", text)
    return datetime.time.fromisoformat(re.sub(r"\.\d+", "", text).replace("Z", "+00:00")) is not None


@format_check("date-time")
def _(text):
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", text)
    return datetime.datetime.fromisoformat(re.sub(r"\.\d+", "", text).replace("Z", "+00:00"))


@format_check("uuid")
def _(text):
    return str(uuid.UUID(text)) == text.lower()


@format_check("ipv4")
def _(text):
    return ipaddress.IPv4Address(text)


@format_check("ipv6")
def _(text):
    return ipaddress.IPv6Address(text)


@format_check("hostname")
def _(text):
    return len(text) <= 253 and all(re.fullmatch(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)", label) for label in text.split("."))


@format_check("email")
def _(text):
    name, _, host = text.rpartition("@")
    return re.fullmatch(r"[\w.+-]{1,64}", name) and ".." not in name and name[0] != "." and name[-1] != "." and FORMATS.conforms(host, "hostname")


@format_check("uri")
def _(text):
    return re.fullmatch(r"[a-z][a-z0-9+.-]*://[A-Za-z0-9.-]+(/[\w.~/-]*)?(\?[^\s#]*)?(#\S*)?", text)


@format_check("duration")
def _(text):
    return re.fullmatch(r"P(?!$)(\d+Y)?(\d+M)?(\d+W)?(\d+D)?(T(?!$)(\d+H)?(\d+M)?(\d+S)?)?", text)


@format_check("json-pointer")
def _(text):
    return re.fullmatch(r"(/([^~/]|~[01])*)*", text)


def corpus():
    schemas = []
    for path in sorted(glob.glob(os.path.join(FOLDER, "*.json"))):
        if not path.endswith("unsupported.json"):
            with open(path, encoding="utf-8") as f:
                schemas += [(f"{os.path.basename(path)[:-5]}: {name}", schema) for name, schema in json.load(f).items()]
    return schemas


def in_parallel(work, items, n_threads=8):
    errors, lock, items = [], threading.Lock(), list(items)

    def run():
        while True:
            with lock:
                if not items:
                    return
                item = items.pop(0)
            try:
                work(item)
            except Exception as e:  # noqa: BLE001
                errors.append(f"{item[0]}: {type(e).__name__}: {e}")
    threads = [threading.Thread(target=run) for _ in range(n_threads)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return sorted(errors)


def no_constant(name):
    raise ValueError(f"{name} is no JSON")


def ask(schema, **more):
    return dict({"messages": [{"role": "user", "content": "Answer in JSON, briefly."}], "max_tokens": MAX_TOKENS, "temperature": 1, "seed": 11, "n": N,
                 "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}}, **more)


# What may nest for ever does, with a small model at temperature 1: these are told where it could end.
ENDS = {"references: linked list": '{"v": true, "next": {"v": false, "next": null}}', "references: itself": '{"self": {"self": 1}}',
        "references: two that call each other": '[{"a": []}]', "references: expression": '["+", 1, ["*", 2, 3]]',
        "references: tree": '{"k": 1, "c": [{"k": 2, "c": []}]}'}


def answers(name, schema):
    """N whole ones; where there is no bound to the depth, other seeds are asked too."""
    text = f"Repeat this: {ENDS[name]}" if name in ENDS else "Answer in JSON, briefly."
    for seed in range(11, 31 if name in ENDS else 12):
        body = ask(schema, messages=[{"role": "user", "content": text}], seed=seed, max_tokens=128 if name in ENDS else MAX_TOKENS)
        choices = server.post("/v1/chat/completions", body)["choices"]
        texts = [c["message"]["content"] for c in choices if c["finish_reason"] == "stop"]
        if len(texts) == N:
            return texts
    raise AssertionError(f"{choices[0]['finish_reason']}: {choices[0]['message']['content'][:200]!r}")


def every_answer_validates():
    schemas = corpus()
    assert len(schemas) >= 100, len(schemas)
    seen = {}

    def one(item):
        name, schema = item
        jsonschema.Draft202012Validator.check_schema(schema)
        validator = jsonschema.Draft202012Validator(schema, format_checker=FORMATS)
        for text in answers(name, schema):
            value = json.loads(text, parse_constant=no_constant)
            error = next(validator.iter_errors(value), None)
            assert error is None, f"{error.message[:200]} in {text[:300]}"
            seen.setdefault(name, set()).add(text)
    errors = in_parallel(one, schemas)
    assert not errors, "\n".join(errors)
    assert len(seen) == len(schemas)
    # They are answers of a model at temperature 1, not one per schema.
    assert N < 2 or sum(len(texts) > 1 for texts in seen.values()) > len(schemas) // 2


def the_validator_of_this_test_can_say_no():
    bad = [({"type": "string", "format": f}, t) for f, t in [("date", "2024-02-30"), ("time", "25:00:00Z"), ("date-time", "2024-01-01 00:00:00Z"), ("uuid", "x"), ("ipv4", "1.2.3.256"),
                                                             ("ipv6", "1:2"), ("hostname", "-a.b"), ("email", "a@"), ("uri", "a b"), ("duration", "PT"), ("json-pointer", "a")]]
    for schema, value in bad:
        assert not jsonschema.Draft202012Validator(schema, format_checker=FORMATS).is_valid(value), (schema, value)


def objects_without_a_schema_parse():
    r = server.post("/v1/chat/completions", dict(ask(None, n=4, max_tokens=300, seed=5), response_format={"type": "json_object"}))
    for choice in r["choices"]:
        if choice["finish_reason"] == "stop":
            assert isinstance(json.loads(choice["message"]["content"], parse_constant=no_constant), dict)
    assert any(c["finish_reason"] == "stop" for c in r["choices"])


def a_grammar_is_kept_to():
    r = server.post("/v1/chat/completions", dict(ask(None), response_format=None, grammar='root ::= ("ab" | [0-9]{3}){1,6} "."', n=4, max_tokens=60))
    ended = [c["message"]["content"] for c in r["choices"] if c["finish_reason"] == "stop"]
    assert ended and all(re.fullmatch(r"(?:ab|[0-9]{3}){1,6}\.", t) for t in ended), ended


def what_is_not_supported_is_named():
    with open(os.path.join(FOLDER, "unsupported.json"), encoding="utf-8") as f:
        cases = json.load(f)
    for case in cases:
        for schema in (case["schema"], {"type": "object", "properties": {"inner": {"anyOf": [{"type": "null"}, case["schema"]]}}}):
            r = server.request("POST", "/v1/chat/completions", ask(schema))
            assert r.status == 400, (case, r.status, r.body)
            error = r.json()["error"]
            assert case["keyword"] in error["message"] and error["param"] == "response_format" and error["type"] == "invalid_request_error", (case, error)
            assert schema is case["schema"] or "#/properties/inner/anyOf/1" in error["message"], error
    assert server.is_healthy()


TESTS = [every_answer_validates, the_validator_of_this_test_can_say_no, objects_without_a_schema_parse, a_grammar_is_kept_to, what_is_not_supported_is_named]

if __name__ == "__main__":
    with Server("-c", "1024", model=SMOLLM2) as server:
        connect = server.connect
        server.connect = lambda kind="tcp": connect(kind, timeout=120)  # a busy machine is slow, not wrong
        run_tests(TESTS, [(KVASIR, "make"), (SMOLLM2, "./kvasir get smollm2")])
