"""The tree is what README.md says it is, and includes go in one direction only.

    base <- gguf, quant <- kernels <- cache <- attention <- model <- engine <- tools;  text and constraint (over text) beside model
"""
import os, re, subprocess, sys

MAY_INCLUDE = {"base": [], "gguf": ["base"], "quant": ["base", "gguf"]}
MAY_INCLUDE["gguf"] = ["base", "quant"]
MAY_INCLUDE["kernels"] = ["base", "gguf", "quant"]
for below, area in (("kernels", "cache"), ("cache", "attention"), ("attention", "model"), ("model", "engine")):
    MAY_INCLUDE[area] = MAY_INCLUDE[below] + [below]
MAY_INCLUDE["text"] = ["base", "gguf"]
MAY_INCLUDE["constraint"] = ["base", "gguf", "text"]
MAY_INCLUDE["engine"] = MAY_INCLUDE["engine"] + ["text", "constraint"]
MAX_LINES = 550
MAX_PUBLIC_HEADER_LINES = 650  # the only header that programs see stays one file

tracked = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], capture_output=True, text=True)
FILES = sorted(f for f in tracked.stdout.split("\n") if f and os.path.exists(f))
if tracked.returncode or not FILES:  # an unpacked archive
    FILES = sorted(os.path.relpath(os.path.join(d, f), ".") for d, _, fs in os.walk(".") for f in fs
                   if not d.startswith(("./build", "./.git")) and not f.endswith(".gguf"))
SOURCES = [f for f in FILES if f.endswith((".c", ".h"))]


def text(path):
    with open(path, encoding="utf-8") as f:
        return f.read()


def without_comments(source):
    return re.sub(r"/\*.*?\*/|//[^\n]*", lambda m: "\n" * m.group().count("\n"), source, flags=re.S)


def includes(path):
    return re.findall(r'^\s*#\s*include\s+"([^"]+)"', text(path), re.M)


def area_of(path):
    parts = path.split("/")
    return parts[1] if parts[0] == "runtime" and len(parts) > 2 else parts[0]


def resolve(path, name):
    """What an include means: beside the file, under runtime/ or from the root."""
    for candidate in (os.path.join(os.path.dirname(path), name), os.path.join("runtime", name), name):
        if os.path.exists(candidate):
            return os.path.normpath(candidate)
    return None


def every_include_names_a_file():
    return [f"{f}: {i}" for f in SOURCES for i in includes(f) if not resolve(f, i)]


def runtime_includes_only_what_is_below():
    wrong = []
    for f in SOURCES:
        if not f.startswith("runtime/"):
            continue
        allowed = MAY_INCLUDE.get(area_of(f))
        if allowed is None and f != "runtime/kvasir.h":
            wrong.append(f"{f}: runtime/{area_of(f)} is no part that DESIGN knows")
        for i in includes(f):
            target = resolve(f, i)
            if not target or target == "runtime/kvasir.h":
                continue
            if not target.startswith("runtime/") or area_of(target) not in (allowed or []) + [area_of(f)]:
                wrong.append(f"{f} includes {i}")
    return wrong


def tools_include_only_the_public_header_and_each_other():
    return [f"{f} includes {i}" for f in SOURCES if f.startswith("tools/") for i in includes(f)
            if resolve(f, i) != "runtime/kvasir.h" and not (resolve(f, i) or "").startswith("tools/")]


def architectures_include_only_arch_h():
    return [f"{f} includes {i}" for f in SOURCES if f.startswith("models/") for i in includes(f)
            if resolve(f, i) not in ("runtime/model/arch.h",) and not (resolve(f, i) or "").startswith("models/")]


def library_reads_no_environment_and_never_prints_or_exits():
    forbidden = re.compile(r"\b(getenv|secure_getenv|printf|puts|putchar|perror|exit|_exit|abort|setlocale)\s*\(")
    wrong = []
    for f in SOURCES:
        if f.startswith(("runtime/", "models/", "convert/")):
            for n, line in enumerate(without_comments(text(f)).split("\n"), 1):
                if forbidden.search(re.sub(r'"(\\.|[^"\\])*"', '""', line)):
                    wrong.append(f"{f}:{n}: {line.strip()}")
    return wrong


