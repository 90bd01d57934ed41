#!/usr/bin/env python3
"""The page of `GET /` in a headless Chromium, with SmolLM2 behind it: what a person sees who types, waits, stops and asks again."""
import base64
import os
import re
import sys

sys.path.insert(0, "tests/support")
import browser  # noqa: E402
from browser import Browser  # noqa: E402
from runner import run_tests  # noqa: E402
from server import KVASIR, SLOW, SMOLLM2, Server, is_idle, wait_for  # noqa: E402

REPLIES = "[...document.querySelectorAll('.assistant')].map(e => e.textContent)"
COSTS = "[...document.querySelectorAll('.cost')].map(e => e.textContent)"
BUTTON = "document.getElementById('send').textContent"
PICTURES = os.environ.get("KVASIR_PICTURES")  # a folder for screenshots


def picture(page, name):
    if PICTURES:
        with open(os.path.join(PICTURES, name + ".png"), "wb") as f:
            f.write(base64.b64decode(page.call("Page.captureScreenshot")["data"]))


def ask(page, text):
    page.click("#text")
    page.type(text)
    page.press("Enter", 13)


def settle(page):
    page.wait(f"{BUTTON} == 'Send'", 60 * SLOW)


def it_loads_from_this_server_alone():
    with Browser() as page:
        page.open(f"http://127.0.0.1:{server.port}/")
        page.wait("document.getElementById('model').textContent.includes('8192')")
        assert "smollm2-135m-instruct-q4_1" in page.value("document.getElementById('model').textContent")
        assert page.value("document.activeElement.id") == "text"
        foreign = [u for u in page.requests if not u.startswith((f"http://127.0.0.1:{server.port}/", "data:", "about:"))]
        assert len(page.requests) >= 2 and not foreign and not page.errors, (page.requests, page.errors)
        # Nor could it: what the server allows its page ends at the server.
        assert page.value("fetch('http://127.0.0.1:1/').then(() => 'went out', e => e.name)") == "TypeError"
        assert any("Content Security Policy" in e or "Refused to connect" in e for e in page.errors), page.errors
        picture(page, "empty")


def a_message_is_answered_in_a_stream_and_says_what_it_cost():
    with Browser() as page:
        page.open(f"http://127.0.0.1:{server.port}/")
        page.value("document.getElementById('most').value = 60; document.getElementById('temperature').value = 0")
        ask(page, "Tell me about Norway.")
        lengths = set()
        while page.value(f"{BUTTON} == 'Stop'"):
            lengths.add(page.value(f"({REPLIES}[0] || '').length"))
        assert len(lengths) >= 4, f"the reply came in {len(lengths)} pieces"
        reply, cost = page.value(f"{REPLIES}[0]"), page.value(f"{COSTS}[0]")
        body = {"messages": [{"role": "user", "content": "Tell me about Norway."}], "max_tokens": 60, "temperature": 0}
        answer = server.post("/v1/chat/completions", body)
        assert reply == answer["choices"][0]["message"]["content"], (reply, answer)
        assert re.search(r"prompt %d tokens .* reply %d tokens . \d+\.\d tokens/s$" % (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]), cost), cost
        # The next turn finds the conversation in the cache, and says so.
        ask(page, "And about Sweden?")
        page.wait(f"{COSTS}.length == 2", 60 * SLOW)
        found = re.search(r"prompt (\d+) tokens . (\d+) from the cache", page.value(f"{COSTS}[1]"))
        assert found and int(found[1]) > int(found[2]) >= answer["usage"]["prompt_tokens"], page.value(COSTS)
        settle(page)
        picture(page, "answered")
        assert page.value("[...document.querySelectorAll('.user')].map(e => e.textContent)") == ["Tell me about Norway.", "And about Sweden?"]
        page.click("#clear")
        assert page.value("document.getElementById('log').childElementCount") == 0 and not page.errors, page.errors


def stop_stops_the_server_too():
    with Browser() as page:
        page.open(f"http://127.0.0.1:{server.port}/")
        # A model that does not stop by itself: only the button ends these.
        page.value("document.getElementById('most').value = 8000; const plain = fetch; "
                   "window.fetch = (u, o) => plain(u, o && o.body ? {...o, body: JSON.stringify({...JSON.parse(o.body), ignore_eos: true})} : o); 0")
        for how in (lambda: page.click("#send"), lambda: page.press("Escape", 27)):
            ask(page, "Tell me a long story.")
            page.wait(f"{BUTTON} == 'Stop' && ({REPLIES}.at(-1) || '').length > 40", 60 * SLOW)
            assert sum(x["is_processing"] for x in server.get("/slots")) == 1
            how()
            settle(page)
            length = page.value(f"{REPLIES}.at(-1).length")
            wait_for(server, is_idle)
            assert page.value(f"{REPLIES}.at(-1).length") == length > 40 and page.value(f"{COSTS}.at(-1)") == "stopped"
        assert server.metrics()["kvasir_requests_cancelled_total"] >= 2 and not page.errors, page.errors
        picture(page, "stopped")


def what_is_typed_or_said_is_never_markup():
    with Browser() as page:
        page.open(f"http://127.0.0.1:{server.port}/")
        page.value("document.getElementById('most').value = 4")
        ask(page, "<img src=x onerror='window.hit = 1'><b>bold</b>")
        page.wait(f"{COSTS}.length == 1", 60 * SLOW)
        assert page.value("document.querySelectorAll('main img, main b').length") == 0 and page.value("typeof window.hit") == "undefined"
        assert "<b>bold</b>" in page.value("document.querySelector('.user').textContent")


def errors_and_missing_keys_are_shown():
    with Server("--api-key", "secret", model=SMOLLM2) as guarded, Browser() as page:
        page.open(f"http://127.0.0.1:{guarded.port}/")
        page.wait("document.getElementById('model').textContent.includes('API key')")
        ask(page, "Hello")
        page.wait("document.querySelectorAll('.error').length == 1")
        settle(page)
        page.click("summary")
        page.click("#key")
        page.type("secret")
        page.press("Tab", 9)
        page.wait("document.getElementById('model').textContent.includes('smollm2')")
        page.value("document.getElementById('most').value = 8000; document.getElementById('temperature').value = 2; document.getElementById('system').value = 'Never stop.'; 0")
        ask(page, "Write a very long story with many chapters.")
        page.wait(f"({REPLIES}.at(-1) || '').length > 10", 60 * SLOW)
        guarded.process.kill()  # the server is gone in the middle
        guarded.process.wait()
        settle(page)
        assert page.value("document.querySelectorAll('.error').length") == 2, page.value("document.body.innerText")
        picture(page, "error")


TESTS = [it_loads_from_this_server_alone, a_message_is_answered_in_a_stream_and_says_what_it_cost, stop_stops_the_server_too,
         what_is_typed_or_said_is_never_markup, errors_and_missing_keys_are_shown]

if __name__ == "__main__":
    if not browser.find():
        sys.exit("no Chromium is there; run: scripts/setup test")
    with Server(model=SMOLLM2) as server:
        run_tests(TESTS, [(KVASIR, "make"), (SMOLLM2, "./kvasir get smollm2")])
