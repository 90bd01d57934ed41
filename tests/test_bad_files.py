#!/usr/bin/env python3
"""Malformed checkpoints against the binary: each gets one clear line and exit 1, or loads; never a crash, a hang, or memory
by a number from the file.

    KVASIR=./kvasir tests/test_bad_files.py [WORD...]      only files and faults whose name has one of the words

tests/golden/bad/bad.tar.xz holds stored files with what must happen to each (index.jsonl); gguf_mutants.py makes several hundred more
from a valid one. Sanitizer builds need more time and memory than the limits allow, so there time is scaled and memory not looked at.
"""
import concurrent.futures
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tests"))
import gguf_mutants  # noqa: E402

BUNDLE = os.path.join(ROOT, "tests", "golden", "bad", "bad.tar.xz")
BAD = os.path.join(ROOT, "build", "bad")
KVASIR = os.path.abspath(os.environ.get("KVASIR", "./kvasir"))
MAX_RSS_KIB = 1 << 20
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
CONTROL = "control__extra_arrays.gguf"
EXPERTS = os.path.join(ROOT, "build", "fixtures", "deepseek_v2", "model.gguf")
DAMAGED = ["gemma2", "gpt_oss", "more/nemotron", "more/deepseek_v3"]  # soft-cap; sinks; squared ReLU; experts in groups with a bias of selection


def is_sanitized():
    with open(KVASIR, "rb") as f:
        data = f.read()
    return b"__asan_init" in data or b"__tsan_init" in data or b"__ubsan_handle" in data


class Result:
    def __init__(self, status, rusage, seconds, out, err):
        self.signal = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        self.code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
        self.rss_kib, self.seconds, self.out, self.err = rusage.ru_maxrss, seconds, out, err


