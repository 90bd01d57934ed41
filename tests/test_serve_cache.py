#!/usr/bin/env python3
"""What kvasir serve remembers of the texts it read: prefixes are read once, also by those that come while others are busy; conversations go on
where they stood, whatever went between, with full, window and linear layers; the cache stays within its budget and gives up what was not used
for longest. Counted by `timings`, `usage` and /metrics; texts and log-probabilities are compared with those of requests that use no cache."""
import json
import random
import subprocess
import sys
import time

sys.path.insert(0, "tests/support")
from runner import run_tests  # noqa: E402
from server import KVASIR, SMOLLM2, TINY, Server, parallel  # noqa: E402

TINY_GEMMA3 = "tests/golden/fixtures/gemma3_text/model.gguf"
GEMMA3 = "models/gemma3-270m-q4_k_m.gguf"


def words(seed, n):
    rng = random.Random(seed)
    return [rng.randrange(10, 370) for _ in range(n)]


def complete(server, prompt, n=4, **more):
    return server.post("/v1/completions", dict({"prompt": prompt, "max_tokens": n, "temperature": 1, "seed": 3, "ignore_eos": True, "logprobs": 2}, **more))


def cached(answer):
    return answer["usage"]["prompt_tokens_details"]["cached_tokens"]


def read_since(server, before):
    return server.metrics()["kvasir_prompt_tokens_total"] - before["kvasir_prompt_tokens_total"]


# ---- prefixes ----------------------------------------------------------------------------------------

def a_prefix_of_2000_tokens_is_read_once(server):
    one_by_one, at_once = words(1, 2000), words(2, 2000)
    before = server.metrics()
    answers = [complete(server, one_by_one + [20 + i] * 5) for i in range(4)]
    assert [cached(a) for a in answers] == [0, 2000, 2000, 2000], [cached(a) for a in answers]
    assert [a["timings"]["prompt_n"] for a in answers] == [2005, 5, 5, 5]
    assert read_since(server, before) == 2000 + 4 * 5
    before = server.settled()
    answers = parallel([lambda i=i: complete(server, at_once + [20 + i] * 5) for i in range(4)])
    # Who comes second may begin before the first has read its last chunk: it waits for all but less than a page of the prefix.
    assert read_since(server, before) < 2000 + 4 * (5 + 64), read_since(server, before)
    after = server.settled()
    assert after["kvasir_prefix_lookups_total"] - before["kvasir_prefix_lookups_total"] == 4
    assert after["kvasir_prefix_hits_total"] - before["kvasir_prefix_hits_total"] == 3
    assert complete(server, at_once + [23] * 5, cache_prompt=False)["choices"] == answers[3]["choices"]


def choices_share_their_prompt(server):
    prompt = words(3, 640)
    before = server.settled()
    answer = complete(server, prompt, n=4, max_tokens=8)
    after = server.settled()
    assert answer["timings"]["prompt_n"] == 640
    # Ten full pages, and for each choice one of what it says.
    assert after["kvasir_kv_pages"] - before["kvasir_kv_pages"] <= 10 + 4
    alone = complete(server, prompt, n=4, max_tokens=8, cache_prompt=False)
    assert alone["choices"] == answer["choices"] and server.settled()["kvasir_kv_pages"] == after["kvasir_kv_pages"]


def a_busy_sequence_shares_what_its_windows_have_left(server):
    """While a stream is far beyond its prompt, others begin anywhere in that prompt. It stays there: it is larger than any buffer (3 MB), and
    nobody reads it."""
    prompt = words(4, 300)
    body = json.dumps({"prompt": prompt, "max_tokens": 7000, "temperature": 1, "seed": 3, "ignore_eos": True, "logprobs": 20, "stream": True}).encode()
    with server.connect("unix") as busy:
        busy.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

        def is_far(): return any(s["n_decoded"] > 100 for s in server.get("/slots"))
        end = time.monotonic() + 60
        while not is_far():
            assert time.monotonic() < end
        answers = [complete(server, prompt[:n] + [5, 6, 7]) for n in (250, 64, 300)]
        assert [cached(a) for a in answers] == [250, 64, 300] and is_far(), answers
    for n, answer in zip((250, 64, 300), answers):
        assert complete(server, prompt[:n] + [5, 6, 7], cache_prompt=False)["choices"] == answer["choices"]


