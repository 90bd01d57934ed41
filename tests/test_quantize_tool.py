#!/usr/bin/env python3
"""kvasir quantize, as a user runs it: every type from a float checkpoint, mixes, overrides, fewer KV heads, and what goes wrong.

    KVASIR=./kvasir python3 tests/test_quantize_tool.py [word in the test's name]

References: the float checkpoint itself, numpy for reduced projections and for what goes into a matrix, gguf-py (an independent implementation) for what was
written, and checkpoints whose heads are made to be images of one head, which svd must find again.
"""
import json, os, re, tempfile

import numpy as np
from gguf import GGUFReader, GGUFWriter, GGUFValueType
from gguf.quants import dequantize

from support.command import KVASIR, kvasir
from support.fixtures import unpack
from support.runner import run_tests

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
        assert f"(llama, {name}," in kvasir("run", "-m", out, "-v", "-p", "a", "-n", 0).stderr, name
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
def a_file_that_is_quantized_already_is_noted_once():
    base, first, second = synth("base.gguf", "n_layers=3"), path("first.gguf"), path("second.gguf")
    kvasir("quantize", base, first, "Q8_0")
    for source, name, is_noted in ((base, "Q4_0", False), (first, "Q4_0", True), (first, "F16", False), (first, "Q8_0", False)):
        for more in ((), ("-v",), ("-o", "json"), ("-q",)):
            notes = [line for line in kvasir("quantize", source, second, name, *more).stderr.splitlines() if line.startswith("note: ")]
            assert len(notes) == (is_noted and more != ("-q",)), (source, name, more, notes)
            assert all("quantized already" in n and "Q8_0" in n for n in notes)


@test
def rows_that_super_blocks_do_not_divide_get_the_next_type():
    base, out = synth("narrow.gguf", "n_embd=192", "n_ff=384"), path("narrow-q.gguf")
    for name, wanted in (("Q4_K_S", "Q5_0"), ("Q6_K", "Q8_0"), ("IQ4_XS", "IQ4_NL"), ("Q5_K_S", "Q5_1")):
        kvasir("quantize", base, out, name)
        assert types(out)["blk.0.attn_q.weight"] == wanted


@test
def types_that_rows_cannot_have_are_said():
    base, out = synth("narrow-note.gguf", "n_embd=192", "n_heads=3", "n_kv_heads=3", "head_dim=64", "n_ff=512", "n_layers=1", "tied=0"), path("narrow-note-q.gguf")
    def notes(*args):
        return [line for line in kvasir("quantize", base, out, *args).stderr.splitlines() if line.startswith("note: ")]
    by_hand = notes("Q4_0", "--pure", "--tensor-type", "attn_q=Q6_K", "--tensor-type", "attn_v=Q5_K", "--tensor-type", "ffn_down=Q5_K", "--tensor-type", "token_embd=Q5_K")
    assert len(by_hand) == 1 and re.findall(r"(\w+) for (\w+) \((\d+) matri(?:x|ces)\)", by_hand[0]) in (
        [("Q5_1", "Q5_K", "2"), ("Q8_0", "Q6_K", "1")], [("Q8_0", "Q6_K", "1"), ("Q5_1", "Q5_K", "2")]), by_hand # ffn_down has rows of 512
    assert types(out)["blk.0.attn_v.weight"] == "Q5_1" and types(out)["blk.0.ffn_down.weight"] == "Q5_K"
    assert notes("Q8_0") == [] and notes("Q4_K_M", "-q") == [] and len(notes("Q4_K_M")) == 1


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


