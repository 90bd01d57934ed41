"""A `kvasir serve` for a test, and sockets to it over TCP and unix alike."""
import json
import os
import re
import socket
import subprocess
import tempfile
import threading
import time

KVASIR = os.environ.get("KVASIR", "./kvasir")
TINY = "tests/golden/fixtures/llama/model.gguf"
SMOLLM2 = "models/smollm2-135m-instruct-q4_1.gguf"
SLOW = 8 if os.environ.get("SANITIZE") else 1


def parallel(jobs):
    """What each function returns, all called at once."""
    results = [None] * len(jobs)

    def work(i):
        results[i] = jobs[i]()
    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(jobs))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return results


class Server:
    """Runs until stop(); listens on a unix socket and on a free TCP port."""
    timeout = 120  # seconds that a client waits for the next bytes: only what hangs takes so long, also on a busy machine

    def __init__(self, *args, model=TINY, preexec_fn=None, listen=None, wait=True, perturb=True):
        self.folder = tempfile.TemporaryDirectory()
        self.path = os.path.join(self.folder.name, "s.sock")
        listen = ["--listen", "unix:" + self.path, "--listen", "127.0.0.1:0"] if listen is None else listen
        self.log = open(os.path.join(self.folder.name, "log"), "w+")
        # What was freed is overwritten, so that whoever still reads it reads nonsense; what is allocated too, and so all of it is in memory.
        tunables = {"GLIBC_TUNABLES": "glibc.malloc.perturb=165:glibc.malloc.tcache_count=0"} if perturb else {}
        self.process = subprocess.Popen([KVASIR, "serve", "-m", model, *listen, *args], stderr=self.log, stdin=subprocess.DEVNULL,
                                        preexec_fn=preexec_fn, env={**os.environ, **tunables})
        self.port = None
        if wait:
            self.wait_ready(sum(a == "--listen" for a in listen))

    def said(self):
        with open(self.log.name) as f:
            return f.read()

    def wait_ready(self, n_listeners):
        end = time.monotonic() + 60 * SLOW
        while self.said().count("listening on") < n_listeners:
            if self.process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"the server did not start: {self.said()}")
            time.sleep(0.01)
        found = re.search(r"http://127\.0\.0\.1:(\d+)", self.said())
        self.port = int(found.group(1)) if found else None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        """SIGTERM; returns the exit status."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            status = self.process.wait(60 * SLOW)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError("SIGTERM did not stop the server")
        assert status == 0 or self.process.returncode < 0, (status, self.said())
        return status

    def connect(self, kind="tcp", timeout=None, receive_buffer=None):
        s = socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET, socket.SOCK_STREAM)
        if receive_buffer:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        s.settimeout((timeout or self.timeout) * SLOW)
        s.connect(self.path if kind == "unix" else ("127.0.0.1", self.port))
        return s

    def raw(self, data, kind="tcp", half_close=False):
        """Sends bytes as they are; returns all responses until the other side closes or is silent."""
        with self.connect(kind) as s:
            try:
                s.sendall(data)
                if half_close:
                    s.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            return read_response(s)

    def request(self, method, path, body=None, kind="tcp", headers=()):
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + "".join(f"{h}\r\n" for h in headers)
        if body is not None:
            head += f"Content-Length: {len(data)}\r\n"
        return self.raw(head.encode() + b"\r\n" + data, kind)

    def get(self, path, kind="tcp"):
        r = self.request("GET", path, kind=kind)
        assert r.status == 200, (path, r.status, r.body)
        return r.json() if "json" in r.headers.get("content-type", "") else r.body.decode()

    def post(self, path, body, kind="tcp"):
        r = self.request("POST", path, body, kind)
        assert r.status == 200, (path, r.status, r.body)
        return r.json()

    def stream(self, path, body, kind="tcp"):
        """The events of a stream, [DONE] checked and left out."""
        r = self.request("POST", path, dict(body, stream=True), kind)
        assert r.status == 200 and r.headers["content-type"].startswith("text/event-stream"), (r.status, r.body)
        events = [e[6:] for e in r.body.decode().split("\n\n") if e.startswith("data: ")]
        assert events[-1] == "[DONE]", r.body[-300:]
        return [json.loads(e) for e in events[:-1]]

    def metrics(self):
        return {k: float(v) for k, v in re.findall(r"^(kvasir_\w+) (\S+)$", self.get("/metrics"), re.M)}

    def settled(self):
        """The metrics after the last step is published: nobody is in a slot."""
        while True:
            m = self.metrics()
            if m["kvasir_requests_running"] == 0 and m["kvasir_requests_waiting"] == 0:
                return m

    def is_healthy(self):
        for kind in ("tcp", "unix"):
            if self.request("GET", "/health", kind=kind).status != 200:
                return False
        return True


def wait_for(s, condition, why=""):
    """Until the slots are as they should be. The limit is for what never comes: whatever is waited for here, a reply that nobody ends takes longer."""
    end = time.monotonic() + 20 * SLOW
    while not condition(slots := s.get("/slots")):
        assert time.monotonic() < end, (why, slots)
        time.sleep(0.005)


def is_idle(slots):
    return not any(x["is_processing"] for x in slots)


class Response:
    def __init__(self, status, headers, body, rest):
        self.status, self.headers, self.body, self.rest = status, headers, body, rest

    def json(self):
        return json.loads(self.body)


def read_response(s):
    """The first response on a socket; .rest is what came behind it."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = receive(s)
        if not piece:
            return Response(0, {}, data, b"")
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    status = int(lines[0].split()[1])
    headers = {k.strip().lower(): v.strip() for k, v in (line.split(":", 1) for line in lines[1:])}
    if status == 100:
        return continue_response(s, body)
    if headers.get("transfer-encoding") == "chunked":
        return chunked_response(s, status, headers, body)
    n = int(headers.get("content-length", 0))
    while len(body) < n:
        piece = receive(s)
        if not piece:
            break
        body += piece
    return Response(status, headers, body[:n], body[n:])


def continue_response(s, body):
    class Rest:
        def recv(self, n):
            nonlocal body
            if body:
                out, body = body, b""
                return out
            return s.recv(n)
    return read_response(Rest())


def chunked_response(s, status, headers, data):
    body = b""
    while True:
        while b"\r\n" not in data:
            piece = receive(s)
            if not piece:
                return Response(status, headers, body, b"")
            data += piece
        line, _, data = data.partition(b"\r\n")
        n = int(line, 16)
        while len(data) < n + 2:
            piece = receive(s)
            if not piece:
                return Response(status, headers, body, b"")
            data += piece
        body += data[:n]
        assert data[n:n + 2] == b"\r\n"
        data = data[n + 2:]
        if n == 0:
            return Response(status, headers, body, data)


def receive(s):
    try:
        return s.recv(1 << 16)
    except ConnectionResetError:
        return b""
