"""The reference fixtures (tests/golden/fixtures/README.md), unpacked once into build/fixtures.

    python3 tests/support/fixtures.py      what the Makefile does before the tests
"""
import os
import shutil
import sys
import tarfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUNDLES = [os.path.join(ROOT, "tests", "golden", "fixtures", name) for name in ("open.tar.xz", "more.tar.xz")]
FOLDER = os.path.join(ROOT, "build", "fixtures")


def unpack():
    """The folder that holds NAME/hf, NAME/model.gguf, NAME/expect.json, manifest.json and tokenizer_expect.json; under more/ what
    tests/fixtures/make.py made."""
    ready = os.path.join(FOLDER, "ready")
    bundles = [b for b in BUNDLES if os.path.exists(b)]
    if os.path.exists(ready) and all(os.path.getmtime(ready) >= os.path.getmtime(b) for b in bundles):
        return FOLDER
    own = f"{FOLDER}.{os.getpid()}"  # two tests may come here at once
    for path in bundles:
        with tarfile.open(path) as bundle:
            bundle.extractall(os.path.join(own, "more") if path.endswith("more.tar.xz") else own)
    for name in os.listdir(os.path.join(own, "more")):  # one tokenizer for all
        hf = os.path.join(own, "more", name, "hf")
        if os.path.isdir(hf):
            for file in os.listdir(os.path.join(own, "more", "tokenizer")):
                shutil.copy(os.path.join(own, "more", "tokenizer", file), hf)
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
