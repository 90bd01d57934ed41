#!/usr/bin/env python3
"""Tokenizers of all families against the `tokenizers` package: each trained here, small, with the family's own pre-tokenizer, then converted.

    KVASIR=./kvasir python3 tests/test_tokenizers.py [word in the test's name]
"""
import json, os, random, re, struct, subprocess, tempfile
import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from support.fixtures import unpack
from support.runner import run_tests

KVASIR = os.path.abspath(os.environ.get("KVASIR", "./kvasir"))
OPEN = unpack()
WORK = tempfile.TemporaryDirectory()
TESTS = []

CASELESS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r"\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = CASELESS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + TAIL
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
O200K = (rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{CASELESS}?|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{CASELESS}?|"
         r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + TAIL)
TEKKEN = (rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*|"
          r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + TAIL)
CL100K = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
DEEPSEEK3 = ('[!"#' r"$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|" + TAIL)

# As in its tokenizer.json; three of them would not survive a normalization.
DEEPSEEK_LETTERS = "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟᾀ-ᾴᾶ-ᾼ\u1fbeῂ-ῄῆ-ῌῐῖῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ\u212a-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"


def split(regex, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert}


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
GPT2 = dict(BYTES, use_regex=True)
DIGITS = {"type": "Digits", "individual_digits": True}

