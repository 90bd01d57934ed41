#!/usr/bin/env python3
"""What bench, batched-bench and the scripts around them promise: keys, formats, arithmetic, verdicts. No speeds.

    KVASIR=./kvasir python3 tests/test_bench.py [word in the test's name]
"""
import csv, io, json, os, re, signal, subprocess, sys, tempfile, time, traceback
import gguf
import numpy as np

from support import fixtures
from support.runner import run_tests

KVASIR = os.path.abspath(os.environ.get("KVASIR", "./kvasir"))
LLAMA, GEMMA3 = ("tests/golden/fixtures/%s/model.gguf" % name for name in ("llama", "gemma3_text"))
BATCHED_KEYS = """n_kv_max n_batch n_ubatch flash_attn is_pp_shared n_gpu_layers n_threads n_threads_batch pp tg pl n_kv t_pp speed_pp t_tg speed_tg
    t speed""".split() # llama-batched-bench's, in its order
LLAMA_BENCH_KEYS = """build_commit build_number cpu_info gpu_info backends model_filename model_type model_size model_n_params n_batch n_ubatch
    n_threads cpu_mask cpu_strict poll type_k type_v n_gpu_layers n_cpu_moe split_mode main_gpu no_kv_offload flash_attn devices tensor_split
    tensor_buft_overrides use_mmap use_direct_io embeddings no_op_offload no_host n_prompt n_gen n_depth test_time avg_ns stddev_ns avg_ts stddev_ts""".split() # in its order
TESTS = []


def test(function):
    TESTS.append(function)
    return function


