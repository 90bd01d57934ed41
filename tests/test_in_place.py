#!/usr/bin/env python3
"""Q8_0 weights, many of them, are read where they lie in the file at first, and packed after some passes: nothing is computed differently.

    KVASIR=./kvasir python3 tests/test_in_place.py [word in the test's name]

That a product in place has the bits of a packed one is check_kernel_products.c's; here whole models do it, over the command line.
"""
import errno
import json
import mmap
import os
import pty
import resource
import subprocess
import tempfile
import time

from support import seccomp
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


def comes_to_be(process, holds):
    """Whether holds(anonymous, file) comes to be and stays for a second; what was seen last."""
    seen, since, deadline = (0, 0), None, time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        seen = resident(process.pid)
        since = (since or time.monotonic()) if holds(*seen) else None
        if since and time.monotonic() > since + 1: return True, seen
        time.sleep(0.02)
    return False, seen


def many_are_mapped_until_they_are_packed():
    many, few = make(MANY, 70), make(FEW, 40)
    assert few < LIMIT < many
    # By seed these weights generate tokens without text for minutes: nothing can be waited for on stdout.
    generate = ("run", "-q", "--tokens", "300,301,302", "-n", "4000", "-c", "4096", "--ignore-eos")
    for path, size, args, is_packed in ((MANY, many, ("chat", "-q", "-c", "64"), False), (FEW, few, ("chat", "-q", "-c", "64"), True),
                                        (MANY, many, generate, True),
                                        (MANY, many, ("serve", "--listen", "unix:" + os.path.join(FOLDER.name, "s")), True)):
        with subprocess.Popen([KVASIR, args[0], "-m", path, *args[1:]], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
            try:
                ok, seen = comes_to_be(child, lambda anonymous, mapped: (anonymous if is_packed else mapped) > 0.9 * size and
                                       (mapped if is_packed else anonymous) < 0.5 * size)
            finally:
                child.kill()
        assert ok, (args, size, seen)


def they_are_packed_while_a_person_types():
    size = make(MANY, 70)
    person, terminal = pty.openpty()
    with subprocess.Popen([KVASIR, "chat", "-m", MANY, "-c", "64"], stdin=terminal, stdout=terminal, stderr=terminal) as child:
        try:
            os.write(person, b"/qu")
            ok, seen = comes_to_be(child, lambda anonymous, mapped: anonymous > 0.9 * size and mapped < 0.5 * size)
            os.write(person, b"it\r")
            status = child.wait(60)
        finally:
            child.kill()
    os.close(person), os.close(terminal)
    assert ok and status == 0, (size, seen, status)


def logits(*args, n=5, at="all"):
    done = kvasir("logits", "-m", MANY, "--tokens", ",".join(str(300 + i) for i in range(n)), "--at", at, "-o", "json", *args)
    return [row["values"] for row in json.loads(done.stdout)["rows"]]


def gives_huge_pages():
    """Whether this system moves full memory to them when asked (MADV_COLLAPSE, Linux 6.1)."""
    collapse, size = 25, 2 << 20
    with mmap.mmap(-1, 3 * size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.write(b"x" * len(memory))
        return any(collapses(memory, collapse, at, size) for at in range(0, 2 * size, mmap.PAGESIZE))


def collapses(memory, advice, at, size):
    try:
        memory.madvise(advice, at, size)
    except (OSError, ValueError):
        return False
    return True


def huge_bytes(pid):
    with open(f"/proc/{pid}/smaps_rollup") as f:
        return sum(int(line.split()[1]) * 1024 for line in f if line.startswith("AnonHugePages"))


def panels_come_to_lie_on_huge_pages():
    """After some passes, or while nobody asks a server."""
    if not gives_huge_pages():
        print("  this system gives no huge pages")
        return
    size = make(FEW, 40)
    for args in (("run", "-q", "--tokens", "300,301,302", "-n", "4000", "-c", "4096", "--ignore-eos"),
                 ("serve", "--listen", "unix:" + os.path.join(FOLDER.name, "h"))):
        with subprocess.Popen([KVASIR, args[0], "-m", FEW, *args[1:]], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
            seen, deadline = 0, time.monotonic() + 30  # the system alone moves 16 MB in 10 s
            while seen < 0.9 * size and child.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
                seen = huge_bytes(child.pid)
            child.kill()
        assert seen > 0.9 * size, (args[0], seen, size)


def every_second_is_held():
    """From here on moving memory of an odd number to a huge page fails, as where somebody holds one of its pages just now."""
    seccomp.install((seccomp.LOAD, seccomp.NUMBER), (seccomp.EQUAL, seccomp.NUMBERS["madvise"], 0, 5),
                    (seccomp.LOAD, seccomp.ARGUMENT_2), (seccomp.EQUAL, 25, 0, 3), # MADV_COLLAPSE
                    (seccomp.LOAD, seccomp.ARGUMENT_0), (seccomp.ANY_BIT, 2 << 20, 0, 1), (seccomp.RETURN, seccomp.FAIL | errno.EAGAIN),
                    (seccomp.RETURN, seccomp.ALLOW))


def a_page_that_is_held_keeps_no_other_from_moving():
    if not gives_huge_pages():
        print("  this system gives no huge pages")
        return
    size = make(FEW, 40)
    with subprocess.Popen([KVASIR, "serve", "-m", FEW, "--listen", "unix:" + os.path.join(FOLDER.name, "e")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                          preexec_fn=every_second_is_held) as child:
        seen, deadline = 0, time.monotonic() + 10
        while seen < 0.45 * size and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
            seen = huge_bytes(child.pid)
        child.kill()
    assert seen >= 0.45 * size, (seen, size)


def kernel_sets_and_chunks_change_no_bit():
    want = logits("--kernels", "scalar")
    for chunk in (1, 3, 512):  # along the codes, a few rows at once, expanded
        assert logits("-ub", chunk) == want, chunk


def packing_between_passes_changes_no_bit():
    """A token a pass: 32 in place, 64 while the weights are packed, the rest from panels."""
    at = "31,32,33,50,64,80,95,96,97,119"
    assert logits("-ub", 1, n=120, at=at) == logits("-ub", 512, n=120, at=at)


def without_memory_for_panels_they_stay_mapped():
    """As much address space as the file, what a process needs beside it, and half of the panels."""
    if os.environ.get("SANITIZE"):  # which wants terabytes of it
        return
    args = [KVASIR, "run", "-q", "-m", MANY, "--tokens", "300,301,302", "-n", "120", "-c", "256", "--temp", "0", "--ignore-eos", "-t", "2", "-o", "json"]
    size = os.path.getsize(MANY)
    limit = size + size // 2 + (200 << 20)
    tokens = []
    for preexec in (None, lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit))):
        done = subprocess.run(args, capture_output=True, text=True, preexec_fn=preexec)
        assert done.returncode == 0, done.stderr
        tokens.append(json.loads(done.stdout)["tokens"])
    assert len(tokens[0]) == 120 and tokens[0] == tokens[1]


def float_weights_say_the_same():
    text = os.path.join(FOLDER.name, "text.txt")
    with open(text, "w") as f:
        f.write("The quick brown fox jumps over the lazy dog. " * 20)
    r = json.loads(kvasir("perplexity", "-m", MANY, "-f", text, "-c", "128", "--chunks", "1", "--kl-vs", "blas", "-q", "-o", "json").stdout)
    # int8 activations differ from float32 ones, and by little.
    assert 0 < r["kl_mean"] < 0.01 and r["same_top"] > 90, r


if __name__ == "__main__":
    with FOLDER:
        run_tests([many_are_mapped_until_they_are_packed, they_are_packed_while_a_person_types, panels_come_to_lie_on_huge_pages,
                   a_page_that_is_held_keeps_no_other_from_moving, kernel_sets_and_chunks_change_no_bit,
                   packing_between_passes_changes_no_bit, without_memory_for_panels_they_stay_mapped,
                   float_weights_say_the_same], [])
