"""Programs in which one allocation fails (failing_malloc.c)."""
import mmap
import os
import struct
import subprocess


class FailingMalloc:
    """Of a program that runs with env(), the Nth allocation fails since fail_at(N); 0: none does. Makes its files in `folder`."""

    def __init__(self, folder):
        self.control, self.library = os.path.join(folder, "control"), os.path.join(folder, "failing_malloc.so")
        with open(self.control, "wb") as f:
            f.write(bytes(16))
        with open(self.control, "r+b") as f:
            self.shared = mmap.mmap(f.fileno(), 16)
        subprocess.run([*os.environ.get("CC", "cc").split(), "-O1", "-shared", "-fPIC", "-o", self.library, "tests/support/failing_malloc.c"], check=True)

    def env(self):
        return {"LD_PRELOAD": self.library, "FAILING_MALLOC": self.control}

    def fail_at(self, n):
        self.shared[:] = struct.pack("qq", 0, 0)
        self.shared[:8] = struct.pack("q", n)

    def n_allocations(self):
        return struct.unpack("qq", self.shared[:])[1]
