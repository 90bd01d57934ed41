#!/usr/bin/env python3
"""What kvasir serve answers: the shape of every endpoint, the order of streams, the same bits alone and in company, what a prefix that is
known costs, and that pages and memory come back. Texts are compared with `kvasir run`, log-probabilities with `kvasir logits`."""
import base64
import json
import math
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

from gguf import GGUFReader

sys.path.insert(0, "tests/support")
from runner import run_tests  # noqa: E402
from server import KVASIR, SMOLLM2, TINY, Server, parallel  # noqa: E402

KINDS = ("tcp", "unix")


def chat(text="What is the capital of Norway?", **more):
    return dict({"messages": [{"role": "user", "content": text}], "max_tokens": 24, "temperature": 0}, **more)


def run(model, *args):
    out = subprocess.run([KVASIR, *args[:1], "-m", model, *args[1:]], capture_output=True, text=True, check=True)
    return json.loads(out.stdout)


# ---- shapes ------------------------------------------------------------------------------------------

def lists_and_properties():
    for kind in KINDS:
        models = big.get("/v1/models", kind)
        assert models["object"] == "list" and models["data"][0]["id"] == "smollm2-135m-instruct-q4_1"
        assert big.get("/v1/models/smollm2-135m-instruct-q4_1", kind)["object"] == "model"
        assert big.request("GET", "/v1/models/other", kind=kind).json()["error"]["code"] == "model_not_found"
        assert big.get("/health", kind) == {"status": "ok"}
        props = big.get("/props", kind)
        assert props["total_slots"] == 16 and props["default_generation_settings"]["n_ctx"] == 8192 and "im_start" in props["chat_template"]
        assert len(big.get("/slots", kind)) == 16
        metrics = big.get("/metrics", kind)
        assert "# TYPE kvasir_requests_total counter" in metrics and "kvasir_kv_pages" in metrics
    assert "<!doctype html>" in big.get("/") and big.request("GET", "/", kind="unix").status == 404


def a_base_address_with_or_without_v1_is_answered_with_the_other():
    for path, meant in (("/chat/completions", "/v1/chat/completions"), ("/v1/v1/chat/completions", "/v1/chat/completions"), ("/models", "/v1/models"), ("/v1/metrics", "/metrics")):
        r = big.request("POST" if "chat" in path else "GET", path, {} if "chat" in path else None)
        assert r.status == 404 and r.json()["error"]["message"].endswith(f"{path}; did you mean {meant}?"), r.body
    for path in ("/v1/", "/v1", "/nothing", "/v1/nothing"):
        assert "did you mean" not in big.request("GET", path).json()["error"]["message"]


def a_template_of_any_bytes_is_told():
    with tempfile.NamedTemporaryFile() as f:
        f.write(b"{# caf\xe9 #}x")
        f.flush()
        with Server("--chat-template-file", f.name) as s:
            assert s.get("/props")["chat_template"] == "{# caf\ufffd #}x"


def the_template_is_told_how_much_to_think():
    with tempfile.NamedTemporaryFile("w") as f:
        f.write("{{ reasoning_effort | default('medium') }}|{{ messages[0].content }}")
        f.flush()
        with Server("--chat-template-file", f.name) as s:
            for effort, more, rendered in ((None, {}, "medium"), ("low", {}, "low"), ("low", {"chat_template_kwargs": {"reasoning_effort": "high"}}, "high"),
                                           (None, {"chat_template_kwargs": {"x": 1}}, "medium")):
                body = {"messages": [{"role": "user", "content": "hi"}], "reasoning_effort": effort, "modalities": ["text"], **more}
                assert s.post("/apply-template", body)["prompt"] == rendered + "|hi", (effort, more)
                assert s.post("/v1/chat/completions", dict(body, max_tokens=1))["usage"]["prompt_tokens"] == len(s.post("/tokenize", {"content": rendered + "|hi"})["tokens"])


