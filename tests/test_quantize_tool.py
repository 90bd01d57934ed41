#!/usr/bin/env python3
"""kvasir quantize, as a user runs it: every type from a float checkpoint, mixes, overrides, fewer KV heads, and what goes wrong.

    KVASIR=./kvasir python3 tests/test_quantize_tool.py [word in the test's name]

References: the float checkpoint itself, numpy for reduced projections, gguf-py (an independent implementation) for what was written, and checkpoints
whose heads are made to be images of one head, which svd must find again.
"""
import json, os, subprocess, tempfile

import numpy as np
from gguf import GGUFReader, GGUFWriter, GGUFValueType
from gguf.quants import dequantize

from support.runner import run_tests

KVASIR = os.path.abspath(os.environ.get("KVASIR", "./kvasir"))
# type asked for -> relative error of the worst matrix, at most: half a step of the textbook quantiser on a bell of weights, sqrt(1/12) (2 x 2.6 sigma / levels),
# doubled where a scale in few bits comes on top.
TYPES = {"F32": 0, "F16": 5e-4, "BF16": 4e-3, "Q8_0": 0.008, "Q6_K": 0.03, "Q5_K_M": 0.05, "Q5_K_S": 0.05, "Q5_0": 0.06, "Q5_1": 0.05, "Q4_K_M": 0.1, "Q4_K_S": 0.1,
         "Q4_0": 0.1, "Q4_1": 0.1, "IQ4_NL": 0.1, "IQ4_XS": 0.1, "MXFP4": 0.15, "Q3_K_L": 0.2, "Q3_K_M": 0.2, "Q3_K_S": 0.2, "Q2_K": 0.4, "Q2_K_S": 0.4}
ROPE_PAIRS = 32  # of a head of 64, interleaved (llama)
TESTS = []
FOLDER = tempfile.TemporaryDirectory(prefix="kvasir-quantize-")


def test(function):
    TESTS.append(function)
    return function


def path(name):
    return os.path.join(FOLDER.name, name)


