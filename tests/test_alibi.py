#!/usr/bin/env python3
"""MPT with a number of heads that is no power of two, and with q, k and v held within a limit: logits against numpy, in double.

    KVASIR=./kvasir python3 tests/test_alibi.py [word in the test's name]

The fixtures of transformers (test_convert.py) have four heads and no limit. The formulas are those of the papers: the slopes of ALiBi as the
code of Press 2021 has them for any number of heads, and MPT's block (MosaicML 2023).
"""
import json, math, os, shutil, struct, tempfile
import numpy as np

from support.command import KVASIR, kvasir
from support.fixtures import unpack
from support.runner import run_tests

WORK = tempfile.TemporaryDirectory()
N_HEADS, D, N_LAYERS, N_VOCAB, LIMIT = 6, 96, 2, 384, 0.8
IDS = [int(i) for i in np.random.default_rng(3).integers(0, 370, 90)]  # a second page of keys
TESTS = []


def test(function):
    TESTS.append(function)
    return function


def weights():
    rng = np.random.default_rng(1)
    def matrix(n_out, n_in): return (rng.normal(size=(n_out, n_in)) * 1.6 / math.sqrt(n_in)).astype(np.float32)
    def norm(): return rng.normal(1, 0.2, D).astype(np.float32)
    w = {"transformer.wte.weight": matrix(N_VOCAB, D), "transformer.norm_f.weight": norm()}
    for i in range(N_LAYERS):
        at = f"transformer.blocks.{i}."
        w |= {at + "norm_1.weight": norm(), at + "norm_2.weight": norm(), at + "attn.Wqkv.weight": matrix(3 * D, D), at + "attn.out_proj.weight": matrix(D, D),
              at + "ffn.up_proj.weight": matrix(4 * D, D), at + "ffn.down_proj.weight": matrix(D, 4 * D)}
    return w


def checkpoint(w, name, clip, bias_max=8):
    """A Hugging Face folder of these weights, converted."""
    folder, tokenizer = os.path.join(WORK.name, name), os.path.join(unpack(), "more", "tokenizer")
    shutil.copytree(tokenizer, folder)
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump({"architectures": ["MptForCausalLM"], "model_type": "mpt", "d_model": D, "n_heads": N_HEADS, "n_layers": N_LAYERS, "vocab_size": N_VOCAB,
                   "expansion_ratio": 4, "max_seq_len": 256, "layer_norm_epsilon": 1e-5, "no_bias": True, "tie_word_embeddings": True,
                   "attn_config": {"alibi": True, "alibi_bias_max": bias_max, "clip_qkv": clip}}, f)
    header, at = {}, 0
    for key, x in w.items():
        header[key] = {"dtype": "F32", "shape": list(x.shape), "data_offsets": [at, at + x.nbytes]}
        at += x.nbytes
    text = json.dumps(header).encode()
    with open(os.path.join(folder, "model.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + b"".join(x.tobytes() for x in w.values()))
    kvasir("convert", "-q", folder, folder + ".gguf", "--outtype", "f32")
    return folder + ".gguf"


def slopes(n, bias_max=8):
    """get_slopes of the paper's code, which has 8; MosaicML's has alibi_bias_max there."""
    def of_power(n): return [2 ** (-bias_max / n * (i + 1)) for i in range(n)]
    power = 2 ** math.floor(math.log2(n))
    return of_power(n) if power == n else of_power(power) + of_power(2 * power)[0::2][:n - power]


def mpt(w, slope, clip):
    """Logits of all positions."""
    def norm(x, weight):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x ** 2).mean(-1, keepdims=True) + 1e-5) * weight
    erf = np.vectorize(math.erf)
    w = {k: v.astype(np.float64) for k, v in w.items()}
    x, n, d = w["transformer.wte.weight"][IDS], len(IDS), D // N_HEADS
    distance = np.arange(n)[None, :] - np.arange(n)[:, None]
    for i in range(N_LAYERS):
        at = f"transformer.blocks.{i}."
        qkv = norm(x, w[at + "norm_1.weight"]) @ w[at + "attn.Wqkv.weight"].T
        if clip:
            qkv = np.clip(qkv, -clip, clip)
        q, k, v = (qkv[:, j * D:(j + 1) * D].reshape(n, N_HEADS, d) for j in range(3))
        scores = np.einsum("ihd,jhd->hij", q, k) / math.sqrt(d) + np.array(slope)[:, None, None] * distance
        p = np.exp(np.where(distance <= 0, scores - scores.max(-1, keepdims=True, where=distance <= 0, initial=-np.inf), -np.inf))
        o = np.einsum("hij,jhd->ihd", p / p.sum(-1, keepdims=True), v).reshape(n, D)
        x = x + o @ w[at + "attn.out_proj.weight"].T
        h = norm(x, w[at + "norm_2.weight"]) @ w[at + "ffn.up_proj.weight"].T
        x = x + (h / 2 * (1 + erf(h / math.sqrt(2)))) @ w[at + "ffn.down_proj.weight"].T
    return norm(x, w["transformer.norm_f.weight"]) @ w["transformer.wte.weight"].T


def logits(model):
    done = kvasir("logits", "-m", model, "--tokens", ",".join(map(str, IDS)), "--at", "all", "-o", "json", "-ctk", "f32", "-ctv", "f32")
    return np.array([row["values"] for row in json.loads(done.stdout)["rows"]])


@test
def six_heads_have_the_slopes_of_the_paper():
    w = weights()
    got, want = logits(checkpoint(w, "free", None)), mpt(w, slopes(N_HEADS), None)
    other = mpt(w, [2 ** (-8 / N_HEADS * (i + 1)) for i in range(N_HEADS)], None)  # one sequence over all six
    size = np.abs(want).max()
    assert np.abs(got - want).max() < 1e-4 * size, np.abs(got - want).max() / size  # float32 through two layers
    assert np.abs(other - want).max() > 1e-2 * size


@test
def another_alibi_bias_max_is_converted():
    """As MosaicML's code and llama.cpp read it; the class of transformers takes 8 whatever config.json says."""
    w = weights()
    got, want = logits(checkpoint(w, "steep", None, 3)), mpt(w, slopes(N_HEADS, 3), None)
    size = np.abs(want).max()
    assert np.abs(got - want).max() < 1e-4 * size, np.abs(got - want).max() / size
    assert np.abs(mpt(w, slopes(N_HEADS), None) - want).max() > 1e-2 * size


@test
def q_k_and_v_stay_within_their_limit():
    w = weights()
    got, want = logits(checkpoint(w, "held", LIMIT)), mpt(w, slopes(N_HEADS), LIMIT)
    size = np.abs(want).max()
    assert np.abs(got - want).max() < 1e-4 * size, np.abs(got - want).max() / size
    assert np.abs(mpt(w, slopes(N_HEADS), None) - want).max() > 1e-2 * size


run_tests(TESTS, [(KVASIR, "make")])