def who_shares_a_prompt_with_a_slow_reader_does_not_wait_for_it():
    """Eight streams that nobody reads stop the prompt that is read behind them: it will not be done, and others must not wait for its pages."""
    prompt = words(5, 8000)
    body = json.dumps({"prompt": [[20 + i] * 3 for i in range(8)] + [prompt], "max_tokens": 7000, "ignore_eos": True, "logprobs": 20, "stream": True}).encode()
    with Server("-c", "8192", "-ub", "32", "--parallel", "10") as server, server.connect("unix") as slow:
        slow.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        before, now, end = None, [], time.monotonic() + 60
        while not now or now != before:  # until it stands still
            assert time.monotonic() < end
            time.sleep(0.5)
            before, now = now, [(s["state"], s["n_tokens"]) for s in server.get("/slots") if s["is_processing"]]
        assert sorted(now)[-1][0] == "prefill", now
        server.timeout = 20  # that reader is cut off after 30 seconds
        assert cached(complete(server, prompt[:7000], 2)) > 0
        after = [(s["state"], s["n_tokens"]) for s in server.get("/slots") if s["is_processing"]]
        assert sorted(after)[-1][0] == "prefill", after


# ---- conversations -----------------------------------------------------------------------------------

def conversations_outlive_their_slots(server):
    """Six conversations through two slots: every turn costs what is new."""
    texts = [words(10 + i, 150 + 7 * i) for i in range(6)]
    for turn in range(3):
        order = random.Random(turn).sample(range(6), 6)
        known = {i: 0 if turn == 0 else len(texts[i]) for i in order}
        if turn:
            for i in order:
                texts[i] = texts[i] + words(100 * turn + i, 40 + i)
        answers = parallel([lambda i=i: complete(server, texts[i], 3) for i in order]) if turn == 1 else [complete(server, texts[i], 3) for i in order]
        for i, answer in zip(order, answers):
            # The reply may happen to begin as the next turn does.
            assert known[i] <= cached(answer) <= known[i] + (3 if turn else 0), (turn, i, cached(answer), known[i])
    for i in range(6):
        assert complete(server, texts[i], 3)["choices"] == complete(server, texts[i], 3, cache_prompt=False)["choices"]


def with_server(test, path, *options):
    with Server(*options, model=path) as server:
        test(server)
        m = server.settled()  # nobody holds a page but the cache
        assert m["kvasir_kv_pages"] == m["kvasir_kv_cached_pages"] > 0 and m["kvasir_kv_bytes"] == m["kvasir_kv_cached_bytes"]


def conversations_go_on_for_every_kind_of_layer():
    for path, options in ((TINY, ()), (TINY_GEMMA3, ()), (TINY, ("--attention", "0=window(100);1=linear(elu);2=full|pages(4);3=linear(exp)")),
                          (TINY, ("--attention", "*=linear(performer)")), ("build/fixtures/deepseek_v2/model.gguf", ())):
        with_server(conversations_outlive_their_slots, path, "--parallel", "2", "--kv-budget", "16", *options)


def busy_sequences_share_for_every_kind_of_layer():
    for path, options in ((TINY, ()), (TINY_GEMMA3, ()), (TINY, ("--attention", "0=window(30);1-3=linear(elu)"))):
        with_server(a_busy_sequence_shares_what_its_windows_have_left, path, "--parallel", "2", "-c", "8192", *options)


def a_chat_with_gemma_never_reads_twice():
    """Beyond its window of 512 tokens, with another chat between the turns; counted against the tokens of both prompts."""
    with Server("--parallel", "1", "-c", "4096", model=GEMMA3) as server:
        def ids(messages, reply=None):
            text = server.post("/apply-template", {"messages": messages})["prompt"] + (reply or "")
            return server.post("/tokenize", {"content": text, "add_special": False})["tokens"]
        chats = [[{"role": "user", "content": "Story %d. " % i + "The cat sat on the mat. " * 100}] for i in range(2)]
        known = [[], []]
        for turn in range(3):
            for i, messages in enumerate(chats):
                body = {"messages": messages, "max_tokens": 10, "temperature": 0}
                answer = server.post("/v1/chat/completions", body)
                prompt = ids(messages)
                shared = next((n for n, (a, b) in enumerate(zip(prompt, known[i])) if a != b), min(len(prompt), len(known[i])))
                if turn:
                    assert cached(answer) >= min(shared, len(prompt) - 1) > 600, (turn, i, shared, answer["usage"])
                # The last token of a reply is sampled, not read; and a text may be cut into tokens in more than one way.
                known[i] = ids(messages, answer["choices"][0]["message"]["content"])[:len(prompt) + answer["usage"]["completion_tokens"] - 1]
                messages += [answer["choices"][0]["message"], {"role": "user", "content": "Go on."}]


# ---- room --------------------------------------------------------------------------------------------

