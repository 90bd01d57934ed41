#!/usr/bin/env python3
"""Drafts as users meet them: run and serve say the same with and without, they only read ahead where a text repeats itself. The models are
made to repeat a piece of code, which they nearly do: drafts are right, and then not."""
import json
import sys

sys.path.insert(0, "tests/support")
from command import KVASIR, kvasir  # noqa: E402
from runner import run_tests  # noqa: E402
from server import SMOLLM2, Server, parallel  # noqa: E402

GEMMA3 = "models/gemma3-270m-q4_k_m.gguf"
NONE = ("--draft-max", "0")
CODE = """Here is a function:

static bool find(const int *list, size_t n, int wanted)
{
    for (size_t i = 0; i < n; i++) {
        if (list[i] == wanted) return true;
    }
    return false;
}

Here is the same function again, with list renamed to a:

static bool find(const int *"""
BIRDS = ('[{"name": "heron", "is_large": true, "colour": "grey"}, {"name": "wren", "is_large": false, "colour": "brown"}]\n'
         'The same list with two more birds:\n')
BIRD = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 12}, "is_large": {"type": "boolean"}, "colour": {"enum": ["grey", "brown", "red"]}},
        "required": ["name", "is_large", "colour"], "additionalProperties": False}


# ---- run ---------------------------------------------------------------------------------------------

def run(model, *args, prompt=CODE):
    return json.loads(kvasir("run", "-m", model, "-p", prompt, "-o", "json", *args).stdout)


def drafts_of(answer):
    return answer["timings"]["draft_n"], answer["timings"]["draft_n_accepted"]


def expect_same_run(model, *args, prompt=CODE, is_drafted=True):
    """The reply, which was the same, and how many tokens were right."""
    with_drafts, without = run(model, "--draft-max", "7", *args, prompt=prompt), run(model, *NONE, *args, prompt=prompt)
    for what in ("prompt_tokens", "tokens", "text", "finish_reason"):
        assert with_drafts[what] == without[what], (model, args, what, with_drafts[what], without[what])
    n_drafted, n_accepted = drafts_of(with_drafts)
    assert drafts_of(without) == (0, 0) and n_accepted <= n_drafted, (drafts_of(without), n_drafted, n_accepted)
    assert with_drafts["timings"]["predicted_n"] == len(with_drafts["tokens"])
    assert with_drafts["kv"] == without["kv"], (with_drafts["kv"], without["kv"])
    assert not is_drafted or n_accepted > 0, (model, args, n_drafted, n_accepted)
    return with_drafts


def runs_with_and_without_drafts_say_the_same():
    for model in (SMOLLM2, GEMMA3):
        for args in (("--temp", "0"), ("--temp", "0.8", "--seed", "7"), ("--temp", "0.8", "--seed", "7", "--repeat-penalty", "1.3")):
            # Penalties may keep the model from repeating itself, and then there is nothing to be right about.
            expect_same_run(model, "-n", "32", "--ignore-eos", *args, is_drafted="--repeat-penalty" not in args)


def a_run_fills_its_context_to_the_last_place():
    n = len(run(SMOLLM2, "-n", "1")["prompt_tokens"])
    for room in (1, 23):
        answer = expect_same_run(SMOLLM2, "-c", str(n + room), "--temp", "0", "--ignore-eos", is_drafted=room > 10)
        assert len(answer["tokens"]) == room + 1  # the last one is sampled and not read


def the_alias_is_the_same_option():
    for value in ("0", "1"):
        answers = [run(SMOLLM2, option, value, "-n", "30", "--temp", "0") for option in ("--draft-max", "--draft")]
        assert answers[0]["tokens"] == answers[1]["tokens"]
        assert all((drafts_of(a)[1] > 0) == (value != "0") for a in answers), [drafts_of(a) for a in answers]


def a_grammar_allows_the_same_with_drafts():
    schema = json.dumps({"type": "array", "items": BIRD, "minItems": 3, "maxItems": 4})
    for args in (("--temp", "0"), ("--temp", "0.8", "--seed", "5")):
        answer = expect_same_run(SMOLLM2, "-n", "90", "--json-schema", schema, *args, prompt=BIRDS)
        assert answer["finish_reason"] != "stop" or 3 <= len(json.loads(answer["text"])) <= 4


# ---- serve -------------------------------------------------------------------------------------------

def body(max_tokens=40, **more):
    return dict({"prompt": CODE, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True, "logprobs": 2, "cache_prompt": False}, **more)


def complete(server, *args, **more):
    return server.post("/v1/completions", body(*args, **more))


def said(answer):
    """All of an answer but its id and the times."""
    return {k: v for k, v in answer.items() if k in ("choices", "usage")}


class Both:
    """A server that drafts and one that does not."""

    def __enter__(self):
        self.drafting, self.plain = Server("-c", "2048", "-np", "8", model=SMOLLM2), Server("-c", "2048", "-np", "8", *NONE, model=SMOLLM2)
        return self

    def __exit__(self, *_):
        self.drafting.stop()
        self.plain.stop()

    def same(self, *args, **more):
        """The answer with drafts; the other is the same."""
        a, b = complete(self.drafting, *args, **more), complete(self.plain, *args, **more)
        assert said(a) == said(b), (args, more, said(a), said(b))
        assert drafts_of(b) == (0, 0), b["timings"]
        return a


