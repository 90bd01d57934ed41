"""Checkpoints with one fault each, made from a valid one: what test_bad_files.py feeds the binary beside the stored files.

A small reader and writer of GGUF of their own, so that a fault can be put anywhere: `mutants(data)` yields
(name, bytes, must_fail). must_fail False: it may load or be refused, but never crash.
"""
import math
import struct

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
SCALARS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "B", U64: "Q", I64: "q", F64: "d"}
ALIGNMENT = 32


def text(s):
    return struct.pack("<Q", len(s)) + s


def scalar(kind, value):
    return kind, struct.pack("<" + SCALARS[kind], value)


def string(s):
    return STRING, text(s)


def array(kind, values):
    items = b"".join(text(v) if kind == STRING else struct.pack("<" + SCALARS[kind], v) for v in values)
    return ARRAY, struct.pack("<IQ", kind, len(values)) + items


class Checkpoint:
    """keys: [[name, type, raw value]]; tensors: [[name, dims, type, data, offset or None]]; marks: byte offsets of the parts."""

    def __init__(self, data):
        self.data, self.pos, self.marks = data, 0, []
        magic, version, n_tensors, n_keys = self.take("4sIQQ")
        assert magic == b"GGUF" and version == 3
        self.keys = [self.read_key() for _ in range(n_keys)]
        infos = [self.read_tensor() for _ in range(n_tensors)]
        begin = -(-self.pos // ALIGNMENT) * ALIGNMENT
        ends = sorted([t[4] for t in infos] + [len(data) - begin])
        self.tensors = []
        for name, dims, kind, _, offset in infos:
            self.marks.append(begin + offset)
            end = ends[ends.index(offset) + 1]
            self.tensors.append([name, dims, kind, data[begin + offset:begin + end], None])

    def take(self, form):
        values = struct.unpack_from("<" + form, self.data, self.pos)
        self.pos += struct.calcsize("<" + form)
        return values

    def take_text(self):
        n, = self.take("Q")
        self.pos += n
        return self.data[self.pos - n:self.pos]

    def skip_value(self, kind):
        if kind == STRING:
            self.take_text()
        elif kind == ARRAY:
            item, n = self.take("IQ")
            for _ in range(n):
                self.skip_value(item)
        else:
            self.take(SCALARS[kind])

    def read_key(self):
        self.marks.append(self.pos)
        name = self.take_text()
        kind, = self.take("I")
        begin = self.pos
        self.skip_value(kind)
        return [name, kind, self.data[begin:self.pos]]

    def read_tensor(self):
        self.marks.append(self.pos)
        name = self.take_text()
        n_dims, = self.take("I")
        dims = list(self.take(f"{n_dims}Q"))
        kind, offset = self.take("IQ")
        return [name, dims, kind, None, offset]

    def build(self, keys=None, tensors=None):
        keys, tensors = keys or self.keys, tensors or self.tensors
        out = bytearray(struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(keys)))
        for name, kind, value in keys:
            out += text(name) + struct.pack("<I", kind) + value
        body = bytearray()
        for name, dims, kind, data, offset in tensors:
            offset = len(body) if offset is None else offset
            out += text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)
            body += data + bytes(-len(data) % ALIGNMENT)
        return bytes(out + bytes(-len(out) % ALIGNMENT) + body)


def replaced(items, i, *new):
    return items[:i] + list(new) + items[i + 1:]


def cut_files(c, data):
    for mark in c.marks:
        for at in (mark, mark + 1, mark + 13):
            if at < len(data):
                yield f"cut at {at}", data[:at], True


def odd_scalars():
    for kind, values in ((U32, (0, 1, 7, 1 << 20, 1 << 31, (1 << 32) - 1)), (I32, (-1,)), (U64, (1 << 63,)),
                         (F32, (0.0, -1.0, math.nan, math.inf, 1e-45, 3e38)), (BOOL, (1,))):
        for value in values:
            yield f"{value} (type {kind})", scalar(kind, value)
    yield "a string", string(b"x")
    yield "a string that is no UTF-8", string(b"\xff\0\xc0")
    yield "an empty array", array(U32, [])
    yield "an array of 3", array(U32, [1, 2, 3])
    yield "an array of strings", array(STRING, [b"a", b"b"])


def odd_keys(c):
    for i, (name, kind, value) in enumerate(c.keys):
        label = name.decode()
        if label.startswith("x."):
            continue
        yield f"{label} missing", c.build(keys=replaced(c.keys, i)), False
        yield f"{label} twice", c.build(keys=c.keys + [c.keys[i]]), True
        for what, (new_kind, new_value) in odd_scalars():
            yield f"{label} = {what}", c.build(keys=replaced(c.keys, i, [name, new_kind, new_value])), False