def what_was_not_used_for_longest_goes_first():
    # A page of the tiny Llama: 4 layers x 2 tensors x 64 tokens x n_kv_heads x 16 dimensions x 2 bytes.
    with Server("--parallel", "2", "--kv-budget", "1", model=TINY) as server:
        complete(server, words(50, 64), 2)
        assert server.settled()["kvasir_kv_budget_bytes"] == 1 << 20
        page = server.settled()["kvasir_kv_bytes"] / server.settled()["kvasir_kv_pages"]
        budget = 1 << 20
        n = int(budget / page)  # pages
        assert 10 < n < 200, n
        count = n * 64 // 256 + 4  # more texts of four pages than there is room for
        texts = [words(60 + i, 250) for i in range(count)]
        for i, text in enumerate(texts):
            complete(server, text, 2)
            complete(server, texts[0], 2)  # stays in use
            m = server.settled()
            assert m["kvasir_kv_bytes"] <= budget and m["kvasir_kv_peak_bytes"] <= budget, m
        assert m["kvasir_kv_evicted_pages_total"] > 0 and m["kvasir_preemptions_total"] == 0
        assert cached(complete(server, texts[0], 2)) == 249 and cached(complete(server, texts[-1], 2)) == 249
        old = complete(server, texts[1], 2)
        assert cached(old) < 64, cached(old)
        assert old["choices"] == complete(server, texts[1], 2, cache_prompt=False)["choices"]
        # Busy ones need it all: the cache makes way, and comes back.
        bodies = [words(90 + i, 700) for i in range(2)]
        both = parallel([lambda b=b: complete(server, b, 200) for b in bodies])
        for body, was in zip(bodies, both):
            assert complete(server, body, 200, cache_prompt=False)["choices"] == was["choices"]
        m = server.settled()
        assert m["kvasir_kv_peak_bytes"] <= budget and m["kvasir_kv_pages"] == m["kvasir_kv_cached_pages"]


def what_fits_the_budget_fits_whatever_the_steps():
    """Windows hold a chunk of the prompt in full beside their keys: what has no room for 2048 rows at once is read in smaller steps."""
    text = words(71, 15400)
    with Server("-c", "16384", "--kv-budget", "1", "-b", "2048", model=TINY_GEMMA3) as server:
        assert complete(server, text, 2)["usage"]["prompt_tokens"] == 15400
        end = complete(server, text, 1000)  # until the budget is full: what is read again ends where it ended alone
        assert end["choices"][0]["finish_reason"] == "length" and 15400 + 2 < end["usage"]["total_tokens"] < 15400 + 64, end["usage"]
        assert complete(server, text, 1000, cache_prompt=False)["choices"] == end["choices"]
        r = server.request("POST", "/v1/completions", {"prompt": words(72, 16000), "max_tokens": 2})
        assert r.status == 400 and r.json()["error"]["code"] == "context_length_exceeded", r.body


def who_leaves_early_leaves_no_page_behind():
    with Server("--parallel", "4", model=TINY_GEMMA3) as server:
        rng = random.Random(8)
        prefix = words(70, 200)

        def hang_up(i):
            body = json.dumps({"prompt": prefix[:rng.randrange(1, 200)] + words(i, 50), "max_tokens": 400, "ignore_eos": True, "stream": True, "n": 1 + i % 3}).encode()
            with server.connect() as s:
                s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                s.recv(200 + rng.randrange(3000))
        parallel([lambda i=i: hang_up(i) for i in range(24)])
        m = server.settled()
        while m["kvasir_connections"] > 1: # not even read yet, or not seen to be gone
            m = server.settled()
        assert m["kvasir_requests_cancelled_total"] > 0 and m["kvasir_kv_pages"] == m["kvasir_kv_cached_pages"] > 0, m
        text = prefix + [1, 2, 3]
        assert complete(server, text, 20)["choices"] == complete(server, text, 20, cache_prompt=False)["choices"]


def prefixes_of_a_real_model():
    with Server("-c", "4096", "--parallel", "6", model=SMOLLM2) as server:
        # Room for all slots to be full, unless that is much of what the machine has.
        server.timeout = 120  # a long prompt on a busy machine
        said = json.loads(subprocess.run([KVASIR, "run", "-m", SMOLLM2, "-c", "4096", "--dry-run", "-o", "json"], capture_output=True, check=True).stdout)
        assert server.metrics()["kvasir_kv_budget_bytes"] >= min(6 * said["kv_bytes"], said["available_bytes"] // 4) > 0, said
        choices_share_their_prompt(server)
        a_prefix_of_2000_tokens_is_read_once(server)


TESTS = [prefixes_of_a_real_model, busy_sequences_share_for_every_kind_of_layer, conversations_go_on_for_every_kind_of_layer, a_chat_with_gemma_never_reads_twice,
         what_was_not_used_for_longest_goes_first, what_fits_the_budget_fits_whatever_the_steps, who_shares_a_prompt_with_a_slow_reader_does_not_wait_for_it,
         who_leaves_early_leaves_no_page_behind]

if __name__ == "__main__":
    run_tests(TESTS, [(KVASIR, "make"), (TINY, "git checkout tests/golden"), (SMOLLM2, "./kvasir get smollm2"), (GEMMA3, "./kvasir get gemma3"),
                      ("build/fixtures/ready", "make build/fixtures/ready")])
