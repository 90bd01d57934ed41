#!/usr/bin/env python3
"""--attention as users meet it: wrong specifications are one line with the column, exit 2, and nothing is loaded; right ones are printed
back in canonical form, from the option, a file and the checkpoint's own key alike.

    KVASIR=./kvasir python3 tests/test_attention_cli.py [word in the test's name]
"""
import csv, io, json, os, re, struct, subprocess, sys, tempfile

from support.runner import run_tests

KVASIR = os.path.abspath(os.environ.get("KVASIR", "./kvasir"))
TINY = os.path.abspath("tests/golden/fixtures/llama/model.gguf")
N_LAYERS, N_KV_HEADS = 4, 2
TESTS = []
LOADERS = [("run", "-p", "a", "-n", "1"), ("perplexity", "-f", "README.md"), ("bench", "-p", "4", "-n", "0"), ("logits", "--tokens", "1"),
           ("inspect",), ("batched-bench", "-npp", "4", "-ntg", "1", "-npl", "1"), ("attention",), ("chat",), ("serve", "--listen", "127.0.0.1:0"),
           ("imatrix", "-f", "README.md", "/no/such/folder/im.gguf"), ("run", "--dry-run")]
WRONG = [  # specification, column, what the line says
    ("0=windo(3)", 3, "'windo' is not a pattern; did you mean window"),
    ("0=Full", 3, "is not a pattern"),
    ("0=full|topkk(3)", 8, "did you mean topk"),
    ("0=linear(elo)", 10, "did you mean elu"),
    ("0=topk(3)", 3, "stage"),
    (f"{N_LAYERS}=full", 1, f"layer {N_LAYERS} is not in the model"),
    (f"0-{N_LAYERS}=full", 3, "not in the model"),
    ("99999999999999999999=full", 1, "not in the model"),
    ("2-1=full", 1, "backwards"),
    ("0-3/0=full", 5, "step"),
    ("*=window(0)", 10, "at least 1"),
    ("*=window(99999999999999999999)", 10, "expected width from 1 to 2147483647, not 99999999999999999999"),
    ("*=window(2147483648)", 10, "from 1 to 2147483647"),
    ("*=linear(elu, features=3)", 15, "expected ')': it is linear(elu)"),
    ("*=full|threshold(1.0000000000001)", 18, "from 0 to 1"),
    ("*=window(-1)", 10, "whole number"),
    ("*=window", 9, "expected '('"),
    ("*=window()", 10, "width"),
    ("*=window(12", 12, "expected ')'"),
    ("*=window(12, 3)", 14, "expected ')'"),
    ("*=window(width=3, width=4)", 19, "twice"),
    ("*=window(size=3)", 10, "argument"),
    ("*=dilated(4)", 12, "rate"),
    ("*=bigbird(block=0)", 17, "at least 1"),
    ("*=bigbird(window=1, 3)", 21, "key=value"),
    ("*=global()", 3, "leading tokens"),
    ("*=global(2, set=3)", 3, "two patterns"),
    ("*=global(set=5-3)", 14, "backwards"),
    ("*=random(2, seed=18446744073709551616)", 18, "2^64"),
    ("*=blocks(16, file=/no/such/file.csr)", 19, "/no/such/file.csr"),
    ("*=blocks(16)", 12, "file"),
    ("*=full|topk(0)", 13, "at least 1"),
    ("*=full|threshold(1.5)", 18, "from 0 to 1"),
    ("*=full|threshold(nan)", 18, "number"),
    ("*=full|pages(0)", 14, "at least 1"),
    ("*=full|kv_heads(3)", 8, f"does not divide the {N_KV_HEADS} KV heads"),
    ("*=full|kv_heads(1)|kv_heads(1)", 20, "twice"),
    ("*=linear(elu)|topk(2)", 15, "linear"),
    ("*=linear(rfa, features=0)", 24, "1 to"),
    ("*=full+linear(elu)", 8, "stands alone"),
    ("*=by_length(64:full)", 20, "'*'"),
    ("*=by_length(64:full, 64:full, *:full)", 22, "from 65"),
    ("*=by_length(*:linear(elu))", 15, "patterns"),
    ("*=by_length(*:full|kv_heads(1))", 20, "whole layer"),
    ("*=" + "+".join(["full"] * 9), 43, "at most 8"),
    ("*=Window(256)", 3, "did you mean window"),
    ("*=window(2.5)", 10, "expected a whole number as width: it is window(width)"),
    ("*=window(1e3)", 10, "whole number"),
    ("*=bigbird(block=12x)", 17, "whole number"),
    ("*=linear()", 10, "elu, relu, exp, performer, rfa"),
    ("*=linear", 9, "linear(elu)"),
    ("*=full|", 8, "expected a stage: topk, threshold, pages, kv_heads"),
    ("*=full|kv_heads(0)", 17, "at least 1"),
    ("*=full|kv_heads(4)", 8, f"does not divide the {N_KV_HEADS} KV heads"),
    ("*=blocks(b.csr)", 10, "blocks(block, file=...)"),
    ("*=blocks(16, file=/)", 19, "not a regular file"),
    ("*=by_length(full)", 13, "by_length(512:full, *:window(256))"),
    ("full", 1, "expected layers"),
    ("*", 2, "expected '='"),
    ("*=", 3, "expected a pattern"),
    ("*=full full", 8, "expected ';'"),
    ("", 1, "expected a rule"),
    (" ; # nothing", 13, "expected a rule"),
    ("*=full;0=" + "(" * 50000, 10, "expected a pattern"),
]
RIGHT = [  # as written, as printed
    ("*=full", "0-3=full"),
    (" 0 , 2 = window( 256 ) ; 1=full;", "0,2=window(256); 1,3=full"),
    ("*=bigbird", "0-3=bigbird(block=64, window=3, global=2, random=3, seed=0)"),
    ("*=random(2, seed=18446744073709551615)", "0-3=random(2, block=64, seed=18446744073709551615)"),
    ("1-=window(3)+global(tokens=4)|topk(9)", "0=full; 1-3=window(3)+global(4)|topk(9)"),
    ("0-3/3=longformer(64,2,1)", "0,3=longformer(64, 2, 1); 1-2=full"),
    ("*=full|threshold(1e-2)|kv_heads(1)", "0-3=full|kv_heads(1)|threshold(0.01)"),
    ("*=full|threshold(0.3333333333333333)", "0-3=full|threshold(0.333333333)"),  # as Python writes 1/3
    ("*=full|threshold(0.30000000000000004)", "0-3=full|threshold(0.3)"),
    ("*=full|threshold(6.66666666666666666666666e-1)", "0-3=full|threshold(0.666666667)"),
    ("*=full|threshold(9e-12)", "0-3=full|threshold(0)"),
    ("*=full|threshold(0.99999999999)", "0-3=full|threshold(1)"),
    ("*=global(set=7.0-2.3)", "0-3=global(set=0-3.7)"),
    ("*=by_length(64:full|topk(3),*:strided(2))|pages(2)", "0-3=by_length(64:full|topk(3), *:strided(2))|pages(2)"),
    ("*=blocks(16, file=tests/golden/attention/blocks.csr)", "0-3=blocks(16, file=tests/golden/attention/blocks.csr)"),
]


