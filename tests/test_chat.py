#!/usr/bin/env python3
"""kvasir chat as a person and a script use it: SmolLM2 behind a real pseudo-terminal (pexpect), and through pipes.

Every check reads what the program shows: replies, the line of figures after each, exit statuses. What a turn should cost is counted
with `kvasir tokenize` on the text that the template adds."""
import json
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
import termios
import time
import traceback

import pexpect

KVASIR = os.environ.get("KVASIR", "./kvasir")
MODEL = "models/smollm2-135m-instruct-q4_1.gguf"
GEMMA = "models/gemma3-270m-q4_k_m.gguf"
ENDLESS = ("--logit-bias", "0-inf", "--logit-bias", "2-inf")  # <|endoftext|> and <|im_end|>: replies do not end by themselves
SLOW = 6 if os.environ.get("SANITIZE") else 1
TIMEOUT = 30 * SLOW
COST = re.compile(r"\[prompt (\d+) tokens, [\d.]+ tokens/s \| reply (\d+) tokens, [\d.]+ tokens/s \| context (\d+)/(\d+), \d+ %\]")
STATE = tempfile.TemporaryDirectory()
HISTORY = os.path.join(STATE.name, "kvasir", "history")


def environment(**more):
    env = dict(os.environ, XDG_STATE_HOME=STATE.name, NO_COLOR="1", TERM="xterm", LC_ALL="C.UTF-8", EDITRC="/dev/null")
    env.update(more)
    return env


class Chat:
    """One `kvasir chat` in a pseudo-terminal, past its greeting."""

    def __init__(self, *args, model=MODEL, **env):
        self.p = pexpect.spawn(KVASIR, ["chat", "-m", model, "--seed", "1", *args], env=environment(**env), encoding="utf-8",
                               timeout=TIMEOUT, dimensions=(40, 250))
        self.p.delaybeforesend = 0
        self.expect("Ctrl-D leaves")
        self.prompt()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.p.close(force=True)

    def expect(self, text):
        self.p.expect_exact(text)
        return self.p.before

    def prompt(self):
        self.p.expect(r"> ")

    def send(self, text):
        self.p.send(text + "\r")

    def drain(self):
        """Reads until nothing has come for a moment."""
        try:
            while True:
                self.p.read_nonblocking(1 << 16, timeout=0.05)
        except pexpect.TIMEOUT:
            pass

    def cost(self):
        """(prompt, reply, used) of the turn that ends next; self.p.before holds what was shown before."""
        self.p.expect(COST)
        before = self.p.before
        numbers = [int(x) for x in self.p.match.groups()[:3]]
        self.prompt()
        self.p.before = before
        return numbers

    def say(self, text):
        self.send(text)
        return self.cost()

    def message_is_taken(self):
        """What was typed may be on the screen twice, by the terminal's echo and the editor's; this comes once, when the editor is done."""
        self.expect("\x1b[?2004l")

    def reply_begins(self):
        self.message_is_taken()
        self.p.expect(r"\w+ \w+ ")

    def leave(self):
        self.p.send("\x04")
        self.p.expect(pexpect.EOF)
        self.p.close()
        assert self.p.exitstatus == 0, (self.p.exitstatus, self.p.signalstatus)


def count_tokens(text):
    out = subprocess.run([KVASIR, "tokenize", "-m", MODEL, "--no-bos", "-p", text], capture_output=True, text=True, check=True)
    return len(json.loads(out.stdout))


def turn_text(message):
    return f"<|im_end|>\n<|im_start|>user\n{message}<|im_end|>\n<|im_start|>assistant\n"


def run(*args, text="", model=MODEL, **env):
    return subprocess.run([KVASIR, "chat", "-m", model, *args], input=text, capture_output=True, text=True, env=environment(**env),
                          timeout=TIMEOUT)