def run(args, stdin=b""):
    """One run, ended at the time limit; its own memory from wait4, so that runs beside it do not count."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(stdin)
        given.seek(0)
        begin = time.monotonic()
        p = subprocess.Popen([KVASIR] + args, stdin=given, stdout=out, stderr=err, cwd=ROOT, start_new_session=True)
        timer = threading.Timer(SECONDS + 2, lambda: os.kill(p.pid, 9))
        timer.start()
        _, status, rusage = os.wait4(p.pid, 0)
        timer.cancel()
        p.returncode = status
        seconds = time.monotonic() - begin
        for f in (out, err):
            f.seek(0)
        return Result(status, rusage, seconds, out.read(), err.read())


def survival_faults(r):
    """What is wrong whatever the file was."""
    if r.seconds > SECONDS:
        yield f"took {r.seconds:.1f} s, at most {SECONDS} allowed"
    elif r.signal:
        yield f"killed by signal {r.signal}"
    elif r.code not in (0, 1):
        yield f"exit {r.code}, must be 0 or 1"
    if not SANITIZED and r.rss_kib > MAX_RSS_KIB:
        yield f"took {r.rss_kib // 1024} MiB of memory"
    if b"Sanitizer" in r.err or b"runtime error" in r.err:
        yield "sanitizer report"


def faults(r, expect, one_line=True):
    yield from survival_faults(r)
    if r.code == 1 and expect == "loads":
        yield "refused, must load"
    if r.code == 0 and expect == "clean-error":
        yield "loaded, must be refused"
    if r.code == 1 and one_line:
        try:
            lines = r.err.decode("utf-8").split("\n")
        except UnicodeDecodeError:
            yield "the error is not UTF-8"
            return
        if len(lines) != 2 or lines[1] != "" or len(lines[0]) < 12 or any(ord(c) < 32 for c in lines[0]):
            yield f"stderr must be exactly one line, is {len(r.err)} bytes in {len(lines) - 1} lines"


# ---- what is run on a file -----------------------------------------------------------------------

TOKENS = ["--tokens", "1,2,3", "-n", "4", "--temp", "0", "-q"]


def checks_of(entry, path):
    """(arguments, stdin, expected, whether an error must be one line)"""
    expect = entry["expect"]
    if entry["mode"] == "chat":  # a bad template does not stop run
        yield ["run", "-m", path] + TOKENS, b"", "loads", True
        yield ["template", "-m", path, "--messages", os.path.join(BAD, "messages.json")], b"", expect, True
        yield ["chat", "-m", path, "-q", "-n", "8"], b"hi\n", expect, False  # it goes on after an error, so several are fine
        return
    yield ["run", "-m", path] + TOKENS, b"", expect, True
    yield ["run", "-m", path, "-p", "hello", "-n", "4", "-q"], b"", expect, True
    yield ["inspect", path], b"", "either", True


def check(name, checks):
    """Lines of what went wrong."""
    wrong = []
    for args, stdin, expect, one_line in checks:
        r = run(args, stdin)
        for fault in faults(r, expect, one_line):
            said = r.err.decode("utf-8", "replace").strip()[-300:]
            wrong.append(f"FAIL {name}: kvasir {args[0]}: {fault}" + (f"\n     {said}" if said else ""))
    return wrong


def check_mutant(mutant):
    name, data, must_fail = mutant
    with tempfile.NamedTemporaryFile(suffix=".gguf", dir=BAD) as f:
        f.write(data)
        f.flush()
        expect = "clean-error" if must_fail else "either"
        return check(name, [(["run", "-m", f.name] + TOKENS, b"", expect, True)])


def check_file(entry):
    return check(entry["file"], checks_of(entry, os.path.join(BAD, entry["file"])))


# ---- all of it -----------------------------------------------------------------------------------

def unpack():
    os.makedirs(BAD, exist_ok=True)
    with tarfile.open(BUNDLE) as tar:
        for member in tar.getmembers():
            if member.isfile():
                with open(os.path.join(BAD, os.path.basename(member.name)), "wb") as f:
                    f.write(tar.extractfile(member).read())
    with open(os.path.join(BAD, "messages.json"), "w") as f:
        json.dump(MESSAGES, f)
    with open(os.path.join(BAD, "index.jsonl")) as f:
        return [json.loads(line) for line in f]


def main():
    words = sys.argv[1:]

    def wanted(name):
        return not words or any(w in name for w in words)

    index = unpack()
    with open(os.path.join(BAD, CONTROL), "rb") as f:
        control = f.read()
    jobs = [(check_file, e) for e in index if wanted(e["file"])]
    jobs += [(check_mutant, m) for m in gguf_mutants.mutants(control) if wanted(m[0])]
    with open(EXPERTS, "rb") as f:
        jobs += [(check_mutant, m) for m in gguf_mutants.incomplete(f.read()) if wanted(m[0])]
    for name in DAMAGED:
        path = os.path.join(BAD, name.replace("/", "_") + ".gguf")
        subprocess.run([KVASIR, "convert", os.path.join(ROOT, "build", "fixtures", name, "hf"), path, "--outtype", "f32", "-q"], check=True)
        with open(path, "rb") as f:
            jobs += [(check_mutant, m) for m in gguf_mutants.damaged(name, f.read()) if wanted(m[0])]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(max_workers=2) as pool:
        for wrong in pool.map(lambda job: job[0](job[1]), jobs):
            failed += bool(wrong)
            if wrong:
                print("\n".join(wrong), flush=True)
    print(f"{len(index)} stored files, {len(jobs)} checked in all")
    print(f"{len(jobs) - failed} passed, {failed} failed")
    return 1 if failed or not jobs else 0


if __name__ == "__main__":
    if not os.access(KVASIR, os.X_OK):
        sys.exit(f"test_bad_files: {KVASIR} is missing: build it first, or set KVASIR")
    SANITIZED = is_sanitized()
    SECONDS = 60 if SANITIZED else 10
    sys.exit(main())