@test
def mean_equals_the_stage_kv_heads():
    folder = unpack()
    mha = synth("mha.gguf", "n_heads=4", "n_kv_heads=4")
    cases = [(mha, n) for n in (1, 2)]
    # one matrix for q, k and v, with biases; and biases on k and v, with layers of another base
    cases += [(os.path.join(folder, "gpt2", "model.gguf"), 2), (os.path.join(folder, "qwen2", "model.gguf"), 1)]
    for model, n in cases:
        out = path("pooled.gguf")
        kvasir("quantize", model, out, "F32", "--kv-heads", n, "--kv-method", "mean")
        a, b = logits(out), logits(model, "--attention", f"*=full|kv_heads({n})")
        # The mean of products against the product of means: the same sums in another order, in float32, so a few ulp (6e-8) of the largest logit
        # for each of a few layers; heads joined otherwise, or not at all, move logits by a good part of themselves.
        size = np.abs(b).max()
        assert np.abs(a - b).max() < 2e-5 * size, (model, n, np.abs(a - b).max() / size)
        assert np.abs(b - logits(model)).max() > 1e-2 * size, (model, n)


def rewrite(source, target, change, kv_heads, more=()):
    """The checkpoint again, written by gguf-py, with other tensors, and more of them: (name, shape)."""
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
    for name, shape in more:
        writer.add_tensor(name, np.zeros(shape, dtype=np.float32))
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
def heads_of_what_is_no_model_are_not_made_fewer():
    base, odd, out = synth("mha.gguf", "n_heads=4", "n_kv_heads=4"), path("odd.gguf"), path("odd-out.gguf")
    narrow, wide = lambda name, x: x[:, :64] if "attn_q" in name else x, lambda name, x: np.hstack([x] * 8) if "attn_k" in name else x
    for change, more, says in ((narrow, (), "blk.0.attn_q.weight"), (wide, (), "blk.0.attn_k.weight"),
                               (lambda name, x: x, [("blk.00.attn_k.weight", (256, 4096))], "blk.00.attn_k.weight is not part"),
                               (lambda name, x: x, [("blk.0.attn_k.bias", (4096,))], "blk.0.attn_k.bias")):
        rewrite(base, odd, change, 4, more)
        for method in ("mean", "svd"):
            done = kvasir("quantize", odd, out, "F32", "--kv-heads", 2, "--kv-method", method, status=1)
            assert odd in done.stderr and says in done.stderr and done.stderr.count("\n") == 1 and not os.path.exists(out), done.stderr


READ, OTHER = "tests/golden/text/apache-2.0.txt", "tests/golden/text/gpl-3.txt"


def chunks_of(model, text, n_ctx, n):
    """Token ids [n][n_ctx] as the tools read a text: BOS before it, and first in every chunk, when the model has one to add."""
    fields = GGUFReader(model).fields
    ids = json.loads(kvasir("tokenize", "-m", model, "-f", text, "--no-special").stdout)
    rows = np.array(ids[:n * n_ctx]).reshape(n, n_ctx)
    add = fields.get("tokenizer.ggml.add_bos_token")
    if add and add.contents():
        rows[:, 0] = fields["tokenizer.ggml.bos_token_id"].contents()
    return rows


def importance(model, text, *args):
    """What kvasir imatrix wrote: sums of squares [n_matrices][n_in] and counts [n_matrices] by tensor, and the file's other fields."""
    out = path("importance.gguf")
    kvasir("imatrix", "-m", model, "-f", text, "-ctk", "f32", "-ctv", "f32", *args, out)
    reader = GGUFReader(out)
    parts = {t.name: np.array(t.data, dtype=np.float64) for t in reader.tensors}
    names = {n[:-len(".counts")] for n in parts if n.endswith(".counts")}
    assert len(parts) == 2 * len(names)
    return {n: (parts[n + ".in_sum2"], parts[n + ".counts"].ravel()) for n in names}, {k: f.contents() for k, f in reader.fields.items()}


def rms(x, weight, eps=1e-5):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def uneven(source, target, logit_scale=1):
    """Norm weights and embedding columns from 1/8 to 8: inputs that matter differently, as those of trained models do."""
    rng = np.random.default_rng(9)

    def change(name, x):
        if "norm" not in name and name != "token_embd.weight":
            return x
        return x * np.exp2(rng.uniform(-3, 3, x.shape[-1])) * (logit_scale if name == "output_norm.weight" else 1)

    rewrite(source, target, change, 2)
    return target


