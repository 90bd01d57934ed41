#!/usr/bin/env python3
"""The command line as users and scripts rely on it: exit statuses, one line on stderr, shapes on stdout.

    KVASIR=./kvasir python3 tests/test_cli.py [word in the test's name]

Every test is a sentence. Expected values come from HF transformers' outputs beside the tiny fixture, from numpy on raw logits, or from
the rules themselves; none is copied from our own output.
"""
import json, math, os, pty, re, shutil, signal, subprocess, sys, tempfile, termios, threading, time, traceback
import numpy as np
from gguf import GGUFReader

from support.runner import run_tests

KVASIR = os.path.abspath(os.environ.get("KVASIR", "./kvasir"))
TINY = os.path.abspath("tests/golden/fixtures/llama/model.gguf")
TINY_EOS, TINY_VOCAB = 379, 384 # of the fixture's config.json
EXPECT = json.load(open("tests/golden/fixtures/llama/expect.json"))
SMOLLM2 = os.path.abspath("models/smollm2-135m-instruct-q4_1.gguf")
TESTS = []


def test(function):
    TESTS.append(function)
    return function


class Result:
    def __init__(self, status, out, err):
        self.status, self.out, self.err = status, out, err

    @property
    def text(self):
        return self.out.decode()

    @property
    def lines(self):
        return self.err.decode(errors="replace").splitlines()

    def json(self):
        assert self.status == 0, (self.status, self.err)
        return json.loads(self.out)


def kvasir(*args, stdin=b"", cwd=None, env=None, binary=KVASIR, stdout=subprocess.PIPE):
    environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "XDG_CACHE_HOME")}
    environment.update(env or {})
    done = subprocess.run([binary, *map(str, args)], input=stdin, stdout=stdout, stderr=subprocess.PIPE, cwd=cwd,
                          env=environment, timeout=120)
    assert done.returncode >= 0, f"killed by signal {-done.returncode}: {args} {done.stderr[-2000:]}"
    return Result(done.returncode, done.stdout or b"", done.stderr)


def tools():
    """All there are, by the program's own help."""
    names = re.findall(r"^  ([a-z][a-z-]*) +\w", kvasir("help").text.split("To begin:")[0], re.M)
    assert len(names) > 15, names
    return names


def refuses(status, pattern, *args, **more):
    """One line on stderr that matches, nothing on stdout, this exit status."""
    r = kvasir(*args, **more)
    assert r.status == status, (args, r.status, r.err)
    assert len(r.lines) == 1, (args, r.lines)
    assert r.lines[0].startswith("kvasir"), r.lines
    assert re.search(pattern, r.lines[0]), (args, r.lines[0], pattern)
    assert r.out == b"", (args, r.out)
    return r.lines[0]


def tiny(tool, *args, **more):
    return kvasir(tool, "-m", TINY, *args, **more)


def log_softmax(values):
    x = np.asarray(values, np.float64)
    return x - x.max() - math.log(np.exp(x - x.max()).sum())


def ids(tokens):
    return ",".join(map(str, tokens))


def close(a, b, tolerance):
    assert abs(a - b) <= tolerance, (a, b, tolerance)


# ---- wrong usage: exit 2 ---------------------------------------------------------------------------------

USAGE = [
    # arguments, what the line must say
    (["rum"], r"'rum'.*did you mean 'run'"),
    (["tokenise"], r"did you mean 'tokenize'"),
    (["BENCH"], r"did you mean 'bench'"),
    (["frobnicate"], r"kvasir help"),
    (["--versoin"], r"did you mean '--version'"),
    (["help", "rum"], r"did you mean 'run'"),
    (["run", "--tmep", "1", "-p", "x"], r"--tmep.*did you mean --temp\?"),
    (["run", "-temp", "1"], r"-temp.*did you mean --temp\?"),
    (["run", "--top_k", "1"], r"did you mean --top-k\?"),
    (["run", "--TEMP", "1"], r"--TEMP; did you mean --temp\?"),
    (["run", "--frobnicate"], r"--frobnicate.*--help"),
    (["run", "-n", "x", "-p", "a"], r"-n: 'x'.*-1 to"),
    (["run", "-n", "5x", "-p", "a"], r"-n: '5x'"),
    (["run", "-n", "", "-p", "a"], r"-n needs a value"),
    (["run", "-n", " 5", "-p", "a"], r"-n: ' 5'"),
    (["run", "-n", "0x10", "-p", "a"], r"-n: '0x10'"),
    (["run", "-n", "1.5", "-p", "a"], r"-n: '1.5'"),
    (["run", "-n", "-2", "-p", "a"], r"-n: -2 is out of range: -1 to"),
    (["run", "-n", "99999999999999999999", "-p", "a"], r"-n: 9+ is out of range: -1 to 2147483647"),
    (["run", "-p", "a", "-n"], r"-n needs a value"),
    (["run", "--temp", "-1", "-p", "a"], r"--temp: -1 is out of range: 0 to"),
    (["run", "--temp=-1", "-p", "a"], r"--temp: -1 is out of range: 0 to"),
    (["run", "--temp", "inf", "-p", "a"], r"--temp: 'inf'.*0 to"),
    (["run", "--temp", "1e999", "-p", "a"], r"--temp: .*0 to"),
    (["run", "--top-p", "nan", "-p", "a"], r"--top-p: 'nan'.*0 to 1"),
    (["run", "--top-p", "1.5", "-p", "a"], r"--top-p: 1.5 is out of range: 0 to 1"),
    (["run", "--min-p", "-0.1", "-p", "a"], r"--min-p.*0 to 1"),
    (["run", "--typical", "two", "-p", "a"], r"--typical.*0 to 1"),
    (["run", "--top-k", "-1", "-p", "a"], r"--top-k.*0 to"),
    (["run", "--repeat-penalty", "0", "-p", "a"], r"--repeat-penalty.*0.01 to 100"),
    (["run", "--repeat-last-n", "-2", "-p", "a"], r"--repeat-last-n.*-1 to"),
    (["run", "--repeat-last-n", "1048577", "-p", "a"], r"--repeat-last-n: 1048577 is out of range: -1 to 1048576"),
    (["run", "--seed", "-2", "-p", "a"], r"--seed: '-2'.*0 to 18446744073709551615"),
    (["run", "--seed", "18446744073709551616", "-p", "a"], r"--seed"),
    (["run", "--logit-bias", "5", "-p", "a"], r"--logit-bias.*TOKEN\+BIAS"),
    (["run", "--logit-bias", "5+nan", "-p", "a"], r"--logit-bias"),
    (["run", "-t", "0", "-p", "a"], r"-t: 0 is out of range: 1 to 1024"),
    (["run", "-t", "1025", "-p", "a"], r"-t: .*1 to 1024"),
    (["run", "-c", "-1", "-p", "a"], r"-c: .*0 to"),
    (["run", "-ub", "0", "-p", "a"], r"-ub: .*1 to 16384"),
    (["run", "-ub", "16385", "-p", "a"], r"-ub: .*1 to 16384"),
    (["run", "-ctk", "q9", "-p", "a"], r"-ctk: 'q9' is none of f16, f32, bf16, q8_0"),
    (["run", "--kernels", "axv2", "-p", "a"], r"--kernels: 'axv2'.*did you mean avx2\?"),
    (["run", "--gemm", "fast", "-p", "a"], r"--gemm: 'fast' is none of native, blas"),
    (["run", "-o", "xml", "-p", "a"], r"-o: 'xml' is none of text, json"),
    (["run", "--kv-budget", "lots", "-p", "a"], r"--kv-budget: 'lots'"),
    (["run", "-n", "5", "-n", "6", "-p", "a"], r"-n is given twice: '5' and '6'"),
    (["run", "-n", "5", "--n-predict=6", "-p", "a"], r"given twice"),
    (["run", "--ignore-eos=1", "-p", "a"], r"--ignore-eos takes no value"),
    (["run"], r"no input: give -p TEXT"),
    (["run", "hello"], r"'hello'.*-p TEXT"),
    (["run", "-p", "a", "-f", "b"], r"more than one input"),
    (["run", "-p", "a", "-"], r"more than one input"),
    (["run", "-p", "-n", "5"], r"-p needs a value"),
    (["run", "-p", "--help"], r"-p needs a value.*write -p=--help"),  # a prompt that a script passes on is not a question to us
    (["run", "-n", "5", "--prompt", "-h"], r"--prompt needs a value.*write --prompt=-h"),
    (["bench", "-p", "0", "-n", "0"], r"-p and -n are both 0.*nothing to measure"),
    (["bench", "-p", "0,0", "-n", "0", "-pg", "0,0", "--dry-run"], r"nothing to measure"),
    (["run", "-N", "5"], r"-N; did you mean -n\?"),
    (["run", "-ctx", "512"], r"-ctx; did you mean --ctx-size\?"),
    (["run", "--thread", "2"], r"--thread; did you mean --threads\?"),
    (["perplexity", "--temp", "0"], r"--temp; 'kvasir perplexity --help'"), # two letters of --gemm: no typing error
    (["template", "-o", "json"], r"unknown option -o; .*--help"),
    (["run", "--tokens", "1,,2"], r"--tokens: '1,,2'"),
    (["run", "--tokens", "1,x"], r"--tokens: '1,x'"),
    (["run", "--tokens", "-1"], r"--tokens: -1 is out of range: 0 to"),
    (["run", "--tokens", "4294967297"], r"--tokens: 4294967297 is out of range"),
    (["run", "-p", "a", "--temp\x1b[31m", "1"], r"--temp\?\[31m"),
    (["run", "-p", "a", "--temp\x9b31m", "1"], r"--temp\?\?31m"), # the same escape sequence in one character
    (["logits", "--tokens", "1", "--at", "x"], r"--at: 'x'.*last, all"),
    (["logits", "--tokens", "1", "--at", "3-1"], r"--at"),
    (["logits", "--tokens", "1", "--at", "1,"], r"--at"),
    (["logits", "--tokens", "1", "--top", "0"], r"--top: 0 is out of range: 1 to"),
    (["logits"], r"no input"),
    (["tokenize"], r"no input"),
    (["tokenize", "--no-boss", "-p", "x"], r"did you mean --no-bos\?"),
    (["detokenize"], r"no input"),
    (["template", "--template", "x"], r"--messages FILE is missing"),
    (["template", "--messages", "-", "--template", "-"], r"standard input"),
    (["template", "--mesages", "x"], r"did you mean --messages\?"),
    (["inspect", "a.gguf", "b.gguf"], r"'b.gguf'"),
    (["inspect", "a.gguf", "-m", "b.gguf"], r"two models"),
    (["perplexity"], r"no input"),
    (["perplexity", "-p", "x", "-c", "3"], r"-c: 3 is out of range: 4 to 2147483647"),
    (["perplexity", "-p", "x", "--kl-base", "a", "--kl-vs", "blas"], r"--kl-base and --kl-vs"),
    (["perplexity", "-p", "x", "--kl-vs", "blass"], r"did you mean blas\?"),
    (["bench", "-pg", "1"], r"-pg takes two numbers"),
    (["bench", "-r", "0"], r"-r: 0 is out of range: 1 to 1000"),
    (["bench", "-o", "xls"], r"-o: 'xls' is none of md, csv, json, jsonl"),
    (["bench", "-p", "a"], r"-p: 'a'"),
    (["bench", "extra"], r"'extra'"),
    (["serve", "--alias", "", "--dry-run"], r"--alias needs a value: NAME"),
    (["serve", "--listen", "nonsense", "--dry-run"], r"--listen: 'nonsense' is no address"),
    (["serve", "--allow-host", "my.box:80", "--dry-run"], r"--allow-host: 'my.box:80'"),
]