def test(function):
    TESTS.append(function)
    return function


def kvasir(*args):
    return subprocess.run([KVASIR, *map(str, args)], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)


def refused(column, pattern, *args, where="--attention, ", status=2):
    r = kvasir(*args)
    lines = r.stderr.splitlines()
    assert r.returncode == status and len(lines) == 1 and r.stdout == "", (args, r.returncode, r.stdout[:200], r.stderr)
    assert lines[0].startswith(f"kvasir {args[0]}: {where}"), lines[0]  # wrong usage names the option
    assert f"column {column}:" in lines[0] and pattern in lines[0], (args, column, pattern, lines[0])


def in_force(*args):
    r = kvasir("inspect", *args, "-o", "json")
    assert r.returncode == 0, r.stderr
    return json.loads(r.stdout)


@test
def a_wrong_specification_is_one_line_with_its_column_and_exit_2():
    for spec, column, pattern in WRONG:
        refused(column, pattern, "run", "-m", TINY, "-p", "a", "-n", "1", "--attention", spec)


@test
def every_tool_that_loads_a_model_refuses_it_alike():
    for tool, *args in LOADERS:
        refused(10, "at least 1", tool, "-m", TINY, *args, "--attention", "*=window(0)")
        for path, why in (("/no/such/spec", "No such file"), ("", "expected a file"), ("/", "folder")):
            r = kvasir(tool, "-m", TINY, *args, "--attention", "@" + path)
            assert r.returncode == 2 and r.stdout == "" and r.stderr.count("\n") == 1 and "--attention" in r.stderr and why in r.stderr, r
    for tool in ("bench", "perplexity"):  # before the first of several is measured
        refused(3, "windo", tool, "-m", TINY, *(("-f", "README.md") if tool == "perplexity" else ()), "--attention", "*=full", "--attention", "*=windo(3)")