# What each name's tokenizer.json has: steps, and whether its model ignores merges.
FAMILIES = {
    "gpt-2": ([GPT2], False),
    "starcoder": ([DIGITS, GPT2], False),
    "llama-bpe": ([split(LLAMA3), BYTES], True),
    "dbrx": ([split(LLAMA3), BYTES], False),
    "dbrx (cl100k)": ([split(CL100K, "Removed", True), BYTES], False),
    "qwen2": ([split(LLAMA3.replace("{1,3}", "")), BYTES], False),
    "qwen35": ([split(CASELESS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|" + TAIL), BYTES], False),
    "gpt-4o": ([split(O200K), BYTES], False),
    "tekken": ([split(TEKKEN), BYTES], True),
    "deepseek-v3": ([split(r"\p{N}{1,3}"), split("[一-龥\u3040-ゟ゠-ヿ]+"), split(DEEPSEEK3), BYTES], False),
    "deepseek-coder": ([split(r"[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split("[一-龥ࠀ-一가-\ud7ff]+"), DIGITS, BYTES], False),
    "deepseek-llm": ([split(r"[\r\n]"), split(f"\\s?[{DEEPSEEK_LETTERS}]+"), split("\\s?[!-/:-~！-／：-～‘-‟\u3000-。]+"), split(r"\s+$"), split("[一-龥ࠀ-一가-\ud7ff]+"), DIGITS, BYTES], False),
    "falcon": ([{"type": "Punctuation", "behavior": "Contiguous"}, GPT2, dict(DIGITS, individual_digits=False), split("[0-9][0-9][0-9]")], False),
    "bloom": ([split(" ?[^(\\s|[.,!?…。，、।۔،])]+"), BYTES], False),
    "seed-coder": ([split(CASELESS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|" + TAIL), BYTES], False),
}

SENTENCES = ["Hello, world! It's 12345.67 o'clock; WE'LL see, can't we?", "  two  spaces\n\n\n and\ttabs \r\n\r\n  ", "def f(x_1, y):\n    return x_1**2 + y  # camelCaseName HTTPServer\n",
             "naïve café Straße ǅ ﬁ 10⁵ ½ Ⅻ ٣٤٥ १२३", "日本語のテキスト、中文。한국어 텍스트", "Привет, мир! Ελληνικά שלום مرحبا، كيف", "emoji 🐦👩‍👩‍👧 flags 🇮🇸 …“quotes”—dash", "a\u00a0b\u2003c\u3000d\u200be\u0301",
             "<|im_start|>user\nhi<|im_end|>\n", "/usr/local/bin?x=1&y=2#frag //comment \\n", "1 22 333 4444 55555 1,000,000 3.14e-10 $5.00 100%", "'s 'S 'Ll don'T I'D", "x" * 50 + " " * 20 + "!" * 20,
             "हिन्दी में। ไทย ภาษา ", "\n", " ", "", "\r", "a\r\nb\n\rc", "tail   "]
PIECES = ["a", "Z", "é", "ß", "É", "ǅ", "ʰ", "中", "の", "한", "ا", "े", "\u0301", "1", "23", "٣", "Ⅻ", "½", "!", "…", "'s", "'LL", "'", '"', "$", "+", "€", "🐦", " ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u3000",
          "_", "/", ".", ",", "(", "|", "the", " of", "And", "\u200d"]


def texts(seed):
    dice = random.Random(seed)
    return SENTENCES + ["".join(dice.choice(PIECES) for _ in range(dice.randint(2, 24))) for _ in range(25)]


def corpus():
    with open("tests/golden/text/apache-2.0.txt") as f:
        return f.read().split("\n") + SENTENCES * 3


def test(function):
    TESTS.append(function)
    return function


def convert(tokenizer, what=""):
    """A folder with this tokenizer and a model that could not be smaller, converted."""
    folder = tempfile.mkdtemp(dir=WORK.name)
    rows = tokenizer.get_vocab_size()
    with open(f"{OPEN}/llama/hf/config.json") as f:
        config = json.load(f)
    config.update(num_hidden_layers=1, vocab_size=rows)
    shapes = {"lm_head": (rows, 64), "model.embed_tokens": (rows, 64), "model.norm": (64,)}
    for name, shape in {"input_layernorm": (64,), "post_attention_layernorm": (64,), "self_attn.q_proj": (64, 64), "self_attn.k_proj": (32, 64), "self_attn.v_proj": (32, 64),
                        "self_attn.o_proj": (64, 64), "mlp.gate_proj": (128, 64), "mlp.up_proj": (128, 64), "mlp.down_proj": (64, 128)}.items():
        shapes["model.layers.0." + name] = shape
    entries, at = {}, 0
    for name, shape in shapes.items():
        n = 2 * int(np.prod(shape))
        entries[name + ".weight"] = {"dtype": "F16", "shape": shape, "data_offsets": [at, at + n]}
        at += n
    header = json.dumps(entries).encode()
    with open(f"{folder}/model.safetensors", "wb") as f:
        f.write(struct.pack("<Q", len(header)) + header)
        f.truncate(8 + len(header) + at)
    tokenizer.save(f"{folder}/tokenizer.json")
    for name, value in (("config.json", config), ("tokenizer_config.json", {})):
        with open(f"{folder}/{name}", "w") as f:
            json.dump(value, f)
    out = f"{folder}/out.gguf"
    done = subprocess.run([KVASIR, "convert", "-q", folder, out], stderr=subprocess.PIPE)
    assert done.returncode == 0, (what, done.stderr)
    return out


def same_ids(what, tokenizer, model, among):
    wrong = []
    for text in among:
        file = os.path.join(WORK.name, "text")
        with open(file, "w", newline="") as f:
            f.write(text)
        done = subprocess.run([KVASIR, "tokenize", "-m", model, "-f", file, "--no-bos"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert done.returncode == 0, (what, done.stderr)
        want, got = tokenizer.encode(text, add_special_tokens=False).ids, json.loads(done.stdout)
        if got != want:
            wrong.append((what, text, [tokenizer.id_to_token(i) for i in want], [tokenizer.id_to_token(i) for i in got]))
    return wrong


def byte_level(steps, ignore_merges):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    text = json.loads(tokenizer.to_str())
    text["pre_tokenizer"] = steps[0] if len(steps) == 1 else {"type": "Sequence", "pretokenizers": steps}
    text["decoder"] = BYTES
    tokenizer = Tokenizer.from_str(json.dumps(text))
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=["<|im_start|>", "<|im_end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


@test
def byte_level_families_cut_texts_as_their_own_patterns_do():
    from gguf import GGUFReader
    wrong = []
    for i, (name, (steps, ignore_merges)) in enumerate(FAMILIES.items()):
        tokenizer = byte_level(steps, ignore_merges)
        model = convert(tokenizer, name)
        assert GGUFReader(model).fields["tokenizer.ggml.pre"].contents() == name.split(" ")[0], name
        wrong += same_ids(name, tokenizer, model, texts(i))
    assert not wrong, "\n".join(map(str, wrong[:12]))


def sentencepiece_like(prepend, seed):
    """As transformers converts SentencePiece's BPE: pieces by score, and for each all pairs that make it."""
    normalizer = [normalizers.Replace(" ", "▁")] if not prepend else [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=700, show_progress=False))
    pieces = [t for t, _ in sorted(trained.get_vocab().items(), key=lambda x: x[1])]
    characters = [p for p in pieces if len(p) == 1][:120]
    words = [p for p in pieces if len(p) > 1 and all(c in characters for c in p)]
    order = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)] + words + characters
    vocab = {t: i for i, t in enumerate(order)}
    merges = []
    for word in words:
        pairs = [(word[:i], word[i:]) for i in range(1, len(word)) if word[:i] in vocab and word[i:] in vocab]
        merges += sorted(pairs, key=lambda p: (vocab[p[0]], vocab[p[1]]))
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(normalizer)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in ("<unk>", "<s>", "</s>")])
    return tokenizer


@test
def sentencepiece_with_byte_fallback_merges_in_the_same_order():
    for prepend in (True, False):
        tokenizer = sentencepiece_like(prepend, 1)
        wrong = same_ids(f"prepend {prepend}", tokenizer, convert(tokenizer), texts(77))
        # "" gets no prefix here, and U+2581 in a text is a space to both.
        assert not wrong, "\n".join(map(str, wrong[:8]))


def unigram(byte_fallback):
    trained = Tokenizer(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(corpus(), trainers.UnigramTrainer(vocab_size=600, unk_token="<unk>", special_tokens=["<unk>", "<s>", "</s>"], show_progress=False))
    pieces = json.loads(trained.to_str())["model"]["vocab"]
    pieces = [(t, float(np.float32(s))) for t, s in pieces if len(t) > 1 or ord(t) < 0x2600]
    if byte_fallback:
        pieces[3:3] = [(f"<0x{b:02X}>", 0.0) for b in range(256)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=byte_fallback))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in ("<unk>", "<s>", "</s>")])
    return tokenizer


@test
def unigram_takes_the_best_path():
    for byte_fallback in (True, False):
        tokenizer = unigram(byte_fallback)
        wrong = same_ids(f"byte_fallback {byte_fallback}", tokenizer, convert(tokenizer), texts(5))
        assert not wrong, "\n".join(map(str, wrong[:8]))


# <|l|> takes the blanks on its left, <|r|> those on its right, <|b|> both.
BESIDE = ["<|r|>\n hi <|l|> \n<|b|>  \u3000x", "  a\t<|l|><|l|> <|r|> <s> <|r|>\n\n", "<|b|>", " <|b|> ", "a<|b|>b <|r|>\u2581c <|l|>d", "<s> hi</s> there", "<s>hi", "\u2581a", " a", "  <s>  b", "a\u00a0\u2003<|b|>\u0085 b",
          "<|r|>\x1cb", "<|b|>\u200bb", "x<|r|> ", "\n<|l|>"]


def with_blanks_taken(tokenizer):
    tokenizer.add_special_tokens([AddedToken("<|l|>", lstrip=True, normalized=False), AddedToken("<|r|>", rstrip=True, normalized=False), AddedToken("<|b|>", lstrip=True, rstrip=True, normalized=False)])
    return tokenizer


@test
def added_tokens_take_the_blanks_beside_them():
    for what, tokenizer in (("bytes", byte_level(*FAMILIES["llama-bpe"])), ("sentencepiece", sentencepiece_like(True, 1)), ("unigram", unigram(True))):
        tokenizer = with_blanks_taken(tokenizer)
        wrong = same_ids(what, tokenizer, convert(tokenizer, what), BESIDE)
        assert not wrong, "\n".join(map(str, wrong[:8]))


@test
def a_space_in_front_is_put_where_metaspace_puts_it():
    for what, tokenizer in (("sentencepiece", sentencepiece_like(False, 1)), ("unigram", unigram(True))):
        tokenizer = with_blanks_taken(tokenizer)
        for scheme in ("first", "always", "never"):
            tokenizer.normalizer = normalizers.Sequence([])
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
            wrong = same_ids(f"{what}, {scheme}", tokenizer, convert(tokenizer, what), BESIDE + SENTENCES[:4])
            assert not wrong, "\n".join(map(str, wrong[:8]))


@test
def form_c_is_made_where_the_tokenizer_makes_it():
    dice = random.Random(3)
    marks = ["e\u0301", "a\u0323\u0302", "a\u0302\u0323", "\u1112\u1161\u11ab", "\uac00\u11a8", "o\u0328\u0304", "\u09c7\u09be", "\u0915\u093c", "\u212b", "\u2126", "\ufb1d", "\u0344", "q\u0307\u0323", "\u0301", "c\u0327", "\u30ab\u3099",
             "\U0001d15e", "\u2adc", "x", " ", "中", "1", "é", "<|im_end|>", "\n", "ß"]
    among = ["".join(dice.choice(marks) for _ in range(dice.randint(1, 12))) for _ in range(60)] + SENTENCES
    for what, tokenizer in (("bytes", byte_level(*FAMILIES["qwen2"])), ("sentencepiece", sentencepiece_like(True, 1))):
        text = json.loads(tokenizer.to_str())
        text["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "NFC"}] + (text["normalizer"] or {"normalizers": []})["normalizers"]}
        tokenizer = Tokenizer.from_str(json.dumps(text))
        wrong = same_ids(what, tokenizer, convert(tokenizer, what), among)
        assert not wrong, "\n".join(map(str, wrong[:8]))


@test
def a_further_turn_of_chat_gets_no_space_in_front():
    tokenizer = sentencepiece_like(True, 1)
    model = convert(tokenizer)
    done = subprocess.run([KVASIR, "chat", "-m", model, "-n", "2", "--temp", "0", "--draft-max", "0"], input="one\ntwo\n", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    costs = [int(n) for n in re.findall(r"\[prompt (\d+) tokens", done.stderr)]
    further = "\nUser: two\nAssistant:"  # of a model without a template
    ids = tokenizer.encode("o" + further, add_special_tokens=False).ids[len(tokenizer.encode("o", add_special_tokens=False).ids):]
    assert costs[1:] == [len(ids) + 1], (costs, len(ids))  # and the last token of the reply


@test
def without_byte_fallback_unknown_characters_are_one_token():
    text = json.loads(sentencepiece_like(True, 1).to_str())
    for byte_fallback in (True, False):
        text["model"]["byte_fallback"] = byte_fallback
        tokenizer = Tokenizer.from_str(json.dumps(text))
        wrong = same_ids(f"byte_fallback {byte_fallback}", tokenizer, convert(tokenizer), ["ǅʰ中", "<unk>ǅ中<unk>", "a ǅǅb中 中", "<0x41>ǅ"] + texts(6))
        assert not wrong, "\n".join(map(str, wrong[:8]))


@test
def what_gguf_cannot_say_of_a_text_is_refused():
    meta = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": True}
    bytes_, pieces = byte_level(*FAMILIES["llama-bpe"]).to_str(), sentencepiece_like(True, 1).to_str()
    for text, path, value, word in (
            (bytes_, ["normalizer"], {"type": "Lowercase"}, "Lowercase"),
            (bytes_, ["normalizer"], {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "NFKC"}]}, "NFKC"),
            (bytes_, ["normalizer"], {"type": "Prepend", "prepend": "\u2581"}, "Prepend"),
            (bytes_, ["pre_tokenizer", "pretokenizers", 1, "add_prefix_space"], True, "add_prefix_space"),
            (bytes_, ["model", "end_of_word_suffix"], "</w>", "end_of_word_suffix"),
            (pieces, ["normalizer"], None, "normalizer"),
            (pieces, ["normalizer", "normalizers", 1, "content"], "_", "Replace"),
            (pieces, ["pre_tokenizer"], {"type": "Digits", "individual_digits": True}, "Digits"),
            (pieces, ["pre_tokenizer"], {"type": "Split", "pattern": {"Regex": "[0-9]"}, "behavior": "Isolated", "invert": False}, "Split"),
            (pieces, ["pre_tokenizer"], {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, meta]}, "WhitespaceSplit")):
        tokenizer = json.loads(text)
        at = tokenizer
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value
        try:
            convert(Tokenizer.from_str(json.dumps(tokenizer)), word)
        except AssertionError as error:
            assert word in error.args[0][1].decode() and "tokenizer.json" in error.args[0][1].decode(), error
        else:
            raise AssertionError(f"{word} was taken")
    # What is cut at each "\u2581" never holds two words together; here one piece would.
    tokenizer = json.loads(pieces)
    tokenizer["model"]["vocab"]["a\u2581b"] = len(tokenizer["model"]["vocab"])
    tokenizer["pre_tokenizer"] = meta
    try:
        convert(Tokenizer.from_str(json.dumps(tokenizer)))
    except AssertionError as error:
        assert "Metaspace" in error.args[0][1].decode(), error
    else:
        raise AssertionError("Metaspace was taken")


run_tests(TESTS, [(KVASIR, "make")])
