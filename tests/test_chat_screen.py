#!/usr/bin/env python3
"""What `kvasir chat` leaves on the screen of a terminal (support/screen.py): pasted text, editing it, and what comes after a stop."""
import io
import os
import signal
import termios
import time

import pexpect

from support.runner import run_tests
from support.screen import Screen
from test_chat import COST, ENDLESS, KVASIR, MODEL, TIMEOUT, Chat, environment


def is_raw(terminal):
    """Whether the terminal sends each key at once and echoes none."""
    return not termios.tcgetattr(terminal)[3] & (termios.ICANON | termios.ECHO)


def shows(keys, lines, pause=0.0):
    """That the screen shows these lines from the prompt on, and stays so, when these keys were pressed at it; with pauses between bytes."""
    columns, rows = 60, 20
    p = pexpect.spawn(KVASIR, ["chat", "-m", MODEL], env=environment(), encoding="utf-8", timeout=TIMEOUT, dimensions=(rows, columns))
    p.delaybeforesend = 0
    p.expect_exact("Ctrl-D leaves")
    p.expect("> ")
    assert is_raw(p.child_fd)  # before the prompt: keys pressed at it would be echoed otherwise
    for key in keys.encode() if pause else [keys.encode()]:
        os.write(p.child_fd, bytes([key]) if pause else key)
        time.sleep(pause)
    written, screen, is_settled = "> " + p.buffer, None, False
    deadline = time.monotonic() + TIMEOUT
    while not is_settled and time.monotonic() < deadline:
        try:
            written += p.read_nonblocking(1 << 16, timeout=0.2)
        except pexpect.TIMEOUT:
            screen = Screen(columns, rows)
            screen.feed(written)
            is_settled = screen.lines() == lines
    p.close(force=True)
    assert is_settled, (keys, written, screen and screen.lines())


def paste(text):
    return "\x1b[200~" + text.replace("\n", "\r") + "\x1b[201~"


def pasted_lines_stand_one_below_the_other():
    shows(paste("def f(x):\n    return x\n\nprint(f(3))") + "~", ["> def f(x):", "    return x", "", "print(f(3))~"])
    shows(paste("if:\n\tfoo\n\t\tbar\nend") + "~", ["> if:", "        foo", "                bar", "end~"])
    shows(paste("\u4f60\u597d\n\tnext") + "~", ["> \u4f60\u597d", "        next~"])


def pasted_lines_can_be_edited():
    text = "if:\n\tfoo\n\t\tbar\nend"
    shows(paste(text) + "\x01X~", ["> X~if:", "        foo", "                bar", "end"])
    shows(paste(text) + "\x1b[D" * 6 + "~", ["> if:", "        foo", "                b~ar", "end"])
    shows(paste("one\ntwo") + "\x7f" * 5 + "\x05~", ["> on~"])
    shows("ab" + paste("1\n2") + "\x01" + paste("3\n4") + "~", ["> 3", "4~ab1", "2"])
    shows(paste("") + "x~", ["> x~"])


def tab_completes_commands():
    shows("/re\tX", ["> /regenX"])
    shows("/s\tys\tX", ["> /s", "/system  /stats", "> /system X"])
    shows("/st\tX", ["> /statsX"])
    shows("/zz\tX", ["> /zzX"])
    shows("a /re\tX", ["> a /reX"])
    shows("/re\x01\tX", ["> X/re"])
    shows("one\\\r/re\tX", ["> one\\", ". /reX"])


def keys_of_usual_terminals_type_nothing():
    rest = "\x0b~"  # of the line is replaced
    for keys, line in ("\x1b[1;5D" + rest, "> ab ~"), ("\x1b[1~" + rest, "> ~"), ("\x01\x1b[1;3C" + rest, "> ab~"), ("\x01\x1b[4~~", "> ab cd~"):
        shows("ab cd" + keys, [line])  # Ctrl-Left, Home, Alt-Right, End
    others = ["2~", "3;5~", "5~", "6~", "15~", "24~", "1;5A", "1;2D"]  # Insert, Ctrl-Delete, Page up, Page down, F5, F12, Ctrl-Up, Shift-Left
    shows("a" + "".join("\x1b[" + key for key in others) + "~", ["> a~"])


def a_paste_higher_than_the_screen_shows_its_end():
    lines = [f"line {i}" for i in range(50)]
    shows(paste("\n".join(lines)) + "~", lines[-20:-1] + [lines[-1] + "~"])


def what_is_pasted_moves_no_cursor():
    shows(paste("a\x1b[5Ab\x07c\x7f") + "~", ["> a[5Abc~"])


def a_slow_link_splits_no_character_and_no_mark():
    pause = 0.08  # a key that is pressed alone is not seen by its pause
    shows("\u00e9" + paste("1\n\u4f60") + "\x1b[D~", ["> \u00e91", "~\u4f60"], pause)
    shows(paste("a\x1b[20b\x1b\x1b[2") + "~", ["> a[20b[2~"])