def a_server_says_the_same_with_drafts():
    with Both() as both:
        alone_and_counted(both)
        what_a_prompt_leaves_behind_is_what_was_said(both)
        a_reply_ends_inside_a_draft(both)
        streams_and_choices(both)
        in_company(both)


def alone_and_counted(both):
    answers = [both.same(40), both.same(32, temperature=0.8, seed=3), both.same(32, repeat_penalty=1.3)]
    assert drafts_of(answers[0])[1] > 0, answers[0]["timings"]
    m = both.drafting.settled()
    for name, i in (("kvasir_drafted_tokens_total", 0), ("kvasir_accepted_tokens_total", 1)):
        assert m[name] == sum(drafts_of(a)[i] for a in answers), (name, m[name])
        assert both.plain.metrics()[name] == 0


def what_a_prompt_leaves_behind_is_what_was_said(both):
    first = both.same(100, cache_prompt=True)
    assert drafts_of(first)[1] > 0
    pages = [{k: v for k, v in s.settled().items() if k in ("kvasir_kv_pages", "kvasir_kv_cached_pages")} for s in (both.drafting, both.plain)]
    assert pages[0] == pages[1], pages
    text = CODE + first["choices"][0]["text"] + "\n\nAnd once more:\n\n"
    again = both.same(30, prompt=text, cache_prompt=True)
    n_cached = again["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert n_cached > first["usage"]["prompt_tokens"] + 64, (n_cached, first["usage"])
    assert both.same(30, prompt=text)["choices"] == again["choices"]


def a_reply_ends_inside_a_draft(both):
    text = complete(both.plain, 40)["choices"][0]["text"]
    n_accepted = 0
    for n in range(1, 13):
        answer = both.same(n, cache_prompt=True)
        n_accepted += drafts_of(answer)[1]
        assert answer["usage"]["completion_tokens"] == n and answer["choices"][0]["finish_reason"] == "length"
        assert n > 2 or drafts_of(answer) == (0, 0), answer["timings"]  # nothing is read that cannot be said
    for stop in ("size_t n", "wanted", "int i", ["never", "n; i"]):
        answer = both.same(40, stop=stop, cache_prompt=True)
        n_accepted += drafts_of(answer)[1]
        first = min(text.find(s) for s in ([stop] if isinstance(stop, str) else stop) if s in text)
        assert answer["choices"][0]["text"] == text[:first] and answer["choices"][0]["finish_reason"] == "stop", (stop, answer)
    assert n_accepted > 0


def joined(events):
    """What a stream said, choice by choice: text, tokens with their log-probabilities, why it ended."""
    out = {}
    for c in (c for e in events for c in e["choices"]):
        whole = out.setdefault(c["index"], {"text": "", "logprobs": {}, "finish_reason": None})
        whole["text"] += c["text"]
        for key, values in (c["logprobs"] or {}).items():
            whole["logprobs"].setdefault(key, []).extend(values)
        whole["finish_reason"] = whole["finish_reason"] or c["finish_reason"]
    return out


def streams_and_choices(both):
    for more in ({}, {"n": 2, "temperature": 0.8, "seed": 4}, {"stop": "int i"}):
        whole = both.same(32, **more)
        stream = joined(both.drafting.stream("/v1/completions", body(32, **more)))
        for c in whole["choices"]:
            assert stream[c["index"]] == {k: c[k] for k in ("text", "logprobs", "finish_reason")}, more


def in_company(both):
    """Four at once, one of them with two choices: each says what it says alone."""
    requests = [{"temperature": 0.8, "seed": i, "n": 1 + (i == 3), "prompt": CODE if i % 2 else BIRDS} for i in range(4)]
    want = [said(complete(both.plain, 32, **r)) for r in requests]
    got = parallel([lambda r=r: complete(both.drafting, 32, **r) for r in requests])
    assert [said(g) for g in got] == want
    assert sum(drafts_of(g)[0] for g in got) > 0, [g["timings"] for g in got]


# ---- options -----------------------------------------------------------------------------------------

def only_0_to_7_tokens_are_drafted():
    for tool in ("run", "chat", "serve"):
        for option in ("--draft-max", "--draft"):
            for value in ("8", "-1"):
                done = kvasir(tool, "-m", SMOLLM2, option, value, status=2)
                assert done.stdout == "" and done.stderr.count("\n") == 1, done.stderr
                assert f"{option}: {value} is out of range: 0 to 7" in done.stderr, done.stderr


TESTS = [runs_with_and_without_drafts_say_the_same, a_run_fills_its_context_to_the_last_place, the_alias_is_the_same_option, a_grammar_allows_the_same_with_drafts,
         a_server_says_the_same_with_drafts, only_0_to_7_tokens_are_drafted]

if __name__ == "__main__":
    run_tests(TESTS, [(KVASIR, "make"), (SMOLLM2, "./kvasir get smollm2"), (GEMMA3, "./kvasir get gemma3")])
