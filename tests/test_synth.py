#!/usr/bin/env python3
"""Synthetic checkpoints: right shapes, every type, whole tokenizers, weights that keep activations finite, the same bytes for a seed.

    KVASIR=./kvasir python3 tests/test_synth.py [word in the test's name]

What the shapes are compared with are the real models; what the types are compared with is what was asked for.
"""
import hashlib, json, os, re, subprocess, sys, tempfile, time, traceback
import numpy as np

from support.runner import run_tests

KVASIR = os.path.abspath(os.environ.get("KVASIR", "./kvasir"))
SMOLLM2, GEMMA3 = "models/smollm2-135m-instruct-q4_1.gguf", "models/gemma3-270m-q4_k_m.gguf"
TYPES = "F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS MXFP4".split()
TESTS = []


def test(function):
    TESTS.append(function)
    return function


def kvasir(*args, status=0, stdin=None):
    done = subprocess.run([KVASIR, *map(str, args)], input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120)
    assert done.returncode == status, (args, done.returncode, done.stderr[-1000:])
    return done


Folder = tempfile.TemporaryDirectory


def tensors(path):
    return {t["name"]: t for t in json.loads(kvasir("inspect", path, "--tensors", "-o", "json").stdout)["tensors"]}


def logits(path, *args):
    done = kvasir("logits", "-m", path, "--tokens", "300,301,302,303", "--at", "all", "-o", "json", *args)
    return np.array([row["values"] for row in json.loads(done.stdout)["rows"]])


