#!/usr/bin/env python3
"""kvasir chat under every attention variant: what /undo takes back and /regen says again leaves no trace. At temperature 0 the replies are those
of a conversation that never was anything else, through pipes, with both real models.

    KVASIR=./kvasir python3 tests/test_attention_chat.py [word in the test's name]
"""
import re, subprocess

from support.command import KVASIR, kvasir
from support.runner import run_tests

SMOLLM2, GEMMA = "models/smollm2-135m-instruct-q4_1.gguf", "models/gemma3-270m-q4_k_m.gguf"
FIRST = "Tell me about the sea and the ships that sail on it. " * 12
UNDONE = "The cat sat on the mat and looked at the dog. " * 30  # longer than every window below, several pages and chunks of a state
LAST = "Name three colours, and what is painted in them."
SPECS = [  # a variant in some layers, the checkpoint's own in the others: the models still say something that depends on the conversation
    "0-3=full", "1-/2=window(100)", "*=window(200)+global(4)", "1-/3=dilated(40, 3)+window(64)", "1-/3=strided(3)+window(50)", "1-/2=random(2)+window(64)",
    "*=bigbird()", "1-/3=blocks(16, file=tests/golden/attention/blocks.csr)+window(40)", "1-/2=longformer(64, 2, 4)",
    "*=by_length(150:full, 300:window(100), *:window(200)+global(4))", "*=full|topk(64)", "1-/2=window(300)|threshold(0.001)", "*=full|pages(4)",
    "1-/3=window(150)|pages(2)", "0-1=full|kv_heads(1)", "1-/5=linear(elu)", "2-/6=linear(relu)", "2-/6=linear(exp)", "2-/6=linear(performer)", "2-/6=linear(rfa)",
    "5=linear(relu);6-/6=window(65);7-/6=full|pages(5);8-/6=bigbird(block=16)",
]
ENDS = {SMOLLM2: (0, 2), GEMMA: (1, 106)}  # <|endoftext|>, <|im_end|>; <eos>, <end_of_turn>
TESTS = []


def test(function):
    TESTS.append(function)
    return function


def replies(model, spec, lines, *args):
    """What was said, as one text: replies do not end by themselves, so each is 10 tokens and a newline."""
    endless = [x for token in ENDS[model] for x in ("--logit-bias", f"{token}-inf")]
    done = subprocess.run([KVASIR, "chat", "-q", "-m", model, "--temp", "0", "-n", "10", "-c", "2048", *endless, "--attention", spec, *args],
                          input="\n".join(lines) + "\n", capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, (spec, done.stderr)
    return done.stdout


def no_trace(model, spec, *args):
    first = replies(model, spec, [FIRST], *args)
    straight = replies(model, spec, [FIRST, LAST], *args)
    last = straight[len(first):]
    assert straight.startswith(first) and len(last) > 8, (model, spec, args, first, straight)
    got = replies(model, spec, [FIRST, "/regen", UNDONE, "/regen", "/undo", LAST, "/regen"], *args)
    assert got.startswith(first + first) and got.endswith(last + last), (model, spec, args, got, first, last)


@test
def undo_and_regenerate_leave_no_trace_in_a_model_of_full_layers():
    for i, spec in enumerate(SPECS):
        no_trace(SMOLLM2, spec, *(("-ctk", "q8_0", "-ctv", "q8_0") if i % 3 == 1 else ()), *(("-ub", "50", "-t", "1") if i % 2 else ()))


@test
def undo_and_regenerate_leave_no_trace_in_a_model_with_windows():
    for i, spec in enumerate(SPECS):
        if i % 3 == 0 or ";" in spec:
            no_trace(GEMMA, spec)


@test
def replies_depend_on_what_was_said_before():
    """Else the tests above would pass whatever /undo did."""
    for spec in ("0-3=full", "*=window(200)+global(4)", "2-/6=linear(relu)"):
        straight, other = replies(SMOLLM2, spec, [FIRST, LAST]), replies(SMOLLM2, spec, [FIRST, UNDONE, LAST])
        assert not other.endswith(straight[len(replies(SMOLLM2, spec, [FIRST])):]), (spec, other)


@test
def every_name_of_the_grammar_is_among_them():
    for wrong in ("0=?", "0=full|?", "0=linear(?)"):
        line = kvasir("run", "-m", SMOLLM2, "-p", "a", "--attention", wrong, status=2).stderr.strip()
        names = re.search(r"expected a [^:]*: (.*)$", line)[1].split(", ")
        assert len(names) >= 4, line
        for name in names:
            assert any(re.search(rf"\b{name}\b", s) for s in SPECS), name


if __name__ == "__main__":
    run_tests(TESTS, [(KVASIR, "make"), (SMOLLM2, "./kvasir get smollm2"), (GEMMA, "./kvasir get gemma3")])
