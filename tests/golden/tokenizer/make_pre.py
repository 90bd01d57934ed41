"""Writes pre.json: what llama.cpp says for SmolLM2's vocabulary under each pre-tokenizer name.

    pip install llama-cpp-python gguf
    python make_pre.py models/smollm2-135m-instruct-q4_1.gguf > pre.json

The vocabulary is the same throughout; only tokenizer.ggml.pre changes, so the ids show where each family cuts.
Known disagreements with tokenizer.json that the texts avoid: llama.cpp spells the letter classes of gpt-4o and tekken with
ASCII case only, and maps Unicode blanks to U+000B in patterns without \\p.
"""
import ctypes
import json
import os
import struct
import sys
import tempfile

import gguf
import llama_cpp

PRE = ("default gpt-2 smollm llama-bpe qwen2 gpt-4o tekken falcon deepseek-coder deepseek-v3 bloom viking seed-coder "
       "bailingmoe qwen35").split()
TEXTS = [
    "Hello, world! I'm sure you'LL see it's 'quoted'.",
    "1 12 123 1234 12345 1234567 3.14159 1,000,000 0x7fff",
    "  two   three    four\n\n  x\t\ty \r\n\r\n end  ",
    "def f(x):\n    return x**2  # comment\n\n\n",
    "snake_case camelCase HTTPServer kebab-case a+b==c && d||e",
    "na\u00efve caf\u00e9 \u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8 \u4e2d\u6587\uff0c\u6d4b\u8bd5\u3002\ud55c\uad6d\uc5b4",
    "\u0939\u093f\u0928\u094d\u0926\u0940 \u0e44\u0e17\u0e22 e\u0301 \u0645\u0646 \u0416\u0438\u0437\u043d\u044c",
    "\U0001f44d\U0001f3fd x \U0001f468\u200d\U0001f469 \u00bd \u00b2 \u2163 \u0663\u0664",
    "https://example.org/a?b=c&d=%20#frag C:\\path [x] {y} <z> ~^|`$",
    "...---===*** !!!??? \n\n...\n x.\n\n",
]


def variants(path):
    reader = gguf.GGUFReader(path)
    fields = [f for name, f in reader.fields.items() if not name.startswith("GGUF.")]
    end = max(f.offset + sum(part.nbytes for part in f.parts) for f in fields)
    field = reader.fields["tokenizer.ggml.pre"]
    value = field.offset + 8 + len(field.name) + 4
    with open(path, "rb") as file:
        head = file.read(end)
    (old,) = struct.unpack_from("<Q", head, value)
    for pre in PRE:
        data = bytearray(head[:value] + struct.pack("<Q", len(pre)) + pre.encode() + head[value + 8 + old:])
        struct.pack_into("<Q", data, 8, 0)  # no tensors
        yield pre, bytes(data) + bytes(-len(data) % 32)


def main():
    quiet = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    out = {"texts": TEXTS, "ids": {}}
    with tempfile.TemporaryDirectory() as folder:
        for pre, data in variants(sys.argv[1]):
            path = os.path.join(folder, "vocab.gguf")
            with open(path, "wb") as file:
                file.write(data)
            model = llama_cpp.Llama(path, vocab_only=True, verbose=False)
            out["ids"][pre] = [model.tokenize(t.encode(), add_bos=False, special=False) for t in TEXTS]
    json.dump(out, sys.stdout, separators=(",", ":"))
    print()


main()
