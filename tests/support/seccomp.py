"""System calls that fail in a child: what a kernel or a security module would refuse."""
import ctypes
import platform
import struct

NUMBERS = {"x86_64": {"listen": 50, "madvise": 28}, "aarch64": {"listen": 201, "madvise": 233}}[platform.machine()]
ALLOW, FAIL = 0x7FFF0000, 0x00050000  # FAIL | errno
LOAD, EQUAL, ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06
NUMBER, ARGUMENT_0, ARGUMENT_2 = 0, 16, 32  # where they stand; the lower half of an argument


def install(*program):
    """For preexec_fn: rows of BPF, (code, value) or (code, value, skip if true, skip if false)."""
    rows = [(code, *(skips or (0, 0)), value) for code, value, *skips in program]
    code = b"".join(struct.pack("HBBI", *row) for row in rows)
    text = ctypes.create_string_buffer(code, len(code))
    libc = ctypes.CDLL(None)
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    libc.prctl(22, 2, ctypes.c_char_p(struct.pack("HxxxxxxP", len(rows), ctypes.addressof(text))), 0, 0)  # PR_SET_SECCOMP, a filter
