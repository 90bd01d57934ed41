#!/usr/bin/env python3
"""kvasir convert: Hugging Face folders become GGUF files that hold what they held.

    KVASIR=./kvasir python3 tests/test_convert.py [word in the test's name]

Expectations come from elsewhere: the GGUF files that llama.cpp's converter made of the same folders, logits of transformers, ids of
tokenizers (tests/golden/fixtures), and numpy for the types.
"""
import json, os, shutil, struct, subprocess, sys, tempfile
import numpy as np
from gguf import GGUFReader, GGMLQuantizationType
from gguf.quants import dequantize

from support.fixtures import unpack
from support.runner import run_tests

KVASIR = os.path.abspath(os.environ.get("KVASIR", "./kvasir"))
OPEN = unpack()
WORK = tempfile.TemporaryDirectory()
MANIFEST = {f["name"]: f for f in json.load(open(f"{OPEN}/manifest.json"))["fixtures"]}
MORE = sorted(n for n in os.listdir(f"{OPEN}/more") if n != "tokenizer")
RUNS = [*MANIFEST, *("more/" + n for n in MORE)]
TESTS = []


def test(function):
    TESTS.append(function)
    return function


def kvasir(*args, status=0):
    done = subprocess.run([KVASIR, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120)
    assert done.returncode == status, (args, done.returncode, done.stderr[-1000:])
    return done


converted = {}


def convert(name):
    """The fixture as f32, made once."""
    if name not in converted:
        converted[name] = os.path.join(WORK.name, name.replace("/", "_") + ".gguf")
        kvasir("convert", "-q", f"{OPEN}/{name}/hf", converted[name], "--outtype", "f32")
    return converted[name]


def tensors(path):
    return {t.name: t for t in GGUFReader(path).tensors}


def keys(path):
    return {k: f.contents() for k, f in GGUFReader(path).fields.items() if not k.startswith("GGUF.")}


@test
def fixtures_have_the_tensors_that_the_other_converter_made():
    for name in MANIFEST:
        ours, theirs = tensors(convert(name)), tensors(f"{OPEN}/{name}/model.gguf")
        assert set(ours) == set(theirs), (name, set(ours) ^ set(theirs))
        for key, t in theirs.items():
            o = ours[key]
            assert o.tensor_type == t.tensor_type and list(o.shape) == list(t.shape), (name, key, o.shape, t.shape)
            assert np.array_equal(o.data, t.data), (name, key)


@test
def fixtures_have_the_keys_that_the_other_converter_wrote():
    # It names the folder and counts parameters; writes 2048 for falcon, whatever config.json says; and rounds 0.1 * mscale elsewhere.
    other = {"general.name", "general.size_label", "falcon.context_length"}
    for name in MANIFEST:
        ours, theirs = keys(convert(name)), keys(f"{OPEN}/{name}/model.gguf")
        for key, value in theirs.items():
            if key in other:
                continue
            assert key in ours, (name, key)
            same = abs(ours[key] - value) < 1e-6 if isinstance(value, float) else ours[key] == value
            assert same, (name, key, ours[key], value)


@test
def what_gguf_has_no_standard_for_is_there():
    assert keys(convert("mistral"))["llama.attention.sliding_window"] == 32
    assert keys(convert("gpt_oss"))["gpt-oss.rope.scaling.yarn_truncate"] is False
    assert keys(convert("more/qwen2_yarn"))["qwen2.rope.scaling.yarn_truncate"] is True


@test
def texts_become_the_ids_of_tokenizers():
    cases = json.load(open(f"{OPEN}/tokenizer_expect.json"))["encode"]
    for name in MANIFEST:
        for path in (convert(name), f"{OPEN}/{name}/model.gguf")[: 2 if name in ("llama", "qwen3") else 1]:
            some = cases if name in ("llama", "qwen3") else cases[8:12] + cases[-8:]
            for case in some:
                file = os.path.join(WORK.name, "text")
                with open(file, "w", newline="") as f:
                    f.write(case["text"])
                got = json.loads(kvasir("tokenize", "-m", path, "-f", file, "--no-bos").stdout)
                assert got == case["ids"], (name, case["text"], got, case["ids"])


@test
def conversations_are_rendered_as_transformers_does():
    cases, file = json.load(open(f"{OPEN}/tokenizer_expect.json"))["chat"], os.path.join(WORK.name, "messages.json")
    for name in MANIFEST:
        for case in cases:
            with open(file, "w") as f:
                json.dump(case["messages"], f)
            done = kvasir("template", "-m", convert(name), "--messages", file, *([] if case["add_generation_prompt"] else ["--no-generation-prompt"]))
            assert done.stdout.decode() == case["rendered"], (name, done.stdout)


@test
def every_architecture_converts():
    for name in MORE:
        convert("more/" + name)


# Its frequencies depend on whether the context, 256 in config.json, goes beyond the 64 of training.
CONTEXT = {"more/phi3_short": 64}


@test
def logits_and_greedy_tokens_are_those_of_transformers():
    wrong, exact = [], ("--gemm", "blas", "-ctk", "f32", "-ctv", "f32", "-o", "json")
    for name in RUNS:
        with open(f"{OPEN}/{name}/expect.json") as f:
            cases = json.load(f)
        for case in cases.get("cases", [cases]):
            models = [convert(name)]
            if case.get("name") in MANIFEST.get(name, {}).get("gguf_cases", []):
                models.append(f"{OPEN}/{name}/model.gguf")
            bound = max(1e-3, 2 * MANIFEST[name]["noise_1e-5"]) if name in MANIFEST else 1e-3
            for model in models:
                start = ("-m", model, "--tokens", ",".join(map(str, case["prompt_ids"])), "-c", CONTEXT.get(name, 0), *exact)
                rows = np.array([row["values"] for row in json.loads(kvasir("logits", *start, "--at", "all").stdout)["rows"]])
                worst = np.abs(rows[-1] - np.array(case["logits_last"])).max()
                within = case.get("logits_at") or ({20: case["logits_20"]} if "logits_20" in case else {})
                for pos, values in within.items():
                    worst = max(worst, np.abs(rows[int(pos)] - np.array(values)).max())
                clear = np.array(case.get("margin_all", [])) >= 0.02  # README.md of the fixtures
                if clear.size and (rows.argmax(1) != np.array(case["argmax_all"]))[clear].any():
                    wrong.append((model, "argmax"))
                greedy = json.loads(kvasir("run", *start, "-n", len(case["greedy"]), "--temp", 0, "--ignore-eos").stdout)["tokens"]
                if not worst < bound or greedy != case["greedy"]:
                    wrong.append((model, len(case["prompt_ids"]), worst, greedy, case["greedy"]))
    assert not wrong, "\n".join(map(str, wrong))


# ---- safetensors that are made here -----------------------------------------------------------------------------


def safetensors(path, arrays, header=None):
    """arrays: {name: (dtype, numpy array)}; `header` changes the JSON before it is written."""
    entries, at, blobs = {}, 0, []
    for name, (dtype, a) in arrays.items():
        blob = np.ascontiguousarray(a).tobytes()
        entries[name] = {"dtype": dtype, "shape": list(a.shape), "data_offsets": [at, at + len(blob)]}
        at += len(blob)
        blobs.append(blob)
    text = json.dumps(entries).encode() if header is None else header(entries)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def read_safetensors(path):
    with open(path, "rb") as f:
        n = struct.unpack("<Q", f.read(8))[0]
        header = json.loads(f.read(n))
        data = f.read()
    header.pop("__metadata__", None)
    return {k: ("F32", np.frombuffer(data[slice(*v["data_offsets"])], np.float32).reshape(v["shape"])) for k, v in header.items()}


def copy_of(name, files=True):
    folder = tempfile.mkdtemp(dir=WORK.name)
    shutil.copytree(f"{OPEN}/{name}/hf", folder, dirs_exist_ok=True)
    if not files:
        os.remove(os.path.join(folder, "model.safetensors"))
    return folder


def write_shards(folder, arrays, n):
    names = list(arrays)
    listed = {}
    for i in range(n):
        file = f"model-{i + 1:05}-of-{n:05}.safetensors"
        part = {k: arrays[k] for k in names[i::n]}
        safetensors(os.path.join(folder, file), part)
        listed.update({k: file for k in part})
    with open(os.path.join(folder, "model.safetensors.index.json"), "w") as f:
        json.dump({"metadata": {}, "weight_map": listed}, f)


@test
def shards_make_the_same_file_as_one():
    folder, out = copy_of("llama", files=False), os.path.join(WORK.name, "sharded.gguf")
    write_shards(folder, read_safetensors(f"{OPEN}/llama/hf/model.safetensors"), 3)
    kvasir("convert", "-q", folder, out, "--outtype", "f32")
    ours, one = tensors(out), tensors(convert("llama"))
    assert set(ours) == set(one) and all(np.array_equal(ours[k].data, one[k].data) for k in one)


def half_bits(a, kind):
    if kind == "F16":
        return a.astype(np.float16), a.astype(np.float16).astype(np.float32)
    bits = (a.view(np.uint32) + 0x8000 >> 16).astype(np.uint16)
    return bits, (bits.astype(np.uint32) << 16).view(np.float32)


@test
def halves_come_back_exactly():
    plain = read_safetensors(f"{OPEN}/qwen2/hf/model.safetensors")
    for kind in ("F16", "BF16"):
        folder, out = copy_of("qwen2", files=False), os.path.join(WORK.name, "half.gguf")
        halves = {k: half_bits(a, kind) for k, (_, a) in plain.items()}
        safetensors(os.path.join(folder, "model.safetensors"), {k: (kind, h) for k, (h, _) in halves.items()})
        for outtype in ("f32", kind.lower()):
            kvasir("convert", "-q", folder, out, "--outtype", outtype)
            t = tensors(out)["blk.2.ffn_up.weight"]
            assert t.tensor_type.name == outtype.upper()
            assert np.array_equal(dequantize(t.data, t.tensor_type), halves["model.layers.2.mlp.up_proj.weight"][1]), (kind, outtype)


E4M3 = np.array([(-1.0) ** (b >> 7) * ((b & 7) * 2.0**-9 if b >> 3 & 15 == 0 else (1 + (b & 7) / 8) * 2.0 ** ((b >> 3 & 15) - 7))
                 if b & 127 != 127 else np.nan for b in range(256)], np.float32)


@test
def eight_bit_floats_are_scaled_by_their_blocks():
    random = np.random.default_rng(1)
    plain = read_safetensors(f"{OPEN}/qwen2/hf/model.safetensors")
    folder, out = copy_of("qwen2", files=False), os.path.join(WORK.name, "f8.gguf")
    config = json.load(open(f"{folder}/config.json"))
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [48, 32]}
    json.dump(config, open(f"{folder}/config.json", "w"))
    expected, arrays = {}, {}
    for k, (kind, a) in plain.items():
        arrays[k] = (kind, a)
        if "up_proj" in k or "down_proj" in k:
            bits = random.integers(0, 256, a.shape).astype(np.uint8)
            bits[bits & 127 == 127] = 0
            scales = random.uniform(0.5, 2, ((a.shape[0] + 47) // 48, (a.shape[1] + 31) // 32)).astype(np.float32)
            arrays[k] = ("F8_E4M3", bits)
            arrays[k + "_scale_inv"] = ("F32", scales)
            expected[k] = E4M3[bits] * scales.repeat(48, 0)[: a.shape[0]].repeat(32, 1)[:, : a.shape[1]]
        elif "gate_proj" in k:
            bits = random.integers(0, 0x7C, a.shape).astype(np.uint8)
            arrays[k] = ("F8_E5M2", bits)
            expected[k] = (bits.astype(np.uint16) << 8).view(np.float16).astype(np.float32)
    safetensors(os.path.join(folder, "model.safetensors"), arrays)
    kvasir("convert", "-q", folder, out, "--outtype", "f32")
    found = tensors(out)
    for ours, theirs in (("ffn_up", "up_proj"), ("ffn_down", "down_proj"), ("ffn_gate", "gate_proj")):
        t = found[f"blk.1.{ours}.weight"]
        assert np.array_equal(t.data.reshape(t.data.shape), expected[f"model.layers.1.mlp.{theirs}.weight"]), ours


@test
def mxfp4_is_kept_bit_by_bit():
    random = np.random.default_rng(2)
    arrays = read_safetensors(f"{OPEN}/gpt_oss/hf/model.safetensors")
    folder, out = copy_of("gpt_oss", files=False), os.path.join(WORK.name, "mx.gguf")
    codes = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
    expected = {}
    for k in [k for k in arrays if k.endswith(("gate_up_proj", "down_proj"))]:
        e, n_in, n_out = arrays.pop(k)[1].shape
        q = random.integers(0, 256, (e, n_out, n_in // 32, 16)).astype(np.uint8)
        s = random.integers(120, 130, (e, n_out, n_in // 32)).astype(np.uint8)
        arrays[k + "_blocks"], arrays[k + "_scales"] = ("U8", q), ("U8", s)
        values = np.stack([codes[q & 15], codes[q >> 4]], -1).reshape(e, n_out, n_in // 32, 32)
        expected[k] = (values * np.exp2(s.astype(np.float32) - 127)[..., None]).reshape(e, n_out, n_in)
    safetensors(os.path.join(folder, "model.safetensors"), arrays)
    kvasir("convert", "-q", folder, out)
    found = tensors(out)
    for l in range(4):
        both = expected[f"model.layers.{l}.mlp.experts.gate_up_proj"]
        for name, want in (("gate", both[:, 0::2]), ("up", both[:, 1::2]), ("down", expected[f"model.layers.{l}.mlp.experts.down_proj"])):
            t = found[f"blk.{l}.ffn_{name}_exps.weight"]
            assert t.tensor_type == GGMLQuantizationType.MXFP4
            assert np.array_equal(dequantize(t.data, t.tensor_type).reshape(want.shape), want), (l, name)


@test
def types_are_what_was_asked_for():
    for outtype, kind in (("f16", "F16"), ("bf16", "BF16"), ("q8_0", "Q8_0")):
        out = os.path.join(WORK.name, "typed.gguf")
        kvasir("convert", "-q", f"{OPEN}/llama/hf", out, "--outtype", outtype)
        for name, t in tensors(out).items():
            assert t.tensor_type.name == (kind if len(t.shape) == 2 else "F32"), (outtype, name, t.tensor_type)
            if outtype == "q8_0" and len(t.shape) == 2:
                exact = tensors(convert("llama"))[name].data
                assert np.abs(dequantize(t.data, t.tensor_type) - exact).max() <= np.abs(exact).max() / 127


@test
def memory_stays_small_whatever_the_size():
    """300 MB of weights in 100 MB tensors, written as half of that: the process stays below 150 MB."""
    folder, out = copy_of("llama", files=False), os.path.join(WORK.name, "large.gguf")
    config = json.load(open(f"{folder}/config.json"))
    config.update(hidden_size=1024, intermediate_size=24576, num_hidden_layers=1, num_attention_heads=8, num_key_value_heads=1, head_dim=64)
    json.dump(config, open(f"{folder}/config.json", "w"))
    shapes = {"lm_head": (384, 1024), "model.embed_tokens": (384, 1024), "model.norm": (1024,)}
    layer = "model.layers.0."
    shapes.update({layer + "input_layernorm": (1024,), layer + "post_attention_layernorm": (1024,), layer + "self_attn.q_proj": (512, 1024),
                   layer + "self_attn.k_proj": (64, 1024), layer + "self_attn.v_proj": (64, 1024), layer + "self_attn.o_proj": (1024, 512),
                   layer + "mlp.gate_proj": (24576, 1024), layer + "mlp.up_proj": (24576, 1024), layer + "mlp.down_proj": (1024, 24576)})
    entries, at = {}, 0
    for k, shape in shapes.items():
        n = 4 * int(np.prod(shape))
        entries[k + ".weight"] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + n]}
        at += n
    text = json.dumps(entries).encode()
    with open(f"{folder}/model.safetensors", "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        f.truncate(8 + len(text) + at)  # holes read as zeros
    script = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    done = subprocess.run([sys.executable, "-c", script, KVASIR, "convert", "-q", folder, out, "--outtype", "bf16"], stdout=subprocess.PIPE, check=True)
    peak = int(done.stdout.split()[-1]) / 1024
    if not os.environ.get("SANITIZE"):
        assert peak < 150, f"{peak:.0f} MB"
    os.remove(out)


# ---- what is wrong, missing or hostile ----------------------------------------------------------------------------


def refuses(folder, *words):
    """One line with these words, exit 1, no file left."""
    out = os.path.join(folder, "out.gguf")
    before = set(os.listdir(folder))
    err = kvasir("convert", "-q", folder, out, "--outtype", "f32", status=1).stderr.decode()
    assert err.count("\n") == 1 and err.startswith("kvasir convert: "), err
    for word in words:
        assert word in err, (word, err)
    assert set(os.listdir(folder)) == before, set(os.listdir(folder)) - before


def edit(folder, file, change):
    path = os.path.join(folder, file)
    with open(path) as f:
        value = json.load(f)
    change(value)
    with open(path, "w") as f:
        json.dump(value, f)


@test
def files_that_are_missing_are_named():
    for file in ("config.json", "tokenizer.json", "model.safetensors"):
        folder = copy_of("llama")
        os.remove(os.path.join(folder, file))
        refuses(folder, file)
    folder = copy_of("llama", files=False)
    write_shards(folder, read_safetensors(f"{OPEN}/llama/hf/model.safetensors"), 3)
    os.remove(f"{folder}/model-00002-of-00003.safetensors")
    refuses(folder, "model-00002-of-00003.safetensors")


@test
def what_a_clone_brings_instead_of_the_files_is_said():
    for file in ("model.safetensors", "tokenizer.json"):
        folder = copy_of("llama")
        with open(os.path.join(folder, file), "w") as f:
            f.write("version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 538090408\n")
        refuses(folder, file, "Git LFS pointer", "git lfs pull")
    folder = copy_of("llama")
    os.rename(os.path.join(folder, "tokenizer.json"), os.path.join(folder, "tokenizer.model"))
    refuses(folder, "no tokenizer.json", "tokenizer.model cannot be read")


@test
def files_that_are_cut_are_named():
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "model.safetensors"):
        for part in (0.0, 0.3, 0.99):
            folder = copy_of("llama")
            path = os.path.join(folder, file)
            os.truncate(path, int(os.path.getsize(path) * part))
            refuses(folder, file)
    folder = copy_of("llama", files=False)
    write_shards(folder, read_safetensors(f"{OPEN}/llama/hf/model.safetensors"), 3)
    os.truncate(f"{folder}/model-00003-of-00003.safetensors", 100000)
    refuses(folder, "model-00003-of-00003.safetensors", "truncated")


@test
def keys_of_config_json_are_checked():
    wrong = [("num_hidden_layers", None), ("num_hidden_layers", 0), ("num_hidden_layers", "4"), ("num_hidden_layers", 3), ("num_hidden_layers", 5),
             ("num_hidden_layers", 1e300), ("hidden_size", -1), ("hidden_size", 63), ("num_attention_heads", 0), ("num_key_value_heads", 3),
             ("head_dim", 0), ("head_dim", 15), ("rms_norm_eps", "x"), ("rope_theta", 0), ("architectures", []), ("architectures", ["NoSuchLM"]),
             ("rope_scaling", {"rope_type": "unheard", "factor": 2}), ("rope_scaling", 5)]
    for key, value in wrong:
        folder = copy_of("llama")
        edit(folder, "config.json", lambda c: c.pop(key) if value is None else c.__setitem__(key, value))
        refuses(folder, "layer" if value in (3, 5) and key == "num_hidden_layers" else "NoSuchLM" if value == ["NoSuchLM"] else "")
    folder = copy_of("llama")
    edit(folder, "config.json", lambda c: c.pop("num_hidden_layers"))
    refuses(folder, "config.json", "num_hidden_layers")


@test
def a_file_that_would_not_load_is_not_written():
    for name, key, value in (("qwen2", "num_attention_heads", 2), ("qwen2", "intermediate_size", 64), ("qwen2", "num_key_value_heads", 4),
                             ("gemma3_text", "head_dim", 32), ("gpt2", "n_inner", 64), ("mixtral", "num_experts_per_tok", 9),
                             ("deepseek_v2", "kv_lora_rank", 16), ("gpt_oss", "num_local_experts", 8)):
        folder = copy_of(name)
        edit(folder, "config.json", lambda c: c.__setitem__(key, value))
        refuses(folder, "")


@test
def what_gguf_cannot_say_is_refused():
    """Such files would load and compute something else; that they would differ from transformers was seen with its 5.24."""
    for name, key, value in (("llama", "hidden_act", "gelu"), ("gemma2", "hidden_activation", "silu"), ("more/gemma", "hidden_act", "relu"), ("gpt2", "activation_function", "relu"),
                             ("gpt2", "scale_attn_by_inverse_layer_idx", True), ("gpt_bigcode", "multi_query", False), ("more/olmoe", "clip_qkv", 0.5),
                             ("more/bloom", "apply_residual_connection_post_layernorm", True), ("more/deepseek_v3", "rope_interleave", False),
                             ("more/mpt", "attn_config.softmax_scale", 0.2), ("more/qwen3moe", "use_sliding_window", True), ("more/minicpm3", "rope_scaling.mscale_all_dim", 1.0)):
        folder = copy_of(name)
        *outer, inner = key.split(".")
        edit(folder, "config.json", lambda c: (c.setdefault(outer[0], {}) if outer else c).__setitem__(inner, value))
        refuses(folder, f"config.json: key '{key}': ", " has no GGUF form")
    folder = copy_of("deepseek_v2")
    edit(folder, "config.json", lambda c: c.update(rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "mscale": 1.0, "mscale_all_dim": 0.7}) or c.pop("rope_parameters", None))
    refuses(folder, "mscale and mscale_all_dim that differ")
    folder = copy_of("qwen2", files=False)  # a tensor that readers do not look for
    bias = {f"model.layers.{i}.self_attn.o_proj.bias": ("F32", np.zeros(64, np.float32)) for i in range(4)}
    write_shards(folder, read_safetensors(f"{OPEN}/qwen2/hf/model.safetensors") | bias, 1)
    refuses(folder, "would not load", "attn_output.bias")


@test
def what_is_none_is_said_to_be_none():
    def keys_of(name, **config):
        folder = copy_of(name)
        edit(folder, "config.json", lambda c: c.update(config))
        kvasir("convert", "-q", folder, folder + "/out.gguf", "--outtype", "f32")
        return keys(folder + "/out.gguf")

    found = keys_of("gemma2", attn_logit_softcapping=None, final_logit_softcapping=None)  # readers take 50 and 30 where the keys are missing
    assert found["gemma2.attn_logit_softcapping"] == found["gemma2.final_logit_softcapping"] == 0
    n = keys(convert("more/cohere2"))["cohere2.block_count"]
    found = keys_of("more/cohere2", layer_types=["full_attention"] * n)  # and three windows of four
    assert found["cohere2.attention.sliding_window_pattern"] == [False] * n
    yarn = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64, "mscale": 1.0, "mscale_all_dim": 1.0}
    found = keys_of("llama", rope_parameters=yarn, rope_scaling=yarn)  # the magnitudes cancel; GGUF's comes on top of YaRN's own
    assert abs(found["llama.rope.scaling.attn_factor"] - 1 / (1 + 0.1 * np.log(4))) < 1e-6
    assert keys_of("deepseek_v2", topk_method="greedy", n_group=2, topk_group=1)["deepseek2.expert_group_count"] == 1


@test
def what_config_json_leaves_out_is_what_transformers_takes():
    """Values of the configuration classes of transformers 5.24, which are those of 4.57."""
    for name, key, found, value in (("mixtral", "rms_norm_eps", "llama.attention.layer_norm_rms_epsilon", 1e-5), ("mixtral", "rope_theta", "llama.rope.freq_base", 1e6),
                                    ("phi3", "rms_norm_eps", "phi3.attention.layer_norm_rms_epsilon", 1e-5), ("more/olmo2", "rms_norm_eps", "olmo2.attention.layer_norm_rms_epsilon", 1e-5),
                                    ("more/glm4", "rms_norm_eps", "glm4.attention.layer_norm_rms_epsilon", 1.5625e-7), ("qwen2", "rms_norm_eps", "qwen2.attention.layer_norm_rms_epsilon", 1e-6),
                                    ("smollm3", "rope_theta", "smollm3.rope.freq_base", 2e6), ("more/ernie4_5", "rope_theta", "ernie4_5.rope.freq_base", 5e5),
                                    ("more/granite", "attention_multiplier", "granite.attention.scale", 1.0), ("mistral", "sliding_window", "llama.attention.sliding_window", 4096),
                                    ("more/qwen3moe", "norm_topk_prob", "qwen3moe.expert_weights_norm", False), ("more/deepseek_v3", "routed_scaling_factor", "deepseek2.expert_weights_scale", 2.5)):
        folder = copy_of(name)
        edit(folder, "config.json", lambda c: [inner.pop(key, None) for inner in (c, c.get("rope_parameters") or {})])
        kvasir("convert", "-q", folder, folder + "/out.gguf", "--outtype", "f32")
        assert keys(folder + "/out.gguf").get(found) == np.float32(value), (name, key, keys(folder + "/out.gguf").get(found))


@test
def gemma_3_that_sees_says_little_of_its_text():
    """Only what departs from its configuration class: no heads, no head size, no base of RoPE, no context."""
    folder, out = copy_of("gemma3_text", files=False), os.path.join(WORK.name, "gemma3.gguf")
    shapes = {"q_proj": (8 * 256, 64), "k_proj": (4 * 256, 64), "v_proj": (4 * 256, 64), "o_proj": (64, 8 * 256), "q_norm": (256,), "k_norm": (256,)}
    arrays = {"language_model." + k: ("F32", np.ones(shapes.get(k.split(".")[-2], a.shape), np.float32))
              for k, (_, a) in read_safetensors(f"{OPEN}/gemma3_text/hf/model.safetensors").items()}
    write_shards(folder, arrays, 1)
    text = dict(hidden_size=64, intermediate_size=128, model_type="gemma3_text", num_hidden_layers=6, rope_scaling=dict(factor=8.0, rope_type="linear"), sliding_window=1024)
    with open(f"{folder}/config.json", "w") as f:
        json.dump({"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": text}, f)
    kvasir("convert", "-q", folder, out, "--outtype", "f32")
    found = keys(out)
    for key, value in {"attention.head_count": 8, "attention.head_count_kv": 4, "attention.key_length": 256, "attention.value_length": 256, "context_length": 131072,
                       "rope.freq_base": 1e6, "rope.freq_base_swa": 1e4, "rope.scaling.factor": 8, "attention.sliding_window": 1024, "attention.layer_norm_rms_epsilon": np.float32(1e-6)}.items():
        assert found["gemma3." + key] == value, (key, found["gemma3." + key])
    assert found.get("gemma3.attention.scale", 1 / 16) == 1 / 16


@test
def tensors_that_are_missing_or_strange_are_named():
    arrays = read_safetensors(f"{OPEN}/llama/hf/model.safetensors")
    for name in ("model.layers.2.self_attn.v_proj.weight", "model.norm.weight", "model.embed_tokens.weight", "model.layers.0.mlp.down_proj.weight"):
        folder = copy_of("llama")
        safetensors(f"{folder}/model.safetensors", {k: v for k, v in arrays.items() if k != name})
        refuses(folder, name.split(".")[-2].replace("down_proj", ""))
    folder = copy_of("llama")
    safetensors(f"{folder}/model.safetensors", dict(arrays, **{"model.layers.1.secret.weight": arrays["model.norm.weight"]}))
    refuses(folder, "model.layers.1.secret.weight", "no place")
    folder = copy_of("llama")
    safetensors(f"{folder}/model.safetensors", dict(arrays, **{"model.layers.1.self_attn.q_proj.weight": ("F32", arrays["lm_head.weight"][1])}))
    refuses(folder, "model.layers.1.self_attn.q_proj.weight", "shape")
    folder = copy_of("llama")
    broken = arrays["lm_head.weight"][1].copy()
    broken[5, 5] = np.nan
    safetensors(f"{folder}/model.safetensors", dict(arrays, **{"lm_head.weight": ("F32", broken)}))
    refuses(folder, "lm_head.weight", "finite")


@test
def headers_are_hostile():
    arrays = read_safetensors(f"{OPEN}/llama/hf/model.safetensors")

    def entry(**new):
        def change(entries):
            entries["model.norm.weight"].update(new)
            return json.dumps(entries).encode()
        return change

    norm = "model.norm.weight"
    changes = [entry(dtype="F16"), entry(dtype="F4"), entry(dtype=7), entry(shape=[65]), entry(shape=[-64]), entry(shape=[2**32, 2**32]),
               entry(shape="64"), entry(shape=[1] * 9 + [64]), entry(data_offsets=[0, 256]), entry(data_offsets=[2**62, 2**62 + 256]),
               entry(data_offsets=[256, 0]), entry(data_offsets=[1.5, 257.5]), entry(data_offsets=None),
               lambda e: b"[" * 100000, lambda e: json.dumps(e).encode()[:-1] + b', "model.norm.weight": 1}', lambda e: b"", lambda e: b"{}",
               lambda e: b'{"a":' * 100000, lambda e: b"\xff" * 50]
    for change in changes:
        folder = copy_of("llama")
        safetensors(f"{folder}/model.safetensors", arrays, header=change)
        refuses(folder, "safetensors")
    for n in (2**63, 2**40, 10**6 * 100):
        folder = copy_of("llama")
        with open(f"{folder}/model.safetensors", "r+b") as f:
            f.write(struct.pack("<Q", n))
        refuses(folder, "model.safetensors")
    for shard in ("../model.safetensors", "/etc/passwd", ".", "", "a/b", 7):
        folder = copy_of("llama", files=False)
        with open(f"{folder}/model.safetensors.index.json", "w") as f:
            json.dump({"weight_map": {norm: shard}}, f)
        refuses(folder, "model.safetensors.index.json", norm)


@test
def tokenizers_are_checked():
    def model(**new):
        return lambda t: t["model"].update(new)

    changes = [(model(vocab={}), ""), (model(vocab=[1, 2]), "vocab"), (model(vocab={"a": -1}), "vocab"), (model(vocab={"a": 384}), "384"),
               (model(vocab={"a": "b"}), "vocab"), (model(merges=["ab"]), "merges"), (model(merges=[["a"]]), "merges"), (model(merges=None), "merges"),
               (model(type="WordPiece"), "WordPiece"), (lambda t: t.pop("model"), "model"), (lambda t: t.update(pre_tokenizer=None, decoder=None), None),
               (lambda t: t.update(pre_tokenizer={"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated"},
                                                                                     {"type": "ByteLevel"}]}), "pre_tokenizer"),
               (lambda t: t.update(added_tokens=[{"id": "x", "content": "y"}]), "added_tokens")]
    for change, word in changes[1:]:
        if word is None:
            continue
        folder = copy_of("llama")
        edit(folder, "tokenizer.json", change)
        refuses(folder, "tokenizer.json", word)


@test
def old_file_survives_a_failure():
    folder, out = copy_of("llama"), os.path.join(WORK.name, "old.gguf")
    with open(out, "w") as f:
        f.write("old")
    os.truncate(f"{folder}/model.safetensors", 500000)
    kvasir("convert", "-q", folder, out, status=1)
    assert open(out).read() == "old"


@test
def templates_and_ends_of_replies_are_kept():
    folder, out = copy_of("llama"), os.path.join(WORK.name, "chat.gguf")
    edit(folder, "tokenizer_config.json", lambda c: c.update(chat_template=[{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}]))
    edit(folder, "generation_config.json", lambda c: c.update(eos_token_id=[379, 378, 377, 12]))
    kvasir("convert", "-q", folder, out, "--outtype", "f32")
    k = keys(out)
    assert k["tokenizer.chat_template"] == "D" and k["tokenizer.chat_template.tool_use"] == "T" and k["tokenizer.chat_templates"] == ["tool_use"]
    assert k["tokenizer.ggml.eos_token_id"] == 379 and k["tokenizer.ggml.eot_token_id"] == 378 and k["tokenizer.ggml.eom_token_id"] == 12
    with open(f"{folder}/chat_template.jinja", "w") as f:
        f.write("J")
    kvasir("convert", "-q", folder, out, "--outtype", "f32")
    assert keys(out)["tokenizer.chat_template"] == "J"


# family -> special tokens, the first three in place of the fixture's; bos, eos and pad of tokenizer_config.json; the list of
# generation_config.json (what transformers stops at); which of the others end a reply all the same, by their name. From the checkpoints' files.
FAMILIES = {
    "llama 3": (["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "<|start_header_id|>"], "<|begin_of_text|>", "<|eot_id|>", None,
                ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"], []),
    "qwen": (["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>"], None, "<|im_end|>", "<|endoftext|>", ["<|im_end|>", "<|endoftext|>"], []),
    "gemma": (["<bos>", "<eos>", "<pad>", "<start_of_turn>", "<end_of_turn>"], "<bos>", "<eos>", "<pad>", ["<eos>", "<end_of_turn>"], []),
    "gemma 2, one eos": (["<bos>", "<eos>", "<pad>", "<start_of_turn>", "<end_of_turn>"], "<bos>", "<eos>", "<pad>", ["<eos>"], ["<end_of_turn>"]),
    "phi 3": (["<s>", "</s>", "<|endoftext|>", "<|assistant|>", "<|end|>", "<|user|>"], "<s>", "<|endoftext|>", "<|endoftext|>",
              ["<|endoftext|>", "<|assistant|>", "<|end|>"], ["</s>"]),
    "gpt-oss": (["<|startoftext|>", "<|endoftext|>", "<|return|>", "<|call|>", "<|end|>", "<|start|>", "<|channel|>"], "<|startoftext|>", "<|return|>", "<|endoftext|>",
                ["<|return|>", "<|endoftext|>", "<|call|>"], []),
    "deepseek": (["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>", "<｜User｜>", "<｜Assistant｜>"], "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>",
                 "<｜▁pad▁｜>", ["<｜end▁of▁sentence｜>"], []),
    "glm 4": (["<|endoftext|>", "[gMASK]", "<sop>", "<|user|>", "<|observation|>", "<|assistant|>", "<|system|>"], None, "<|endoftext|>", "<|endoftext|>",
              ["<|endoftext|>", "<|user|>", "<|observation|>"], []),
    "mistral": (["<unk>", "<s>", "</s>", "[INST]", "[/INST]"], "<s>", "</s>", None, ["</s>"], []),
    "command-r": (["<PAD>", "<BOS_TOKEN>", "<EOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"], "<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>", "<PAD>",
                  ["<|END_OF_TURN_TOKEN|>"], ["<PAD>"]),
    "granite": (["<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>"], "<|end_of_text|>", "<|end_of_text|>", "<|end_of_text|>", ["<|end_of_text|>"], []),
    "exaone 4": (["[BOS]", "[PAD]", "[|endofturn|]", "[|user|]", "[|assistant|]"], "[BOS]", "[|endofturn|]", "[PAD]", ["[|endofturn|]"], ["[PAD]"]),
    "seed-oss": (["<seed:bos>", "<seed:pad>", "<seed:eos>", "<seed:think>"], "<seed:bos>", "<seed:eos>", "<seed:pad>", ["<seed:eos>"], []),
    "minicpm 3": (["<s>", "</s>", "<|im_start|>", "<|im_end|>"], "<s>", "<|im_end|>", None, ["</s>", "<|im_end|>"], []),
    "five ends, one the padding": (["<a>", "<b>", "<c>", "<d>", "<e>", "<f>", "<g>"], "<a>", "<b>", "<c>", ["<b>", "<c>", "<d>", "<e>", "<f>"], []),
}


@test
def ends_of_turn_of_each_family_end_a_reply():
    for family, (tokens, bos, eos, pad, listed, named) in FAMILIES.items():
        folder, out = copy_of("llama"), os.path.join(WORK.name, "ends.gguf")
        ids = {text: 377 + i for i, text in enumerate(tokens)}
        edit(folder, "tokenizer.json", lambda t: t.update(added_tokens=[dict(t["added_tokens"][0], id=i, content=text) for text, i in ids.items()]))
        edit(folder, "tokenizer_config.json", lambda c: (c.pop("added_tokens_decoder"), c.update(bos_token=bos, eos_token=eos, pad_token=pad)))
        edit(folder, "generation_config.json", lambda c: (c.clear(), c.update(eos_token_id=[ids[x] for x in listed] if len(listed) > 1 else ids[listed[0]])))
        edit(folder, "config.json", lambda c: c.update(bos_token_id=ids.get(bos), eos_token_id=ids[listed[0]], pad_token_id=ids.get(pad)))
        kvasir("convert", "-q", folder, out, "--outtype", "f32")
        for text, i in [*ids.items(), ("a letter", 40)]:
            done = kvasir("run", "-q", "-m", out, "--tokens", "20,21", "-n", 2, "--temp", 0, "--logit-bias", f"{i}+1000", "-o", "json")
            reason = json.loads(done.stdout)["finish_reason"]
            assert (reason == "stop") == (text in listed + named), (family, text, reason)


run_tests(TESTS, [(KVASIR, "make")])