def architecture_is_never_asked_in_the_model():
    return [f"{f}:{n}: {line.strip()}" for f in SOURCES if f.startswith(("runtime/model/", "runtime/attention/", "runtime/cache/"))
            for n, line in enumerate(without_comments(text(f)).split("\n"), 1)
            if re.search(r'strcmp\([^;]*"(llama|gemma3?|qwen[23]?|phi3?)"', line)]


def files_stay_small():
    return [f"{f}: {n} lines" for f in FILES if f.endswith((".c", ".h")) or f.startswith(("scripts/", "Makefile"))
            for n in [text(f).count("\n")] if n > (MAX_PUBLIC_HEADER_LINES if f == "runtime/kvasir.h" else MAX_LINES)]


def files_open_with_what_they_are():
    return [f for f in SOURCES if not text(f).lstrip().startswith(("/*", "//"))]


def lines_fit_and_have_no_tabs():
    return [f"{f}:{n}" for f in SOURCES for n, line in enumerate(text(f).split("\n"), 1)
            if "\t" in line or line != line.rstrip()]


def readme_names_only_what_exists():
    table = re.findall(r"^\| `([^`]+)` \|(.*)\|$", text("README.md"), re.M)
    wrong = [path for path, _ in table if not os.path.exists(path)]
    for path, says in table:
        for name in re.findall(r"`([\w./-]+)`", says):
            at = [name, os.path.join(path, name)]
            if not any(os.path.exists(a) for a in at) and name != "kvasir":
                wrong.append(f"{path}: {name}")
    return wrong if table else ["no table"]


def readme_names_every_folder():
    named = {p.rstrip("/") for p in re.findall(r"^\| `([^`]+)` \|", text("README.md"), re.M)}
    there = {f.split("/")[0] for f in FILES if "/" in f} | {"/".join(f.split("/")[:2]) for f in FILES if f.startswith("runtime/") and f.count("/") > 1}
    return sorted(there - named - {"runtime"})


def man_page_tells_every_tool_and_option():
    man = text("docs/kvasir.1").replace("\\-", "-")
    wrong = [f"tool {t}" for t in re.findall(r'^\s*\{"(\w+)", kv_tool_', text("tools/main.c"), re.M) if f".SS {t}" not in man]
    for f in SOURCES:
        if f.startswith("tools/"):
            rows = re.findall(r'^\s*\{(?:\.name = )?"(--[\w-]+)"', text(f), re.M)
            wrong += [f"option {o} ({f})" for o in rows if not re.search(re.escape(o) + r"(?![\w-])", man)]
    return wrong


def help_lists_every_target():
    help_text = subprocess.run(["make", "--no-print-directory", "help"], capture_output=True, text=True).stdout
    return [t for t in ("all", "chat", "test", "fuzz", "bench", "format", "compdb", "install", "uninstall", "clean", "deps")
            if f"make {t}" not in help_text]


def fixtures_are_whole():
    return [f for f in ("tests/golden/fixtures/llama/model.gguf", "tests/golden/fixtures/gemma3_text/model.gguf",
                        "tests/golden/tokenizer/expect.json", "tests/golden/real/smollm2.json", "tests/golden/real/gemma3.json")
            if not os.path.exists(f) or os.path.getsize(f) < 1000]


def main():
    failed = 0
    tests = [f for name, f in globals().items() if callable(f) and getattr(f, "__module__", "") == "__main__"
             and f.__code__.co_argcount == 0 and name != "main"]
    for test in tests:
        wrong = test()
        print("FAILED" if wrong else "ok", test.__name__, *(f"\n    {w}" for w in wrong[:40]))
        failed += bool(wrong)
    print(f"{len(tests) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
