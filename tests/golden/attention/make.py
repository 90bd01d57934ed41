#!/usr/bin/env python3
"""Golden rows of attention from the contract's executable form, a numpy program that shares no code with the runtime.

    python3 tests/golden/attention/make.py REFERENCE_DIR        in the project's root; REFERENCE_DIR holds attention.py

q, k and v are multiples of 1/4 up to 2 from splitmix64 (value() here and in tests/test_attention_golden.c), the scale is a power of two:
scores are exact in float32, many are equal, and so what a stage chooses leaves no room for rounding.

    expect.txt:  "case LAYER SOFTCAP KV_HEADS SPEC", then for each of ROWS a line "ROW v v v ..." [n_heads * d]
"""
import sys
import numpy as np

sys.path.insert(0, sys.argv[1])
import attention as reference

N, H, G, D = 330, 8, 4, 16
ROWS = [0, 1, 17, 63, 64, 129, 255, 256, 300, 329]
SOFTMAX = [
    "full", "window(1)", "window(37)", "window(64)", "window(300)", "dilated(5, 3)", "dilated(40, 7)", "dilated(9, 64)", "strided(1)",
    "strided(5)", "strided(64)", "strided(67)", "global(3)", "global(70)", "global(set=0-2.65.200-210)", "random(2)", "random(3, block=16)",
    "random(2, block=24, seed=7)", "random(70, block=4, seed=18446744073709551615)", "bigbird()", "bigbird(block=16)",
    "bigbird(block=16, window=2, global=1, random=4, seed=12345678901234567890)", "bigbird(block=32, window=0, global=0, random=1)",
    "bigbird(block=24, window=1, global=3, random=0)", "blocks(16, file=tests/golden/attention/blocks.csr)", "longformer(20, 4, 2)",
    "window(30)+strided(16)", "window(7)+global(4)+random(1, block=32)", "by_length(64:full, *:window(8))",
    "by_length(1:full, 100:strided(3), 256:bigbird(block=16), *:window(50)+global(2))", "full|topk(1)", "full|topk(7)", "full|topk(400)",
    "bigbird(block=16)|topk(20)", "full|threshold(0.01)", "window(100)|threshold(0.02)", "full|threshold(1)", "full|pages(1)", "full|pages(2)",
    "full|pages(4)", "window(150)|pages(2)", "full|pages(3)|topk(11)", "full|topk(40)|threshold(0.01)", "strided(2)|topk(9)|pages(3)",
    "full|kv_heads(2)", "window(90)|kv_heads(1)|topk(5)", "full|kv_heads(2)|pages(2)",
    "by_length(128:full|topk(3), *:full|pages(2))|kv_heads(2)",
]
LINEAR = ["linear(elu)", "linear(relu)", "linear(exp)", "linear(performer)", "linear(performer, features=24, seed=3)", "linear(rfa)",
          "linear(rfa, features=20, seed=9)", "linear(elu)|kv_heads(2)"]


def value(which, i):
    return (reference.mix(reference.GOLDEN * (i + 1) + which) % 17 - 8) / 4


def tensor(which, heads):
    return np.array([value(which, i) for i in range(N * heads * D)]).reshape(N, heads, D)


def main():
    q, k, v = tensor(1, H), tensor(2, G), tensor(3, G)
    for name, specs in (("expect.txt", SOFTMAX), ("linear.txt", LINEAR)):
        with open(f"tests/golden/attention/{name}", "w") as f:
            for i, spec in enumerate(specs):
                layer, softcap = i % 5, 20.0 if i % 7 == 3 and "linear" not in spec else 0.0
                kv_heads = int(spec.split("kv_heads(")[1].split(")")[0]) if "kv_heads" in spec else G
                out = reference.layer(spec, q, k, v, layer=layer, scale=0.25, softcap=softcap, page=64)
                f.write(f"case {layer} {softcap:g} {kv_heads} {spec}\n")
                for row in ROWS:
                    f.write(f"{row} " + " ".join(f"{x:.8g}" for x in out[row].ravel()) + "\n")


main()
