#!/usr/bin/env python3
"""The two real models against what HF transformers computes on their dequantised weights (tests/golden/real/README.md).

    KVASIR=./kvasir python3 tests/test_golden.py [word in a test's name]

    teacher forcing   prompt + 64 greedy tokens in one go; row i predicts token i: the ten best log-probabilities, the argmax
    free running      the prompt alone, then 64 greedy steps of our own

The thresholds are the README's. Tokenization in full is in test_tokenizer.c; here it is checked that the commands carry it through.
"""
import json, math, os, subprocess, sys, time, traceback

from support.runner import run_tests

KVASIR = os.path.abspath(os.environ.get("KVASIR", "./kvasir"))
STEPS = 64
TOP = 400 # as many candidates are printed a row; what of the ten is not among them is far off anyway
MODELS = {
    # int8_mean: mean difference allowed to the native kernels. free_steps: of each free run; a step under --gemm blas expands every
    # weight, which is slow for the larger model, and teacher forcing has shown the argmax of every step already.
    "smollm2": {"file": "models/smollm2-135m-instruct-q4_1.gguf", "int8_mean": 0.11, "free_steps": 64},
    "gemma3": {"file": "models/gemma3-270m-q4_k_m.gguf", "int8_mean": 0.14, "free_steps": 24},
}
TESTS = []


def test(function):
    TESTS.append(function)
    return function


def kvasir(*args, stdin=b""):
    done = subprocess.run([KVASIR, *map(str, args)], input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=300)
    assert done.returncode == 0, (args[0], args[-4:], done.returncode, done.stderr.decode(errors="replace")[-500:])
    return done.stdout


def golden(name):
    return json.load(open(f"tests/golden/real/{name}.json"))


def ids(tokens):
    return ",".join(map(str, tokens))


def teacher_forced(name, case, *options):
    """64 rows of {token: log-probability}, and the first token of each."""
    first = len(case["prompt_ids"]) - 1
    rows = json.loads(kvasir("logits", "-m", MODELS[name]["file"], "--tokens", ids(case["prompt_ids"] + case["tokens"]),
                             "--at", f"{first}-{first + STEPS - 1}", "--top", TOP, "-o", "json", *options))["rows"]
    assert [r["pos"] for r in rows] == list(range(first, first + STEPS))
    return [dict(map(tuple, r["top"])) for r in rows], [r["top"][0][0] for r in rows]


def differences(name, gap_that_counts, *options):
    """Of every log-probability of the ten; and checks the argmax wherever the gap is large enough."""
    found, counted = [], 0
    for case in golden(name)["complete"]:
        assert len(case["tokens"]) == len(case["gap"]) == len(case["top10"]) == STEPS
        rows, best = teacher_forced(name, case, *options)
        for i, (row, want) in enumerate(zip(rows, case["top10"])):
            where = f"{name}, {case['prompt'][:30]!r}, step {i}"
            for token, logprob in want:
                assert token in row, f"{where}: token {token} is not among the {TOP} best"
                found.append(abs(row[token] - logprob))
            if case["gap"][i] >= gap_that_counts:
                counted += 1
                assert best[i] == case["tokens"][i], f"{where}: best is {best[i]}, not {case['tokens'][i]} (gap {case['gap'][i]})"
    mean, largest = sum(found) / len(found), max(found)
    print(f"      {name} {' '.join(options) or 'native'}: mean difference {mean:.5f}, largest {largest:.4f}, argmax of {counted} rows", flush=True)
    return mean, largest


def free_running_matches(name, *options):
    """Until the first step where the two best are closer than 0.02, which rounding may swap."""
    steps = 0
    for case in golden(name)["complete"]:
        sure = min(next((i for i, gap in enumerate(case["gap"]) if gap < 0.02), STEPS), MODELS[name]["free_steps"])
        got = json.loads(kvasir("run", "-m", MODELS[name]["file"], "--tokens", ids(case["prompt_ids"]), "--temp", 0, "-n", sure,
                                "--ignore-eos", "-o", "json", *options))
        assert got["prompt_tokens"] == case["prompt_ids"]
        assert len(got["tokens"]) == sure and got["finish_reason"] == "length"
        assert got["tokens"] == case["tokens"][:sure], (name, case["prompt"][:30], sure, got["tokens"], case["tokens"])
        steps += sure
    print(f"      {name}: {steps} greedy steps the same", flush=True)


for model in MODELS:
    def with_float_activations_the_log_probabilities_are_those_of_transformers(name=model):
        _, largest = differences(name, 0.02, "--gemm", "blas", "-ctk", "f32", "-ctv", "f32")
        assert largest <= 0.01, largest

    def with_float_activations_greedy_text_is_that_of_transformers(name=model):
        free_running_matches(name, "--gemm", "blas", "-ctk", "f32", "-ctv", "f32")

    def native_kernels_stay_near_transformers(name=model):
        mean, largest = differences(name, 0.7)
        assert mean <= MODELS[name]["int8_mean"], mean
        assert largest < 1.2, largest

    def tokenize_and_detokenize_carry_the_golden_ids_through(name=model):
        rows = [r for r in golden(name)["tokenize"] if r["text"]]
        step = max(1, len(rows) // 6)
        for row in rows[::step]:
            text, file = row["text"].encode(), ["-m", MODELS[name]["file"]]
            assert json.loads(kvasir("tokenize", *file, "-", "--no-bos", "--no-special", stdin=text)) == row["ids"], row["text"]
            assert json.loads(kvasir("tokenize", *file, "-", stdin=text)) == row["ids_special"], row["text"]
            assert kvasir("detokenize", *file, "--tokens", ids(row["ids"])) == row["back"].encode(), row["text"]

    for function in (with_float_activations_the_log_probabilities_are_those_of_transformers,
                     with_float_activations_greedy_text_is_that_of_transformers, native_kernels_stay_near_transformers,
                     tokenize_and_detokenize_carry_the_golden_ids_through):
        function.__name__ += f"[{model}]"
        test(function)


if __name__ == "__main__":
    run_tests(TESTS, [(KVASIR, "make")] + [(m["file"], "./kvasir get smollm2 gemma3") for m in MODELS.values()])
