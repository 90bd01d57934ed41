#!/usr/bin/env python3
"""Q8_0 weights, many of them, are read where they lie in the file: nothing is copied, and nothing computed differently.

    KVASIR=./kvasir python3 tests/test_in_place.py [word in the test's name]

That a product in place has the bits of a packed one is check_kernel_products.c's; here whole models do it, over the command line.
"""
import json
import os
import subprocess
import tempfile
import time

from support.command import KVASIR, kvasir
from support.runner import run_tests

FOLDER = tempfile.TemporaryDirectory()
MANY, FEW = (os.path.join(FOLDER.name, name) for name in ("many.gguf", "few.gguf"))
LIMIT = 256 << 20  # bytes of Q8_0 matrices from which a model is read in place


def make(path, n_layers):
    kvasir("synth", "-q", "--size", "135m", "--type", "Q8_0", "--set", f"n_layers={n_layers}", path)
    return os.path.getsize(path)


def resident(pid):
    """(anonymous, file) bytes of a process."""
    with open(f"/proc/{pid}/status") as f:
        rows = dict(line.split(":", 1) for line in f)
    return tuple(int(rows.get(name, "0 kB").split()[0]) * 1024 for name in ("RssAnon", "RssFile"))


def settles(path, holds):
    """Whether holds(anonymous, file) comes to be and stays for a second, in a process that generates; what was seen last."""
    # By seed these weights generate tokens without text for minutes: nothing can be waited for on stdout.
    with subprocess.Popen([KVASIR, "run", "-q", "-m", path, "--tokens", "300,301,302", "-n", "4000", "-c", "4096", "--ignore-eos"],
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        try:
            seen, since, deadline = (0, 0), None, time.monotonic() + 60
            while child.poll() is None and time.monotonic() < deadline:
                seen = resident(child.pid)
                since = (since or time.monotonic()) if holds(*seen) else None
                if since and time.monotonic() > since + 1: return True, seen
                time.sleep(0.02)
            return False, seen
        finally:
            child.kill()


def many_are_mapped_and_few_are_packed():
    many, few = make(MANY, 70), make(FEW, 40)
    assert few < LIMIT < many
    ok, seen = settles(MANY, lambda anonymous, mapped: mapped > 0.9 * many and anonymous < 0.5 * many)
    assert ok, (many, seen)
    ok, seen = settles(FEW, lambda anonymous, mapped: anonymous > 0.9 * few and mapped < 0.5 * few)
    assert ok, (few, seen)


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
