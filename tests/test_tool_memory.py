#!/usr/bin/env python3
"""Each allocation of a command fails in turn. It does without, and prints what it would have printed; or it prints nothing more, one line on
stderr that speaks of memory, and its status is no 0. `serve` and `chat --server` are test_serve_memory.py's.

    KVASIR=./kvasir python3 tests/test_tool_memory.py [word in the test's name]
"""
import json
import os
import re
import subprocess
import sys
import tempfile

sys.path.insert(0, "tests/support")
from failing_malloc import FailingMalloc  # noqa: E402
from runner import run_tests  # noqa: E402

KVASIR = os.environ.get("KVASIR", "./kvasir")
TINY = "tests/golden/fixtures/llama/model.gguf"
FOLDER = tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)  # spares the disk its fsyncs
memory = FailingMalloc(FOLDER.name)
MOST = 4000  # nothing here takes half as many
MEASURED = re.compile(r'"(load_ms|prompt_ms|predicted_ms|peak_rss_bytes|available_bytes)": ?[\d.]+')


def write(name, text):
    path = os.path.join(FOLDER.name, name)
    with open(path, "w") as f:
        f.write(text)
    return path


def run(n, *args):
    memory.fail_at(n)
    r = subprocess.run([KVASIR, *args], text=True, timeout=60, capture_output=True, stdin=subprocess.DEVNULL, env=dict(os.environ, **memory.env()))
    return r, memory.n_allocations()


def take(path):
    """The bytes of a file, which is gone then. None: it was not there."""
    if not path or not os.path.exists(path):
        return None
    with open(path, "rb") as f:
        content = f.read()
    os.unlink(path)
    return content


def every_failure_is_said(*args, out=None):
    right, n_all = run(MOST, *args)
    content, n_said = take(out), 0
    assert right.returncode == 0 and 20 < n_all < MOST and (content or not out), (args, n_all, right)
    for n in range(1, n_all + 1):
        r, _ = run(n, *args)
        if r.returncode == 0:
            assert MEASURED.sub("", r.stdout) == MEASURED.sub("", right.stdout) and take(out) == content, (args, n, r)
        else:
            assert r.returncode in (1, 2) and "memory" in r.stderr and r.stderr.count("\n") == 1, (args, n, r)
            assert take(out) is None, (args, n)
            n_said += 1
    assert n_said > 5, (args, n_said)


def text_tools_fail_cleanly():
    messages = write("messages.json", json.dumps([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]))
    tools = write("tools.json", json.dumps([{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]))
    every_failure_is_said("tokenize", "-m", TINY, "-p", "Hello there, 123", "-o", "json")
    every_failure_is_said("detokenize", "-m", TINY, "--tokens", "64,65,66", "-o", "json")
    every_failure_is_said("template", "-m", TINY, "--messages", messages, "--tools", tools)


def running_fails_cleanly():
    spec = write("spec", "*=full|topk(8)\n# later rules win\n2=window(5)+global(2)\n")
    every_failure_is_said("run", "-q", "-m", TINY, "--tokens", "1,2,3", "-n", "8", "--temp", "0", "-t", "1", "--logit-bias", "3+1", "--attention", "@" + spec)
    every_failure_is_said("run", "--dry-run", "-m", TINY, "-o", "json")
    every_failure_is_said("logits", "-q", "-m", TINY, "--tokens", "1,2,3", "--top", "3", "-t", "1", "-o", "json")


def files_are_whole_or_not_there():
    text, out = write("text", "The old raven sat on the gate. " * 40), os.path.join(FOLDER.name, "out.gguf")
    every_failure_is_said("quantize", "-q", TINY, out, "Q8_0", "-t", "1", out=out)
    every_failure_is_said("imatrix", "-q", "-m", TINY, "-f", text, "-c", "64", "-t", "1", out, out=out)
    every_failure_is_said("synth", "-q", "--set", "n_layers=1", out, out=out)


TESTS = [text_tools_fail_cleanly, running_fails_cleanly, files_are_whole_or_not_there]

if __name__ == "__main__":
    if os.environ.get("SANITIZE"):  # sanitizers bring a malloc of their own
        run_tests([], [])
    with FOLDER:
        run_tests(TESTS, [(KVASIR, "make"), (TINY, "git checkout tests/golden")])