def a_reply_streams_and_a_follow_up_costs_only_its_own_tokens():
    # Long enough that a reader whom a busy machine keeps waiting still sees it come in pieces.
    with Chat("-n", "96", "--temp", "0", *ENDLESS) as chat:
        chat.send("Name three colours.")
        chat.expect("colours.")
        pieces, text = 0, ""
        while not COST.search(text) and pieces < 500:  # a slow prefill's progress says tokens/s too
            text += chat.p.read_nonblocking(4096, timeout=TIMEOUT)
            pieces += 1
        assert pieces >= 5, f"the reply came in {pieces} pieces"
        prompt1, reply1, used1 = [int(x) for x in COST.search(text).groups()[:3]]
        prompt2, reply2, used2 = chat.say("Name one more.")
        unfed = prompt1 + reply1 - used1  # the last token of a reply that -n ended was shown but not evaluated
        assert unfed in (0, 1)
        assert prompt2 == count_tokens(turn_text("Name one more.")) + unfed, (prompt2, unfed)
        assert used2 in (used1 + prompt2 + reply2, used1 + prompt2 + reply2 - 1)
        chat.leave()


def undo_beyond_a_window_reads_no_more_than_a_page_again():
    """Gemma's window layers see 512 tokens; the turn that is taken back is longer."""
    with Chat("-n", "24", "-c", "4096", "--temp", "0", model=GEMMA) as chat:
        first = chat.say("The cat sat on the mat. " * 110)
        assert first[0] > 700 and chat.say("The dog ran to the dog. " * 110)[0] > 700
        chat.send("/undo")
        chat.expect("context")
        chat.prompt()
        again = chat.say("And the mats?")
        assert again[0] <= 63 + 24 and again[2] > 700, (first, again)  # a page and the new turn


def undo_regen_clear_and_system_do_what_they_say():
    with Chat("-n", "8", "--temp", "1.5", "--top-k", "0", "--min-p", "0") as chat:
        first = chat.say("Hello")
        second = chat.say("Tell me something.")
        reply = chat.p.before
        chat.send("/regen")
        again = chat.cost()
        assert again[0] <= second[0] and again[1] >= 1
        assert chat.p.before.split("/regen")[-1] != reply.split("something.")[-1], "the same reply again"
        chat.send("/undo")
        chat.expect(f"context {first[0] + first[1]}/")
        chat.prompt()
        unfed = first[0] + first[1] - first[2]  # evaluated by the turn that was undone
        assert chat.say("Tell me something.")[0] == second[0] - unfed, "after /undo the same message costs the same"
        chat.send("/clear")
        chat.expect("starts anew")
        chat.prompt()
        assert chat.say("Hello")[0] == first[0]
        chat.send("/system You answer in French.")
        chat.expect("system message set; the conversation starts anew")
        chat.prompt()
        chat.send("/system")
        chat.expect("/system")
        chat.expect("You answer in French.")
        chat.prompt()
        assert chat.say("Hello")[0] != first[0]
        chat.send("/stats")
        chat.expect("KV ")
        chat.prompt()
        chat.send("/regne")
        chat.expect("did you mean /regen?")
        chat.prompt()
        chat.send("/help")
        for name in "/system", "/regen", "/undo", "/clear", "/stats", "/quit", "Ctrl-C", "Ctrl-D":
            chat.expect(name)
        chat.prompt()
        chat.send("/quit")
        chat.p.expect(pexpect.EOF)
        chat.p.close()
        assert chat.p.exitstatus == 0


def ctrl_c_stops_the_reply_and_keeps_the_session():
    with Chat("--temp", "0", *ENDLESS) as chat:
        chat.send("Write a very long story about the sea.")
        chat.reply_begins()
        chat.p.sendintr()
        start = time.time()
        chat.expect("stopped; the reply so far stays")
        prompt, reply, used = chat.cost()
        assert time.time() - start < 2 * SLOW
        assert 0 < reply < 2000 and prompt + reply - used in (0, 1)
        unfed = prompt + reply - used
        chat.send("Go on.")
        chat.reply_begins()
        chat.p.sendintr()
        assert chat.cost()[0] == count_tokens(turn_text("Go on.")) + unfed, "the partial reply stayed in the session"
        chat.p.send("half a line")
        chat.expect("half a line")
        chat.p.sendintr()  # drops the line
        chat.prompt()
        chat.p.sendintr()
        chat.expect("Ctrl-D or /quit leaves")
        chat.prompt()
        chat.leave()


