"""The main program of a test script: functions as tests, a line each, and the count that scripts/run-tests reads."""
import os
import sys
import time
import traceback


def run_tests(tests, needs):
    """Runs the tests whose names hold one of the words of the command line (all without words) and exits.

    `needs`: (path, what to run when it is not there) of everything the tests cannot do without."""
    for path, remedy in needs:
        if not os.path.exists(path):
            sys.exit(f"{path} is not there; run: {remedy}")
    words, failed = sys.argv[1:], 0
    chosen = [t for t in tests if not words or any(w in t.__name__ for w in words)]
    for t in chosen:
        start = time.monotonic()
        try:
            t()
            print(f"ok    {t.__name__} ({time.monotonic() - start:.1f} s)", flush=True)
        except Exception:
            failed += 1
            print(f"FAIL  {t.__name__}\n{traceback.format_exc(limit=4)}", flush=True)
    print(f"{len(chosen) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)