@test
def nothing_is_loaded_before_it_is_refused():
    """The weights are never looked at: 100 MB of them leave no trace in the memory that a refusal took."""
    with tempfile.TemporaryDirectory() as d:
        path = os.path.join(d, "m.gguf")
        assert kvasir("synth", "-q", "--type", "F16", "--set", "n_layers=8", "--set", "n_heads=8", "--set", "n_embd=1024", "--set", "n_ff=4096", path).returncode == 0
        assert os.path.getsize(path) > 100e6
        def peak(spec):
            child = subprocess.Popen([KVASIR, "run", "-m", path, "--tokens", "1", "-n", "1", "--ignore-eos", "--attention", spec], stdout=subprocess.DEVNULL,
                                     stderr=subprocess.DEVNULL)
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            return child.returncode, usage.ru_maxrss * 1024
        code, taken = peak("*=full")
        assert code == 0 and taken > 100e6, (code, taken)
        for spec in ("*=windo(3)", "99=full", "*=window(0)", "*=bigbird(block=0)", "*=blocks(16, file=/no/such/file.csr)", "*=full|kv_heads(3)", "@/no/such/spec"):
            code, taken = peak(spec)
            assert code == 2 and taken < 30e6, (spec, code, taken)


@test
def what_is_in_force_is_printed_in_canonical_form_which_parses_to_itself():
    for written, printed in RIGHT:
        for spec in (written, printed):
            got = in_force(TINY, "--attention", spec)
            assert got["attention_spec"] == printed, (spec, got["attention_spec"])
    long = "global(set=" + ".".join(str(2 * i) for i in range(4000)) + ")"  # 19 kB
    got = in_force(TINY, "--attention", "*=" + long)
    assert got["attention_spec"] == "0-3=" + long and {r["spec"] for r in got["attention"]} == {long}
    r = kvasir("attention", "-q", "-m", TINY, "--ctx", "64", "-o", "json", "--attention", "*=" + long)
    assert {row["spec"] for row in json.loads(r.stdout)["layers"]} == {long}
    rows = in_force(TINY, "--attention", "2=window(8)|kv_heads(1)")["attention"]
    assert [r["spec"] for r in rows] == ["full", "full", "window(8)|kv_heads(1)", "full"]
    assert [r["kv_heads"] for r in rows] == [2, 2, 1, 2]


@test
def a_file_holds_a_rule_a_line_with_comments_and_errors_name_the_line():
    with tempfile.TemporaryDirectory() as d:
        path = os.path.join(d, "spec")
        open(path, "w").write("# local layers\n*=full   # all\n\n1-2 = window(7)\r\n3=strided(2);0=global(1)\n")
        assert in_force(TINY, "--attention", "@" + path)["attention_spec"] == "0=global(1); 1-2=window(7); 3=strided(2)"
        open(path, "w").write("*=full\n1=windo(7)\n")
        refused(3, "line 2, column 3: 'windo'", "run", "-m", TINY, "-p", "a", "--attention", "@" + path)
        csr = os.path.join(d, "b.csr")
        for text, line in (("", 1), ("1", 1), ("x 1", 1), ("1 1\n0 1\n", 3), ("2 2\n0 2 1\n0 0\n", 2), ("1 2\n0 2\n1 1\n", 3),
                           ("0 0\n0\n\n", 1), ("1 1\n0 1\n0\n7\n", 4), ("99999999999 1\n", 1), ("1 1\n0 1 1\n0\n", 2)):
            open(csr, "w").write(text)
            refused(19, f"b.csr, line {line}:", "run", "-m", TINY, "-p", "a", "--attention", f"*=blocks(16, file={csr})")