def ctrl_c_while_reading_takes_the_message_back():
    with Chat("-n", "4", "-ub", "32", "-c", "8192") as chat:
        chat.say("Hello")
        for _ in range(20):  # about 4000 tokens; in pieces, because the terminal echoes them
            chat.p.send("7 " * 100)
            chat.drain()
        chat.send("")
        chat.expect("reading  [")  # the bar, after half a second
        chat.p.sendintr()
        chat.expect("the message is taken back")
        chat.prompt()
        prompt = chat.say("Hello again")[0]
        assert prompt <= count_tokens(turn_text("Hello again")) + 1, prompt
        chat.leave()


def ctrl_c_in_the_only_chunk_takes_the_message_back_too():
    """The chunk is given up between two of its layers, or is through, and then there is no token of a reply to keep."""
    with Chat("-ub", "2048", "-c", "8192", *ENDLESS) as chat:
        for _ in range(8):
            chat.p.send("7 " * 100)
            chat.drain()
        chat.send("")
        chat.message_is_taken()
        chat.p.sendintr()
        chat.expect("stopped before the reply began; the message is taken back")
        chat.prompt()
        chat.send("Hello again")
        chat.reply_begins()
        chat.p.sendintr()
        prompt = chat.cost()[0]
        assert count_tokens("Hello again") < prompt < 100, prompt
        chat.leave()


def impatient_ctrl_c_stops_a_long_chunk_at_once_and_the_session_lives():
    with Chat("-n", "4", "-ub", "4096", "-c", "8192") as chat:
        for _ in range(20):  # about 4000 tokens, seconds in one chunk; a layer of it takes a small part of them
            chat.p.send("7 " * 100)
            chat.drain()
        chat.send("")
        chat.expect("reading  [")
        start = time.time()
        for _ in range(3):
            chat.p.sendintr()
        chat.expect("the message is taken back")
        assert time.time() - start < SLOW, "it waited for the end of the chunk"
        chat.prompt()
        assert chat.say("Hello again")[0] < 100
        chat.leave()


def a_full_context_is_said_and_nothing_is_cut_silently():
    with Chat("-c", "64", "--temp", "0", *ENDLESS) as chat:
        chat.send("Count upwards.")
        chat.expect("the context is full (64 of 64 tokens)")
        prompt, reply, used = chat.cost()
        assert used == 64 and prompt + reply - 1 == 64
        chat.send("Go on.")
        chat.p.expect(r"the conversation is (\d+) tokens, and the context holds 64")
        assert int(chat.p.match.group(1)) == prompt + reply + count_tokens(turn_text("Go on."))
        chat.expect("not sent")
        chat.prompt()
        chat.send("/undo")
        chat.prompt()
        assert chat.say("Hi.")[2] == 64
        chat.leave()


def pasted_and_continued_lines_are_one_message_and_history_keeps_them():
    with Chat("-n", "4") as chat:
        first = chat.say("plain question")
        chat.p.send("\x1b[200~pasted one\rpasted two\x1b[201~")
        chat.expect("two")
        assert chat.say("")[0] in [count_tokens(turn_text("pasted one\npasted two")) + unfed for unfed in (0, 1)]
        chat.p.send("continued\\\r")
        chat.expect(". ")
        assert chat.say("here")[0] in [count_tokens(turn_text("continued\nhere")) + unfed for unfed in (0, 1)]
        assert chat.say("Sch\u00f6n, \u4f60\u597d?")[0] in [count_tokens(turn_text("Sch\u00f6n, \u4f60\u597d?")) + u for u in (0, 1)]
        chat.say("remember me")
        chat.leave()
    mode = stat.S_IMODE(os.stat(HISTORY).st_mode)
    assert mode == 0o600, oct(mode)
    with Chat("-n", "4") as chat:
        chat.p.send("\x1b[A")
        chat.expect("remember me")
        chat.p.send("\x1b[A\x1b[A\x1b[A\x1b[A")
        chat.expect("plain question")
        assert chat.say("")[0] == first[0]
        chat.leave()