@test
def an_error_line_is_utf_8_whatever_was_typed():
    for args in (["run", b"--\xff"], [b"r\xfen"], ["run", "-m", b"\xc3\x28", "-p", "a"], ["inspect", b"/no/\xf0\x9f"], ["run", "-p", "a", "-n", "é" * 100],
                 ["run", "-p", "a", "-n", "x" + "é" * 100], ["run", "-p", "a", "-o", "日" * 50], ["run", "--" + "é" * 60]):
        done = subprocess.run([KVASIR, *args], capture_output=True, timeout=60)
        assert done.returncode in (1, 2) and len(done.stderr.decode("utf-8").splitlines()) == 1, (args, done)


@test
def a_path_of_any_bytes_has_its_json():
    with tempfile.TemporaryDirectory() as d:
        folder = os.path.join(os.fsencode(d), b"\xff")
        os.mkdir(folder)
        path, out, csr = (os.path.join(folder, name) for name in (b"m.gguf", b"out.gguf", b"csr"))
        shutil.copy(TINY, path)
        shutil.copy("tests/golden/attention/blocks.csr", csr)
        spec = ["--attention", b"*=blocks(16, file=" + csr + b")"]
        for args in (["run", "--dry-run", "-m", path], ["inspect", path, *spec], ["attention", "-q", "--ctx", "8", "-m", path, *spec], ["quantize", path, out, "Q8_0"],
                     ["bench", "-q", "-p", "8", "-n", "0", "-r", "1", "-m", path, *spec], ["synth", out], ["convert", "build/fixtures/llama/hf", out],
                     ["perplexity", "-m", path, "-f", "README.md", "-c", "64", "--chunks", "1", *spec]):
            done = subprocess.run([KVASIR, *args, "-o", "json"], capture_output=True, timeout=60)
            assert done.returncode == 0 and json.loads(done.stdout), (args, done)


@test
def what_is_wrong_inside_a_file_says_which_file():
    with open(TINY, "rb") as f:
        data = f.read()
    renamed = {"tensor": (b"blk.1.ffn_up.weight", b"blk.1.ffn_no.weight"), "key": (b"llama.block_count", b"llama.block_cound")}
    with tempfile.TemporaryDirectory() as d:
        for name, (old, new) in renamed.items():
            path = os.path.join(d, name + ".gguf")
            with open(path, "wb") as f:
                f.write(data.replace(old, new))
            for args in (["run", "-m", path, "--tokens", "1"], ["run", "-m", path, "--dry-run"], ["attention", "-q", "-m", path], ["serve", "-m", path]):
                refuses(1, re.escape(f"kvasir {args[0]}: {path}: ") + ".*" + re.escape(old.decode().split(".")[-1]), *args)
        with open(path, "wb") as f:
            f.write(data.replace(b"general.architecture", b"general.architectura"))
        refuses(1, re.escape(f"{path}: ") + ".*general.architecture", "quantize", path, os.path.join(d, "out.gguf"), "F32")


@test
def a_name_that_is_almost_a_model_is_answered_with_the_one_that_is_here():
    with tempfile.TemporaryDirectory() as d:
        shutil.copy(KVASIR, d)
        os.mkdir(f"{d}/models")
        more = {"binary": f"{d}/kvasir", "cwd": d, "env": {"HOME": d}}
        refuses(1, r"'smol'.*run: kvasir get smollm2", "inspect", "smol", **more)
        for file in ("smollm2-135m-instruct-q4_1.gguf", "Qwen3-0.6B-Q8_0.gguf", "Qwen3-4B.gguf", "notes.txt"):
            shutil.copy(TINY, f"{d}/models/{file}")
        for name, meant in (("smol", "smollm2"), ("SmolLM2", "smollm2"), ("smolm2", "smollm2"), ("qwen3", "models/Qwen3-0.6B-Q8_0.gguf"),
                            ("models/qwen3-4b", "models/Qwen3-4B.gguf")):
            line = refuses(1, f"'{name}'; did you mean {re.escape(meant)}\\?$", "inspect", name, **more)
            assert "kvasir get" not in line
            assert kvasir("inspect", meant, **more).status == 0
        for name in ("qw", "notes", "models/notes", "no/such"):
            assert "did you mean" not in refuses(1, r".", "inspect", name, **more)
        refuses(1, f" in models/ or {d}/.cache/kvasir; ", "inspect", "qw", **more)
        more["env"]["XDG_CACHE_HOME"] = f"{d}/xdg"
        refuses(1, f" in models/ or {d}/xdg/kvasir; ", "inspect", "qw", **more)


@test
def a_model_that_stands_alone_is_answered_with_its_option():
    for args in (["chat", TINY], ["serve", TINY], ["bench", TINY], ["attention", TINY], ["run", TINY], ["run", TINY, "Hello"], ["perplexity", TINY], ["logits", TINY]):
        refuses(2, rf"unexpected argument '{re.escape(args[-1])}'; a model is -m {re.escape(TINY)}", *args)
    for args in (["perplexity", "README.md"], ["run", "Hello"], ["serve", "8080"], ["chat", "Hello"], ["quantize", TINY, "/no/such", "Q8_0", TINY]):
        assert "-m" not in refuses(2, r"unexpected argument", *args), args
    refuses(2, r"'b.gguf'; 'kvasir inspect --help'", "inspect", "a.gguf", "b.gguf")


