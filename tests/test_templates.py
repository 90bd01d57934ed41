#!/usr/bin/env python3
"""Chat templates, differentially: what `kvasir template` prints equals what jinja2 renders when it is set up as transformers
does. Two corpora: the templates of about 70 model families (in the source package of llama-cpp-python, fetched once through
pip into build/templates), each with every conversation of golden/template/conversations.json, with and without generation
prompt; and the small snippets of golden/template/snippets.json. Nothing is stored but the questions: jinja2 gives the answers.

    KVASIR=./kvasir build/venv/bin/python tests/test_templates.py [-v] [name ...]
"""
import concurrent.futures
import datetime
import functools
import glob
import json
import os
import subprocess
import sys
import tarfile
import tempfile

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

PACKAGE, VERSION = "llama-cpp-python", "0.3.36"
NEEDED = 40  # templates that must be equal in everything; the issue asks for this many
HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
CACHE = os.environ.get("KVASIR_TEMPLATES", os.path.join(ROOT, "build", "templates"))
KVASIR = os.environ.get("KVASIR", "./kvasir")
BOS, EOS = "<|bos|>", "<|eos|>"

# pip wants the metadata of a source package before it keeps the file, and building that takes minutes and a compiler.
# This stands in for the package's build backend and reads the metadata from PKG-INFO.
BACKEND = '''
import os, re
def get_requires_for_build_wheel(config_settings=None):
    return []
def prepare_metadata_for_build_wheel(directory, config_settings=None):
    version = re.search(r"^Version: (\\S+)", open("PKG-INFO", encoding="utf-8").read(), re.M).group(1)
    name = "llama_cpp_python-%s.dist-info" % version
    os.makedirs(os.path.join(directory, name))
    with open(os.path.join(directory, name, "METADATA"), "w") as f:
        f.write("Metadata-Version: 2.1\\nName: llama-cpp-python\\nVersion: %s\\n" % version)
    return name
'''


def fetch():
    """The templates as a dict of name -> text, downloaded on the first run only."""
    done = os.path.join(CACHE, "." + VERSION)
    if not os.path.exists(done):
        os.makedirs(CACHE, exist_ok=True)
        with tempfile.TemporaryDirectory() as tmp:
            package = os.path.join(tmp, "backend", "scikit_build_core")
            os.makedirs(package)
            open(os.path.join(package, "__init__.py"), "w").close()
            with open(os.path.join(package, "build.py"), "w") as f:
                f.write(BACKEND)
            env = dict(os.environ, PYTHONPATH=os.path.join(tmp, "backend"))
            subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-build-isolation", "--no-binary", PACKAGE,
                            "%s==%s" % (PACKAGE, VERSION), "-d", tmp], check=True, env=env)
            with tarfile.open(glob.glob(os.path.join(tmp, "*.tar.gz"))[0]) as tar:
                for member in tar:
                    if member.isfile() and "/models/templates/" in member.name and member.name.endswith(".jinja"):
                        with open(os.path.join(CACHE, os.path.basename(member.name)), "wb") as f:
                            f.write(tar.extractfile(member).read())
        open(done, "w").close()
    names = sorted(glob.glob(os.path.join(CACHE, "*.jinja")))
    return {os.path.basename(n)[:-6]: open(n, encoding="utf-8", newline="").read() for n in names}


class GenerationBlock(jinja2.ext.Extension):
    """{% generation %}, as transformers' AssistantTracker parses it."""
    tags = {"generation"}

    def parse(self, parser):
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_support"), [], [], body).set_lineno(lineno)

    def _support(self, caller):
        return caller()


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlock, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda fmt: datetime.datetime.now().strftime(fmt)
    return env


@functools.lru_cache(None)
def compiled(env, source):
    return env.from_string(source)


def expected(env, source, conversation, generation):
    """jinja2's text, or the exception it raised."""
    try:
        text = compiled(env, source).render(messages=conversation["messages"], tools=conversation.get("tools"), documents=None,
                                             add_generation_prompt=generation, bos_token=BOS, eos_token=EOS)
        text.encode("utf-8")
        return text, None
    except Exception as error:  # whatever Python raises is a failure for us
        return None, error


def actual(tmp, key, source_file, conversation_file, tools_file, generation):
    command = [KVASIR, "template", "--template", source_file, "--messages", conversation_file, "--bos", BOS, "--eos", EOS]
    if tools_file:
        command += ["--tools", tools_file]
    if not generation:
        command += ["--no-generation-prompt"]
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, timeout=60)
    return run.returncode, run.stdout, run.stderr.decode("utf-8", "replace").strip()