def sigterm_restores_the_terminal():
    chat = Chat()
    before = termios.tcgetattr(chat.p.child_fd)[3]
    assert not before & termios.ICANON, "the editor should have the terminal in raw mode"
    chat.p.kill(signal.SIGTERM)
    chat.p.expect(pexpect.EOF)
    flags = termios.tcgetattr(chat.p.child_fd)[3]  # as the process has left them: the terminal is there while we hold our side
    chat.p.close()
    assert chat.p.signalstatus == signal.SIGTERM, (chat.p.exitstatus, chat.p.signalstatus)
    assert flags & termios.ICANON and flags & termios.ECHO


def signals_end_a_reply_and_the_process():
    chat = Chat("--temp", "0", *ENDLESS)
    chat.send("Tell me a story.")
    chat.reply_begins()
    chat.p.kill(signal.SIGTERM)
    chat.p.expect(COST)
    chat.p.expect(pexpect.EOF)
    chat.p.close()
    assert chat.p.signalstatus == signal.SIGTERM
    p = subprocess.Popen([KVASIR, "chat", "-m", MODEL, "--temp", "0", *ENDLESS], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, env=environment(), bufsize=0)
    p.stdin.write(b"Tell me a story.\n")
    p.stdin.flush()
    begun = p.stdout.read(8)
    assert begun
    p.send_signal(signal.SIGINT)
    rest, err = p.communicate(timeout=TIMEOUT)
    out = begun + rest
    assert p.returncode == 130 and out.endswith(b"\n") and COST.search(err.decode()), (p.returncode, err)


def stopped_and_continued_the_editor_has_its_terminal_again():
    with Chat("-n", "4") as chat:
        chat.p.send("half")
        chat.expect("half")
        chat.p.kill(signal.SIGSTOP)
        mode = termios.tcgetattr(chat.p.child_fd)
        mode[3] |= termios.ICANON | termios.ECHO  # as a shell sets it
        termios.tcsetattr(chat.p.child_fd, termios.TCSANOW, mode)
        chat.p.kill(signal.SIGCONT)
        chat.expect("half")  # drawn again
        assert not termios.tcgetattr(chat.p.child_fd)[3] & termios.ICANON
        chat.say(" a message")
        chat.leave()


def a_template_that_rewrites_earlier_turns_still_works():
    """It forgets replies, so the rendering never continues the one before: the session keeps what is common."""
    source = "{% for m in messages %}{% if m.role == 'user' %}<|im_start|>user\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}A:"
    one = "<|im_start|>user\nHello there<|im_end|>\n"
    two = "<|im_start|>user\nAnd you?<|im_end|>\n"
    with tempfile.NamedTemporaryFile("w", suffix=".jinja") as f:
        f.write(source)
        f.flush()
        r = run("--chat-template-file", f.name, "-n", "5", "--temp", "0", text="Hello there\nAnd you?\n")
    costs = [[int(x) for x in m[:3]] for m in COST.findall(r.stderr)]
    assert r.returncode == 0 and len(costs) == 2, r.stderr
    assert costs[0][0] == count_tokens(one + "A:")
    assert costs[1][0] == count_tokens(one + two + "A:") - count_tokens(one)
    assert costs[1][2] in [count_tokens(one + two + "A:") + costs[1][1] - unfed for unfed in (0, 1)]


