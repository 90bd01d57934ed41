#!/usr/bin/env python3
"""What is not seen costs nothing: speed and memory of attention variants behind 32000 tokens, as ratios to full attention in one run (runs alone:
it measures time). A kernel that computes everything and masks it fails every one of these.

    KVASIR=./kvasir python3 tests/test_attention_cost.py [word in the test's name]
"""
import json, os, statistics, tempfile, time

from support.command import KVASIR, kvasir
from support.runner import run_tests

FOLDER = tempfile.TemporaryDirectory(prefix="kvasir-cost-")
MODEL = os.path.join(FOLDER.name, "deep.gguf")
# The attention of a 135M model (three query heads per KV head of 64) with little beside it, so that ratios are those of attention.
SHAPE = {"n_layers": 4, "n_heads": 6, "n_kv_heads": 2, "head_dim": 64, "n_embd": 128, "n_ff": 128, "n_vocab": 512, "n_ctx": 33000}
FAR, NEAR = 32000, 512
TRIES = 4  # at most: what a neighbour of the machine disturbs is one of them, what a kernel does too much it does in each
TESTS = []


def test(function):
    TESTS.append(function)
    return function


def bench(spec, *args):
    """The rows of one bench, as they were asked for."""
    if not os.path.exists(MODEL):
        kvasir("synth", "-q", *[x for k, v in SHAPE.items() for x in ("--set", f"{k}={v}")], MODEL)
    return json.loads(kvasir("bench", "-q", "-m", MODEL, "-o", "json", "--attention", f"*={spec}", *args, timeout=300).stdout)


def behind(spec):
    """The variant where it is measured, after a context that is cheap to read and that it holds all of."""
    return f"by_length({FAR - 64}:window(64), *:{spec})"


def decode(spec, depth):
    """Tokens/s of the best of four tries."""
    row = bench(spec, "-p", 0, "-n", 48, "-d", depth, "-r", 4)[0]
    return row["n_gen"] * 1e9 / min(row["samples_ns"])


def prefill_s(spec, n, repeats=1):
    return statistics.median(bench(spec, "-p", n, "-n", 0, "-r", repeats)[0]["samples_ns"]) / 1e9


def at_least(name, value, floor):
    print(f"    {name}: {value:.2f} (at least {floor})", flush=True)
    assert value >= floor, (name, value, floor)


def ratio_at_least(name, over_s, under_s, floor):
    """Of two times, each the least of all tries: a busy machine only adds to them."""
    over = under = float("inf")
    for _ in range(TRIES):
        over, under = min(over, over_s()), min(under, under_s())
        if over / under >= floor: break
    at_least(name, over / under, floor)


def at_least_once(name, measure, floor):
    """The first of all tries that holds, or the last."""
    value = measure()
    for _ in range(TRIES - 1):
        if value >= floor: break
        value = measure()
    at_least(name, value, floor)


@test
def a_window_behind_32000_tokens_is_no_slower_than_full_behind_512():
    cases = [("window(256)", FAR), ("linear(elu)", NEAR), ("linear(elu)", FAR), ("full", NEAR)]
    best = dict.fromkeys(cases, 0.0)
    for i in range(9):  # in turn: a try takes 10 ms, and a neighbour of the machine disturbs all that it meets
        if i >= 3 and all(best[case] >= best["full", NEAR] for case in cases): break
        for case in cases:
            best[case] = max(best[case], decode(*case))
    for spec, depth in cases[:3]:
        at_least(f"{spec} at {depth} / full at 512", best[spec, depth] / best["full", NEAR], 1)


@test
def sparse_decode_is_several_times_as_fast_as_full():
    def token_s(spec): return 1 / decode(behind(spec), FAR)
    ratio_at_least(f"bigbird() / full at {FAR}", lambda: token_s("full"), lambda: token_s("bigbird()"), 5)
    # Measured 4.7 here and 4.9 on a 135M model (Zen 4), where 5 is aimed at: 500 bounds per KV head are read to choose 32 pages.
    ratio_at_least(f"full|pages(32) / full at {FAR}", lambda: token_s("full"), lambda: token_s("full|pages(32)"), 3.5)


@test
def a_window_is_read_five_times_as_fast_as_full():
    ratio_at_least("prefill of 10240: window(256) / full", lambda: prefill_s("full", 10240), lambda: prefill_s("window(256)", 10240), 5)


@test
def prefill_time_grows_linearly():
    # 8 times the tokens. 10 times the time is aimed at; 4096 tokens take a tenth of a second, which varies by a third. All keys: 40 times.
    for spec in ("window(256)", "bigbird()", "linear(elu)"):
        ratio_at_least(f"{spec}: 14 times what 4096 tokens take / 32768 tokens", lambda: 14 * prefill_s(spec, 4096, 3), lambda: prefill_s(spec, 32768), 1)


@test
def memory_is_what_the_report_says():
    held, rss = {}, {}
    for spec in (behind("full"), "window(256)", "linear(elu)"):
        row = bench(spec, "-p", 0, "-n", 1, "-d", FAR - 1, "-r", 1)[0]
        total = json.loads(kvasir("attention", "-q", "-m", MODEL, "--ctx", FAR, "-o", "json", "--attention", f"*={spec}").stdout)["total"]
        assert abs(row["kv_bytes"] - total["kv_bytes"]) <= 0.02 * total["kv_bytes"], (spec, row["kv_bytes"], total["kv_bytes"])
        held[spec], rss[spec] = row["kv_bytes"], row["peak_rss_bytes"]
    full, *others = held
    for spec in others:
        saved = held[full] - held[spec]
        at_least(f"{spec}: resident memory less than full's / cache less than full's", (rss[full] - rss[spec]) / saved, 0.9)


def bench_s(*args):
    """What a bench takes as a whole, and its first row."""
    start = time.monotonic()
    row = bench("window(256)", *args)[0]
    return time.monotonic() - start, row


@test
def a_bench_reads_a_depth_once_and_a_prompt_once_per_repeat():
    # After 256 steps a window has let go of the depth: read again, eight more repeats take eight times what reading it takes.
    def more_repeats():
        once, _ = bench_s("-p", 0, "-n", 256, "-d", FAR, "-r", 1)
        nine, row = bench_s("-p", 0, "-n", 256, "-d", FAR, "-r", 9)
        steps_s = sum(row["samples_ns"][1:]) / 1e9
        return 3 * row["ttft_ms"] / 1e3 / max(nine - once - steps_s, 0.001)

    def whole_bench():
        short, _ = bench_s("-p", 1, "-n", 0, "-r", 1)
        long, row = bench_s("-p", FAR, "-n", 0, "-r", 1)
        return row["samples_ns"][0] / 1e9 / (long - short)
    at_least_once("3 times reading a depth / eight more repeats", more_repeats, 1)
    at_least_once("reading a prompt / a bench of it", whole_bench, 0.7)  # with a warm-up as long: 0.5


if __name__ == "__main__":
    run_tests(TESTS, [(KVASIR, "make")])