def read_quiet(p):
    """What comes until nothing has for a while: longer than the editor takes to look at the size."""
    text = ""
    try:
        while True:
            text += p.read_nonblocking(1 << 16, timeout=0.4)
    except pexpect.TIMEOUT:
        return text


def a_line_of_several_rows_survives_a_resize():
    line = "abcdefghi " * 7 + "end"
    for old, new in ((40, 60), (60, 40)):
        for wraps_anew in False, True:  # xterm leaves rows as they are, most terminals wrap them to the new width
            for keys in "", "\x01":
                p = pexpect.spawn(KVASIR, ["chat", "-m", MODEL], env=environment(), encoding="utf-8", timeout=TIMEOUT, dimensions=(20, old))
                p.delaybeforesend = 0
                p.expect_exact("Ctrl-D leaves")
                p.expect("\n\x1b\\[\\?2004h")
                p.send(line)
                written = p.buffer + read_quiet(p)
                p.send(keys)
                written += read_quiet(p)
                screen = Screen(new if wraps_anew else old, 20)
                screen.feed(written)
                screen.resize(new)
                p.setwinsize(20, new)
                screen.feed(read_quiet(p))
                whole = "> " + line
                rows = [whole[i:i + new].rstrip() for i in range(0, len(whole), new)]
                assert screen.lines() == rows, (old, new, wraps_anew, keys, screen.lines())
                p.send("\x03")
                screen.feed(read_quiet(p))
                assert screen.lines() == rows + [">"], (old, new, wraps_anew, keys, screen.lines())
                p.close(force=True)


def figures_break_where_a_terminal_is_narrow():
    for columns, lines in (120, 1), (80, 2), (40, 3):
        p = pexpect.spawn(KVASIR, ["chat", "-m", MODEL, "-n", "2", "--temp", "0", *ENDLESS], env=environment(), encoding="utf-8", timeout=TIMEOUT,
                          dimensions=(20, columns))
        p.delaybeforesend = 0
        p.expect_exact("Ctrl-D leaves")
        p.expect("> ")
        p.send("Hello\r")
        p.expect_exact("[prompt ")
        p.expect("%]\r\n")
        figures = ("[prompt " + p.before + "%]").split("\r\n")
        assert COST.fullmatch(" ".join(figures)) and len(figures) == lines, (columns, figures)
        assert all(len(f) <= columns for f in figures) and all(f.endswith(" |") for f in figures[:-1]), (columns, figures)
        p.close(force=True)


def a_dumb_terminal_gets_a_prompt_and_no_escapes():
    for term in "dumb", "":
        p = pexpect.spawn(KVASIR, ["chat", "-m", MODEL, "-n", "2", "--temp", "0", *ENDLESS], env=environment(TERM=term, NO_COLOR=""),
                          encoding="utf-8", timeout=TIMEOUT)
        p.delaybeforesend = 0
        p.logfile_read = io.StringIO()
        p.expect_exact("Ctrl-D leaves")
        p.expect("\n> ")
        p.send("Hello \\\r")
        p.expect("\n\\. ")
        p.send("7 " * 600 + "\r")  # long enough for a progress bar
        p.expect(COST)
        p.expect("\n> ")
        p.sendintr()
        p.expect_exact("/quit leaves")
        p.expect("\n> ")
        p.send("/stats\r")
        p.expect_exact("2 messages")
        p.expect("\n> ")
        p.send("\x04")
        p.expect(pexpect.EOF)
        p.close()
        assert p.exitstatus == 0 and "\x1b" not in p.logfile_read.getvalue(), (term, p.exitstatus, p.logfile_read.getvalue())


def after_a_stop_during_a_reply_there_is_one_prompt():
    with Chat("-n", "64", "--temp", "0", *ENDLESS) as chat:
        chat.send("Tell me a story.")
        chat.reply_begins()
        chat.p.kill(signal.SIGSTOP)
        chat.p.kill(signal.SIGCONT)
        chat.cost()
        time.sleep(0.5)  # the editor looks at what happened a few times a second
        chat.p.send("here")
        chat.expect("here")
        assert ">" not in chat.p.before, repr(chat.p.before)
        assert is_raw(chat.p.child_fd)
        chat.say("")
        chat.leave()


TESTS = [a_line_of_several_rows_survives_a_resize, tab_completes_commands, keys_of_usual_terminals_type_nothing, pasted_lines_stand_one_below_the_other, pasted_lines_can_be_edited, a_paste_higher_than_the_screen_shows_its_end,
         what_is_pasted_moves_no_cursor, a_slow_link_splits_no_character_and_no_mark,
         figures_break_where_a_terminal_is_narrow, a_dumb_terminal_gets_a_prompt_and_no_escapes, after_a_stop_during_a_reply_there_is_one_prompt]

if __name__ == "__main__":
    run_tests(TESTS, [(KVASIR, "make"), (MODEL, "./kvasir get smollm2")])