def a_pipe_gets_replies_alone():
    r = run("-n", "6", "--temp", "0", "--seed", "1", text="Say hi.\n\nSay bye.\n")
    assert r.returncode == 0, r.stderr
    assert ">" not in r.stdout and "\x1b" not in r.stdout + r.stderr and r.stdout.endswith("\n") and r.stdout.strip()
    assert len(COST.findall(r.stderr)) == 2, r.stderr
    quiet = run("-n", "6", "--temp", "0", "--seed", "1", "-q", text="Say hi.\n\nSay bye.")
    assert (quiet.returncode, quiet.stderr, quiet.stdout) == (0, "", r.stdout)
    quiet = run("-c", "64", "--temp", "0", "-q", *ENDLESS, text="Count upwards.")
    assert (quiet.returncode, quiet.stderr) == (0, "") and quiet.stdout  # that the context is full is no error
    assert run(text="").stdout == ""
    seeds = [run("-n", "12", "--temp", "2", "--top-k", "0", "--min-p", "0", "--top-p", "1", "--seed", s, text="Say something.").stdout
             for s in ("5", "5", "6")]
    assert seeds[0] == seeds[1] != seeds[2]


def a_message_without_a_reply_is_known_from_the_exit_status():
    r = run("-c", "64", "-n", "4", "--temp", "0", text="word " * 100 + "\nHi\n")
    assert r.returncode == 1 and "not sent" in r.stderr and r.stdout == run("-c", "64", "-n", "4", "--temp", "0", text="Hi\n").stdout, r.stderr
    assert run("-c", "64", "-n", "4", "--temp", "0", text="word " * 100 + "\n/quit\n").returncode == 1


def a_model_without_template_says_what_it_uses():
    r = run("-n", "3", "--temp", "0", model=GEMMA, text="Hi\n")
    assert r.returncode == 0 and r.stdout, r.stderr
    assert r.stderr.count("no chat template") == 1 and "Gemma" in r.stderr and "--chat-template-file" in r.stderr, r.stderr


def the_models_name_moves_no_cursor():
    with tempfile.NamedTemporaryFile(suffix=".gguf") as f:
        subprocess.run([KVASIR, "synth", "-q", f.name], check=True)
        with open(f.name, "r+b") as file:
            file.seek(file.read().index(b"Synthetic"))
            file.write(b"\x1b]0;\x07\x1b[2J")
        p = pexpect.spawn(KVASIR, ["chat", "-m", f.name], env=environment(), encoding="utf-8", timeout=TIMEOUT, dimensions=(40, 250))
        p.expect_exact("Ctrl-D leaves")
        greeting = p.before
        p.expect("> ")
        p.send("/stats\r")
        p.expect_exact("threads")
        for text in greeting, p.before:
            assert "]0;[2J llama tiny" in text and not re.search(r"\x07|\x1b[^[]|\x1b\[2J", text), text
        p.close(force=True)


def a_full_disk_is_one_line_and_exit_1():
    with open("/dev/full", "w") as full:
        r = subprocess.run([KVASIR, "chat", "-m", MODEL, "-n", "5"], input="Hi\n", stdout=full, stderr=subprocess.PIPE, text=True,
                           env=environment(), timeout=TIMEOUT)
    assert r.returncode == 1 and r.stderr.count("\n") == 1 and "No space left" in r.stderr, (r.returncode, r.stderr)