@test
def options_of_llama_cpp_are_answered_with_what_there_is_instead():
    for word, says in (("-ngl", "CPU"), ("--n-gpu-layers", "CPU"), ("--host", "kvasir serve takes --listen HOST:PORT"), ("--port", "--listen"),
                       ("--stop", "kvasir serve.*stop"), ("--reverse-prompt", "stop"), ("-fa", "leave it out"), ("-cnv", "kvasir chat"), ("-hf", "kvasir get"),
                       ("-no-cnv", "leave it out"), ("-st", "leave it out"), ("--jinja", "leave it out"), ("--color", "leave it out"), ("-sys", "chat takes --system"),
                       ("-tb", "taskset"), ("--metrics", "always"), ("--ssl-key-file", "front"), ("-md", "--draft-max"), ("--chat-template", "--chat-template-file"),
                       ("--kl-divergence-base", "--kl-base"), ("--output-tensor-type", "--tensor-type output=TYPE"), ("--log-disable", "-q")):
        for value in ([word, "1"], [word + "=1"]):
            refuses(2, f"unknown option {word}: .*{says}", "run", *value, "-p", "x")
    refuses(2, r"unknown option -r;|unknown option -r:", "run", "-r", "x")
    assert tiny("bench", "-p", "8", "-n", "0", "-r", "1").status == 0


@test
def the_context_that_a_tool_takes_by_default_is_the_one_that_its_help_says():
    for tool, default in (("perplexity", 512), ("imatrix", 512), ("run", 0), ("logits", 0)):
        line = " ".join(re.search(r"-c, --ctx-size N(.*?)\n  -b", kvasir(tool, "--help").text, re.S).group(1).split())
        assert re.findall(r"default\D*(\d+)|(\d+) \(the default", line) == [(str(default), "")], (tool, line)


@test
def what_is_wrong_with_a_grammar_is_said_of_the_option_that_it_came_with():
    with tempfile.TemporaryDirectory() as d:
        for name, text, says in (("--grammar", "root ::= (", "line 1"), ("--json-schema", '{"type": 5}', "type must be")):
            refuses(1, rf"^kvasir run: {name}: .*{says}", "run", "-m", TINY, "-p", "x", name, text)
            with open(f"{d}/it", "w") as f:
                f.write(text)
            refuses(1, rf"^kvasir run: {name}-file: .*{says}", "run", "-m", TINY, "-p", "x", f"{name}-file", f"{d}/it")
            refuses(1, rf"^kvasir run: {name}-file: .*no/such", "run", "-m", TINY, "-p", "x", f"{name}-file", f"{d}/no/such")


@test
def choices_are_taken_in_any_case():
    plain = tiny("run", "--tokens", "9,8,7", "-n", "4", "--temp", "0", "-ctk", "bf16", "-o", "json")
    upper = tiny("run", "--tokens", "9,8,7", "-n", "4", "--temp", "0", "-ctk", "BF16", "-o", "JSON")
    assert plain.json()["tokens"] == upper.json()["tokens"]


@test
def wrong_usage_is_one_line_and_exit_2():
    for args, pattern in USAGE:
        refuses(2, pattern, *args)


def options_of(tool):
    """(alias, name, takes a value) of every line of the tool's --help."""
    r = kvasir(tool, "--help")
    assert r.status == 0 and r.err == b"", (tool, r.status, r.err)
    found = re.findall(r"^  (?:(-\w+), )?(--[a-z][\w-]*)( [^ ].*?)?(?:  |$)", r.text, re.M)
    rows = [(alias, name, arg.strip()) for alias, name, arg in found if name not in ("--help", "--version")]
    assert len(rows) >= 4, (tool, rows)
    return rows


@test
def help_lists_exactly_the_options_that_are_understood():
    for tool in tools():
        for alias, name, arg in options_of(tool):
            for word in filter(None, (alias, name)):
                if arg:
                    refuses(2, re.escape(word) + " needs a value", tool, word)
                else:
                    refuses(2, re.escape(word) + " takes no value", tool, word + "=1")
            refuses(2, "unknown option", tool, name + "zqxj")


@test
def help_works_in_every_form_and_goes_to_stdout():
    plain = kvasir()
    for r in (plain, kvasir("help"), kvasir("--help"), kvasir("-h")):
        assert r.status == 0 and r.err == b"" and r.out == plain.out
    for tool in tools():
        assert re.search(rf"^  {tool} ", plain.text, re.M), tool
        assert kvasir("help", tool).out == kvasir(tool, "--help").out == kvasir(tool, "-h").out
        assert max(map(len, kvasir(tool, "--help").text.splitlines())) <= 140
    assert kvasir("--version").text == kvasir("run", "--version").text
    assert re.fullmatch(r"kvasir \d+\.\d+\.\d+\n", kvasir("--version").text)


# ---- models: exit 1 and how to get them -----------------------------------------------------------------

@test
def a_missing_model_is_said_with_the_command_that_brings_it():
    with tempfile.TemporaryDirectory() as d:
        alone = os.path.join(d, "kvasir")
        shutil.copy(KVASIR, alone)
        more = dict(cwd=d, env={"HOME": d}, binary=alone)
        for tool in (["run", "-p", "x"], ["logits", "-p", "x"], ["tokenize", "-p", "x"], ["inspect"], ["bench"], ["perplexity", "-p", "x"],
                     ["detokenize", "1"], ["run", "--dry-run"]):
            refuses(1, r"run: kvasir get smollm2$", *tool, **more)
        refuses(1, r"run: kvasir get gemma3$", "run", "-m", "gemma3", "-p", "x", **more)
        refuses(1, r"did you mean smollm2\?", "run", "-m", "smolm2", "-p", "x", **more)
        refuses(1, r"'nothing'.*models/", "run", "-m", "nothing", "-p", "x", **more)
        refuses(1, r"/no/such.gguf: no such file", "run", "-m", "/no/such.gguf", "-p", "x", **more)
        refuses(1, r"folder", "run", "-m", d + "/", "-p", "x", **more)


@test
def a_name_is_looked_up_in_models_beside_the_binary_and_in_the_cache():
    with tempfile.TemporaryDirectory() as d:
        alone = os.path.join(d, "bin", "kvasir")
        os.makedirs(os.path.join(d, "bin", "models"))
        shutil.copy(KVASIR, alone)
        wanted = kvasir("tokenize", "-m", TINY, "-p", "hello").out
        places = {"cwd/models": {}, "bin/models": {}, ".cache/kvasir": {}, "xdg/kvasir": {"XDG_CACHE_HOME": d + "/xdg"}}
        os.makedirs(d + "/cwd")
        for place, env in places.items():
            folder = os.path.join(d, place)
            os.makedirs(folder, exist_ok=True)
            for file, names in {"tiny.gguf": ["tiny", "tiny.gguf"], "smollm2-135m-instruct-q4_1.gguf": ["smollm2", None],
                                "gemma3-270m-q4_k_m.gguf": ["gemma3", "gemma3-270m-q4_k_m"]}.items():
                shutil.copy(TINY, os.path.join(folder, file))
                for name in names:
                    args = ["-m", name] if name else []
                    r = kvasir("tokenize", *args, "-p", "hello", cwd=d + "/cwd", env={"HOME": d, **env}, binary=alone)
                    assert (r.status, r.out) == (0, wanted), (place, name, r.err)
                os.unlink(os.path.join(folder, file))


@test
def a_file_that_is_no_model_is_one_line():
    with tempfile.TemporaryDirectory() as d:
        for name, data in {"empty": b"", "text": b"hello\n" * 100, "cut": open(TINY, "rb").read()[:5000]}.items():
            path = os.path.join(d, name)
            open(path, "wb").write(data)
            for tool in (["run", "-p", "x"], ["logits", "-p", "x"], ["tokenize", "-p", "x"], ["inspect"], ["run", "-p", "x", "--dry-run"]):
                refuses(1, r".", *tool, "-m", path)


# ---- run ------------------------------------------------------------------------------------------------

GREEDY = ["--temp", "0", "--ignore-eos", "-ctk", "f32", "-ctv", "f32"]


