#!/usr/bin/env python3
"""Writes dequantize.bin: random blocks of every tensor type and what gguf-py (an independent implementation) makes of them,
then floats and what numpy and gguf-py narrow them to.

    pip install gguf numpy && python3 tests/golden/quant/make.py

    record:  u32 kind  u32 type id  u32 n_weights  u32 n_bytes | n_bytes of input | n_weights outputs
    kind 0:  blocks -> float32     kind 1: float32 -> float16 (numpy)     kind 2: float32 -> bfloat16 (gguf-py)
"""
import os
import struct

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as T
from gguf.quants import dequantize, quantize

# byte offsets of the halves in a block: they must be finite, everything else is any byte
HALVES = {
    T.F32: [], T.F16: [0], T.BF16: [], T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0],
    T.Q2_K: [80, 82], T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208],
    T.IQ4_NL: [0], T.IQ4_XS: [0], T.MXFP4: [],
}
SPECIAL_HALVES = [0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x83FF, 0x0400, 0x3C00, 0xBC00, 0x7BFF, 0xFBFF]


def random_half(rng):
    if rng.random() < 0.25:
        return int(rng.choice(SPECIAL_HALVES))
    return int(np.float16(rng.standard_normal() * 0.05).view(np.uint16))


def random_blocks(rng, qtype):
    size, nbytes = GGML_QUANT_SIZES[qtype]
    n = {1: 512, 32: 40, 256: 6}[size]
    if qtype == T.F32:
        return rng.standard_normal(n).astype(np.float32).view(np.uint8).reshape(n, 4)
    if qtype == T.BF16:
        bits = rng.integers(0, 65536, n).astype(np.uint16)
        bits[(bits & 0x7F80) == 0x7F80] = 0x3F80  # no infinities, no NaN
        return bits.view(np.uint8).reshape(n, 2)
    blocks = rng.integers(0, 256, (n, nbytes)).astype(np.uint8)
    for block in blocks:
        for at in HALVES[qtype]:
            block[at:at + 2] = np.frombuffer(struct.pack("<H", random_half(rng)), np.uint8)
    if qtype == T.MXFP4:
        blocks[:8, 0] = [0, 1, 2, 127, 128, 250, 251, 255]
    return blocks


def awkward_floats(rng):
    bits = rng.integers(0, 1 << 32, 1500, dtype=np.uint64).astype(np.uint32)
    halves = rng.integers(0, 0x7C00, 500).astype(np.uint16).view(np.float16).astype(np.float32)
    near = halves * np.float32(1 + 2.0**-11)  # close to the middle between two halves
    f = np.concatenate([bits.view(np.float32), halves, near, -near, np.float32([0, -0.0, 65504, 65519.996, 65520, 65536, np.inf, -np.inf])])
    return f[~np.isnan(f)].astype(np.float32)


def main():
    rng = np.random.default_rng(20240607)
    out = bytearray()
    for qtype in HALVES:
        blocks = random_blocks(rng, qtype)
        with np.errstate(all="ignore"):
            values = dequantize(blocks.reshape(1, -1), qtype).astype("<f4").ravel()
        out += struct.pack("<4I", 0, int(qtype), values.size, blocks.size) + blocks.tobytes() + values.tobytes()
    floats = awkward_floats(rng)
    floats = floats[:floats.size // 2 * 2]  # records stay 4-byte aligned
    with np.errstate(all="ignore"):
        f16 = floats.astype(np.float16).view(np.uint16)
    bf16 = quantize(floats.reshape(1, -1), T.BF16).view(np.uint16).ravel()
    out += struct.pack("<4I", 1, int(T.F16), floats.size, floats.nbytes) + floats.tobytes() + f16.astype("<u2").tobytes()
    out += struct.pack("<4I", 2, int(T.BF16), floats.size, floats.nbytes) + floats.tobytes() + bf16.astype("<u2").tobytes()
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "dequantize.bin")
    with open(path, "wb") as f:
        f.write(out)
    print(f"{path}: {len(out)} bytes")


if __name__ == "__main__":
    main()
