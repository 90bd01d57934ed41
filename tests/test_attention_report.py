#!/usr/bin/env python3
"""kvasir attention: the cost report, against formulas written out here, and against what a session really holds.

    KVASIR=./kvasir python3 tests/test_attention_report.py [word in the test's name]
"""
import json, os, re, resource, shlex, subprocess, tempfile, time
import xml.etree.ElementTree as ET

from support.command import KVASIR, kvasir
from support import fixtures
from support.runner import run_tests

H, G, D, LAYERS = 4, 4, 64, 12
KEYS = {"layer", "spec", "heads", "kv_heads", "kv_bytes_per_token", "kv_bytes", "prefill_flops", "decode_flops", "decode_bytes", "intensity"}
MIXED = "0-3=full; 4-7=full|kv_heads(1); 8-11/2=window(256); 9-11/2=linear(elu)"
FOLDER = tempfile.TemporaryDirectory(prefix="kvasir-report-")
MODEL = os.path.join(FOLDER.name, "mha.gguf")
TESTS = []


def test(function):
    TESTS.append(function)
    return function


def model():
    if not os.path.exists(MODEL):
        kvasir("synth", "-q", "--set", f"n_layers={LAYERS}", "--set", f"n_heads={H}", "--set", f"n_kv_heads={G}", MODEL)
    return MODEL


def report(ctx, spec=None, *args):
    extra = ["--attention", spec] if spec else []
    return json.loads(kvasir("attention", "-q", "-m", model(), "--ctx", ctx, "-o", "json", *extra, *args).stdout)


@test
def the_shape_is_the_promised_one():
    r = report(700)
    assert set(r) == {"ctx", "layers", "total", "mha"} and len(r["layers"]) == LAYERS
    for row in r["layers"]:
        assert set(row) == KEYS, row
    for name in ("total", "mha"):
        assert KEYS - {"layer", "spec", "heads", "kv_heads"} <= set(r[name])
    both = json.loads(kvasir("attention", "-q", "-m", model(), "--ctx", "64,700", "-o", "json").stdout)
    assert [x["ctx"] for x in both] == [64, 700] and both[1] == r
    for spelling in ("-c", "--ctx-size"):  # as every tool that loads a model has it
        assert json.loads(kvasir("attention", "-q", "-m", model(), spelling, "700", "-o", "json").stdout) == r


@test
def limits_are_those_of_the_threads_and_kernels_that_would_run():
    """On one core it has one thread; kernels for another processor are refused, as where they would run."""
    one_core = lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    child = subprocess.Popen([KVASIR, "attention", "-m", model(), "--ctx", "64"], stdout=subprocess.DEVNULL, preexec_fn=one_core)
    most = 0  # threads of the process that measures, one of which waits for the others
    while child.poll() is None:
        try:
            with open(f"/proc/{child.pid}/task/{child.pid}/children") as f:
                most = max([most] + [len(os.listdir(f"/proc/{pid}/task")) for pid in f.read().split()])
        except OSError: # it has just ended
            pass
    assert child.returncode == 0 and most == 2, (child.returncode, most)
    other = "avx2" if os.uname().machine == "aarch64" else "neon"
    refused = subprocess.run([KVASIR, "attention", "-m", model(), "--ctx", "64", "--kernels", other], capture_output=True, text=True)
    assert refused.returncode == 1 and other in refused.stderr and refused.stdout == "", refused