@test
def run_continues_as_transformers_does():
    for case in EXPECT["cases"]:
        n = len(case["greedy"])
        r = tiny("run", "--tokens", ids(case["prompt_ids"]), "-n", n, "-o", "json", *GREEDY).json()
        assert r["prompt_tokens"] == case["prompt_ids"]
        assert r["tokens"] == case["greedy"], (case["name"], r["tokens"], case["greedy"])


@test
def run_json_has_the_promised_shape():
    r = tiny("run", "--tokens", "1,2,3", "-n", "4", "-o", "json", *GREEDY).json()
    assert list(r) == ["prompt_tokens", "tokens", "text", "finish_reason", "timings", "kv", "peak_rss_bytes"]
    assert list(r["timings"]) == ["load_ms", "prompt_n", "prompt_ms", "predicted_n", "predicted_ms", "draft_n", "draft_n_accepted"]
    assert list(r["kv"]) == ["pages", "bytes"]
    assert r["finish_reason"] == "length" and len(r["tokens"]) == 4
    assert (r["timings"]["prompt_n"], r["timings"]["predicted_n"]) == (3, 4)
    assert r["kv"]["pages"] >= 1 and r["kv"]["bytes"] > 0
    assert 1 << 20 < r["peak_rss_bytes"] < 1 << 30
    assert tiny("run", "--tokens", "1,2,3", "-n", "0", "-o", "json").json()["tokens"] == []


@test
def run_writes_the_text_and_nothing_else():
    args = ["-n", "16", *GREEDY]
    text = tiny("run", "-p", "the cat", *args)
    assert text.status == 0 and text.err == b""
    assert text.text == tiny("run", "-p", "the cat", *args, "-o", "json").json()["text"]
    assert text.out == tiny("run", "-", *args, stdin=b"the cat").out
    with tempfile.NamedTemporaryFile() as f:
        f.write(b"the cat")
        f.flush()
        assert text.out == tiny("run", "-f", f.name, *args).out
    prompt = tiny("tokenize", "-p", "the cat").json()
    assert text.out == tiny("run", "--tokens", ids(prompt), *args).out
    assert tiny("run", "-p", "the cat", *args, "-o", "json").json()["prompt_tokens"] == prompt


@test
def the_same_seed_gives_the_same_text_and_none_gives_another():
    def run(*args):
        return tiny("run", "-p", "the cat", "-n", "24", "--temp", "5", "--top-k", "0", "--top-p", "1", "--min-p", "0", "--ignore-eos",
                    "-o", "json", *args).json()["tokens"]
    assert run("--seed", "7") == run("--seed", "7", "-t", "1") == run("-s", "7", "-ub", "2") == run("-s", "7", "-b", "65536", "-ub", "16384")
    assert run("--seed", "7") != run("--seed", "8")
    assert len({tuple(run()) for _ in range(3)}) == 3
    r = tiny("run", "-p", "a", "-n", "1", "-v")
    assert re.search(r"^seed: \d+$", r.err.decode(), re.M)
    assert run("--seed", "18446744073709551615")


@test
def logit_bias_forces_and_forbids():
    args = ["run", "--tokens", "1,2,3", "-n", "3", "-o", "json", *GREEDY]
    assert tiny(*args, "--logit-bias", "77+1000").json()["tokens"] == [77, 77, 77]
    best = tiny(*args).json()["tokens"][0]
    assert best not in tiny(*args, "--logit-bias", f"{best}-inf").json()["tokens"]
    only = tiny("tokenize", "--no-bos", "-p", "q").json()
    assert len(only) == 1 and tiny("run", "-p", "a", "--grammar", 'root ::= "q"').text == "q"
    refuses(1, "--logit-bias forbids every token that may come next$", "run", "-m", TINY, "-p", "a", "--grammar", 'root ::= "q"', "--logit-bias", f"{only[0]}-inf")
    refuses(1, rf"--logit-bias: token {TINY_VOCAB} is outside the vocabulary of {TINY_VOCAB}", "run", "-m", TINY, "-p", "a", "--logit-bias",
            f"{TINY_VOCAB}+1")


@test
def an_end_token_stops_unless_it_is_ignored():
    args = ["run", "--tokens", "5,6", "-n", "3", "-o", "json", "--temp", "0", "--logit-bias", f"{TINY_EOS}+1000"]
    r = tiny(*args).json()
    assert (r["tokens"], r["text"], r["finish_reason"]) == ([], "", "stop")
    r = tiny(*args, "--ignore-eos").json()
    assert (r["tokens"], r["text"], r["finish_reason"]) == ([TINY_EOS] * 3, "", "length")


@test
def a_prompt_longer_than_the_context_is_refused_with_both_numbers():
    for tool in ("run", "logits"):
        refuses(1, r"\b9 tokens.*\b8\b", tool, "-m", TINY, "--tokens", "1,2,3,4,5,6,7,8,9", "-c", "8")
    refuses(1, r"prompt is empty", "run", "-m", SMOLLM2, "-f", "/dev/null") # SmolLM2 adds no BOS


@test
def a_full_context_is_said_and_what_is_there_is_printed():
    args = ["run", "-m", TINY, "--tokens", "1,2,3", "-c", "8", "-n", "-1", "-o", "json", *GREEDY]
    r = kvasir(*args)
    assert len(r.lines) == 1 and "context is full" in r.lines[0]
    assert r.json()["finish_reason"] == "length" and len(r.json()["tokens"]) == 6
    assert kvasir(*args, "-q").err == b""


@test
def ids_outside_the_vocabulary_are_refused():
    for tool in ("run", "logits", "detokenize"):
        refuses(1, rf"\b{TINY_VOCAB}\b", tool, "-m", TINY, "--tokens", f"1,{TINY_VOCAB}")


@test
def a_failed_write_is_one_line_and_exit_1():
    commands = [["run", "-p", "a", "-n", "3"], ["run", "-p", "a", "-n", "3", "-o", "json"], ["logits", "--tokens", "1"],
                ["logits", "--tokens", "1,2", "--at", "all", "-o", "json"], ["tokenize", "-p", "a"], ["detokenize", "5"], ["inspect"],
                ["inspect", "-o", "json"], ["run", "--dry-run"], ["run", "--help"], ["logits", "--version"]]
    for tool, *args in commands:
        with open("/dev/full", "wb") as full:
            r = kvasir(tool, "-m", TINY, *args, stdout=full)
        assert r.status == 1 and len(r.lines) == 1 and "standard output" in r.lines[0], (tool, args, r.status, r.err)
    for tool, *args in commands:
        read_end, write_end = os.pipe()
        os.close(read_end)
        r = kvasir(tool, "-m", TINY, *args, stdout=write_end)
        os.close(write_end)
        assert r.status == 1 and len(r.lines) == 1, (tool, args, r.status, r.err)


@test
def a_closed_stderr_spoils_no_file():
    with tempfile.TemporaryDirectory() as d:
        for out, closed in (("open", ()), ("closed", (2,)), ("all", (0, 1, 2))):
            command = [KVASIR, "quantize", "-v", TINY, f"{d}/{out}", "Q8_0"]
            assert subprocess.run(command, stderr=subprocess.DEVNULL if out == "open" else None, preexec_fn=lambda: [os.close(i) for i in closed]).returncode == 0
            assert open(f"{d}/{out}", "rb").read() == open(f"{d}/open", "rb").read(), out
        done = subprocess.run([KVASIR, "tokenize", "-m", TINY, "-p", "a"], stderr=subprocess.PIPE, preexec_fn=lambda: os.close(1))
        assert done.returncode == 1 and b"standard output: Bad file descriptor" in done.stderr, done.stderr