def inputs_of_one_layer(w, chunks, n_heads=4, n_kv=2, d=64):
    """A Llama of one layer in numpy (double): what goes into each of its matrices, [rows][n_in]."""
    x, seen = w["token_embd.weight"][chunks], {}
    n_ctx = chunks.shape[1]
    turn = np.exp(1j * np.arange(n_ctx)[:, None] * 10000.0 ** (-2 * np.arange(d // 2) / d))  # pairs (2i, 2i+1)

    def heads(h, name, n, rotated):
        y = (h @ w[f"blk.0.attn_{name}.weight"].T).reshape(-1, n_ctx, n, d)
        if rotated:
            z = (y[..., 0::2] + 1j * y[..., 1::2]) * turn[:, None]
            y[..., 0::2], y[..., 1::2] = z.real, z.imag
        return np.repeat(y, n_heads // n, 2)

    h = rms(x, w["blk.0.attn_norm.weight"])
    for name in "qkv":
        seen[f"blk.0.attn_{name}.weight"] = h
    q, k, v = heads(h, "q", n_heads, True), heads(h, "k", n_kv, True), heads(h, "v", n_kv, False)
    scores = np.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(d) + np.triu(np.full((n_ctx, n_ctx), -np.inf), 1)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    a = np.einsum("bhqk,bkhd->bqhd", p / p.sum(-1, keepdims=True), v).reshape(*x.shape[:2], n_heads * d)
    seen["blk.0.attn_output.weight"] = a
    x = x + a @ w["blk.0.attn_output.weight"].T
    h = rms(x, w["blk.0.ffn_norm.weight"])
    seen["blk.0.ffn_gate.weight"] = seen["blk.0.ffn_up.weight"] = h
    gate = h @ w["blk.0.ffn_gate.weight"].T
    f = gate / (1 + np.exp(-gate)) * (h @ w["blk.0.ffn_up.weight"].T)
    seen["blk.0.ffn_down.weight"] = f
    seen["output.weight"] = rms(x + f @ w["blk.0.ffn_down.weight"].T, w["output_norm.weight"])
    return seen


@test
def importance_is_the_mean_square_of_the_inputs():
    one = uneven(synth("one.gguf", "n_layers=1"), path("one-uneven.gguf"))
    got, fields = importance(one, READ, "-c", 64, "--chunks", 5)
    want = inputs_of_one_layer(weights(one), chunks_of(one, READ, 64, 5))
    assert set(got) == set(want), set(got) ^ set(want)
    for name, x in want.items():
        sums, counts = got[name]
        assert counts.tolist() == [5 * 64] and sums.shape == (1, x.shape[-1]), name
        mean = (x.reshape(-1, x.shape[-1]) ** 2).mean(0)
        # float32 sums along the layer against double: a few ulp each, and exp() of scores of some tens multiplies them by those
        assert np.abs(sums[0] / counts[0] / mean - 1).max() < 2e-4, (name, np.abs(sums[0] / counts[0] / mean - 1).max())
    assert fields["general.type"] == "imatrix" and fields["imatrix.datasets"] == [READ]
    assert (fields["imatrix.chunk_count"], fields["imatrix.chunk_size"]) == (5, 64)


@test
def importance_sees_inputs_before_they_become_int8():
    base, quantized = uneven(synth("base.gguf", "n_layers=3"), path("uneven.gguf")), path("int8.gguf")
    kvasir("quantize", base, quantized, "Q8_0")
    got, _ = importance(quantized, READ, "-c", 64, "--chunks", 2)
    w = weights(quantized)
    h = rms(w["token_embd.weight"][chunks_of(quantized, READ, 64, 2)], w["blk.0.attn_norm.weight"]).reshape(-1, 256)
    want = (h ** 2).sum(0)
    # In blocks of 32 whose largest is 64 times the smallest, int8 would be wrong by percents.
    assert np.abs(got["blk.0.attn_q.weight"][0][0] / want - 1).max() < 1e-5


@test
def importance_of_experts_latents_and_fused_projections():
    folder = unpack()
    model = os.path.join(folder, "mixtral", "model.gguf")
    got, _ = importance(model, READ, "-c", 64, "--chunks", 3)
    n_rows = 3 * 64
    for layer in range(3):
        router, count = got[f"blk.{layer}.ffn_gate_inp.weight"]
        up, counts = got[f"blk.{layer}.ffn_up_exps.weight"]
        assert count.tolist() == [n_rows] and counts.shape == (4,) and counts.sum() == 2 * n_rows and len(set(counts)) > 1
        assert np.array_equal(counts, got[f"blk.{layer}.ffn_down_exps.weight"][1])
        # Every row goes to two of four experts, with the input that its router saw.
        assert np.abs(up.sum(0) / (2 * router[0]) - 1).max() < 1e-5 and not np.allclose(up[0] / counts[0], up[1] / counts[1], rtol=0.01)
        assert got[f"blk.{layer}.ffn_down_exps.weight"][0].shape == (4, 64)
    # phi3 has q, k and v in one matrix, gate and up in one: each row counts once
    got, _ = importance(os.path.join(folder, "phi3", "model.gguf"), READ, "-c", 64, "--chunks", 3)
    assert all(got[f"blk.0.{name}.weight"][1].tolist() == [n_rows] for name in ("attn_qkv", "ffn_up", "ffn_down", "attn_output"))
    # Latent attention: k_b turns the queries of a head, v_b what it attended to; where both are one matrix, as in the checkpoint, its input is the latent.
    model = os.path.join(folder, "deepseek_v2_lite", "model.gguf")
    got, _ = importance(model, READ, "-c", 64, "--chunks", 3)
    w = weights(model)
    h = rms(w["token_embd.weight"][chunks_of(model, READ, 64, 3)], w["blk.0.attn_norm.weight"], 1e-6).reshape(-1, 64)
    q = (h @ w["blk.0.attn_q.weight"].T).reshape(-1, 4, 24)[..., :16]
    sums, counts = got["blk.0.attn_k_b.weight"]
    assert counts.tolist() == [n_rows] * 4 and np.abs(sums / (q ** 2).sum(0) - 1).max() < 1e-4
    assert got["blk.0.attn_v_b.weight"][0].shape == (4, 32)
    model = fused_latent(model, path("fused.gguf"))
    got, _ = importance(model, READ, "-c", 64, "--chunks", 3)
    latent = rms((h @ w["blk.0.attn_kv_a_mqa.weight"].T)[:, :32], w["blk.0.attn_kv_a_norm.weight"], 1e-6)
    sums, counts = got["blk.0.attn_kv_b.weight"]
    assert counts.tolist() == [n_rows] and np.abs(sums[0] / (latent ** 2).sum(0) - 1).max() < 1e-4


def fused_latent(source, target):
    """attn_k_b and attn_v_b as one attn_kv_b of [nope | v] rows per head over the latent."""
    reader = GGUFReader(source)
    writer = GGUFWriter(target, "deepseek2")
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            kind = field.types[0]
            writer.add_key_value(name, field.contents(), kind, field.types[-1] if kind == GGUFValueType.ARRAY else None)
    parts = {t.name: np.array(t.data, dtype=np.float32) for t in reader.tensors}
    for name, x in parts.items():
        if name.endswith("attn_k_b.weight"):
            name, v = name.replace("attn_k_b", "attn_kv_b"), parts[name.replace("attn_k_b", "attn_v_b")]
            x = np.concatenate([x.transpose(0, 2, 1), v], 1).reshape(-1, x.shape[1])
        if not name.endswith("attn_v_b.weight"):
            writer.add_tensor(name, np.ascontiguousarray(x))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


@test
def importance_brings_the_outputs_closer():
    # Random weights give logits of some tens, where a KL says little: a sixteenth is more like a language model.
    base = uneven(synth("base.gguf", "n_layers=3"), path("uneven-soft.gguf"), 1 / 16)
    importance(base, READ, "-c", 128)
    kept = path("kept.gguf")
    os.replace(path("importance.gguf"), kept)
    score = ("perplexity", "-f", OTHER, "-c", 128, "--chunks", 4, "--kl-base", path("kl"), "--gemm", "blas", "-o", "json")
    kvasir(*score, "-m", base)
    for name in ("Q2_K", "Q3_K_S", "Q4_0", "Q4_1", "IQ4_XS", "IQ4_NL"):
        kl = {}
        for args in ((), ("--imatrix", kept)):
            kvasir("quantize", base, path("q.gguf"), name, "--pure", "--tensor-type", "token_embd=F16", *args)
            kl[bool(args)] = json.loads(kvasir(*score, "-m", path("q.gguf")).stdout)["kl_mean"]
        assert kl[True] < 0.9 * kl[False], (name, kl)


@test
def perplexity_before_and_after():
    base, out = synth("mha.gguf", "n_heads=4", "n_kv_heads=4"), path("ppl.gguf")
    done = kvasir("quantize", base, out, "Q8_0", "--kv-heads", 2, "-f", "tests/golden/text/apache-2.0.txt")
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("perplexity")]
    assert len(lines) == 2 and all(float(l[1]) > 1 for l in lines), done.stdout
    with open("tests/golden/text/apache-2.0.txt", "rb") as text:  # what a pipe brings is there for both, too
        assert kvasir("quantize", base, out, "Q8_0", "--kv-heads", 2, "-f", "-", stdin=text).stdout == done.stdout
    both = kvasir("quantize", base, out, "Q8_0", "--kv-heads", 2, "-f", "tests/golden/text/apache-2.0.txt", "-o", "json")
    r = json.loads(both.stdout)  # one object, as the other tools give
    for model, key in ((base, "perplexity_from"), (out, "perplexity_to")):
        assert r[key] == json.loads(kvasir("perplexity", "-m", model, "-f", "tests/golden/text/apache-2.0.txt", "-o", "json").stdout), key
    assert r["path"] == out and r["bytes"] == os.path.getsize(out)
    with open(path("short.txt"), "w") as text:
        text.write("too short for a chunk")
    failed = kvasir("quantize", base, out, "Q8_0", "-f", path("short.txt"), "-o", "json", status=1)
    assert failed.stdout == "" and "tokens" in failed.stderr and failed.stderr.count("\n") == 1, failed
    late = path("late.gguf")
    failed = kvasir("quantize", base, late, "Q8_0", "-f", path("no.txt"), status=1)  # known before the work
    assert failed.stderr.startswith("kvasir quantize: cannot open") and failed.stderr.count("\n") == 1 and not os.path.exists(late)


@test
def wrong_usage_is_one_line_and_leaves_nothing():
    base, out = synth("mha.gguf", "n_heads=4", "n_kv_heads=4"), path("never.gguf")
    gemma = synth("gemma.gguf", arch="gemma3")
    broken = path("nan.gguf")
    rewrite(base, broken, lambda name, x: np.where(np.arange(x.size).reshape(x.shape) == 7, np.nan, x) if "blk.1.ffn_up" in name else x, 4)
    importance(synth("narrow.gguf", "n_embd=192", "n_ff=384"), READ, "-c", 64, "--chunks", 1)
    other = path("importance.gguf")
    for args, status, says in (
            ((base, out, "Q9_K"), 2, "Q4_K_M"), ((base, out), 2, "TYPE"), ((base, out, "Q8_0", "--kv-heads", 3), 2, "divide"),
            ((base, out, "Q8_0", "--kv-heads", 0), 2, "--kv-heads"), ((base, out, "Q8_0", "--kv-method", "svd"), 2, "--kv-heads"),
            ((base, out, "Q8_0", "--tensor-type", "ffn"), 2, "NAME=TYPE"), ((base, out, "Q8_0", "--tensor-type", "ffn=Q77"), 2, "NAME=TYPE"),
            ((base, out, "Q8_0", "--tensor-type", "ffn_=Q6_K", "--tensor-type", "fnn_up=Q6_K"), 2, "'fnn_up=Q6_K'"),
            ((base, out, "Q8_0", "--tensor-type", "attn_norm=F16"), 2, "'attn_norm=F16'"),
            ((gemma, out, "Q8_0", "--kv-heads", 1, "--kv-method", "svd"), 0, ""), ((broken, out, "Q8_0"), 1, "blk.1.ffn_up.weight"),
            ((base, out, "Q8_0", "--imatrix", base), 1, "importance"), ((path("no.gguf"), out, "Q8_0"), 1, "no.gguf"),
            ((base, path("no/folder.gguf"), "Q8_0"), 1, "no/folder"), ((base, out, "Q8_0", "--imatrix", other), 1, "another shape")):
        if args[0] == gemma:  # one KV head already, but its heads are normed after the projection
            status, says = 1, "norms its heads"
        done = kvasir("quantize", *args, status=status)
        assert says in done.stderr and done.stderr.count("\n") == 1, (args, done.stderr)
        assert not os.path.exists(out) and done.stdout == "", args
    assert not [f for f in os.listdir(FOLDER.name) if "never" in f]
    before, alias = open(base, "rb").read(), path("alias.gguf")
    os.link(base, alias)
    for same in (base, alias):
        done = kvasir("quantize", base, same, "Q4_0", status=2)
        assert "would be lost" in done.stderr and done.stderr.count("\n") == 1, done.stderr
        assert open(base, "rb").read() == before
    os.unlink(alias)



@test
def importance_fails_in_one_line_and_leaves_nothing():
    base, short, out = synth("mha.gguf", "n_heads=4", "n_kv_heads=4"), path("short.txt"), path("never.gguf")
    with open(short, "w") as f:
        f.write("too short")
    broken = path("nan.gguf")
    rewrite(base, broken, lambda name, x: x * np.nan if "blk.0.attn_output" in name else x, 4)
    for args, status, says in (
            (("-m", base, out), 2, "-f FILE"), (("-m", base, "-f", READ), 2, "OUT.gguf"), (("-m", base, "-f", short, out), 1, "one chunk"),
            (("-m", base, "-f", READ, "--chunks", "-1", out), 2, "--chunks"), (("-m", base, "-f", path("no.txt"), out), 1, "no.txt"),
            (("-m", base, "-f", READ, "--chunks", 1, path("no/folder.gguf")), 1, "no/folder"), (("-m", broken, "-f", READ, "-c", 64, out), 1, "not finite")):
        done = kvasir("imatrix", *args, status=status)
        assert says in done.stderr and done.stderr.count("\n") == 1 and done.stdout == "", (args, done.stderr)
        assert not [f for f in os.listdir(FOLDER.name) if "never" in f], args
    before = open(base, "rb").read()
    for place, says in (path("no/im.gguf"), "no/im.gguf"), ("", "is empty"):  # known before the text is read
        assert says in kvasir("imatrix", "-m", broken, "-f", READ, "-c", 64, place, status=1).stderr
    done = kvasir("imatrix", "-m", base, "-f", READ, "-c", 64, "--chunks", 1, base, status=2)  # as if the operand were the model
    assert "would be lost" in done.stderr and done.stderr.count("\n") == 1 and open(base, "rb").read() == before, done.stderr
    for _ in range(2):  # an importance of before is replaced
        kvasir("imatrix", "-m", base, "-f", READ, "-c", 64, "--chunks", 1, path("again.gguf"))

if __name__ == "__main__":
    run_tests(TESTS, [(KVASIR, "make")])
