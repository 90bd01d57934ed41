#!/usr/bin/env python3
"""Q8_0 weights, many of them, are read where they lie in the file: nothing is copied, and nothing computed differently.

    KVASIR=./kvasir python3 tests/test_in_place.py [word in the test's name]

That a product in place has the bits of a packed one is check_kernels.c's; here whole models do it, over the command line.
"""
import json
import os
import subprocess
import tempfile

from support.command import KVASIR, kvasir
from support.runner import run_tests

FOLDER = tempfile.TemporaryDirectory()
MANY, FEW = (os.path.join(FOLDER.name, name) for name in ("many.gguf", "few.gguf"))
LIMIT = 256 << 20  # bytes of Q8_0 matrices from which a model is read in place


def make(path, n_layers):
    kvasir("synth", "-q", "--size", "135m", "--type", "Q8_0", "--set", f"n_layers={n_layers}", path)
    return os.path.getsize(path)


def resident(path):
    """(anonymous, file) bytes of a process that is generating."""
    with subprocess.Popen([KVASIR, "run", "-q", "-m", path, "--tokens", "300,301,302", "-n", "4000", "-c", "4096", "--ignore-eos"],
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        try:
            assert child.stdout.read(1), "it generates nothing"
            with open(f"/proc/{child.pid}/status") as f:
                rows = dict(line.split(":", 1) for line in f)
            return tuple(int(rows[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile"))
        finally:
            child.kill()


def many_are_mapped_and_few_are_packed():
    many, few = make(MANY, 70), make(FEW, 40)
    assert few < LIMIT < many
    anonymous, mapped = resident(MANY)
    assert mapped > 0.9 * many and anonymous < 0.5 * many, (many, anonymous, mapped)
    anonymous, mapped = resident(FEW)
    assert anonymous > 0.9 * few and mapped < 0.5 * few, (few, anonymous, mapped)


def logits(*args):
    done = kvasir("logits", "-m", MANY, "--tokens", "300,301,302,303,304", "--at", "all", "-o", "json", *args)
    return [row["values"] for row in json.loads(done.stdout)["rows"]]


def kernel_sets_and_chunks_change_no_bit():
    want = logits("--kernels", "scalar")
    for chunk in (1, 3, 512):  # along the codes, a few rows at once, expanded
        assert logits("-ub", chunk) == want, chunk


def float_weights_say_the_same():
    text = os.path.join(FOLDER.name, "text.txt")
    with open(text, "w") as f:
        f.write("The quick brown fox jumps over the lazy dog. " * 20)
    r = json.loads(kvasir("perplexity", "-m", MANY, "-f", text, "-c", "128", "--chunks", "1", "--kl-vs", "blas", "-q", "-o", "json").stdout)
    # int8 activations differ from float32 ones, and by little.
    assert 0 < r["kl_mean"] < 0.01 and r["same_top"] > 90, r


if __name__ == "__main__":
    with FOLDER:
        run_tests([many_are_mapped_and_few_are_packed, kernel_sets_and_chunks_change_no_bit, float_weights_say_the_same], [])