@test
def ctrl_c_gives_130_whatever_a_tool_is_doing():
    pipe = tempfile.mkdtemp() + "/pipe"  # that nobody opens to write
    os.mkfifo(pipe)
    ids = ",".join(str(100 + i % 900) for i in range(8000))
    waiting = [[tool, "-m", SMOLLM2, "-"] for tool in ("run", "perplexity", "tokenize", "detokenize")] + [["template", "-m", SMOLLM2, "--messages", "-"]]
    busy = [["logits", "-m", SMOLLM2, "--tokens", ids, "--at", "all", "--top", "1"], ["attention", "-q", "-m", SMOLLM2, "--ctx", "200000000"]]
    for args in waiting + busy + [["run", "-m", SMOLLM2, "-f", pipe]]:
        child = subprocess.Popen([KVASIR, *args], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        time.sleep(0.5)  # wherever it is by then
        child.send_signal(signal.SIGINT)
        status = child.wait(20)  # the rest of the logits takes minutes
        child.stdin.close()
        with child.stderr as err:
            assert (status, err.read()) == (130, b""), (args[0], status)
    shutil.rmtree(os.path.dirname(pipe))


@test
def ctrl_c_before_a_tool_reads_its_input_is_seen():
    for ms in range(4, 200, 4):
        child = subprocess.Popen([KVASIR, "run", "-m", SMOLLM2, "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(ms / 1000)  # it loads, or reads by then
        child.send_signal(signal.SIGINT)
        try:
            status = child.wait(10)
        finally:
            child.kill()
            child.stdin.close()
        assert status in (130, -signal.SIGINT), (ms, status)  # -SIGINT: before main


@test
def ctrl_c_that_ends_who_writes_into_the_pipe_too_gives_130():
    for tool, *args in (["run", "-"], ["perplexity", "-f", "-"], ["logits", "-"], ["imatrix", "-f", "-", "/no/such"]):
        child = subprocess.Popen([KVASIR, tool, "-m", TINY, *args], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        child.stdin.write(b"a")
        child.stdin.flush()
        time.sleep(0.5)  # it reads by then
        child.send_signal(signal.SIGSTOP)  # both come before it goes on: it reads an end, and has the signal
        child.send_signal(signal.SIGINT)
        child.stdin.close()
        child.send_signal(signal.SIGCONT)
        with child.stderr as err:
            assert (child.wait(20), err.read()) == (130, b""), (tool, child.returncode)


@test
def ctrl_c_stops_prints_what_is_there_and_gives_130():
    command = [KVASIR, "run", "-m", SMOLLM2, "-p", "Once upon a time", "-n", "-1", "--temp", "0", "--ignore-eos"]

    def interrupted(more, wait):
        process = subprocess.Popen(command + more, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        start = time.monotonic()
        out = wait(process) # until it writes
        seconds = time.monotonic() - start
        process.send_signal(signal.SIGINT)
        rest, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (130, b"")
        return (out or b"") + rest, seconds
    text, seconds = interrupted([], lambda process: process.stdout.read(1))
    for wait in (2 * seconds + 1, 10, 60):  # until it has a token: nothing tells so from outside
        r = json.loads(interrupted(["-o", "json"], lambda process: time.sleep(wait))[0])
        if r["timings"]["predicted_n"] > 0: break
    assert r["finish_reason"] == "interrupted" and len(r["tokens"]) == r["timings"]["predicted_n"] > 0
    assert r["text"].encode().startswith(text[:20]) and len(text) > 0


def on_terminal(*args, env={}, columns=100):
    """What it writes. We keep the other side open, too, and write an end behind it all: a side that closes may lose what is on its way."""
    fd, side = pty.openpty()
    termios.tcsetwinsize(side, (24, columns))
    p = subprocess.Popen([KVASIR, *args], stdin=side, stdout=side, stderr=side, env={**os.environ, "TERM": "xterm", **env})
    threading.Thread(target=lambda: (p.wait(), os.write(side, b"\0")), daemon=True).start()
    data = b""
    while not data.endswith(b"\0"):
        data += os.read(fd, 4096)
    os.close(fd)
    os.close(side)
    return data[:-1]


@test
def nothing_but_text_is_written_to_a_pipe_and_no_color_is_respected():
    for args in (["inspect", TINY], ["inspect", TINY, "--tensors"], ["run", "-m", TINY, "-p", "a", "-n", "4"]):
        assert b"\x1b" not in kvasir(*args).out + kvasir(*args).err

    def colours(env):
        return on_terminal("inspect", TINY, env=env)
    os.environ.pop("NO_COLOR", None)
    assert b"\x1b[" in colours({})
    assert b"\x1b" not in colours({"NO_COLOR": "1"})
    assert b"\x1b" not in colours({"TERM": "dumb"})


@test
def what_a_model_says_moves_no_cursor_of_a_terminal():
    token = tiny("tokenize", "--no-bos", "-p", "\x1b").json()[-1]
    said = ["run", "-m", TINY, "-p", "a", "-n", "3", "--temp", "0", "--logit-bias", f"{token}+1000"]
    assert kvasir(*said).out == b"\x1b\x1b\x1b" # a pipe gets every character
    assert on_terminal(*said) == b"\r\n"


@test
def help_keeps_its_words_whole_on_a_terminal_of_80_columns():
    for tool in tools():
        lines = on_terminal(tool, "--help", columns=80).decode().splitlines()
        assert len(lines) > 8 and max(map(len, lines)) <= 80, (tool, max(lines, key=len))
        wide = on_terminal(tool, "--help", columns=200).decode().split()
        assert wide == " ".join(lines).split(), tool


# ---- logits ----------------------------------------------------------------------------------------------

@test
def logits_are_those_of_transformers():
    for case in EXPECT["cases"]:
        r = tiny("logits", "--tokens", ids(case["prompt_ids"]), "-ctk", "f32", "-ctv", "f32", "-o", "json").json()
        assert r["n_vocab"] == len(case["logits_last"])
        assert [row["pos"] for row in r["rows"]] == [len(case["prompt_ids"]) - 1]
        worst = np.abs(np.array(r["rows"][0]["values"]) - np.array(case["logits_last"])).max()
        assert worst < 2e-3, worst


@test
def logits_at_lists_and_ranges_are_the_rows_of_all():
    prompt = list(range(3, 160))
    args = ["--tokens", ids(prompt), "-o", "json"]
    everything = tiny("logits", *args, "--at", "all").json()["rows"]
    assert [row["pos"] for row in everything] == list(range(157))
    for at, wanted in {"last": [156], "0,5,7-9": [0, 5, 7, 8, 9], "155-156,0": [0, 155, 156], "63-65": [63, 64, 65], "100": [100]}.items():
        rows = tiny("logits", *args, "--at", at).json()["rows"]
        assert rows == [everything[p] for p in wanted], at
    refuses(1, r"--at: position 157.*157 tokens", "logits", "-m", TINY, *args, "--at", "3,157")


@test
def top_is_the_log_softmax_of_the_raw_values():
    values = tiny("logits", "--tokens", "9,8,7", "-o", "json").json()["rows"][0]["values"]
    wanted = log_softmax(values)
    for n in (1, 5, TINY_VOCAB, 100000):
        top = tiny("logits", "--tokens", "9,8,7", "-o", "json", "--top", n).json()["rows"][0]["top"]
        assert len(top) == min(n, len(values))
        order = sorted(range(len(values)), key=lambda i: (-values[i], i))[:n]
        assert [t for t, _ in top] == order
        for token, value in top:
            close(value, wanted[token], 1e-6)
    text = tiny("logits", "--tokens", "9,8,7").text
    assert text.splitlines()[0] == "position 2" and len(text.splitlines()) == 11
    assert int(text.splitlines()[1].split()[0]) == int(np.argmax(values))


# ---- tokenize, detokenize --------------------------------------------------------------------------------

@test
def tokenize_and_detokenize_are_inverse_in_every_form():
    for case in EXPECT["cases"]:
        assert tiny("tokenize", "-p", case["prompt_text"], "--no-bos").json() == case["prompt_ids"]
    for text in ("hello world", "", " a  b ", "line\n", "naïve café ✓ 日本語"):
        r = tiny("tokenize", "-p", text)
        tokens = r.json()
        assert r.text == "[" + ids(tokens) + "]\n"
        assert tiny("tokenize", "-", stdin=text.encode()).out == r.out
        for args, stdin in ((["-p", r.text], b""), (["-"], r.out), ([r.text.strip()], b""), (["-p", " ".join(map(str, tokens))], b"")):
            back = tiny("detokenize", *args, stdin=stdin)
            assert (back.status, back.text) == (0, text), (text, args, back.out, back.err)
    for bad in ("[1,2", "1,2]", "[1,]", "x", "1 x", "[[1]]", "-1", "1.5", "[1][2]", "99999999999", ",", "[", "]"):
        refuses(1, r"list of token ids", "detokenize", "-m", TINY, "-p", bad)


@test
def tokenize_of_the_real_model_is_llama_cpps():
    golden = json.load(open("tests/golden/real/smollm2.json"))["tokenize"]
    for case in [c for c in golden if "\0" not in c["text"]][:12]:
        args = ["-m", SMOLLM2, "-p", case["text"]]
        assert kvasir("tokenize", *args, "--no-bos", "--no-special").json() == case["ids"], case["text"]
        assert kvasir("tokenize", *args).json() == case["ids_special"], case["text"]
        if case["ids"]:
            assert kvasir("detokenize", "-m", SMOLLM2, "--tokens", ids(case["ids"]), "--no-bos").text == case["back"]


# ---- template --------------------------------------------------------------------------------------------

@test
def template_renders_files_and_passes_on_what_it_raises():
    with tempfile.TemporaryDirectory() as d:
        def file(name, text):
            open(os.path.join(d, name), "w").write(text)
            return os.path.join(d, name)
        messages = file("m.json", json.dumps([{"role": "user", "content": "hi é"}, {"role": "assistant", "content": "yo\n"}]))
        template = file("t.jinja", "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}"
                        "{% if add_generation_prompt %}>{% endif %}{{ extra }}{{ tools | length if tools else '' }}")
        args = ["template", "--template", template, "--messages", messages]
        assert kvasir(*args).text == "[user]hi é[assistant]yo\n>"
        assert kvasir(*args, "--bos", "<s>", "--eos", "</s>", "--no-generation-prompt").text == "<s>[user]hi é</s>[assistant]yo\n</s>"
        assert kvasir(*args, "--chat-template-kwargs", '{"extra":"!"}').text.endswith(">!")
        assert kvasir(*args, "--tools", file("tools.json", '[{"type":"function","function":{"name":"f"}}]')).text.endswith(">1")
        assert kvasir("template", "--template", template, "--messages", "-", stdin=open(messages, "rb").read()).text.startswith("[user]")
        raising = file("r.jinja", "{{ raise_exception('Conversation roles must alternate') }}")
        refuses(1, r"Conversation roles must alternate", "template", "--template", raising, "--messages", messages)
        with open(TINY, "rb") as whole, open(f"{d}/none.gguf", "wb") as none:
            none.write(whole.read().replace(b"tokenizer.chat_template", b"tokenizer.chat_templatx"))
        refuses(1, r"no chat template; --template FILE", "template", "-m", f"{d}/none.gguf", "--messages", messages)  # an option that it has
        refuses(1, r".", "template", "--template", template, "--messages", file("bad.json", "[{]"))
        refuses(1, r".", "template", "--template", template, "--messages", file("object.json", "3"))
        refuses(1, r"cannot open", "template", "--template", template, "--messages", d + "/none")
        refuses(1, r"folder", "template", "--template", d, "--messages", messages)
        refuses(1, r"NUL", "template", "--template", file("nul.jinja", "a\0b"), "--messages", messages)
        refuses(1, r".", "template", "--template", template, "--messages", messages, "--chat-template-kwargs", "nonsense")
        refuses(1, r"bos_token is not UTF-8", "template", "--template", template, "--messages", messages, "--bos", "caf\udce9")


@test
def template_of_the_real_model_ends_with_the_turn_of_the_assistant():
    r = kvasir("template", "-m", SMOLLM2, "--messages", "-", stdin=b'[{"role":"user","content":"Hi"}]')
    assert r.status == 0 and r.text.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"), r.out


# ---- inspect, dry run --------------------------------------------------------------------------------------

@test
def inspect_describes_as_text_and_as_json():
    r = kvasir("inspect", TINY, "-o", "json")
    description = r.json()
    assert "llama" in r.text and isinstance(description, dict)
    assert kvasir("inspect", "-m", TINY, "-o", "json").out == r.out
    assert len(kvasir("inspect", TINY, "-o", "json", "--tensors").out) > len(r.out)
    text = kvasir("inspect", TINY, "--tensors").text
    assert "llama" in text and "token_embd.weight" in text
    assert "token_embd.weight" not in kvasir("inspect", TINY).text


@test
def inspect_says_a_long_specification_whole():
    n = kvasir("inspect", TINY, "-o", "json").json()["n_layers"]
    path = "/" + "/".join(["a-folder-of-blocks"] * 40) + "-\N{CYRILLIC SMALL LETTER ZHE}.csr"
    with tempfile.TemporaryDirectory() as d:
        os.makedirs(os.path.dirname(d + path))
        with open(d + path, "w") as f:
            f.write("1 1\n0 1\n0\n")
        spec = ["--attention", f"*=blocks(64, file={d + path})"]
        lines = kvasir("inspect", TINY, *spec).text.split("\n")
        assert sum(d + path in line for line in lines) == n + 1, lines  # all layers together, and each in its row


@test
def dry_run_says_what_it_would_take_without_reading_weights():
    size = os.path.getsize(SMOLLM2)
    for tool in (["run"], ["logits"], ["perplexity"], ["run", "-c", "8192"]):
        start = time.monotonic()
        r = kvasir(*tool, "-m", SMOLLM2, "--dry-run", "-o", "json").json()
        assert time.monotonic() - start < 5
        assert r["total_bytes"] == r["weight_bytes"] + r["kv_bytes"] + r["compute_bytes"] and 0.5 * size < r["weight_bytes"] < 3 * size
        assert r["fits"] == (r["total_bytes"] <= r["available_bytes"])
    small, large = (kvasir("run", "-m", SMOLLM2, "--dry-run", "-o", "json", "-c", c).json()["kv_bytes"] for c in (1024, 4096))
    assert large == 4 * small > 0
    four = re.search(r"KV cache, 4 contexts +(.*)", kvasir("serve", "-m", SMOLLM2, "--dry-run", "-np", "4", "-c", "1024").text)
    assert four and re.search("full context +" + re.escape(four[1]), kvasir("run", "-m", SMOLLM2, "--dry-run", "-c", "4096").text), four
    text = kvasir("bench", "-m", SMOLLM2, "--dry-run").text
    assert re.search(r"^total +[\d.]+ [kMG]B$", text, re.M) and re.search(r"^fits +(yes|no)$", text, re.M)


# ---- perplexity ---------------------------------------------------------------------------------------------

TEXT = ("the quick brown fox jumps over the lazy dog and runs away into the dark wood where nobody will find it again. " * 12).encode()


def chunk_logits(context, more=()):
    """Raw logits and the tokens that follow, at every scored position, computed chunk by chunk from `logits`."""
    tokens = tiny("tokenize", "-p", TEXT.decode(), "--no-special").json()
    bos = tokens[0] if tokens[0] != tiny("tokenize", "-p", TEXT.decode(), "--no-special", "--no-bos").json()[0] else None
    rows, nexts, n_chunks = [], [], len(tokens) // context
    for i in range(n_chunks):
        chunk = tokens[i * context:(i + 1) * context]
        if bos is not None:
            chunk[0] = bos
        r = tiny("logits", "--tokens", ids(chunk), "--at", f"{context // 2}-{context - 2}", "-o", "json", *more).json()
        rows += [row["values"] for row in r["rows"]]
        nexts += chunk[context // 2 + 1:]
    return np.array(rows), nexts, n_chunks, len(tokens)


@test
def perplexity_is_the_exponential_of_the_mean_over_second_halves():
    rows, nexts, n_chunks, n_tokens = chunk_logits(64)
    nll = np.array([-log_softmax(row)[n] for row, n in zip(rows, nexts)])
    r = tiny("perplexity", "-p", TEXT.decode(), "-c", "64", "-o", "json").json()
    assert (r["n_chunks"], r["n_tokens"], n_chunks > 2) == (n_chunks, n_tokens, True)
    close(r["ppl"], math.exp(nll.mean()), 1e-5 * r["ppl"])
    close(r["stderr"], math.exp(nll.mean()) * nll.std() / math.sqrt(len(nll) - 1), 1e-4 * r["stderr"])
    assert tiny("perplexity", "-p", TEXT.decode(), "-c", "64", "-o", "json", "-t", "1").json() == r
    text = tiny("perplexity", "-", "-c", "64", stdin=TEXT).text
    close(float(re.search(r"^perplexity +([\d.]+) \+/- ", text, re.M)[1]), r["ppl"], 1e-3)
    # With --chunks the text is what they hold: no result is about tokens that nobody read.
    first = ["perplexity", "-p", TEXT.decode(), "-c", "64", "--chunks", "2"]
    r = tiny(*first, "-o", "json").json()
    assert (r["n_chunks"], r["n_tokens"], r["n_scored"]) == (2, 2 * 64, 2 * 31) and "128 tokens, 2 chunks of 64" in tiny(*first).text, r
    refuses(1, rf"{n_tokens} tokens.*chunk of 1024", "perplexity", "-m", TINY, "-p", TEXT.decode(), "-c", "1024")


@test
def kl_divergence_is_that_of_the_two_distributions():
    def dequantized(kind):
        return chunk_logits(64, ["-ctk", kind, "-ctv", kind])[0]
    base, tested = (np.array([log_softmax(row) for row in dequantized(kind)]) for kind in ("f32", "bf16"))
    kl = (np.exp(base) * (base - tested)).sum(1)
    same = 100 * np.mean(base.argmax(1) == tested.argmax(1))
    with tempfile.TemporaryDirectory() as d:
        path = os.path.join(d, "base.kl")
        args = ["-p", TEXT.decode(), "-c", "64", "--kl-base", path, "-o", "json"]
        wrote = tiny("perplexity", *args, "-ctk", "f32", "-ctv", "f32").json()
        assert "kl_mean" not in wrote and os.listdir(d) == ["base.kl"]
        assert os.path.getsize(path) == 32 + 4 * 64 * wrote["n_chunks"] + len(kl) * (8 + 2 * base.shape[1])
        itself = tiny("perplexity", *args, "-ctk", "f32", "-ctv", "f32").json()
        assert itself["ppl"] == wrote["ppl"] and abs(itself["kl_mean"]) < 1e-7 and itself["same_top"] == 100
        r = tiny("perplexity", *args, "-ctk", "bf16", "-ctv", "bf16").json()
        assert kl.mean() > 1e-7
        close(r["kl_mean"], kl.mean(), 0.02 * kl.mean() + 1e-7) # 16 bits per log-probability
        close(r["kl_stderr"], kl.std() / math.sqrt(len(kl) - 1), 0.05 * r["kl_stderr"] + 1e-7)
        close(r["same_top"], same, 100 / len(kl) + 1e-9)
        close(r["base_ppl"], wrote["ppl"], 1e-4 * wrote["ppl"])


@test
def kl_vs_runs_both_arithmetics_in_lockstep():
    native, blas = (np.array([log_softmax(row) for row in chunk_logits(64, ["--gemm", g])[0]]) for g in ("native", "blas"))
    wanted = (np.exp(blas) * (blas - native)).sum(1).mean()
    r = tiny("perplexity", "-p", TEXT.decode(), "-c", "64", "--kl-vs", "blas", "-o", "json").json()
    close(r["kl_mean"], wanted, 1e-7 + 0.01 * abs(wanted))
    close(r["base_ppl"], tiny("perplexity", "-p", TEXT.decode(), "-c", "64", "--gemm", "blas", "-o", "json").json()["ppl"], 1e-4 * r["ppl"])


@test
def a_killed_perplexity_leaves_nothing_of_its_base():
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGKILL):
        with tempfile.TemporaryDirectory(dir="/dev/shm") as d: # which has files without a name, whatever /tmp is
            with open(d + "/text", "wb") as f:
                f.write(TEXT * 100)
            p = subprocess.Popen([KVASIR, "perplexity", "-m", TINY, "-f", d + "/text", "-c", "64", "--kl-base", d + "/base.kl"],
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            end = time.monotonic() + 60
            # It writes: another file of that folder is open, whether it has a name or not.
            while not any(at.startswith(d + "/") and at != d + "/text" for at in open_files(p.pid)):
                assert p.poll() is None and time.monotonic() < end, p.poll()
            p.send_signal(number)
            assert p.wait(60) == -number and os.listdir(d) == ["text"], (p.returncode, os.listdir(d))


def open_files(pid):
    """The paths of a process's descriptors; one may close while they are read."""
    folder, paths = f"/proc/{pid}/fd", []
    for number in os.listdir(folder) if os.path.exists(folder) else []:
        try:
            paths.append(os.readlink(os.path.join(folder, number)))
        except FileNotFoundError:
            pass
    return paths


@test
def a_damaged_base_is_refused_and_stays_as_it_is():
    with tempfile.TemporaryDirectory() as d:
        path = os.path.join(d, "base.kl")
        args = ["perplexity", "-m", TINY, "-p", TEXT.decode(), "-c", "64", "--kl-base", path]
        assert kvasir(*args).status == 0
        whole = open(path, "rb").read()
        first_row = 32 + 4 * 64 * ((len(tiny("tokenize", "-p", TEXT.decode(), "--no-special").json())) // 64)
        nan = np.float32("nan").tobytes()
        damaged = {"": b"", "header": whole[:20], "cut": whole[:-1], "longer": whole + b"x", "magic": b"X" + whole[1:],
                   "version": whole[:8] + b"\2" + whole[9:], "vocabulary": whole[:12] + b"\xff\xff\xff\xff" + whole[16:],
                   "chunks": whole[:20] + b"\xff\xff\xff\x7f" + whole[24:], "tokens": whole[:40] + b"\xff\xff\xff\xff" + whole[44:],
                   "nan": whole[:first_row] + nan + whole[first_row + 4:], "scale": whole[:first_row + 4] + nan + whole[first_row + 8:],
                   "unlikely": whole[:first_row] + np.array([-1e5, 1e-4], np.float32).tobytes() + whole[first_row + 8:]}
        for name, data in damaged.items():
            open(path, "wb").write(data)
            refuses(1, r"base\.kl", *args)
            assert open(path, "rb").read() == data and os.listdir(d) == ["base.kl"], name
        open(path, "wb").write(whole)
        refuses(1, r"context", "perplexity", "-m", TINY, "-p", TEXT.decode(), "-c", "32", "--kl-base", path)
        refuses(1, r"cannot create", "perplexity", "-m", TINY, "-p", TEXT.decode(), "-c", "64", "--kl-base", d + "/no/such")


# ---- damaged weights ----------------------------------------------------------------------------------------

def damaged(folder, tensor, value, *index):
    """The tiny model with another float32 in one place of a tensor."""
    out = os.path.join(folder, "damaged.gguf")
    shutil.copy(TINY, out)
    found = next(t for t in GGUFReader(out, "r+").tensors if t.name == tensor)
    assert found.data.dtype == np.float32
    found.data[index] = value
    found.data.flush()
    return out


@test
def a_file_over_its_limit_is_a_write_error():
    with tempfile.TemporaryDirectory() as folder:
        r = subprocess.run(["sh", "-c", 'ulimit -f 100; exec "$0" synth -q "$1"', KVASIR, folder + "/out.gguf"], capture_output=True, text=True)
        assert r.returncode == 1 and r.stderr.count("\n") == 1 and "File too large" in r.stderr and os.listdir(folder) == [], r


@test
def a_full_disk_is_told_as_such_by_tools_that_write_row_by_row():
    for args in (["bench", "-p", "8", "-n", "2", "-r", "1", "-q"], ["batched-bench", "-npp", "8", "-ntg", "2", "-npl", "1,2"],
                 ["batched-bench", "-npp", "8", "-ntg", "2", "-npl", "1,2", "-o", "jsonl"],
                 ["perplexity", "-q", "-f", "LICENSE", "-c", "32", "--attention", "*=full", "--attention", "*=window(8)"]):
        with open("/dev/full", "wb") as full:
            r = tiny(*args, stdout=full)
        assert r.status == 1 and len(r.lines) == 1 and r.lines[0].endswith("cannot write to standard output: No space left on device"), (args, r.lines)


@test
def a_full_disk_is_told_as_such_however_much_is_written_at_once():
    with tempfile.TemporaryDirectory() as d:
        ids, talk = os.path.join(d, "ids"), os.path.join(d, "talk")
        with open(ids, "w") as f:
            json.dump([TINY_VOCAB - 1] * 20000, f)
        with open(talk, "w") as f:
            json.dump([{"role": "user", "content": "x" * 20000}], f)
        for args in (["detokenize", "-f", ids], ["detokenize", "-f", ids, "-o", "json"], ["attention", "-q", "-c", "8,16,32,64,128", "-o", "json"],
                     ["template", "--messages", talk], ["inspect", "--tensors", "-o", "json"]):
            with open("/dev/full", "wb") as full:
                r = tiny(*args, stdout=full)
            assert r.status == 1 and len(r.lines) == 1 and r.lines[0].endswith("cannot write to standard output: No space left on device"), (args, r.lines)


@test
def logits_that_are_not_finite_are_one_line_and_nothing_else():
    with tempfile.TemporaryDirectory() as d:
        base = os.path.join(d, "base.kl")
        for tensor, value, index in (("output_norm.weight", math.nan, (5,)), ("output_norm.weight", math.inf, (5,)), ("output.weight", math.nan, (7, 5)),
                                     ("blk.0.ffn_down.weight", math.nan, (0, 0))):
            model = damaged(d, tensor, value, *index)
            for form in ("text", "json"):
                for tool in (["logits"], ["logits", "--at", "all"], ["logits", "--top", "3"], ["run", "-n", "4"], ["run", "-n", "0"], ["run", "-n", "4", "-j", "{}"]):
                    refuses(1, r"position \d+ are not finite.*damaged", *tool, "-m", model, "--tokens", "9,8,7", "-o", form)
                for more in ([], ["--kl-base", base], ["--kl-vs", "native"], ["--attention", "*=window(8)"]):
                    refuses(1, r"not finite.*damaged", "perplexity", "-m", model, "-p", TEXT.decode(), "-c", "64", "-o", form, "-q", *more)
            if tensor != "output.weight":  # that has sound inputs
                refuses(1, r"not finite", "imatrix", "-q", "-m", model, "-f", "LICENSE", "-c", "64", "--chunks", "1", os.path.join(d, "out.gguf"))
            assert os.listdir(d) == ["damaged.gguf"], (tensor, value)


@test
def a_perplexity_beyond_all_numbers_is_null_in_json():
    with tempfile.TemporaryDirectory() as d:
        args = ["perplexity", "-q", "-m", damaged(d, "output_norm.weight", 1e9, slice(None)), "-p", TEXT.decode(), "-c", "64"]
        r = kvasir(*args, "-o", "json", "--kl-vs", "native").json()
        assert r["ppl"] is r["base_ppl"] is None and r["n_scored"] > 0 and math.isfinite(r["kl_mean"]), r
        assert "inf" in kvasir(*args).text


@test
def logits_that_become_infinite_stop_a_run():
    """A prompt that is sound, and tokens after it that are not: an embedding that is no number, a weight that makes one logit -inf, then inf."""
    prompt = ["--tokens", "9,8,7", "--temp", "0", "-n", "24", "--ignore-eos"]
    first = tiny("run", *prompt, "-o", "json").json()["tokens"][0]
    assert first not in (9, 8, 7)
    with tempfile.TemporaryDirectory() as d:
        refuses(1, r"position 3 are not finite", "run", "-m", damaged(d, "token_embd.weight", math.nan, first, 0), *prompt, "-o", "json")
        n_found = 0
        for i in range(16):
            model = damaged(d, "output.weight", math.inf, 7, i)
            row = kvasir("logits", "-m", model, "--tokens", "9,8,7", "-o", "json")
            if row.status != 0:
                continue
            assert row.json()["rows"][0]["values"][7] is None  # -inf: a token that does not come, and no damage to tell
            after = kvasir("run", "-m", model, *prompt, "-o", "json")
            if after.status == 1:
                assert re.search(r"position \d+ are not finite", after.lines[0]) and after.out == b""
                n_found += 1
            else:
                assert 7 not in after.json()["tokens"]
        assert n_found > 0


# ---- bench --------------------------------------------------------------------------------------------------

BENCH_KEYS = """build_commit cpu_info model_filename model_type model_size model_n_params n_batch n_ubatch n_threads type_k type_v n_prompt n_gen
    n_depth test_time avg_ns stddev_ns avg_ts stddev_ts samples_ns samples_ts limit_pct load_ms ttft_ms peak_rss_bytes""".split()


@test
def bench_measures_every_combination_in_every_format():
    args = ["-p", "16,8", "-n", "4", "-d", "0,32", "-pg", "8,4", "-r", "2"]
    wanted = [(p, n, d) for d in (0, 32) for p, n in ((16, 0), (8, 0), (0, 4), (8, 4))]
    rows = tiny("bench", *args, "-o", "json").json()
    assert [(r["n_prompt"], r["n_gen"], r["n_depth"]) for r in rows] == wanted
    for r in rows:
        assert not set(BENCH_KEYS) - set(r), set(BENCH_KEYS) - set(r)
        assert len(r["samples_ns"]) == len(r["samples_ts"]) == 2 and min(r["samples_ns"]) > 0
        close(r["avg_ns"], np.mean(r["samples_ns"]), 1)
        n = r["n_prompt"] + r["n_gen"]
        close(r["avg_ts"], np.mean([n * 1e9 / ns for ns in r["samples_ns"]]), 1e-3 * r["avg_ts"])
        close(r["median_ts"], n * 1e9 / np.median(r["samples_ns"]), 1e-2 * r["median_ts"])
        assert r["limit_pct"] > 0 and r["ttft_ms"] >= 0 and r["limit_read_gb_s"] > 0.1
        bound = r["n_gen"] * 1e-9 * r["kv_bytes"] / r["limit_read_gb_s"] # reading the cache alone
        assert r["limit_pct"] >= 100 * bound / (r["avg_ns"] / 1e9) * 0.99
    lines = tiny("bench", *args, "-o", "jsonl").text.splitlines()
    assert [list(json.loads(line)) for line in lines] == [list(r) for r in rows]
    import csv, io
    table = list(csv.DictReader(io.StringIO(tiny("bench", *args, "-o", "csv").text)))
    assert [(int(r["n_prompt"]), int(r["n_gen"]), int(r["n_depth"])) for r in table] == wanted
    md = tiny("bench", *args).text.splitlines()
    assert [line.split("|")[4].strip() for line in md[2:10]] == ["pp16", "pp8", "tg4", "pp8+tg4", "pp16 @ d32", "pp8 @ d32", "tg4 @ d32", "pp8+tg4 @ d32"]
    refuses(1, r"need \d+ tokens of context, -c gives 16", "bench", "-m", TINY, "-p", "32", "-n", "0", "-c", "16")


@test
def a_context_beyond_the_training_is_said_once():
    # The fixture's config.json has 1024 positions.
    beyond = "warning: -c 1025 is more than the 1024 tokens that the model was trained for"
    run = ["run", "--tokens", "1,2", "-n", "1"]
    assert tiny(*run, "-c", "1024").lines == tiny(*run).lines == []
    assert tiny(*run, "-c", "1025").lines == tiny("logits", "--tokens", "1,2", "-c", "1025").lines == [beyond]
    assert tiny(*run, "-c", "1025", "-q").lines == []
    # A window never looks back that far.
    assert tiny(*run, "-c", "1025", "--attention", "*=window(64)").lines == []
    assert tiny(*run, "-c", "1025", "--attention", "0=window(64)").lines == [beyond]
    assert beyond in tiny("chat", "-n", "1", "-c", "1025").lines and beyond not in tiny("chat", "-n", "1", "-c", "1025", "-q").lines
    with tempfile.TemporaryDirectory() as d:
        p = subprocess.Popen([KVASIR, "serve", "-m", TINY, "-c", "1025", "--listen", "unix:" + d + "/s"], stderr=subprocess.PIPE, text=True)
        said = p.stderr.readline(), p.stderr.readline()
        p.terminate()
        p.communicate(timeout=20)
        assert said[0] == beyond + "\n" and said[1].startswith("serving "), said


@test
def a_context_too_large_names_the_option():
    if os.environ.get("SANITIZE"):
        return # a sanitizer's own memory is beyond any limit
    with tempfile.TemporaryDirectory() as d:
        for tool in (["run", "-p", "a"], ["chat"], ["logits", "--tokens", "1"], ["perplexity", "-p", "a"], ["batched-bench", "-npl", "1"],
                     ["serve", "--listen", f"unix:{d}/s"]):
            refuses(1, r"out of memory.*bytes of .*-c \(--ctx-size\): --dry-run", f"--as={16 << 30}", KVASIR, *tool, "-m", TINY, "-c", "2147483647", binary="prlimit")


# ---- attention, kernels, budget -------------------------------------------------------------------------------

@test
def common_options_reach_the_library():
    base = tiny("logits", "--tokens", "1,2,3,4", "-o", "json").out
    assert tiny("logits", "--tokens", "1,2,3,4", "-o", "json", "--kernels", "scalar", "-t", "1", "-ub", "1").out == base
    refuses(2, r"--attention, column 3: 'nonsense' is not a pattern", "run", "-m", TINY, "-p", "a", "--attention", "0=nonsense")
    refuses(2, r"--attention: cannot open", "run", "-m", TINY, "-p", "a", "--attention", "@/no/such/file")


if __name__ == "__main__":
    run_tests(TESTS, [(KVASIR, "make"), (SMOLLM2, "./kvasir get smollm2")])