def odd_arrays(c):
    for i, (name, kind, value) in enumerate(c.keys):
        if kind != ARRAY:
            continue
        item, n = struct.unpack_from("<IQ", value)
        label, items = name.decode(), value[12:]
        variants = [("count + 1", struct.pack("<IQ", item, n + 1) + items, False),
                    ("count wraps", struct.pack("<IQ", item, (1 << 62) + 1) + items, True),
                    ("count - 1", struct.pack("<IQ", item, max(n, 1) - 1) + items, False)]
        if item == STRING and n > 16:
            for what, s in (("one string for all", b"same"), ("no UTF-8", b"\xff\xfe\x80"), ("empty strings", b""), ("NUL", b"a\0b"),
                            ("long strings", b"z" * 3000), ("emoji", "\U0001f600".encode()), ("byte tokens", b"<0x41>"), ("spaces", b" ")):
                variants.append((what, array(STRING, [s] * n)[1], False))
        if item in (F32, I32) and n > 16:
            for what, v in (("all 0", 0), ("all -1", -1), ("all 99", 99)) + ((("all NaN", math.nan),) if item == F32 else ()):
                variants.append((what, array(item, [v] * n)[1], False))
        for what, new, must_fail in variants:
            yield f"{label}: {what}", c.build(keys=replaced(c.keys, i, [name, ARRAY, new])), must_fail


def odd_tensors(c):
    size = len(c.data)
    for i, (name, dims, kind, data, _) in enumerate(c.tensors):
        label, optional = name.decode(), name == b"output.weight"
        is_vocab = name in (b"output.weight", b"token_embd.weight")  # may have rows that no token has

        def changed(name=name, dims=dims, kind=kind, data=data, offset=None):
            return c.build(tensors=replaced(c.tensors, i, [name, dims, kind, data, offset]))

        yield f"{label} missing", c.build(tensors=replaced(c.tensors, i)), not optional
        yield f"{label} renamed", changed(name=b"renamed"), not optional
        if len(dims) == 2 and dims[0] != dims[1]:
            yield f"{label} transposed", changed(dims=dims[::-1]), True
        yield f"{label} with one row more", changed(dims=dims[:-1] + [dims[-1] + 32], data=data * 2), not is_vocab
        yield f"{label} with a dimension of 0", changed(dims=dims[:-1] + [0]), True
        yield f"{label} with a dimension of 2^40", changed(dims=dims[:-1] + [1 << 40]), True
        yield f"{label} in {3 - len(dims)} dimensions", changed(dims=[dims[0]] if len(dims) == 2 else dims + [2], data=data * 2), True
        yield f"{label} beyond the end", changed(offset=size // ALIGNMENT * ALIGNMENT), True
        yield f"{label} at an odd offset", changed(offset=3), True
        for new in (4, 17, 24, 77, 1 << 31):
            yield f"{label} of type {new}", changed(kind=new), True
        for new, weight_bytes in ((0, 4), (1, 2), (30, 2)):
            bits = bytes([0, 0x7E]) if new == 1 else bytes([0xC0, 0x7F])  # NaN in every weight
            count = math.prod(dims)
            yield f"{label} all NaN, type {new}", changed(kind=new, data=(bits * count * 2)[:count * weight_bytes]), True


def mutants(data):
    c = Checkpoint(data)
    assert len(c.build()) == len(data), "the builder must give the valid file back"
    for make in (lambda: cut_files(c, data), lambda: odd_keys(c), lambda: odd_arrays(c), lambda: odd_tensors(c)):
        yield from make()


def incomplete(data):
    """Without each of its tensors in turn: none of them is optional, except the output."""
    c = Checkpoint(data)
    for i, tensor in enumerate(c.tensors):
        if tensor[0] != b"output.weight":
            yield f"{tensor[0].decode()} missing", c.build(tensors=replaced(c.tensors, i)), True


def damaged(model, data):
    """With NaN in all of each of its tensors, which are F32, in turn."""
    c = Checkpoint(data)
    for i, (name, dims, kind, _, offset) in enumerate(c.tensors):
        data = bytes([0, 0, 0xC0, 0x7F]) * math.prod(dims)
        yield f"{model}: {name.decode()} all NaN", c.build(tensors=replaced(c.tensors, i, [name, dims, kind, data, offset])), True