@test
def plain_attention_costs_what_the_formulas_say():
    n = 700
    r = report(n)
    token = G * 2 * D * 2  # f16 K and V
    for row in r["layers"]:
        assert (row["spec"], row["heads"], row["kv_heads"], row["kv_bytes_per_token"]) == ("full", H, G, token)
        assert row["kv_bytes"] == token * 64 * -(-n // 64)
        assert row["prefill_flops"] == H * 4 * D * n * (n + 1) / 2
        assert row["decode_flops"] == H * 4 * D * (n + 1) and row["decode_bytes"] == token * (n + 1)
        assert abs(row["intensity"] - 1) < 1e-9
    for key in ("kv_bytes", "prefill_flops", "decode_flops", "decode_bytes"):  # the model is plain MHA
        assert r["total"][key] == r["mha"][key] == LAYERS * r["layers"][0][key], key


@test
def counts_are_whole_numbers_to_the_last_digit_however_long_the_context():
    for n in (700, 4097, 8192, 50000, 300003):
        r = report(n)
        for row in (*r["layers"], r["total"], r["mha"]):
            assert all(type(row[k]) is int for k in KEYS & set(row) - {"spec", "intensity"}), row
        assert r["layers"][0]["prefill_flops"] == H * 4 * D * n * (n + 1) // 2, n
        assert r["total"]["prefill_flops"] == r["mha"]["prefill_flops"] == LAYERS * H * 4 * D * n * (n + 1) // 2, n


@test
def the_longest_context_takes_seconds():
    n = 1 << 28
    for spec, keys in (("full", (n + 1) / 2), ("window(256)", 256)):
        start = time.monotonic()
        flops = report(n, "*=" + spec)["layers"][0]["prefill_flops"]
        assert abs(flops / (H * 4 * D * n * keys) - 1) < 1e-5, (spec, flops)
        assert time.monotonic() - start < 60, spec


@test
def what_is_not_seen_costs_nothing():
    n, keys = 700, {"window(256)": 256, "strided(7)": 101, "global(5)": 6, "dilated(10, 3)": 10, "full|topk(9)": None, "full|pages(2)": None}
    for spec, seen in keys.items():
        row = report(n, "*=" + spec)["layers"][3]
        if seen:
            assert row["decode_flops"] == H * 4 * D * seen and row["decode_bytes"] == G * 4 * D * seen, (spec, row)
    row = report(n, "*=full|topk(9)")["layers"][0]
    assert row["decode_flops"] == H * 2 * D * (n + 1 + 9) and row["decode_bytes"] == G * 2 * D * (n + 1 + 9)
    # The bounds of the ten pages before the query's own, whatever the pattern; then one of them and the 61 keys of its own.
    for spec, scored, read, bounds in (("full|pages(2)", 125, 125, 10), ("full|pages(10)", 637, 637, 10), ("full|pages(11)", n + 1, n + 1, 0),
                                       ("window(70)|pages(2)", 70, 70, 10), ("full|pages(2)|topk(9)", 125, 9, 10), ("full|topk(200)|pages(2)", n + 1, 125, 10)):
        row = report(n, "*=" + spec)["layers"][0]
        assert row["decode_flops"] == H * (2 * D * (scored + read) + 4 * D * bounds), (spec, row)
        assert row["decode_bytes"] == G * 2 * D * (scored + read + 2 * bounds), (spec, row)
    assert report(n, "*=full|kv_heads(2)")["layers"][0]["kv_bytes"] * 2 == report(n)["layers"][0]["kv_bytes"]
    a, b = report(1000, "*=linear(elu)"), report(100000, "*=linear(elu)")
    assert a["total"]["kv_bytes_per_token"] == 0 and a["total"]["decode_bytes"] == b["total"]["decode_bytes"]
    assert b["total"]["kv_bytes"] <= 2 * LAYERS * G * (4 * D * (D + 1) + 64 + 64 * 2 * D * 2)  # states and two pages of keys and values, whatever n is


VARIANTS = [  # of each name of the grammar one at least (checked below)
    None, MIXED, "*=full", "*=window(100)", "*=dilated(9, 7)", "*=strided(5)", "*=global(3)", "*=global(set=5-9.100)", "*=window(200)+global(4)", "*=random(2)", "*=bigbird()",
    "*=blocks(16, file=tests/golden/attention/blocks.csr)", "*=longformer(40, 3, 2)", "*=by_length(150:full, *:window(33))", "*=full|topk(11)",
    "*=window(200)|threshold(0.01)", "*=full|pages(3)", "*=window(200)|pages(2)", "*=full|kv_heads(1)", "*=linear(elu)", "*=linear(relu)|kv_heads(2)", "*=linear(exp)",
    "*=linear(performer)", "*=linear(rfa, features=20)", "0-/2=linear(elu);1-/2=window(65)",
]
KV_TYPES = [("f16", "f16"), ("q8_0", "q8_0"), ("f32", "bf16"), ("bf16", "q8_0")]


def held_and_said(n, spec, types, *args):
    kv = ("-ctk", types[0], "-ctv", types[1])
    extra = ["--attention", spec] if spec else []
    tokens = ",".join(str(300 + i % 100) for i in range(n))
    run = json.loads(kvasir("run", "-q", "-m", model(), "--tokens", tokens, "-n", 1, "--ignore-eos", "-c", 2048, "-o", "json", *kv, *args, *extra).stdout)
    return run["kv"]["bytes"], report(n, spec, *kv)["total"]["kv_bytes"]


@test
def a_session_holds_what_the_report_says():
    for i, spec in enumerate(VARIANTS):
        for n in (1, 64, 65, 700 + 37 * i):
            held, said = held_and_said(n, spec, KV_TYPES[i % 4], *(("-ub", 64) if i % 2 else ()))
            assert abs(said - held) <= 0.02 * held, (spec, n, said, held)


@test
def every_type_of_keys_and_values_costs_what_the_report_says():
    sizes = {types: held_and_said(500, spec, types) for spec in ("*=full", "*=full|pages(3)") for types in KV_TYPES}
    for types, (held, said) in sizes.items():
        assert abs(said - held) <= 0.02 * held, (types, said, held)
    assert sizes["q8_0", "q8_0"][0] < sizes["f16", "f16"][0] < sizes["f32", "bf16"][0]


@test
def bounds_count_what_a_token_meets():
    """Of experts those it is sent to; the output matrix once for a whole prompt."""
    mixtral = os.path.join(fixtures.unpack(), "mixtral", "model.gguf")  # 64 wide, 3 layers, 2 of 4 experts, float32
    said = json.loads(kvasir("attention", "-q", "-m", mixtral, "--ctx", 16, "-o", "json").stdout)["total"]["weight_bytes"]
    assert said == 4 * (3 * (64 * (64 + 32 + 32 + 64) + 64 * 4 + 2 * 3 * 64 * 64) + 384 * 64), said
    speeds = []
    for n_vocab in (1000, 100000):  # 0.5 and 51 million weights of it, beside 2 of the layer
        path = os.path.join(FOLDER.name, f"{n_vocab}.gguf")
        kvasir("synth", "-q", "--set", f"n_vocab={n_vocab}", "--set", "n_embd=512", "--set", "n_layers=1", path)
        speeds.append(json.loads(kvasir("attention", "-m", path, "--ctx", 1000, "-o", "json").stdout)["total"]["prefill_tokens_per_s"])
    assert speeds[0] < 5 * speeds[1], speeds  # the limits are measured for each: not equal


@test
def every_name_of_the_grammar_is_reported():
    for wrong in ("0=?", "0=full|?", "0=linear(?)"):
        line = kvasir("attention", "-q", "-m", model(), "--attention", wrong, status=2).stderr.strip()
        names = re.search(r"expected a [^:]*: (.*)$", line)[1].split(", ")
        assert len(names) >= 4, line
        for name in names:
            assert any(re.search(rf"\b{name}\b", s or "") for s in VARIANTS), name


@test
def the_drawing_has_every_layer():
    out = os.path.join(FOLDER.name, "a.svg")
    report(512, MIXED, "--svg", out)
    root = ET.parse(out).getroot()
    groups = root.findall("{http://www.w3.org/2000/svg}g")
    assert len(groups) == LAYERS
    cells = [len(g.findall("{http://www.w3.org/2000/svg}rect")) - 1 for g in groups]
    assert cells[0] == 48 * 49 // 2 and 0 < cells[8] < cells[0] and cells[9] == 0, cells
    for i in range(4):  # the name of a file is cut where it is too long, not inside a character; and what XML has no place for is none of it
        blocks = "b" * i + "\x01<" + 40 * "\N{LATIN SMALL LETTER O WITH STROKE}"
        with open(os.path.join(FOLDER.name, blocks), "w") as f:
            f.write("1 1\n0 1\n0\n")
        spec = f"*=blocks(64, file={blocks})"
        subprocess.run([KVASIR, "attention", "-q", "-m", model(), "--ctx", "512", "--attention", spec, "--svg", out, "-o", "json"],
                       cwd=FOLDER.name, stdout=subprocess.DEVNULL, check=True)
        assert len(ET.parse(out).getroot().findall("{http://www.w3.org/2000/svg}g")) == LAYERS


@test
def a_drawing_that_cannot_be_written_leaves_the_old_one():
    folder = tempfile.mkdtemp(dir=FOLDER.name)
    out = os.path.join(folder, "a.svg")
    with open(out, "w") as f:
        f.write("old")
    done = subprocess.run([KVASIR, "attention", "-q", "-m", model(), "--ctx", "512", "--attention", MIXED, "--svg", out], text=True, capture_output=True,
                          timeout=120, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)))  # as on a full disk
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "a.svg" in done.stderr, done
    assert open(out).read() == "old" and os.listdir(folder) == ["a.svg"], os.listdir(folder)