def tokenizing_as_the_command_line_does():
    text = "Hello, wörld! <|im_end|> \U0001f600"
    ids = big.post("/tokenize", {"content": text})["tokens"]
    assert ids == run(SMOLLM2, "tokenize", "--no-bos", "-p", text)
    assert big.post("/detokenize", {"tokens": ids})["content"] == text
    assert big.post("/tokenize", {"content": text, "parse_special": False})["tokens"] == run(SMOLLM2, "tokenize", "--no-bos", "--no-special", "-p", text)
    pieces = big.post("/tokenize", {"content": "Hello there", "with_pieces": True})["tokens"]
    assert "".join(p["piece"] for p in pieces) == "Hello there" and all(isinstance(p["id"], int) for p in pieces)
    messages = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    assert big.post("/apply-template", {"messages": messages})["prompt"].endswith("<|im_start|>user\na\nb<|im_end|>\n<|im_start|>assistant\n")
    assert big.post("/apply-template", {"messages": messages, "add_generation_prompt": False})["prompt"].endswith("b<|im_end|>\n")


def a_chat_says_what_run_says():
    prompt = big.post("/apply-template", chat())["prompt"]
    expected = run(SMOLLM2, "run", "-p", prompt, "-n", "24", "--temp", "0", "-o", "json")
    for kind in KINDS:
        r = big.post("/v1/chat/completions", chat(), kind)
        assert r["object"] == "chat.completion" and r["id"].startswith("chatcmpl-") and isinstance(r["created"], int)
        c = r["choices"][0]
        assert c["message"] == {"role": "assistant", "content": expected["text"]}, (c, expected["text"])
        assert c["finish_reason"] == expected["finish_reason"] and c["index"] == 0 and c["logprobs"] is None
        u = r["usage"]
        assert u["prompt_tokens"] == len(expected["prompt_tokens"]) and u["completion_tokens"] == len(expected["tokens"])
        assert u["total_tokens"] == u["prompt_tokens"] + u["completion_tokens"]
        t = r["timings"]
        assert t["cache_n"] == u["prompt_tokens_details"]["cached_tokens"] and t["cache_n"] + t["prompt_n"] == u["prompt_tokens"]