@test
def a_path_is_printed_as_it_can_be_read():
    with tempfile.TemporaryDirectory() as d:
        for name, quoted in (("b.csr", False), ("b c.csr", True), ("b,(c);#d.csr", True), ('b"c.csr', False), ('b" c;#|d".csr', False)):
            csr = os.path.join(d, name)
            open(csr, "w").write("1 1\n0 1\n0\n")
            spec = in_force(TINY, "--attention", f'*=blocks(16, file="{csr}")' if quoted else f"*=blocks(16, file={csr})")["attention_spec"]
            assert csr in spec and in_force(TINY, "--attention", spec)["attention_spec"] == spec, spec


def with_key(text, value_type=8):
    """The tiny checkpoint with one more key: kvasir.attention."""
    data = open(TINY, "rb").read()
    n_tensors, n_kv = struct.unpack_from("<QQ", data, 8)
    key = b"kvasir.attention"
    value = struct.pack("<Q", len(text)) + text.encode() if value_type == 8 else struct.pack("<I", 1)
    entry = struct.pack("<Q", len(key)) + key + struct.pack("<I", value_type) + value
    pad = -len(entry) % 32  # the tensor data stays aligned
    if pad:
        pad = pad if pad >= 13 + 1 else pad + 32
        name = b"x" * (pad - 13)
        entry += struct.pack("<Q", len(name)) + name + struct.pack("<IB", 0, 1)
    assert len(entry) % 32 == 0
    return data[:8] + struct.pack("<QQ", n_tensors, n_kv + 1 + bool(pad)) + entry + data[24:]


@test
def the_checkpoint_may_say_it_and_the_option_goes_over_that():
    with tempfile.TemporaryDirectory() as d:
        path = os.path.join(d, "m.gguf")
        open(path, "wb").write(with_key("1-=window(9); 3=strided(4)"))
        assert in_force(path)["attention_spec"] == "0=full; 1-2=window(9); 3=strided(4)"
        assert in_force(path, "--attention", "0=global(2);2=full")["attention_spec"] == "0=global(2); 1=window(9); 2=full; 3=strided(4)"
        for spec, column, why in (("7=full", 1, "layer 7"), ("*=window(0)", 10, "at least 1"), ("", 1, "expected a rule"), ("*=blocks(16, file=/dev/zero)", 19, "regular"),
                                  ("*=full|kv_heads(3)", 8, "does not divide")):
            open(path, "wb").write(with_key(spec))
            for tool, *args in LOADERS:
                if tool != "inspect":
                    refused(column, why, tool, "-m", path, *args, where=f"{path}: GGUF key kvasir.attention, ", status=1)
            r = kvasir("run", "-m", path, "-p", "a", "-n", "1", "--attention", "*=full")  # the option goes over the key, it does not mend it
            assert r.returncode == 1 and "GGUF key kvasir.attention, column" in r.stderr, r
            assert not in_force(path)["supported"]
        open(path, "wb").write(with_key("", 4))  # no text at all
        r = kvasir("run", "-m", path, "-p", "a", "-n", "1")
        assert r.returncode == 1 and len(r.stderr.splitlines()) == 1 and "kvasir.attention" in r.stderr, r


@test
def latents_make_no_linear_state():
    refused(4, "layer 1 caches latents", "run", "-m", "build/fixtures/deepseek_v2/model.gguf", "-p", "a", "-n", "1", "--attention", "1-=linear(elu)")