def refusals_are_one_line():
    with tempfile.NamedTemporaryFile("w", suffix=".jinja") as f:
        f.write("{{ messages | nosuchfilter }}")
        f.flush()
        r = run("--chat-template-file", f.name, text="Hi\n")
    assert r.returncode == 1 and r.stdout == "" and r.stderr.count("\n") == 1 and "nosuchfilter" in r.stderr, r.stderr
    r = run("--chat-template-file", "/nonexistent/x", text="Hi\n")
    assert r.returncode == 1 and r.stderr.count("\n") == 1 and "/nonexistent/x" in r.stderr, r.stderr
    for args in (["-n", "x"], ["-n", "0"], ["--temp", "-1"], ["--top-p", "nan"], ["--sistem", "x"]):
        r = run(*args)
        assert r.returncode == 2 and args[0] in r.stderr and r.stderr.count("\n") == 1, (args, r.stderr)
    assert "--system" in run("--sistem", "x").stderr
    for address, said in (("127.0.0.1:99999", "--server"), ("http://127.0.0.1", "no address"), ("http://127.0.0.1:1/v1", "without a path"),
                          ("http://:80", "no address"), ("http://", "no address"), ("https://127.0.0.1:80/", "https is not supported")):
        r = subprocess.run([KVASIR, "chat", "--server", address], input="", text=True, timeout=TIMEOUT, capture_output=True, env=environment())
        assert r.returncode == 2 and said in r.stderr and r.stderr.count("\n") == 1, (address, r.stderr)


def what_is_the_servers_is_no_option_beside_it():
    for args in (["-m", "x"], ["-c", "512"], ["-c", "0"], ["--ctx-size=512"], ["-ub", "8"], ["-ctk", "f16"], ["--kv-budget", "9"],
                 ["-t", "2"], ["--kernels", "auto"], ["--attention", "full"], ["--dry-run"], ["--chat-template-file", "x"]):
        r = subprocess.run([KVASIR, "chat", "--temp", "0", *args, "--server", "unix:/nonexistent/x"], input="", text=True, timeout=60,
                           capture_output=True, env=environment())
        word = args[0].split("=")[0]
        assert r.returncode == 2 and r.stderr.count("\n") == 1 and f"leave out {word}\n" in r.stderr, (args, r.stderr)
    r = run("--server-key", "x")
    assert r.returncode == 2 and "--server-key" in r.stderr and r.stderr.count("\n") == 1, r.stderr


TESTS = [
    a_reply_streams_and_a_follow_up_costs_only_its_own_tokens,
    undo_regen_clear_and_system_do_what_they_say,
    undo_beyond_a_window_reads_no_more_than_a_page_again,
    ctrl_c_stops_the_reply_and_keeps_the_session,
    ctrl_c_while_reading_takes_the_message_back,
    ctrl_c_in_the_only_chunk_takes_the_message_back_too,
    impatient_ctrl_c_stops_a_long_chunk_at_once_and_the_session_lives,
    a_full_context_is_said_and_nothing_is_cut_silently,
    pasted_and_continued_lines_are_one_message_and_history_keeps_them,
    sigterm_restores_the_terminal,
    signals_end_a_reply_and_the_process,
    stopped_and_continued_the_editor_has_its_terminal_again,
    a_template_that_rewrites_earlier_turns_still_works,
    a_pipe_gets_replies_alone,
    a_message_without_a_reply_is_known_from_the_exit_status,
    a_model_without_template_says_what_it_uses,
    the_models_name_moves_no_cursor,
    a_full_disk_is_one_line_and_exit_1,
    refusals_are_one_line,
    what_is_the_servers_is_no_option_beside_it,
]


def main():
    for path, name in (MODEL, "smollm2"), (GEMMA, "gemma3"):
        if not os.path.exists(path):
            sys.exit(f"test_chat: {path} is missing; `kvasir get {name}` brings it")
    passed = failed = 0
    for test in TESTS:
        if len(sys.argv) > 1 and sys.argv[1] not in test.__name__:
            continue
        start = time.time()
        try:
            test()
            passed += 1
            print(f"passed {test.__name__} ({time.time() - start:.1f} s)")
        except (AssertionError, OSError, pexpect.ExceptionPexpect, subprocess.SubprocessError):
            failed += 1
            print(f"FAILED {test.__name__}: {traceback.format_exc()}")
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed or not passed else 0)


if __name__ == "__main__":
    main()
