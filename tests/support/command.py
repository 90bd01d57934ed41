"""The program under test, as a user calls it."""
import os
import subprocess

KVASIR = os.path.abspath(os.environ.get("KVASIR", "./kvasir"))


def kvasir(*args, status=0, timeout=120, stdin=None):
    """The finished process, its output as text; it must end with this status."""
    done = subprocess.run([KVASIR, *map(str, args)], stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, timeout=timeout)
    assert done.returncode == status, (args, done.returncode, done.stderr[-1000:])
    return done