def kvasir(*args, status=0):
    done = subprocess.run([KVASIR, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=300, text=True)
    assert done.returncode == status, (args, done.returncode, done.stderr[-1000:])
    if status:
        assert done.stderr.count("\n") == 1 and done.stdout == "", (done.stderr, done.stdout)
        return done.stderr
    return done.stdout


def json_lines(text):
    return [json.loads(line) for line in text.splitlines()]


def near(a, b):
    assert abs(a - b) <= 1e-3 * max(abs(a), abs(b)) + 2e-6, (a, b)


@test
def interrupted_while_it_measures_limits_it_says_nothing_about_them():
    child = subprocess.Popen([KVASIR, "bench", "-m", LLAMA, "-r", "1000", "-o", "json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    time.sleep(0.1)  # limits take some tenths of a second
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (130, b""), (child.returncode, err)
    assert out == b"" or json.loads(out) == [], out


# ---- batched-bench -------------------------------------------------------------------------------------------

def batched(*args, model=LLAMA):
    return json_lines(kvasir("batched-bench", "-m", model, "-o", "jsonl", *args))


@test
def batched_bench_has_the_keys_and_the_arithmetic_of_llama_batched_bench():
    for model in (LLAMA, GEMMA3):
        for more in ([], ["-pps"], ["-r", "3"]):
            rows = batched("-npp", "32,16", "-ntg", "8,4", "-npl", "1,3", *more, model=model)
            shared = "-pps" in more
            assert [(r["pp"], r["tg"], r["pl"]) for r in rows] == [(p, t, l) for p in (32, 16) for t in (8, 4) for l in (1, 3)]
            for r in rows:
                assert list(r) == BATCHED_KEYS
                assert r["is_pp_shared"] == int(shared) and r["n_kv_max"] == 3 * 40 and r["n_threads"] == r["n_threads_batch"] > 0
                n_pp, n_tg = r["pp"] * (1 if shared else r["pl"]), r["tg"] * r["pl"]
                assert r["n_kv"] == n_pp + n_tg and r["t_pp"] > 0 and r["t_tg"] > 0
                near(r["t"], r["t_pp"] + r["t_tg"])
                for speed, n, seconds in (("speed_pp", n_pp, "t_pp"), ("speed_tg", n_tg, "t_tg"), ("speed", n_pp + n_tg, "t")):
                    # the times are rounded to microseconds
                    assert n / (r[seconds] + 1.1e-6) * 0.999 <= r[speed] <= n / max(r[seconds] - 1.1e-6, 1e-9) * 1.001, (speed, r)


@test
def batched_bench_can_leave_out_prompts_or_generation():
    (only_tg,) = batched("-npp", "0", "-ntg", "4", "-npl", "2")
    assert (only_tg["t_pp"], only_tg["speed_pp"], only_tg["n_kv"]) == (0, 0, 8) and only_tg["speed_tg"] > 0
    (only_pp,) = batched("-npp", "16", "-ntg", "0", "-npl", "2")
    assert (only_pp["t_tg"], only_pp["speed_tg"], only_pp["n_kv"]) == (0, 0, 32) and only_pp["speed_pp"] > 0
    assert "nothing to measure" in kvasir("batched-bench", "-m", LLAMA, "-npp", "0", "-ntg", "0", status=2)


@test
def batched_bench_markdown_has_the_same_rows():
    lines = kvasir("batched-bench", "-m", LLAMA, "-npp", "16", "-ntg", "4", "-npl", "1,2").splitlines()
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["PP", "TG", "B", "N_KV", "T_PP s", "S_PP t/s", "T_TG s", "S_TG t/s", "T s", "S t/s"]
    assert [row[:4] for row in cells[2:]] == [["16", "4", "1", "20"], ["16", "4", "2", "40"]]


@test
def batched_bench_says_what_does_not_fit():
    assert re.search(r"need 20 tokens of context per sequence, -c gives 8", kvasir("batched-bench", "-m", LLAMA, "-npp", "16", "-ntg", "4", "-c", "8", status=1))
    assert "-npl: 0 is out of range: 1 to 1024" in kvasir("batched-bench", "-npl", "0", status=2)
    assert "none of md, json, jsonl" in kvasir("batched-bench", "-o", "csv", status=2)


@test
def batched_bench_json_is_a_list_of_the_same_objects():
    rows = json.loads(kvasir("batched-bench", "-m", LLAMA, "-npp", "16", "-ntg", "4", "-npl", "1,2", "-o", "json"))
    assert [list(r) for r in rows] == [BATCHED_KEYS] * 2 and [r["pl"] for r in rows] == [1, 2]
    assert len(json.loads(kvasir("batched-bench", "-m", LLAMA, "-npp", "16", "-ntg", "4", "-npl", "1", "-o", "json"))) == 1


@test
def help_lists_exactly_the_options_that_are_understood():
    for tool in ("bench", "batched-bench", "synth"):
        found = re.findall(r"^  (?:(-\w+), )?(--[a-z][\w-]*)( [^ ].*?)?(?:  |$)", kvasir(tool, "--help"), re.M)
        rows = [(a, n, v) for a, n, v in found if n not in ("--help", "--version")]
        assert len(rows) >= 5 and len({n for _, n, _ in rows}) == len(rows), rows
        for alias, name, arg in rows:
            for word in filter(None, (alias, name)):
                message = kvasir(tool, word, status=2) if arg else kvasir(tool, word + "=1", status=2)
                assert f"{word} {'needs a value' if arg else 'takes no value'}" in message, message


# ---- bench ---------------------------------------------------------------------------------------------------

@test
def bench_has_the_keys_of_llama_bench_in_its_order():
    args = ("bench", "-m", LLAMA, "-p", "16", "-n", "0", "-r", "2", "-o")
    (row,) = json.loads(kvasir(*args, "json"))
    assert [k for k in row if k in LLAMA_BENCH_KEYS] == LLAMA_BENCH_KEYS and len(row["samples_ns"]) == len(row["samples_ts"]) == 2
    assert {k for k in row if row[k] is True or row[k] is False} == {"cpu_strict", "no_kv_offload", "flash_attn", "use_mmap", "use_direct_io", "embeddings", "no_host"}
    ints = "build_number model_size model_n_params n_batch n_ubatch n_threads poll n_gpu_layers n_cpu_moe main_gpu n_prompt n_gen n_depth avg_ns stddev_ns"
    assert all(type(row[k]) is int for k in ints.split()), row
    header, values = csv.reader(io.StringIO(kvasir(*args, "csv")))
    assert [k for k in header if k in LLAMA_BENCH_KEYS] == LLAMA_BENCH_KEYS
    assert [values[header.index(k)] for k in ("cpu_strict", "flash_attn", "gpu_info")] == ["0", "1", ""] # as llama-bench writes booleans


# ---- variants of bench ---------------------------------------------------------------------------------------

@test
def all_kernels_are_measured_one_after_the_other():
    rows = json.loads(kvasir("bench", "-m", LLAMA, "-p", "16", "-n", "4", "-r", "2", "--kernels", "all", "-o", "json"))
    names = [r["kernels"] for r in rows[::2]]
    assert names == [r["kernels"] for r in rows[1::2]] and names[0] == "scalar" and len(set(names)) == len(names)
    assert [r["test"] for r in rows] == ["pp16", "tg4"] * len(names)
    assert len({r["limit_read_gb_s"] for r in rows}) == 1 # measured once
    best = json.loads(kvasir("bench", "-m", LLAMA, "-p", "16", "-n", "0", "-r", "1", "-o", "json"))[0]["kernels"]
    assert best == names[-1], (best, names)
    for name in names: # and each can be forced
        assert json.loads(kvasir("bench", "-m", LLAMA, "-p", "16", "-n", "0", "-r", "1", "--kernels", name, "-o", "json"))[0]["kernels"] == name


@test
def both_ways_to_multiply_give_the_ratio():
    rows = json_lines(kvasir("bench", "-m", LLAMA, "-p", "32", "-n", "4", "-d", "0,16", "-r", "3", "--gemm", "both", "-o", "jsonl"))
    blas, native = rows[:4], rows[4:]
    assert [r["gemm"] for r in rows] == ["blas"] * 4 + ["native"] * 4
    assert [r["test"] for r in blas] == [r["test"] for r in native] == ["pp32", "tg4", "pp32 @ d16", "tg4 @ d16"]
    for b, n in zip(blas, native):
        assert b["vs_blas"] is None
        ratio = np.median(b["samples_ns"]) / np.median(n["samples_ns"])
        assert abs(n["vs_blas"] - ratio) <= 1e-2 * ratio + 1e-3, (n["vs_blas"], ratio)
    table = list(csv.DictReader(io.StringIO(kvasir("bench", "-m", LLAMA, "-p", "16", "-n", "0", "-r", "1", "--gemm", "both", "-o", "csv"))))
    assert [bool(r["vs_blas"]) for r in table] == [False, True] and not any(r["vs_blas"] for r in json_lines(
        kvasir("bench", "-m", LLAMA, "-p", "16", "-n", "0", "-r", "1", "-o", "jsonl")))


@test
def profile_tells_where_the_time_of_a_test_went():
    rows = json_lines(kvasir("bench", "-m", GEMMA3, "-p", "64", "-n", "16", "-d", "0,128", "-r", "2", "--profile", "-o", "jsonl"))
    assert len(rows) == 4
    for r in rows:
        stages = r["stages_ms"]
        assert len(stages) >= 5 and {"qkv", "attention"} <= set(stages) and all(ms >= 0 for ms in stages.values()), stages
        total = r["avg_ns"] / 1e6 # the stages are nearly all of a test, and never more
        assert 0.3 * total <= sum(stages.values()) <= 1.01 * total + 0.01, (sum(stages.values()), total)
    assert "stages_ms" not in json_lines(kvasir("bench", "-m", LLAMA, "-p", "16", "-n", "0", "-r", "1", "-o", "jsonl"))[0]
    args = ("bench", "-m", LLAMA, "-p", "16", "-n", "4", "-r", "1", "-o", "csv")
    for row in csv.DictReader(io.StringIO(kvasir(*args, "--profile"))):  # CSV holds no objects: a column each
        times = {name.split(".", 1)[1]: float(ms) for name, ms in row.items() if name.startswith("stages_ms")}
        total = float(row["avg_ns"]) / 1e6
        assert list(times) == list(stages) and 0.3 * total <= sum(times.values()) <= 1.01 * total + 0.01, row
    assert "stages_ms" not in kvasir(*args)
    lines = kvasir("bench", "-m", LLAMA, "-p", "16", "-n", "0", "-r", "1", "--profile").splitlines()
    shares = [float(line.split("|")[6].split()[0]) for line in lines[3:3 + len(stages)]]
    assert abs(sum(shares) - 100) < 0.1 * len(shares)


@test
def a_small_model_is_compared_with_the_cache_it_fits_in():
    (row,) = json_lines(kvasir("bench", "-m", LLAMA, "-p", "0", "-n", "32", "-r", "3", "-o", "jsonl"))
    assert 0 < row["limit_pct"] <= 110, row["limit_pct"]


@test
def percent_is_of_the_peak_that_is_told():
    """The peak is measured between the repeats, so each row has its own; what follows from it, the operations, grows by prompt length."""
    for model in (LLAMA, os.path.join(fixtures.unpack(), "mixtral", "model.gguf")):
        rows = json_lines(kvasir("bench", "-m", model, "-p", "512,1024,1536", "-n", "0", "-r", "3", "-o", "jsonl"))
        done = [r["limit_pct"] / 100 * r["limit_fma_gflops"] * r["avg_ns"] for r in rows] # weights are float32
        first, second = done[1] - done[0], done[2] - done[1]
        assert abs(first - second) <= 0.02 * done[0], done
        assert abs(first / 512 - 2 * weights_of_a_prompt(model)) <= 0.02 * done[0] / 512, (model, first / 512, weights_of_a_prompt(model))


def weights_of_a_prompt(model):
    """Those that every token of a prompt meets: matrices of the layers, K and V alone of the last one; of the experts those it is sent to."""
    reader = gguf.GGUFReader(model)
    value = lambda key: next((f.contents() for name, f in reader.fields.items() if name.endswith(key)), 1)
    last = f"blk.{value('.block_count') - 1}."
    counted = [t for t in reader.tensors if t.name.startswith("blk.") and len(t.shape) > 1
               and (not t.name.startswith(last) or t.name in (last + "attn_k.weight", last + "attn_v.weight"))]
    share = lambda t: value(".expert_used_count") / value(".expert_count") if "_exps" in t.name else 1
    return sum(int(t.n_elements) * share(t) for t in counted)


@test
def measuring_the_limits_is_no_memory_of_the_model():
    """The buffer is as large as the weights: were it counted, a model of 64 MB would show 128."""
    if os.environ.get("SANITIZE"):
        return # whose own memory is larger than what is looked for
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "m.gguf")
        kvasir("synth", "-q", "--type", "Q8_0", "--set", "n_vocab=100000", "--set", "n_embd=512", "--set", "n_layers=1", path)
        (row,) = json_lines(kvasir("bench", "-m", path, "-p", "4", "-n", "0", "-r", "1", "-o", "jsonl"))
        (run,) = json_lines(kvasir("run", "-m", path, "--tokens", "1,2,3,4", "-n", "1", "-c", "16", "-o", "json"))
        assert row["peak_rss_bytes"] < run["peak_rss_bytes"] + 24e6, (row["peak_rss_bytes"], run["peak_rss_bytes"])


# ---- scripts --------------------------------------------------------------------------------------------------

@test
def make_bench_keeps_the_history_of_a_machine():
    with tempfile.TemporaryDirectory() as folder:
        command = ["scripts/bench", "--kvasir", KVASIR, "--out", folder, "--models", LLAMA, "-p", "16", "-n", "4", "-d", "0,8", "-r", "1"]
        for _ in range(2): # the second run replaces the rows of the first
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        (name,) = os.listdir(folder)
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*\.csv", name) and done.stdout.splitlines()[-1].endswith(name)
        path = os.path.join(folder, name)
        with open(path, newline="") as f:
            rows = list(csv.DictReader(f))
        assert [r["test"] for r in rows] == ["pp16", "tg4", "pp16 @ d8", "tg4 @ d8"]
        for r in rows:
            assert bool(r["prefill_tps"]) != bool(r["decode_tps"]) and float(r["limit_pct"]) > 0 and r["cpu"] and r["commit"] and r["quant"] == "F32"
        text = open(path).read()
        with open(path, "w") as f: # another commit's rows stay
            f.write(text.replace(rows[0]["commit"], "0123456789"))
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        with open(path, newline="") as f:
            commits = [r["commit"] for r in csv.DictReader(f)]
        assert commits == ["0123456789"] * 4 + [rows[0]["commit"]] * 4


FAKE_KVASIR = """#!/usr/bin/env python3
import json, sys
a = sys.argv[1:]
if a[0] == "batched-bench": print(json.dumps({"speed_tg": 480.0}))
elif a[0] == "run": print(json.dumps({"peak_rss_bytes": 90e6}))
else: print(json.dumps({"median_ts": 1000.0, "limit_pct": 46.0, "peak_rss_bytes": 300e6}))
"""
FAKE_PEER = """#!/usr/bin/env python3
import json, sys
a = sys.argv[1:]
if a[0] == "-c": sys.exit(print("0.0"))
fa, test = a[a.index("--fa") + 1], a[-1]
if test.startswith(("start", "full")):
    print(json.dumps({"unit": "s", "value": 1000.0 if fa == "1" else 2000.0}))
    print(json.dumps({"unit": "bytes", "value": 100e6 if fa == "1" else 80e6}))
else:
    print(json.dumps({"unit": "tokens/s", "value": {"pp512": (100, 125), "tg128x8": (100, 100)}.get(test, (900, 800))[fa == "0"]}))
"""


def bench_peer(*args, status=0):
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for name, text in (("kvasir", FAKE_KVASIR), ("python", FAKE_PEER)):
            paths.append(os.path.join(folder, name))
            with open(paths[-1], "w") as f:
                f.write(text)
            os.chmod(paths[-1], 0o755)
        result = os.path.join(folder, "result.json")
        done = subprocess.run(["scripts/bench-peer", "--models", "smollm2", "--kvasir", paths[0], "--peer-python", paths[1], "--json", result, "-r", "2",
                               *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120)
        assert done.returncode == status, (done.returncode, done.stderr)
        with open(result) as f:
            return done.stdout, {c["measure"]: c for c in json.load(f)["cells"]}


@test
def bench_turns_compares_two_builds():
    def turns(*args):
        return subprocess.run(["scripts/bench-turns", KVASIR, *args, "--turns", "3", "--pairs", "2"], capture_output=True, text=True, timeout=120)

    done = turns(KVASIR, "-m", LLAMA, "-p", "20", "-n", "5")
    ratio = r": \d+\.\d{3} \+- \d+\.\d{3} of the time \(medians \d+\.\d and \d+\.\d ms\)\n"
    assert done.returncode == 0 and re.fullmatch("prompt of 20" + ratio + "5 tokens of decode" + ratio, done.stdout), done
    done = turns(KVASIR, "-m", "no-such-model")
    assert done.returncode == 1 and "no-such-model" in done.stderr, done
    done = turns(KVASIR, "-m", LLAMA, "-p", "100000")
    assert done.returncode == 1 and done.stderr.startswith("bench-turns: ") and done.stderr.count("\n") == 1, done


@test
def bench_peer_divides_by_the_better_of_the_peers_attentions_and_judges():
    if not os.path.exists("models/smollm2-135m-instruct-q4_1.gguf"):
        raise AssertionError("run: ./kvasir get smollm2")
    text, cells = bench_peer()
    wanted = {"pp512": (1000 / 125, True), "pp4096": (1000 / 900, False), "tg128": (1000 / 900, False), "tg128x8": (4.8, True),
              "busy": (1000 / 900, False), "rss": (90 / 80, False), "rss-full": (300 / 80, None)}
    for measure, (ratio, is_met) in wanted.items():
        assert abs(cells[measure]["ratio"] - ratio) < 1e-9 and cells[measure]["is_met"] is is_met, (measure, cells[measure])
    assert cells["start"]["llama"] == 1000 and cells["start"]["is_met"] is True and cells["start"]["ratio"] < 0.01
    assert cells["pp512"]["is_limit_met"] is True and cells["tg128"]["is_limit_met"] is False # 46 % of 45 and of 65
    assert all(len(v) == 2 for v in cells["pp512"]["samples"].values())
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    assert ["pp512", "1000 / 125 = **8.00** (>= 7) ok"] in rows
    assert ["peak RSS, 8192 context, MB", "90 / 80 = **1.12** (<= 0.9) **FAIL**"] in rows
    assert ["pp512, of the limit", "46.0 % (>= 45) ok"] in rows
    assert text.splitlines()[-1].startswith("9 cells, 5 below their floor: smollm2 pp4096, smollm2 tg128, ")


@test
def bench_peer_runs_a_subset_and_exits_1_only_when_asked_to_check():
    text, cells = bench_peer("--only", "pp512", "--check")
    assert list(cells) == ["pp512"]
    bench_peer("--only", "pp4096")
    bench_peer("--only", "pp4096", "--check", status=1)
    done = subprocess.run(["scripts/bench-peer", "--only", "pp51"], stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and "no measure 'pp51'; known: pp512" in done.stderr


if __name__ == "__main__":
    run_tests(TESTS, [(KVASIR, "make")])
