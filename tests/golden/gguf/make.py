#!/usr/bin/env python3
"""Writes small.gguf with gguf-py, an independent writer: a test reads it, and the fuzzer starts from it.

    pip install gguf numpy && python3 tests/golden/gguf/make.py
"""
import os

import numpy as np
from gguf import GGMLQuantizationType as T, GGUFWriter

path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "small.gguf")
w = GGUFWriter(path, "llama")
w.add_uint8("t.u8", 1)
w.add_int8("t.i8", -1)
w.add_uint16("t.u16", 2)
w.add_int16("t.i16", -2)
w.add_uint32("t.u32", 3)
w.add_int32("t.i32", -3)
w.add_float32("t.f32", 0.5)
w.add_bool("t.bool", True)
w.add_string("t.string", "größer")
w.add_uint64("t.u64", 4)
w.add_int64("t.i64", -4)
w.add_float64("t.f64", 0.25)
w.add_array("a.i32", [1, 2, 3])
w.add_array("a.bool", [True, False])
w.add_array("a.string", ["one", "", "three"])
w.add_tensor("w.f32", np.arange(6, dtype=np.float32).reshape(2, 3))
w.add_tensor("w.f16", np.arange(4, dtype=np.float16))
w.add_tensor("w.q8_0", np.arange(68, dtype=np.uint8).reshape(2, 34), raw_dtype=T.Q8_0)
w.write_header_to_file()
w.write_kv_data_to_file()
w.write_tensors_to_file()
w.close()
print(f"{path}: {os.path.getsize(path)} bytes")