@test
def the_table_folds_equal_layers():
    lines = kvasir("attention", "-q", "-m", model(), "--ctx", 512, "--attention", MIXED).stdout.splitlines()
    assert [l.split()[0] for l in lines[2:9]] == ["0-3", "4-7", "8", "9", "10", "11", "total"], lines


@test
def the_readme_shows_what_the_tool_prints():
    """Its worked example, command for command: the table under it is this one."""
    with open("README.md", encoding="utf-8") as f:
        block = re.search(r"```text\n(\$ \./kvasir synth .*?)```", f.read(), re.S)[1]
    commands = [line[len("$ ./kvasir "):] for line in block.splitlines() if line.startswith("$ ")]
    assert len(commands) == 2 and " mha.gguf" in commands[1], commands
    shown = [line for line in block.splitlines() if not line.startswith("$ ")]
    path = os.path.join(FOLDER.name, "readme.gguf")
    done = [kvasir(*(path if a == "mha.gguf" else a for a in shlex.split(c))).stdout for c in commands]
    assert done[1].splitlines() == shown, "\n".join(["README.md shows", *shown, "but it is", done[1]])


@test
def wrong_specifications_are_wrong_usage():
    for args in (("--attention", "*=window(0)"), ("--attention", "99=full"), ("--ctx", "0"), ("--attention", "*=full|kv_heads(3)")):
        done = kvasir("attention", "-m", model(), *args, status=2)
        assert done.stdout == "" and done.stderr.count("\n") == 1, done.stderr


if __name__ == "__main__":
    run_tests(TESTS, [(KVASIR, "make")])