def sha(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


@test
def every_type_is_what_the_matrices_have_and_runs():
    with Folder() as name:
        for kind in TYPES:
            for arch in ("llama", "gemma3"):
                path = os.path.join(name, "m.gguf")
                kvasir("synth", "-q", "--arch", arch, "--type", kind, path)
                for t in tensors(path).values():
                    assert t["type"] == (kind if len(t["shape"]) == 2 else "F32"), (kind, t)
                values = logits(path)
                assert values.shape == (4, 512) and np.isfinite(values).all(), kind
                if arch == "llama": # norms of 1 +- 0.1 over rows of norm 1: logits near a standard normal, whatever the type
                    assert 0.6 < values.std() < 1.6 and abs(values.mean()) < 0.3, (kind, values.mean(), values.std())
                r = json.loads(kvasir("run", "-m", path, "-p", "the horse", "-n", 8, "--ignore-eos", "--temp", 0, "-o", "json").stdout)
                assert len(r["tokens"]) == 8, (kind, r)


@test
def weights_have_mean_zero_and_the_wanted_size():
    """Of a float file, by numpy; of quantised ones through one linear layer would be the same as the test above."""
    with Folder() as name:
        path = os.path.join(name, "m.gguf")
        kvasir("synth", "-q", "--type", "F32", path)
        for t in tensors(path).values():
            w = np.fromfile(path, np.float32, int(np.prod(t["shape"])), offset=t["offset"])
            if len(t["shape"]) == 2:
                wanted = t["shape"][0] ** -0.5
                assert abs(w.std() / wanted - 1) < 0.05 and abs(w.mean()) < 0.05 * wanted, (t["name"], w.mean(), w.std())
            else:
                assert 0.5 < w.min() <= 1 <= w.max() < 1.5, t["name"]


@test
def the_135m_shape_is_smollm2s_and_the_270m_shape_gemma3s():
    for real, args in ((SMOLLM2, ["--size", "135m", "--type", "Q4_1", "--set", "embd_type=Q8_0"]),
                       (GEMMA3, ["--arch", "gemma3", "--size", "270m", "--type", "Q4_K_M"])):
        with Folder() as name:
            path = os.path.join(name, "m.gguf")
            kvasir("synth", "-q", *args, path)
            ours, theirs = tensors(path), tensors(real)
            assert {k: t["shape"] for k, t in ours.items()} == {k: t["shape"] for k, t in theirs.items()}
            if real == SMOLLM2:
                assert {k: t["type"] for k, t in ours.items()} == {k: t["type"] for k, t in theirs.items()}
            ours, theirs = (json.loads(kvasir("inspect", p, "-o", "json").stdout) for p in (path, real))
            for key in ("architecture", "n_layers", "n_embd", "n_vocab", "n_ctx_train", "head_dim_k", "rope_dim", "attention", "tied_output"):
                assert ours[key] == theirs[key], (key, ours[key], theirs[key])


@test
def a_mix_raises_half_of_the_layers_and_the_output():
    with Folder() as name:
        path = os.path.join(name, "m.gguf")
        kvasir("synth", "-q", "--type", "Q4_K_M", "--set", "n_layers=16", path)
        all_tensors = tensors(path)
        for matrix in ("attn_v", "ffn_down"):
            kinds = [all_tensors[f"blk.{i}.{matrix}.weight"]["type"] for i in range(16)]
            assert kinds.count("Q6_K") == kinds.count("Q4_K") == 8, kinds
        assert all_tensors["output.weight"]["type"] == "Q6_K" and all_tensors["token_embd.weight"]["type"] == "Q4_K"  # as llama-quantize, untied
        assert {all_tensors[f"blk.{i}.ffn_up.weight"]["type"] for i in range(16)} == {"Q4_K"}


@test
def rows_that_256_does_not_divide_fall_back_to_blocks_of_32():
    with Folder() as name:
        path = os.path.join(name, "m.gguf")
        kvasir("synth", "-q", "--type", "Q4_K_M", "--set", "n_embd=288", "--set", "n_ff=512", path)
        kinds = {n: t["type"] for n, t in tensors(path).items()}
        assert kinds["blk.0.attn_q.weight"] == "Q5_0" and kinds["output.weight"] == "Q8_0" and kinds["blk.0.attn_output.weight"] == "Q4_K"
        assert np.isfinite(logits(path)).all()


@test
def the_same_seed_gives_the_same_bytes_and_another_one_others():
    with Folder() as name:
        paths = [os.path.join(name, f"{i}.gguf") for i in range(4)]
        for path, seed in zip(paths, (7, 7, 8, 0)):
            kvasir("synth", "-q", "--type", "Q4_K_M", "--seed", seed, path)
        first, again, other, zero = map(sha, paths)
        assert first == again and len({first, other, zero}) == 3
        kvasir("synth", "-q", "--type", "Q4_K_M", paths[0]) # the default seed is 0, and a file is replaced
        assert sha(paths[0]) == zero


@test
def settings_reach_the_file():
    with Folder() as name:
        path = os.path.join(name, "m.gguf")
        sets = "n_embd=128 n_layers=3 n_heads=6 n_kv_heads=2 head_dim=32 n_ff=96 n_vocab=1000 n_ctx=777 tied=1 rope_base=12345".split()
        kvasir("synth", "-q", "--type", "Q8_0", *(a for s in sets for a in ("--set", s)), path)
        r = json.loads(kvasir("inspect", path, "-o", "json").stdout)
        assert (r["n_embd"], r["n_layers"], r["n_vocab"], r["n_ctx_train"], r["head_dim_k"], r["tied_output"]) == (128, 3, 1000, 777, 32, True)
        assert {(a["heads"], a["kv_heads"], a["n_ff"], a["rope_base"]) for a in r["attention"]} == {(6, 2, 96, 12345.0)}
        assert np.isfinite(logits(path)).all()
        kvasir("synth", "-q", "--arch", "gemma3", "--set", "window=32", path)
        r = json.loads(kvasir("inspect", path, "-o", "json").stdout)
        assert [a["spec"] for a in r["attention"]] == ["window(32)"] * 5 + ["full"]


@test
def any_bytes_survive_the_tokenizer_and_chats_have_their_marks():
    with Folder() as name:
        path = os.path.join(name, "m.gguf")
        for n_vocab in (259, 300, 5000):
            kvasir("synth", "-q", "--set", f"n_vocab={n_vocab}", path)
            for text in ("the rest of the story\n", "äöü 漢字 🙂\t", "".join(map(chr, range(1, 256)))):
                ids = json.loads(kvasir("tokenize", "-m", path, "-", stdin=text.encode()).stdout)
                assert ids and all(3 <= i < n_vocab for i in ids)
                assert kvasir("detokenize", "-m", path, json.dumps(ids)).stdout == text.encode()
            assert json.loads(kvasir("tokenize", "-m", path, "-p", "<|im_start|>a<|im_end|>").stdout)[::2] == [1, 2]
        # " t" and "he" are merges: 3 control tokens and 256 bytes stand before them
        ids = json.loads(kvasir("tokenize", "-m", path, "-p", "x the").stdout)
        assert len(ids) == 3 and sum(i >= 259 for i in ids) == 2, ids
        messages = os.path.join(name, "messages.json")
        with open(messages, "w") as f:
            json.dump([{"role": "user", "content": "Hi"}], f)
        assert kvasir("template", "-m", path, "--messages", messages).stdout.decode().rstrip("\n") == \
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant"


@test
def what_cannot_be_is_refused_in_one_line_and_leaves_no_file():
    with Folder() as name:
        path = os.path.join(name, "m.gguf")
        for args, pattern in ((["--arch", "gpt9"], r"no synthetic architecture 'gpt9'; known: llama, gemma3"),
                              (["--size", "9b"], r"llama has no size '9b'; known: tiny, 135m, 1b, 3b"),
                              (["--type", "Q9_9"], r"no type 'Q9_9'.*Q8_0.*Q4_K_M"),
                              (["--set", "n_layer=2"], r"no setting 'n_layer'; known: n_embd"),
                              (["--set", "n_layers"], r"not key=value"),
                              (["--set", "n_layers=0"], r"n_layers: '0' is not a whole number from 1 to"),
                              (["--set", "n_layers=-1"], r"n_layers"),
                              (["--set", "n_vocab=258"], r"n_vocab"),
                              (["--set", "n_embd=99999999999999999999"], r"n_embd"),
                              (["--set", "n_kv_heads=3"], r"n_kv_heads 3 does not divide n_heads 4"),
                              (["--set", "head_dim=20"], r"head_dim 20"),
                              (["--set", "window=8"], r"window"),
                              (["--set", "rope_base=x"], r"rope_base"),
                              (["--seed", "x"], r"--seed")):
            line = kvasir("synth", *args, path, status=2).stderr.decode()
            assert line.count("\n") == 1 and re.search(pattern, line), (args, line)
        assert kvasir("synth", status=2).stderr.decode().startswith("kvasir synth: needs OUT.gguf;")
        line = kvasir("synth", "-q", os.path.join(name, "no", "m.gguf"), status=1).stderr.decode()
        assert line.count("\n") == 1 and "No such file" in line, line
        assert os.listdir(name) == []


@test
def json_tells_where_how_large_and_which_seed():
    with Folder() as name:
        path = os.path.join(name, "m.gguf")
        done = kvasir("synth", "--seed", "5", "-o", "json", path)
        r = json.loads(done.stdout)
        assert (r["path"], r["bytes"], r["seed"]) == (path, os.path.getsize(path), 5) and r["ms"] > 0 and done.stderr == b""


if __name__ == "__main__":
    run_tests(TESTS, [(needed, "make && ./kvasir get smollm2 gemma3") for needed in (KVASIR, SMOLLM2, GEMMA3)])
