"""The reference fixtures (tests/golden/fixtures/README.md), unpacked once into build/fixtures.

    python3 tests/support/fixtures.py      what the Makefile does before the tests
"""
import os
import shutil
import sys
import tarfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUNDLE = os.path.join(ROOT, "tests", "golden", "fixtures", "open.tar.xz")
FOLDER = os.path.join(ROOT, "build", "fixtures")


def unpack():
    """The folder that holds NAME/hf, NAME/model.gguf, NAME/expect.json, manifest.json and tokenizer_expect.json."""
    ready = os.path.join(FOLDER, "ready")
    if os.path.exists(ready) and os.path.getmtime(ready) >= os.path.getmtime(BUNDLE):
        return FOLDER
    own = f"{FOLDER}.{os.getpid()}"  # two tests may come here at once
    with tarfile.open(BUNDLE) as bundle:
        bundle.extractall(own)
    with open(os.path.join(own, "ready"), "w"):
        pass
    shutil.rmtree(FOLDER, ignore_errors=True)
    try:
        os.rename(own, FOLDER)
    except OSError:
        shutil.rmtree(own)
    return FOLDER


if __name__ == "__main__":
    unpack()
    sys.exit(0)