def streams_come_in_order_and_say_the_same():
    for kind in KINDS:
        whole = big.post("/v1/chat/completions", chat(n=2, temperature=1, seed=7, logprobs=True, top_logprobs=2), kind)
        events = big.stream("/v1/chat/completions", chat(n=2, temperature=1, seed=7, logprobs=True, top_logprobs=2, stream_options={"include_usage": True}), kind)
        assert events[-1]["choices"] == [] and events[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
        assert len({e["id"] for e in events}) == 1 and all(e["object"] == "chat.completion.chunk" for e in events)
        assert all(e["usage"] is None for e in events[:-1])
        for i in range(2):
            mine = [e["choices"][0] for e in events[:-1] if e["choices"][0]["index"] == i]
            assert mine[0]["delta"] == {"role": "assistant", "content": ""} and all("role" not in m["delta"] for m in mine[1:])
            assert mine[-1]["delta"] == {} and mine[-1]["finish_reason"] == whole["choices"][i]["finish_reason"]
            assert all(m["finish_reason"] is None for m in mine[:-1])
            assert "".join(m["delta"].get("content", "") for m in mine) == whole["choices"][i]["message"]["content"]
            probs = [p for m in mine if m["logprobs"] for p in m["logprobs"]["content"]]
            assert probs == whole["choices"][i]["logprobs"]["content"]
        no_usage = big.stream("/v1/chat/completions", chat(max_tokens=2), kind)
        assert all(e["choices"] and "usage" not in e for e in no_usage)
    events = big.stream("/v1/chat/completions", chat("word " * 900, max_tokens=2, return_progress=True, cache_prompt=False))
    progress = [e["prompt_progress"] for e in events if "prompt_progress" in e]
    assert progress[0]["processed"] == 0 and progress[-1]["processed"] == progress[-1]["total"] > 900, progress
    assert [p["processed"] for p in progress] == sorted(p["processed"] for p in progress) and len(progress) > 2


def log_probabilities_are_those_of_the_logits():
    prompt = "The capital of France is"
    r = big.post("/v1/completions", {"prompt": prompt, "max_tokens": 3, "temperature": 0, "logprobs": 5, "echo": True})
    c = r["choices"][0]
    ids = big.post("/tokenize", {"content": c["text"]})["tokens"]
    expected = run(SMOLLM2, "logits", "--tokens", ",".join(map(str, ids)), "--at", "all", "-o", "json", "--top", "5")
    rows = expected["rows"]
    lp = c["logprobs"]
    assert "".join(lp["tokens"]) == c["text"] and lp["token_logprobs"][0] is None and lp["top_logprobs"][0] is None
    for i in range(1, len(ids)):
        top = rows[i - 1]["top"]
        assert [round(v, 4) for v in lp["top_logprobs"][i].values()] == [round(p, 4) for _, p in top], i
        if dict(top).get(ids[i]) is not None:
            assert abs(lp["token_logprobs"][i] - dict(top)[ids[i]]) < 1e-5
    assert lp["text_offset"] == [len("".join(lp["tokens"][:i])) for i in range(len(ids))]
    scored = big.post("/v1/completions", {"prompt": prompt, "max_tokens": 0, "logprobs": 0, "echo": True})["choices"][0]
    assert scored["text"] == prompt and scored["logprobs"]["token_logprobs"] == lp["token_logprobs"][:len(scored["logprobs"]["tokens"])]


def completions_take_every_kind_of_prompt():
    ids = big.post("/tokenize", {"content": "Once upon a time"})["tokens"]
    body = {"max_tokens": 6, "temperature": 0}
    text = big.post("/v1/completions", dict(body, prompt="Once upon a time"))["choices"][0]["text"]
    other = big.post("/v1/completions", dict(body, prompt="The sea"))["choices"][0]["text"]
    assert big.post("/v1/completions", dict(body, prompt=ids))["choices"][0]["text"] == text
    for prompts in (["Once upon a time", "The sea"], [ids, big.post("/tokenize", {"content": "The sea"})["tokens"]]):
        r = big.post("/v1/completions", dict(body, prompt=prompts, n=2))
        assert [c["index"] for c in r["choices"]] == [0, 1, 2, 3] and [c["text"] for c in r["choices"]] == [text, text, other, other]
        assert r["object"] == "text_completion" and r["usage"]["completion_tokens"] == 24
    assert big.post("/v1/completions", dict(body, prompt=""))["choices"][0]["finish_reason"] in ("length", "stop")


def stops_never_leak():
    text = big.post("/v1/completions", {"prompt": "The quick brown", "max_tokens": 30, "temperature": 0})["choices"][0]["text"]
    for stop in (text[5:9], text[3:20], [text[12:15], text[20:24]], text[:2]):
        first = min(text.find(s) for s in ([stop] if isinstance(stop, str) else stop))
        r = big.post("/v1/completions", {"prompt": "The quick brown", "max_tokens": 30, "temperature": 0, "stop": stop})["choices"][0]
        assert r["text"] == text[:first] and r["finish_reason"] == "stop", (stop, r)
        pieces = [e["choices"][0]["text"] for e in big.stream("/v1/completions", {"prompt": "The quick brown", "max_tokens": 30, "temperature": 0, "stop": stop})]
        assert "".join(pieces) == text[:first], (stop, pieces)
    r = big.post("/v1/completions", {"prompt": "The quick brown", "max_tokens": 30, "temperature": 0, "stop": text[-3:] + "never"})["choices"][0]
    assert r["text"] == text and r["finish_reason"] == "length"


def characters_are_never_cut():
    """Emoji are several tokens here; every chunk is valid UTF-8 and holds whole characters."""
    bias = {str(t): 100 for t in big.post("/tokenize", {"content": "\U0001f9ff"})["tokens"]}
    for body in ({"prompt": "emoji \U0001f600\U0001f680\U0001f9ff\U0001f984", "max_tokens": 40, "temperature": 1.5, "seed": 3, "logit_bias": bias},):
        pieces = [e["choices"][0]["text"] for e in big.stream("/v1/completions", body)]
        assert "".join(pieces) == big.post("/v1/completions", body)["choices"][0]["text"]
        assert "\U0001f9ff" in "".join(pieces), pieces
        # Each token's offset is where its first character is, also where it has only a part of one; a stream says the same.
        text, probs = (lambda c: (c["text"], c["logprobs"]))(big.post("/v1/completions", dict(body, logprobs=1))["choices"][0])
        streamed = [e["choices"][0]["logprobs"]["text_offset"] for e in big.stream("/v1/completions", dict(body, logprobs=1)) if e["choices"][0]["logprobs"]]
        assert sum(streamed, []) == probs["text_offset"]
        for token, at in zip(probs["tokens"], probs["text_offset"]):
            assert token.startswith("\ufffd") or text[at:at + len(token)] == token or "\ufffd" in token, (token, at, text)


def seeds_bias_and_penalties_work():
    def text(**more):
        return big.post("/v1/completions", dict({"prompt": "My favourite", "max_tokens": 16, "temperature": 1}, **more))["choices"][0]["text"]
    assert text(seed=5) == text(seed=5) != text(seed=6)
    assert len({text() for _ in range(4)}) > 1
    word = big.post("/tokenize", {"content": " cat"})["tokens"][0]
    assert text(logit_bias={str(word): 100}, max_tokens=3, temperature=0) == " cat cat cat"
    first = text(temperature=0, max_tokens=1)
    banned = big.post("/tokenize", {"content": first})["tokens"][0]
    assert text(temperature=0, max_tokens=1, logit_bias={str(banned): -100}) != first
    for grammar in ('root ::= "a"', 'root ::= "b" "a"'):  # at the first token, and later
        r = big.request("POST", "/v1/completions", {"prompt": "x", "grammar": grammar, "logit_bias": {str(t): -100 for t in big.post("/tokenize", {"content": "a"})["tokens"]}})
        assert (r.status == 400 and r.json()["error"]["param"] == "logit_bias") or r.json()["choices"][0]["text"] == "ba", r.body
    choices = big.post("/v1/completions", {"prompt": "My favourite", "max_tokens": 16, "temperature": 1, "n": 4, "seed": 5})["choices"]
    assert choices[0]["text"] == text(seed=5) and len({c["text"] for c in choices}) > 1


def embeddings_are_the_hidden_states():
    """logits = output matrix times hidden state: with pooling "last" the order of the logits follows from the vector alone."""
    for kind in KINDS:
        one = big.post("/v1/embeddings", {"input": "The cat sat"}, kind)
        assert one["object"] == "list" and one["data"][0]["object"] == "embedding" and one["usage"]["prompt_tokens"] == one["usage"]["total_tokens"] > 0
        v = one["data"][0]["embedding"]
        assert len(v) == 576 and abs(math.fsum(x * x for x in v) - 1) < 1e-5
        coded = big.post("/v1/embeddings", {"input": ["The cat sat", "A dog"], "encoding_format": "base64"}, kind)["data"]
        decoded = struct.unpack("<576f", base64.b64decode(coded[0]["embedding"]))
        assert all(abs(a - b) < 1e-7 for a, b in zip(v, decoded)) and coded[1]["index"] == 1
    # mean of two tokens: both of its parts are the "last" vectors of prefixes, up to their lengths
    ids = big.post("/tokenize", {"content": "cat dog"})["tokens"][:2]
    a, b = (big.post("/v1/embeddings", {"input": i, "pooling": "last"})["data"][0]["embedding"] for i in (ids[:1], ids))
    m = big.post("/v1/embeddings", {"input": ids, "pooling": "mean"})["data"][0]["embedding"]
    # m = s a + t b with s, t > 0: solved by least squares over the first two, checked over all
    aa, bb, ab = (math.fsum(x * y for x, y in zip(p, q)) for p, q in ((a, a), (b, b), (a, b)))
    am, bm = (math.fsum(x * y for x, y in zip(p, m)) for p in (a, b))
    s, t = (am * bb - bm * ab) / (aa * bb - ab * ab), (bm * aa - am * ab) / (aa * bb - ab * ab)
    assert s > 0 and t > 0 and max(abs(s * x + t * y - z) for x, y, z in zip(a, b, m)) < 1e-5
    near, far = (big.post("/v1/embeddings", {"input": [x, y]})["data"] for x, y in (("The cat sat down.", "A cat sat there."), ("The cat sat down.", "int main(void) {")))
    dot = [sum(x * y for x, y in zip(d[0]["embedding"], d[1]["embedding"])) for d in (near, far)]
    assert dot[0] > dot[1], dot


# ---- company ------------------------------------------------------------------------------------------------

def the_same_bits_alone_in_company_and_from_the_cache():
    mine = {"prompt": "In the beginning " * 40, "max_tokens": 24, "temperature": 1, "seed": 11, "logprobs": 3}

    def choices(**more):
        r = big.post("/v1/completions", dict(mine, **more))
        return r["choices"], r["usage"]["prompt_tokens_details"]["cached_tokens"]

    alone, cached = choices(cache_prompt=False)
    assert cached == 0
    assert choices()[0] == alone
    again, cached = choices()
    assert again == alone and cached > 100, cached
    rng = random.Random(4)
    others = [{"prompt": "Story %d. " % i + "word " * rng.randrange(1, 300), "max_tokens": rng.randrange(8, 40), "temperature": 1, "seed": i} for i in range(16)]
    jobs = [lambda b=b: big.post("/v1/completions", b)["choices"] for b in others]
    in_company = parallel([lambda: choices()[0], *jobs, lambda: choices(cache_prompt=False)[0]])
    assert in_company[0] == alone and in_company[-1] == alone
    for body, was in zip(others, in_company[1:-1]):
        assert big.post("/v1/completions", dict(body, cache_prompt=False))["choices"] == was


def a_shared_prefix_is_read_once():
    prefix = [random.Random(9).randrange(100, 40000) for _ in range(2000)]
    before = big.metrics()
    answers = parallel([lambda i=i: big.post("/v1/completions", {"prompt": prefix + [i + 50, i + 60], "max_tokens": 2, "temperature": 0}) for i in range(8)])
    after = big.metrics()
    assert after["kvasir_prompt_tokens_total"] - before["kvasir_prompt_tokens_total"] < 2000 + 8 * 70, (before, after)
    assert sorted(a["usage"]["prompt_tokens_details"]["cached_tokens"] for a in answers)[1] >= 1936
    n = big.post("/v1/completions", {"prompt": [7] * 500, "n": 8, "max_tokens": 2})
    assert n["timings"]["prompt_n"] == 500
    # The next turn of a conversation costs what is new.
    turn = chat("Tell me about Oslo.", max_tokens=30)
    reply = big.post("/v1/chat/completions", turn)
    turn["messages"] += [reply["choices"][0]["message"], {"role": "user", "content": "And Bergen?"}]
    follow = big.post("/v1/chat/completions", turn)
    assert follow["usage"]["prompt_tokens_details"]["cached_tokens"] >= reply["usage"]["prompt_tokens"], (reply["usage"], follow["usage"])


def pages_and_memory_come_back():
    rng = random.Random(1)
    with Server("--kv-budget", "8", perturb=False) as own:
        def rss():
            with open(f"/proc/{own.process.pid}/statm") as f:
                return int(f.read().split()[1]) * 4096

        def one(i):
            own.post("/v1/completions", {"prompt": [rng.randrange(3, 200) for _ in range(rng.randrange(1, 400))], "max_tokens": rng.randrange(1, 60),
                                         "n": rng.randrange(1, 4), "stop": ["e"], "logprobs": 2, "cache_prompt": bool(i % 2)})
        for _ in range(3):
            parallel([lambda i=i: one(i) for i in range(32)])
        base = rss()
        for _ in range(5):
            parallel([lambda i=i: one(i) for i in range(32)])
        if not os.environ.get("SANITIZE"):  # which keeps what was freed
            assert rss() < base * 1.1 + (4 << 20), (base, rss())
        end = time.monotonic() + 20  # the last step is published behind its answers
        while (m := own.metrics())["kvasir_requests_running"] or m["kvasir_requests_waiting"]:
            assert time.monotonic() < end, m


def a_small_budget_delays_but_changes_nothing():
    """Room for a few sequences: the others are preempted and read again, and say what they say alone."""
    bodies = [{"prompt": [i + 3] * 460, "max_tokens": 120, "ignore_eos": True, "temperature": 1, "seed": i} for i in range(6)]
    with Server("--kv-budget", "56", model=SMOLLM2) as small:
        together = parallel([lambda b=b: small.post("/v1/completions", b)["choices"] for b in bodies])
        assert small.metrics()["kvasir_preemptions_total"] > 0
        assert small.metrics()["kvasir_kv_peak_bytes"] <= 64 << 20
        for body, was in zip(bodies[:2], together):
            assert small.post("/v1/completions", body)["choices"] == was
        r = small.request("POST", "/v1/completions", {"prompt": [5] * 7000, "max_tokens": 2})
        assert r.status == 400 and r.json()["error"]["code"] == "context_length_exceeded", r.body
        assert small.is_healthy()


def requests_that_wait_are_served_fairly():
    """A list of 64 prompts fills every slot; a single request that comes later does not wait for all of them."""
    done = []

    def note(name, body):
        big.post("/v1/completions", body)
        done.append(name)
    many = threading.Thread(target=note, args=("many", {"prompt": [[i + 5] * 20 for i in range(64)], "max_tokens": 20, "ignore_eos": True}))
    many.start()
    while not all(x["is_processing"] for x in big.get("/slots")):
        assert not done
    note("one", {"prompt": "Hello", "max_tokens": 4})
    many.join()
    assert done == ["one", "many"]


def chat_and_bench_talk_to_a_server():
    said = "What is the capital of Norway?\nAnd of Sweden?\n/stats\n"
    out = subprocess.run([KVASIR, "chat", "--server", "unix:" + big.path, "--temp", "0", "-n", "24"], input=said, capture_output=True, text=True, check=True)
    first = big.post("/v1/chat/completions", chat(top_k=40, min_p=0.05))["choices"][0]["message"]
    turn = chat(top_k=40, min_p=0.05)
    turn["messages"] += [first, {"role": "user", "content": "And of Sweden?"}]
    second = big.post("/v1/chat/completions", turn)["choices"][0]["message"]
    assert out.stdout == first["content"].strip() + "\n" + second["content"].strip() + "\n", (out.stdout, first, second)
    assert re.search(r"\[prompt \d+ tokens, .* context \d+/8192", out.stderr) and "4 messages" in out.stderr, out.stderr
    alone = subprocess.run([KVASIR, "chat", "-m", SMOLLM2, "--temp", "0", "-n", "24"], input=said, capture_output=True, text=True, check=True)
    assert out.stdout == alone.stdout, (out.stdout, alone.stdout)
    back = subprocess.run([KVASIR, "chat", "--server", "unix:" + big.path, "--temp", "0", "-n", "8"], capture_output=True, text=True, check=True,
                          input="Hello\nAnd now?\n/undo\n/stats\n/clear\n/stats\n").stderr
    first_used, second_used, *later = map(int, re.findall(r"context +(\d+)(?:/| of )8192", back))
    assert second_used > first_used > 0 and later == [first_used, first_used, 0], back
    for url in f"http://127.0.0.1:{big.port}", f"HTTP://127.0.0.1:{big.port}/":  # as serve says it
        same = subprocess.run([KVASIR, "chat", "--server", url, "--temp", "0", "-n", "24"], input=said, capture_output=True, text=True, check=True)
        assert same.stdout == out.stdout, (url, same.stdout)
    gone = subprocess.run([KVASIR, "chat", "--server", "unix:/nowhere/x.sock"], input="x\n", capture_output=True, text=True)
    assert gone.returncode == 1 and gone.stderr.count("\n") == 1, gone.stderr
    bench = subprocess.run([KVASIR, "bench-serve", "--server", f"127.0.0.1:{big.port}", "--clients", "3", "--requests", "2", "-p", "40", "-n", "8",
                            "--shared-prefix", "32", "-o", "json"], capture_output=True, text=True, check=True)
    r = json.loads(bench.stdout)
    words = subprocess.run([KVASIR, "bench-serve", "--text", "--server", "unix:" + big.path, "--clients", "2", "--requests", "1", "-p", "30", "-n", "4", "-o", "json"],
                           capture_output=True, text=True, check=True)
    assert json.loads(words.stdout)["predicted_per_second"] > 0
    assert r["clients"] == 3 and r["predicted_per_second"] > 1 and r["ttft_p50_ms"] > 0 and 0 < r["cached_share"] < 1, r


def a_key_goes_to_no_stranger_at_the_default_address():
    """Where nothing is named, a socket of another user is refused before a byte goes there. Being another user takes root."""
    with tempfile.TemporaryDirectory() as d:
        os.chmod(d, 0o777)
        path = d + "/kvasir.sock"
        stranger = ("import os, socket, sys\nif os.getuid() == 0: os.setuid(int(sys.argv[2]))\ns = socket.socket(socket.AF_UNIX)\ns.bind(sys.argv[1])\n"
                    "os.chmod(sys.argv[1], 0o777)\ns.listen()\nprint('up', flush=True)\nwhile True:\n"
                    "    c, _ = s.accept()\n    print(len(c.recv(4096)), flush=True)\n    c.close()\n")
        for uid, args, n_heard in (65534, [], 0), (65534, ["--server", "unix:" + path], 1), (os.getuid(), [], 1):
            if os.getuid() != 0 and uid != os.getuid():
                continue
            p = subprocess.Popen([sys.executable, "-c", stranger, path, str(uid)], stdout=subprocess.PIPE, text=True)
            try:
                assert p.stdout.readline() == "up\n"
                done = subprocess.run([KVASIR, "bench-serve", "--server-key", "secret", *args], env=dict(os.environ, XDG_RUNTIME_DIR=d), text=True,
                                      capture_output=True, timeout=60)
                assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
                assert ("another user" in done.stderr) == (n_heard == 0), done.stderr
                n = p.stdout.readline()
                assert (int(n) > 0) == (n_heard > 0), n
            finally:
                p.kill()
                p.wait()
                p.stdout.close()
                os.unlink(path)


def sampling_options_hold_at_both_ends():
    """Of the server for requests that say nothing else; of the chat for its own requests, as if the model were here."""
    word = big.post("/tokenize", {"content": " cat"})["tokens"][0]
    body = {"prompt": "My favourite", "max_tokens": 3, "temperature": 0}
    with Server("-l", f"{word}+100", model=SMOLLM2) as s:
        assert s.post("/v1/completions", body)["choices"][0]["text"] == " cat cat cat"
        assert "cat" not in s.post("/v1/completions", dict(body, logit_bias={"7": 0}))["choices"][0]["text"]
    wrong = subprocess.run([KVASIR, "serve", "-m", TINY, "--listen", "unix:" + big.path + "2", "-l", "99999999+1"], capture_output=True, text=True, timeout=60)
    assert wrong.returncode == 1 and "--logit-bias: token 99999999" in wrong.stderr.splitlines()[-1], wrong.stderr
    for args in (("-l", f"{word}+50"), ("--repeat-penalty", "5", "--repeat-last-n", "0")):
        there, here = (subprocess.run([KVASIR, "chat", *where, "--temp", "0", "-n", "6", *args], input="Count to ten.\n", capture_output=True, text=True, check=True)
                       for where in (("--server", "unix:" + big.path), ("-m", SMOLLM2)))
        assert there.stdout == here.stdout and "the reply reached -n 6" in there.stderr, (args, there, here)


def what_speaks_no_http_is_told_so():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        def answer():
            with listener.accept()[0] as c:
                c.recv(4096)
                c.sendall(b"HTTP/1.\n 200: OK\nContent-Length: 2\n\n{}")  # the status is on another line
        threading.Thread(target=answer).start()
        done = subprocess.run([KVASIR, "chat", "--server", f"127.0.0.1:{listener.getsockname()[1]}"], input="", capture_output=True, text=True, timeout=60)
        assert done.returncode == 1 and "speaks no HTTP" in done.stderr, (done.returncode, done.stderr)


def a_chat_that_waits_for_its_server_obeys_signals():
    begun = b'HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 1000\r\n\r\ndata: {"choices": [{"delta": {"content": "Hi"}}]}\n\n'
    for number, status, reply, says in ((signal.SIGTERM, -signal.SIGTERM, b"", b"the message is taken back"), (signal.SIGINT, 130, b"", b"the message is taken back"),
                                        (signal.SIGINT, 130, begun, b"the reply so far stays")):
        with tempfile.TemporaryDirectory() as d, socket.socket(socket.AF_UNIX) as listener:
            listener.bind(d + "/s")
            listener.listen()
            p = subprocess.Popen([KVASIR, "chat", "--server", f"unix:{d}/s"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            c, _ = listener.accept()
            c.recv(4096)
            c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            p.stdin.write(b"Hello\n")
            p.stdin.flush()
            assert b"POST" in c.recv(4096)
            c.sendall(reply)  # and nothing more comes back
            assert not reply or p.stdout.read(2) == b"Hi"
            time.sleep(0.1)
            p.send_signal(number)
            try:
                assert p.wait(10) == status
                said = p.stderr.read()
                assert says in said and said.count(b"\n") == 1, said
            finally:
                p.kill()
                for pipe in (p.stdin, p.stdout, p.stderr, c):
                    pipe.close()


def the_prefix_header_follows_a_conversation():
    def key(body, *headers):
        r = big.request("POST", "/v1/chat/completions", dict(body, max_tokens=1), headers=headers)
        assert r.status == 200, r.body
        return r.headers["x-kvasir-prefix"]
    turn = chat("Hello there")
    first = key(turn)
    turn["messages"] += [{"role": "assistant", "content": "Hi"}, {"role": "user", "content": "More"}]
    assert key(turn) == first != key(chat("Something else"))
    assert key(turn, "X-Kvasir-Prefix: my-own") == "my-own"


def what_the_vocabulary_cannot_say_is_no_answer():
    with open(TINY, "rb") as f:
        data = f.read()
    byte = struct.pack("<Q", 2) + "\u00e6".encode()  # the byte E6, with which U+65E5 begins
    assert data.count(byte) == 1
    with tempfile.NamedTemporaryFile(suffix=".gguf") as f:
        f.write(data.replace(byte, byte[:-2] + b"ZQ"))
        f.flush()
        with Server(model=f.name) as s:
            for more in ({"grammar": 'root ::= "ab\u65e5"'}, {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"const": "\u65e5"}}}}):
                r = s.request("POST", "/v1/completions", {"prompt": "a", **more})
                assert r.status == 400 and "no token of the model can go on" in r.json()["error"]["message"], r.body
                r = s.request("POST", "/v1/completions", {"prompt": "a", "stream": True, **more})
                assert b"no token of the model can go on" in r.body and b'"finish_reason":"stop"' not in r.body, r.body
            assert s.post("/v1/completions", {"prompt": "a", "grammar": 'root ::= "ab"'})["choices"][0]["text"] == "ab"