def judge(want, error, code, out, message):
    """None when right, else what is wrong."""
    if error is not None:
        if code != 1:
            return "jinja2 raises %s: %s; kvasir exits %d" % (type(error).__name__, error, code)
        if type(error) is jinja2.exceptions.TemplateError and " ".join(str(error).split())[:200] not in " ".join(message.split()):
            return "message %r does not carry %r" % (message, str(error))
        return None
    if code != 0:
        return "kvasir exits %d: %s" % (code, message)
    if out == want.encode("utf-8"):
        return None
    got = out.decode("utf-8", "replace")
    at = next((i for i, (a, b) in enumerate(zip(want, got)) if a != b), min(len(want), len(got)))
    return "differs at character %d:\n      want ...%r\n      got  ...%r" % (at, want[max(0, at - 40):at + 60], got[max(0, at - 40):at + 60])


def write(path, text):
    with open(path, "w", encoding="utf-8", newline="") as f:
        f.write(text)
    return path


def run_cases(tmp, cases):
    """cases: (key, source, conversation, generation) -> {key: None or what is wrong}, number that raised."""
    env, files, raised = environment(), {}, set()

    def one(case):
        key, source_file, conversation_file, tools_file, source, conversation, generation = case
        before = datetime.datetime.now().minute
        want, error = expected(env, source, conversation, generation)
        result = judge(want, error, *actual(tmp, key, source_file, conversation_file, tools_file, generation))
        if result and datetime.datetime.now().minute != before:  # strftime_now may have seen two minutes
            want, error = expected(env, source, conversation, generation)
            result = judge(want, error, *actual(tmp, key, source_file, conversation_file, tools_file, generation))
        return key, result, error is not None

    prepared = []
    for key, source, conversation, generation in cases:
        paths = []
        for text, suffix in ((source, "jinja"), (json.dumps(conversation["messages"]), "json"),
                             (json.dumps(conversation["tools"]) if conversation.get("tools") is not None else None, "tools")):
            if text is not None and (text, suffix) not in files:
                files[text, suffix] = write(os.path.join(tmp, "%d.%s" % (len(files), suffix)), text)
            paths.append(files.get((text, suffix)))
        prepared.append((key, *paths, source, conversation, generation))
    results = {}
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for key, result, failed in pool.map(one, prepared):
            results[key] = result
            if failed:
                raised.add(key)
    return results, raised


def report(results, verbose):
    for key, result in results.items():
        if result is not None:
            print("  FAIL %s: %s" % (key, result))
        elif verbose:
            print("  ok   %s" % (key,))


def main():
    verbose = "-v" in sys.argv
    wanted = [a for a in sys.argv[1:] if not a.startswith("-")]
    failures = cases_run = 0
    with open(os.path.join(HERE, "golden", "template", "conversations.json"), encoding="utf-8") as f:
        conversations = json.load(f)
    with open(os.path.join(HERE, "golden", "template", "snippets.json"), encoding="utf-8") as f:
        snippets = json.load(f)
    with tempfile.TemporaryDirectory() as tmp:
        if not wanted or "snippets" in wanted:
            plain = {"messages": snippets["messages"], "tools": snippets["tools"]}
            cases = [(s, s, plain, True) for s in snippets["snippets"]]
            results, raised = run_cases(tmp, cases)
            bad = sum(r is not None for r in results.values())
            report(results, verbose)
            print("snippets: %d of %d equal jinja2 %s (%d of them raise in both)" % (len(results) - bad, len(results), jinja2.__version__, len(raised)))
            failures, cases_run = bad, len(results)

        templates = {n: t for n, t in fetch().items() if not wanted or n in wanted}
        cases = [((name, title, generation), source, conversation, generation)
                 for name, source in templates.items() for title, conversation in conversations.items() for generation in (True, False)]
        results, raised = run_cases(tmp, cases)
        report(results, verbose)
        equal = [n for n in templates if all(r is None for k, r in results.items() if k[0] == n)]
        rendered = [n for n in templates if len({k[1] for k in results if k[0] == n and k not in raised}) >= 4 and n in equal]
        print("templates: %d of %d equal jinja2 in all of %d renders (%d raise in both); %d of them render at least four conversations"
              % (len(equal), len(templates), len(results), len(raised), len(rendered)))
        if not wanted and (len(rendered) < NEEDED or len(templates) < NEEDED):
            print("  FAIL: fewer than %d templates equal in four conversations" % NEEDED)
            failures += 1
        failures += sum(r is not None for r in results.values())
        cases_run += len(results)
    print("%d passed, %d failed" % (cases_run - failures, failures))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