def kvasir(*args, status=0):
    done = subprocess.run([KVASIR, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == status, (args, done.returncode, done.stderr[-1000:])
    return done


def synth(name, *settings, arch="llama"):
    out = path(name)
    if not os.path.exists(out):
        kvasir("synth", "--arch", arch, "--type", "F32", *[x for s in settings for x in ("--set", s)], out)
    return out


def logits(model, *args):
    done = kvasir("logits", "-m", model, "--tokens", "300,301,302,303,17,99", "--at", "all", "-o", "json", "-ctk", "f32", "-ctv", "f32", *args)
    return np.array([row["values"] for row in json.loads(done.stdout)["rows"]])


def types(model):
    return {t["name"]: t["type"] for t in json.loads(kvasir("inspect", model, "--tensors", "-o", "json").stdout)["tensors"]}


def weights(model):
    return {t.name: dequantize(t.data, t.tensor_type).astype(np.float64) for t in GGUFReader(model).tensors}


@test
def every_type_keeps_what_it_promises():
    base = synth("base.gguf", "n_layers=3")
    want = logits(base, "--gemm", "blas")
    x = weights(base)
    for name, most in TYPES.items():
        out = path(f"{name}.gguf")
        kvasir("quantize", base, out, name)
        y = weights(out)  # gguf-py reads every block as we meant it
        worst = max(np.sqrt(((x[k] - y[k]) ** 2).mean() / (x[k] ** 2).mean()) for k in x)
        assert worst <= most, (name, worst)
        # The network carries errors on, a few times larger for each of its three layers: far more means that the runtime reads something else.
        got = logits(out, "--gemm", "blas")
        moved = np.sqrt(((got - want) ** 2).mean() / (want ** 2).mean())
        assert moved <= 12 * worst + 1e-6, (name, moved, worst)
        os.unlink(out)


@test
def mixes_give_more_bits_where_llama_quantize_does():
    base, out = synth("deep.gguf", "n_layers=16", "n_heads=4", "n_kv_heads=1"), path("mix.gguf")
    kvasir("quantize", base, out, "q4_k_m")  # any case
    got = types(out)
    more = [i for i in range(16) if i < 2 or i >= 14 or (i - 2) % 3 == 2]
    for i in range(16):
        assert got[f"blk.{i}.attn_v.weight"] == got[f"blk.{i}.ffn_down.weight"] == ("Q6_K" if i in more else "Q4_K"), i
        assert got[f"blk.{i}.attn_q.weight"] == got[f"blk.{i}.ffn_up.weight"] == "Q4_K"
        assert got[f"blk.{i}.attn_norm.weight"] == "F32"
    assert got["output.weight"] == "Q6_K" and got["token_embd.weight"] == "Q4_K"
    kvasir("quantize", base, out, "Q3_K_M", "--tensor-type", "ffn_=Q8_0", "--tensor-type", "blk.3.ffn_up=F16")
    got = types(out)
    assert got["blk.0.attn_v.weight"] == "Q5_K" and got["blk.2.attn_v.weight"] == "Q4_K" and got["blk.5.attn_output.weight"] == "Q4_K"
    assert got["blk.3.ffn_up.weight"] == "F16" and got["blk.3.ffn_down.weight"] == "Q8_0"
    kvasir("quantize", base, out, "Q4_K_M", "--pure")
    assert {t for n, t in types(out).items() if "norm" not in n} == {"Q4_K"}


@test
def rows_that_super_blocks_do_not_divide_get_the_next_type():
    base, out = synth("narrow.gguf", "n_embd=192", "n_ff=384"), path("narrow-q.gguf")
    for name, wanted in (("Q4_K_S", "Q5_0"), ("Q6_K", "Q8_0"), ("IQ4_XS", "IQ4_NL"), ("Q5_K_S", "Q5_1")):
        kvasir("quantize", base, out, name)
        assert types(out)["blk.0.attn_q.weight"] == wanted


@test
def threads_do_not_change_a_byte():
    base = synth("base.gguf", "n_layers=3")
    for n in (1, 2, 3):
        kvasir("quantize", base, path(f"t{n}.gguf"), "Q4_K_M", "-t", n)
    read = [open(path(f"t{n}.gguf"), "rb").read() for n in (1, 2, 3)]
    assert read[0] == read[1] == read[2]


@test
def mean_and_first_are_what_they_say():
    base, out = synth("mha.gguf", "n_heads=4", "n_kv_heads=4"), path("gqa.gguf")
    old = weights(base)
    for method in ("mean", "first"):
        done = kvasir("quantize", base, out, "F32", "--kv-heads", 2, "--kv-method", method, "-o", "json")
        new = weights(out)
        energy = {e["tensor"]: e for e in json.loads(done.stdout)["kv_heads"]}
        for part in ("k", "v"):
            name = f"blk.1.attn_{part}.weight"
            heads = old[name].reshape(2, 2, 64, -1)
            want = heads.mean(1) if method == "mean" else heads[:, 0]
            assert np.abs(new[name].reshape(2, 64, -1) - want).max() < 1e-6
            kept = 1 - ((heads - want[:, None]) ** 2).sum() / (heads ** 2).sum()
            assert abs(energy["blk.1.attn_k.weight"]["kept_" + part] - kept) < 1e-6
        assert GGUFReader(out).fields["llama.attention.head_count_kv"].contents() == 2
        logits(out)


def rewrite(source, target, change, kv_heads):
    """The checkpoint again, written by gguf-py, with other tensors."""
    reader = GGUFReader(source)
    writer = GGUFWriter(target, "llama")
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value = kv_heads if name == "llama.attention.head_count_kv" else field.contents()
        kind = field.types[0]
        writer.add_key_value(name, value, kind, field.types[-1] if kind == GGUFValueType.ARRAY else None)
    for t in reader.tensors:
        writer.add_tensor(t.name, np.ascontiguousarray(change(t.name, np.array(t.data, dtype=np.float32)), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@test
def svd_finds_the_head_that_all_are_images_of():
    base, wide, out = synth("mqa.gguf", "n_heads=4", "n_kv_heads=1"), path("images.gguf"), path("svd.gguf")
    rng = np.random.default_rng(4)

    def change(name, x):
        """Four KV heads: K turned by a complex number per rotary pair, V mapped by a matrix; nothing about the queries is known to svd."""
        if "attn_k.weight" in name:
            z = x[0::2] + 1j * x[1::2]
            heads = []
            for _ in range(4):
                turned = z * (rng.normal(size=(ROPE_PAIRS, 1)) + 1j * rng.normal(size=(ROPE_PAIRS, 1)))
                head = np.empty_like(x)
                head[0::2], head[1::2] = turned.real, turned.imag
                heads.append(head)
            return np.concatenate(heads)
        if "attn_v.weight" in name:
            return np.concatenate([(rng.normal(size=(64, 64)) / 8) @ x for _ in range(4)])
        return x

    rewrite(base, wide, change, 4)
    done = kvasir("quantize", wide, out, "F32", "--kv-heads", 1, "--kv-method", "svd", "-o", "json")
    for e in json.loads(done.stdout)["kv_heads"]:
        assert e["kept_k"] > 1 - 1e-9 and e["kept_v"] > 1 - 1e-9, e
    a, b = logits(out), logits(wide)
    assert np.abs(a - b).max() < 2e-4 * np.abs(b).max(), np.abs(a - b).max()


@test
def svd_keeps_more_than_mean():
    base, out = synth("mha.gguf", "n_heads=4", "n_kv_heads=4"), path("less.gguf")
    kept = {}
    for method in ("mean", "svd"):
        done = kvasir("quantize", base, out, "F32", "--kv-heads", 2, "--kv-method", method, "-o", "json")
        kept[method] = [(e["kept_k"], e["kept_v"]) for e in json.loads(done.stdout)["kv_heads"]]
    assert all(s > m and 0 < m < 1 for a, b in zip(kept["svd"], kept["mean"]) for s, m in zip(a, b)), kept


@test
def perplexity_before_and_after():
    base, out = synth("mha.gguf", "n_heads=4", "n_kv_heads=4"), path("ppl.gguf")
    done = kvasir("quantize", base, out, "Q8_0", "--kv-heads", 2, "-f", "tests/golden/text/apache-2.0.txt")
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("perplexity")]
    assert len(lines) == 2 and all(float(l[1]) > 1 for l in lines), done.stdout


@test
def wrong_usage_is_one_line_and_leaves_nothing():
    base, out = synth("mha.gguf", "n_heads=4", "n_kv_heads=4"), path("never.gguf")
    gemma = synth("gemma.gguf", arch="gemma3")
    broken = path("nan.gguf")
    rewrite(base, broken, lambda name, x: np.where(np.arange(x.size).reshape(x.shape) == 7, np.nan, x) if "blk.1.ffn_up" in name else x, 4)
    for args, status, says in (
            ((base, out, "Q9_K"), 2, "Q4_K_M"), ((base, out), 2, "TYPE"), ((base, out, "Q8_0", "--kv-heads", 3), 2, "divide"),
            ((base, out, "Q8_0", "--kv-heads", 0), 2, "--kv-heads"), ((base, out, "Q8_0", "--kv-method", "svd"), 2, "--kv-heads"),
            ((base, out, "Q8_0", "--tensor-type", "ffn"), 2, "NAME=TYPE"), ((base, out, "Q8_0", "--tensor-type", "ffn=Q77"), 2, "NAME=TYPE"),
            ((gemma, out, "Q8_0", "--kv-heads", 1, "--kv-method", "svd"), 0, ""), ((broken, out, "Q8_0"), 1, "blk.1.ffn_up.weight"),
            ((base, out, "Q8_0", "--imatrix", base), 1, "importance"), ((path("no.gguf"), out, "Q8_0"), 1, "no.gguf"),
            ((base, path("no/folder.gguf"), "Q8_0"), 1, "no/folder")):
        if args[0] == gemma:  # one KV head already, but its heads are normed after the projection
            status, says = 1, "norms its heads"
        done = kvasir("quantize", *args, status=status)
        assert says in done.stderr and done.stderr.count("\n") == 1, (args, done.stderr)
        assert not os.path.exists(out) and done.stdout == "", args
    assert not [f for f in os.listdir(FOLDER.name) if "never" in f]


if __name__ == "__main__":
    run_tests(TESTS, [(KVASIR, "make")])