def damaged_weights_give_no_embedding():
    with tempfile.TemporaryDirectory() as d:
        model = os.path.join(d, "damaged.gguf")
        shutil.copy(TINY, model)
        tensor = next(t for t in GGUFReader(model, "r+").tensors if t.name == "blk.0.ffn_down.weight")
        tensor.data[0, 0] = math.nan
        tensor.data.flush()
        with Server(model=model) as s:
            for form in ("float", "base64"):
                r = s.request("POST", "/v1/embeddings", {"input": "a b", "encoding_format": form})
                assert r.status == 500 and "damaged" in r.json()["error"]["message"], r.body


TESTS = [chat_and_bench_talk_to_a_server, a_key_goes_to_no_stranger_at_the_default_address, sampling_options_hold_at_both_ends, a_chat_that_waits_for_its_server_obeys_signals,
         the_prefix_header_follows_a_conversation, lists_and_properties, a_base_address_with_or_without_v1_is_answered_with_the_other, a_template_of_any_bytes_is_told, the_template_is_told_how_much_to_think, what_speaks_no_http_is_told_so, tokenizing_as_the_command_line_does, a_chat_says_what_run_says, streams_come_in_order_and_say_the_same,
         log_probabilities_are_those_of_the_logits, completions_take_every_kind_of_prompt, stops_never_leak, characters_are_never_cut,
         seeds_bias_and_penalties_work, embeddings_are_the_hidden_states, damaged_weights_give_no_embedding, what_the_vocabulary_cannot_say_is_no_answer, the_same_bits_alone_in_company_and_from_the_cache, a_shared_prefix_is_read_once,
         pages_and_memory_come_back, a_small_budget_delays_but_changes_nothing, requests_that_wait_are_served_fairly]

if __name__ == "__main__":
    with Server(model=SMOLLM2) as big, Server("--kv-budget", "8") as tiny:
        run_tests(TESTS, [(KVASIR, "make"), (TINY, "git checkout tests/golden"), (SMOLLM2, "./kvasir get smollm2")])