@test
def perplexity_and_bench_put_specifications_side_by_side():
    r = kvasir("perplexity", "-m", TINY, "-f", "README.md", "-c", "64", "--chunks", "3", "-o", "json", "--attention", "*=window(99)", "--attention", "*=window(2)")
    same, other = json.loads(r.stdout)["attention"]
    assert same["kl_mean"] == 0 and same["ppl"] == same["base_ppl"] and same["attention"] == "0-3=window(99)"
    assert other["kl_mean"] > 0 and other["ppl"] != same["ppl"] and other["base_ppl"] == same["base_ppl"]
    r = kvasir("bench", "-m", TINY, "-p", "0", "-n", "2", "-d", "200", "-r", "1", "-q", "-o", "jsonl", "--attention", "*=full", "--attention", "*=window(2)")
    full, window = map(json.loads, r.stdout.splitlines())
    assert full["attention"] == "0-3=full" and window["attention"] == "0-3=window(2)" and full["kv_bytes"] > window["kv_bytes"]


@test
def help_says_that_another_variant_is_another_model():
    for tool in ("run", "chat", "serve", "bench", "perplexity", "attention"):
        text = " ".join(kvasir(tool, "--help").stdout.split())
        assert re.search(r"(computes something else|is another model)", text), tool
    assert "the model changes" in open("README.md", encoding="utf-8").read()


@test
def side_by_side_is_a_table_in_every_format():
    specs = ["*=full", "1-=window(9)+global(2)|topk(3)", "*=blocks(16, file=\"tests/golden/attention/blocks.csr\")|pages(2)"]
    options = [x for s in specs for x in ("--attention", s)]
    tools = {"perplexity": ("-f", "README.md", "-c", "64", "--chunks", "2"), "bench": ("-q", "-p", "8", "-n", "0", "-r", "1")}
    for tool, args in tools.items():
        out = {f: kvasir(tool, "-m", TINY, *args, "-o", f, *options) for f in ("md", "csv", "json")}
        for f, r in out.items():
            assert r.returncode == 0, (tool, f, r.stderr)
        table = [re.split(r"(?<!\\)\|", line)[1:-1] for line in out["md"].stdout.splitlines() if line.startswith("|")]
        head, _, *rows = [[cell.strip().replace("\\|", "|") for cell in row] for row in table]
        assert {len(row) for row in rows} == {len(head)} and [row[-1] for row in rows][-3:] == specs, (tool, rows)
        head, *lines = csv.reader(io.StringIO(out["csv"].stdout))
        assert {len(line) for line in lines} == {len(head)} and len(lines) >= 3, (tool, lines)
        found = json.loads(out["json"].stdout)
        found = found["attention"] if tool == "perplexity" else found
        printed = in_force(TINY, "--attention", specs[1])["attention_spec"]
        assert len(found) == 3 and found[1]["attention"] == printed, (tool, found)
        at = head.index("kv_bytes"), head.index("attention")
        for row, line in zip(found, lines[-3:]):
            assert int(line[at[0]]) == row["kv_bytes"] and line[at[1]], (tool, line, row)
        if tool == "perplexity":
            for row, line in zip(found, lines[-3:]):
                got = dict(zip(head, line))
                assert abs(float(got["ppl"]) - row["ppl"]) < 1e-3 and abs(float(got["kl_mean"]) - row["kl_mean"]) < 1e-5, (got, row)
            assert [line[head.index("ppl")] for line in lines][0] == lines[1][head.index("ppl")], "the base, and full attention, which it has"


@test
def every_layer_may_have_a_window_of_its_own():
    n, tokens = 20, ",".join(str(3 + i * 7 % 250) for i in range(200))
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "deep.gguf")
        assert kvasir("synth", "-q", "--set", f"n_layers={n}", path).returncode == 0

        def logits(spec, *args):
            r = kvasir("logits", "-q", "-m", path, "--tokens", tokens, "-o", "json", "--attention", spec, *args)
            assert r.returncode == 0, (spec, r.stderr)
            return r.stdout
        windows = {i: 3 + 11 * i for i in range(n)}
        short, long = (";".join(f"{i}=window({w + least})" for i, w in windows.items()) for least in (0, 200))
        assert logits(long) == logits("*=full") != logits(short) == logits(short, "-ub", 5, "-ctk", "f16")


if __name__ == "__main__":
    run_tests(TESTS, [(KVASIR, "make")])
