#!/usr/bin/env python3
"""kvasir inspect on files that need what is not supported: each thing is there by its name, all at once; and what the same file says when it is run.

    KVASIR=./kvasir python3 tests/test_inspect_needs.py [word in the test's name]

The files are checkpoints of kvasir synth, written again by gguf-py (an independent implementation) with one thing changed.
"""
import json, os, tempfile

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
from gguf.constants import GGML_QUANT_SIZES

from support.command import KVASIR, kvasir
from support.runner import run_tests

READ_BY_US = {"F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q5_0", "Q5_1", "Q4_K", "Q4_0", "Q4_1", "Q3_K", "Q2_K", "IQ4_NL", "IQ4_XS", "MXFP4"}
TESTS = []
FOLDER = tempfile.TemporaryDirectory(prefix="kvasir-needs-")


def test(function):
    TESTS.append(function)
    return function


def path(name):
    return os.path.join(FOLDER.name, name)


def file_with(keys=(), types=(), more=(), arch="llama"):
    """The base checkpoint with keys {name: value} over its own, types {tensor: GGML type} whose data is zeros, and more tensors."""
    base, out = path("base.gguf"), path("changed.gguf")
    if not os.path.exists(base):
        kvasir("synth", "--type", "F32", base)
    keys, types, reader, writer = dict(keys), dict(types), GGUFReader(base), GGUFWriter(out, arch)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", *keys):
            continue
        kind = field.types[0]
        writer.add_key_value(name.replace("llama.", arch + ".", 1) if name.startswith("llama.") else name, field.contents(), kind,
                             field.types[-1] if kind == GGUFValueType.ARRAY else None)
    for name, value in keys.items():
        kind = {bool: GGUFValueType.BOOL, int: GGUFValueType.UINT32, float: GGUFValueType.FLOAT32, str: GGUFValueType.STRING}[type(value)]
        writer.add_key_value(name, value, kind)
    for t in reader.tensors:
        if t.name in types:
            block, size = GGML_QUANT_SIZES[types[t.name]]
            writer.add_tensor(t.name, np.zeros((*t.data.shape[:-1], t.data.shape[-1] // block * size), np.uint8), raw_dtype=types[t.name])
        else:
            writer.add_tensor(t.name, t.data)
    for name in more:
        writer.add_tensor(name, np.zeros((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def needs(model):
    """{(what, name): note} of a file, and whether it runs; the text form says the same."""
    told = json.loads(kvasir("inspect", model, "-o", "json").stdout)
    rows = told.get("not_supported", [])
    text = kvasir("inspect", model).stdout
    assert all(r["name"] in text and r["note"] in text for r in rows), text
    assert ("not_supported" in text) == bool(rows)
    return {(r["what"], r["name"]): r["note"] for r in rows}, told["supported"]


@test
def a_context_that_rope_is_scaled_for_is_no_surprise():
    def warns(keys, n_ctx):
        return "trained for" in kvasir("run", "-m", file_with(keys), "--tokens", "1,2", "-n", "1", "-c", str(n_ctx)).stderr
    plain = {"llama.context_length": 2048}
    assert warns(plain, 2049) and not warns(plain, 2048)
    linear = {**plain, "llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    assert warns(linear, 8193) and not warns(linear, 8192)
    yarn = {**linear, "llama.rope.scaling.type": "yarn", "llama.rope.scaling.original_context_length": 1024}
    assert warns(yarn, 4097) and not warns(yarn, 4096)


def fails_to_run(model, says):
    done = kvasir("logits", "-m", model, "--tokens", "1,2", status=1)
    assert says in done.stderr and done.stderr.count("\n") == 1 and done.stdout == "", done.stderr


@test
def a_file_that_runs_needs_nothing():
    assert needs(file_with()) == ({}, True)


@test
def architectures_are_named():
    for arch in ("mamba", "rwkv7", "some-model-of-2031"):
        model = file_with(arch=arch)
        got, runs = needs(model)
        assert list(got) == [("architecture", arch)] and not runs and "llama" in got["architecture", arch]
        fails_to_run(model, f"'{arch}'")


@test
def every_tensor_type_of_gguf_runs_or_is_named():
    for kind in GGMLQuantizationType:
        block, _ = GGML_QUANT_SIZES[kind]
        if kind.name in READ_BY_US or 256 % block:
            continue
        model = file_with(types={"blk.0.ffn_up.weight": kind, "blk.1.ffn_up.weight": kind})
        got, runs = needs(model)
        assert list(got) == [("tensor type", kind.name)] and not runs, (kind, got)
        assert "2 tensors" in got["tensor type", kind.name] and "blk.0.ffn_up.weight" in got["tensor type", kind.name]
        fails_to_run(model, kind.name)
    model = file_with(types={"blk.0.ffn_up.weight": GGMLQuantizationType.Q4_K, "blk.0.ffn_down.weight": GGMLQuantizationType.IQ4_NL})
    assert needs(model) == ({}, True)


@test
def all_needs_are_told_at_once():
    model = file_with({"rwkv.rope.scaling.type": "dynamic", "tokenizer.ggml.model": "rwkv", "split.count": 3, "split.no": 1},
                      {"output.weight": GGMLQuantizationType.IQ2_XXS, "blk.1.attn_q.weight": GGMLQuantizationType.TQ1_0}, arch="rwkv")
    got, runs = needs(model)
    assert set(got) == {("architecture", "rwkv"), ("tensor type", "IQ2_XXS"), ("tensor type", "TQ1_0"), ("rope scaling", "dynamic"), ("tokenizer", "rwkv"),
                        ("split file", "2 of 3")} and not runs, got


@test
def keys_that_change_the_maths_are_named():
    for key, value, what, name in (("llama.rope.scaling.type", "dynamic", "rope scaling", "dynamic"), ("llama.hidden_activation", "swish7", "activation", "swish7"),
                                   ("llama.attention.causal", False, "attention", "bidirectional"), ("llama.expert_gating_func", 9, "expert gating", "9")):
        more = {"llama.expert_count": 4, "llama.expert_used_count": 2} if "expert" in key else {}
        model = file_with({key: value, **more})
        got, runs = needs(model)
        assert list(got) == [(what, name)] and key in got[what, name] and not runs, (key, got, runs)
        fails_to_run(model, key.split(".", 1)[1])


@test
def tokenizers_and_templates_are_named_though_tokens_run():
    for key, value, what, name in (("tokenizer.ggml.model", "rwkv", "tokenizer", "rwkv"), ("tokenizer.ggml.pre", "next-year", "pre-tokenizer", "next-year"),
                                   ("tokenizer.chat_template", "{% for m in messages %}{{ m }", "chat template", "its own"),
                                   ("tokenizer.chat_template", "{% include 'other' %}", "chat template", "its own")):
        model = file_with({key: value})
        got, runs = needs(model)
        assert list(got) == [(what, name)] and runs, (key, got)
        kvasir("logits", "-m", model, "--tokens", "1,2")
    done = kvasir("tokenize", "-m", file_with({"tokenizer.ggml.model": "rwkv"}), "-p", "x", status=1)
    assert "rwkv" in done.stderr and done.stderr.count("\n") == 1


@test
def tensors_that_no_architecture_knows_are_named():
    model = file_with(more=["blk.0.ssm_in.weight"])
    got, runs = needs(model)
    assert list(got) == [("model", "")] and "blk.0.ssm_in.weight" in got["model", ""] and not runs
    fails_to_run(model, "blk.0.ssm_in.weight")


@test
def files_that_are_no_checkpoint_say_what_they_are():
    for kind in ("adapter", "mmproj", "imatrix"):
        got, _ = needs(file_with({"general.type": kind}))
        assert list(got) == [("file type", kind)], got
    assert needs(file_with({"general.type": "model", "split.count": 1, "split.no": 0})) == ({}, True)
    model = file_with({"split.count": 3, "split.no": 2})
    got, runs = needs(model)
    assert list(got) == [("split file", "3 of 3")] and not runs, got
    fails_to_run(model, "join the parts")


@test
def what_is_wrong_is_not_called_unsupported():
    got, runs = needs(file_with({"llama.attention.head_count": 7}))
    assert list(got) == [("file", "")] and "head_count" in got["file", ""] and not runs


if __name__ == "__main__":
    run_tests(TESTS, [(KVASIR, "make")])
