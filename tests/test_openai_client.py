#!/usr/bin/env python3
"""The openai package from PyPI against kvasir serve, over TCP and over the unix socket: every endpoint it has a method for, with its own
types for answers and for errors. What the answers must hold follows from other endpoints of the server or from the request."""
import json
import math
import sys

sys.path.insert(0, "tests/support")
from runner import run_tests  # noqa: E402
from server import KVASIR, SLOW, SMOLLM2, Server  # noqa: E402

import openai  # noqa: E402
from pydantic import BaseModel  # noqa: E402

try:
    import httpx2 as httpx  # what newer versions of the package bring
except ImportError:
    import httpx

MODEL = "smollm2-135m-instruct-q4_1"
QUESTION = [{"role": "user", "content": "What is the capital of Norway?"}]


def client(server, kind, key="none", **more):
    http = httpx.Client(transport=httpx.HTTPTransport(uds=server.path)) if kind == "unix" else httpx.Client()
    base = "http://localhost/v1" if kind == "unix" else f"http://127.0.0.1:{server.port}/v1"
    return openai.OpenAI(api_key=key, base_url=base, http_client=http, max_retries=0, timeout=60 * SLOW, **more)


def both(test):
    """A test that runs once for each transport."""
    def run():
        for c in clients:
            test(c)
        assert big.is_healthy()
    run.__name__ = test.__name__
    return run


def raises(kind, status, call, **named):
    try:
        call(**named)
    except kind as e:
        assert type(e) is kind and e.status_code == status, (type(e), e.status_code)
        assert e.message and isinstance(e.body, dict) and set(e.body) == {"code", "message", "type", "param"}, e.body
        return e
    raise AssertionError(f"{named} raised nothing")


# ---- answers -----------------------------------------------------------------------------------------

@both
def models_are_listed(c):
    assert [m.id for m in c.models.list()] == [MODEL]
    assert c.models.retrieve(MODEL).object == "model"
    assert raises(openai.NotFoundError, 404, c.models.retrieve, model="other").code == "model_not_found"


def a_model_is_found_by_any_name_it_is_listed_under():
    for alias in ("HuggingFaceTB/SmolLM2-135M", "100% größe?"):
        with Server("--alias", alias) as s:
            for kind in ("tcp", "unix"):
                with client(s, kind) as c:
                    assert [c.models.retrieve(m.id).id for m in c.models.list()] == [alias]


@both
def a_chat_is_answered(c):
    r = c.chat.completions.create(model=MODEL, messages=QUESTION, max_completion_tokens=24, temperature=0)
    m = r.choices[0].message
    assert m.role == "assistant" and "Oslo" in m.content and m.refusal is None and m.tool_calls is None
    assert r.choices[0].finish_reason in ("stop", "length") and r.model == MODEL and r.object == "chat.completion"
    assert r.usage.total_tokens == r.usage.prompt_tokens + r.usage.completion_tokens and r.usage.completion_tokens <= 24
    parts = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "What is the capital"}, {"type": "text", "text": "of Norway?"}]}]
    again = c.chat.completions.create(model=MODEL, messages=parts, max_tokens=24, temperature=0, user="me", metadata={"a": "b"})
    assert "Oslo" in again.choices[0].message.content
    assert c.chat.completions.create(model=MODEL, messages=parts, max_tokens=24, temperature=0).usage.prompt_tokens_details.cached_tokens > 0


@both
def streams_are_the_answer_in_pieces(c):
    named = dict(model=MODEL, messages=[{"role": "user", "content": "Tell me a story."}], max_tokens=24, temperature=1.5, seed=5, n=2)
    whole = c.chat.completions.create(**named)
    text, last, chunks = ["", ""], [None, None], list(c.chat.completions.create(**named, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == [] and chunks[-1].usage.model_dump(exclude={"prompt_tokens_details"}) == whole.usage.model_dump(exclude={"prompt_tokens_details"})
    for chunk in chunks[:-1]:
        one = chunk.choices[0]
        assert chunk.object == "chat.completion.chunk" and last[one.index] is None and chunk.usage is None
        text[one.index] += one.delta.content or ""
        last[one.index] = one.finish_reason
    assert text == [x.message.content for x in whole.choices] and last == [x.finish_reason for x in whole.choices]
    assert len(chunks) > 10 and text[0] != text[1]
    pieces = list(c.completions.create(model=MODEL, prompt="The sea", max_tokens=12, temperature=0, stream=True))
    assert "".join(p.choices[0].text for p in pieces) == c.completions.create(model=MODEL, prompt="The sea", max_tokens=12, temperature=0).choices[0].text
    # Who leaves in the middle frees the server.
    with c.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=4000, stream=True, extra_body={"ignore_eos": True}) as stream:
        next(iter(stream))
    assert c.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=4).choices


@both
def the_streaming_helper_collects_the_answer(c):
    with c.chat.completions.stream(model=MODEL, messages=QUESTION, max_tokens=24, temperature=0) as stream:
        said = "".join(e.delta for e in stream if e.type == "content.delta")
        final = stream.get_final_completion().choices[0].message.content
    assert said == final == c.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=24, temperature=0).choices[0].message.content


@both
def log_probabilities_are_probabilities(c):
    r = c.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=8, temperature=0, logprobs=True, top_logprobs=5)
    content = r.choices[0].logprobs.content
    assert 0 < len(content) <= 8
    shown = content if r.choices[0].finish_reason == "length" else content[:-1]  # the end of the turn has no text
    assert b"".join(bytes(t.bytes) for t in shown).decode().startswith(r.choices[0].message.content[:10])
    for t in content:
        assert len(t.top_logprobs) == 5 and t.top_logprobs[0].logprob == t.logprob == max(x.logprob for x in t.top_logprobs)  # greedy
        assert t.token == t.top_logprobs[0].token and sum(math.exp(x.logprob) for x in t.top_logprobs) <= 1 + 1e-6
    old = c.completions.create(model=MODEL, prompt="The capital of France is", max_tokens=2, temperature=0, logprobs=3, echo=True).choices[0]
    assert old.text.startswith("The capital of France is") and "".join(old.logprobs.tokens) == old.text
    assert old.logprobs.token_logprobs[0] is None and all(p <= 0 for p in old.logprobs.token_logprobs[1:])
    assert all(len(t) == 3 for t in old.logprobs.top_logprobs[1:])


@both
def n_stop_seed_and_bias_mean_what_they_say(c):
    def texts(**more):
        return [x.text for x in c.completions.create(**dict(dict(model=MODEL, prompt="My favourite", max_tokens=16, temperature=1), **more)).choices]
    assert texts(seed=7) == texts(seed=7) != texts(seed=8)
    three = texts(seed=7, n=3)
    assert len(set(three)) == 3 and three[0] == texts(seed=7)[0]
    plain = texts(temperature=0)[0]
    stop = plain[4:8]
    cut = c.completions.create(model=MODEL, prompt="My favourite", max_tokens=16, temperature=0, stop=[stop, "never"]).choices[0]
    assert cut.text == plain[:plain.index(stop)] and cut.finish_reason == "stop"
    chat = c.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=24, temperature=0, stop="Oslo").choices[0]
    assert "Oslo" not in chat.message.content and chat.finish_reason == "stop"
    token = big.post("/tokenize", {"content": " cat"})["tokens"][0]
    assert texts(logit_bias={str(token): 100}, max_tokens=3, temperature=0) == [" cat cat cat"]


@both
def completions_take_text_tokens_and_lists(c):
    ids = [big.post("/tokenize", {"content": t})["tokens"] for t in ("Once upon a time", "The sea")]
    named = dict(model=MODEL, max_tokens=6, temperature=0)
    one, other = (c.completions.create(prompt=p, **named).choices[0].text for p in ("Once upon a time", "The sea"))
    assert one != other
    assert c.completions.create(prompt=ids[0], **named).choices[0].text == one
    for prompts in (["Once upon a time", "The sea"], ids):
        assert [x.text for x in c.completions.create(prompt=prompts, **named).choices] == [one, other]
    assert c.completions.create(prompt="The sea", echo=True, **named).choices[0].text == "The sea" + other
    assert raises(openai.BadRequestError, 400, c.completions.create, prompt="a", suffix="b", **named).param == "suffix"


@both
def embeddings_are_unit_vectors(c):
    plain = c.embeddings.create(model=MODEL, input=["The cat sat down.", "A cat sat there.", "int main(void) {"], encoding_format="float")
    coded = c.embeddings.create(model=MODEL, input=["The cat sat down.", "A cat sat there.", "int main(void) {"])  # base64 on the wire
    vectors = [d.embedding for d in plain.data]
    assert [d.index for d in plain.data] == [0, 1, 2] and all(abs(math.fsum(x * x for x in v) - 1) < 1e-5 for v in vectors)
    for v, d in zip(vectors, coded.data):
        assert len(v) == len(d.embedding) == 576 and max(abs(a - b) for a, b in zip(v, d.embedding)) < 1e-6
    near, far = (sum(a * b for a, b in zip(vectors[0], v)) for v in vectors[1:])
    assert near > far and plain.usage.prompt_tokens == plain.usage.total_tokens > 0


class City(BaseModel):
    name: str
    inhabitants: int
    is_capital: bool


@both
def a_schema_is_kept_and_parsed(c):
    ask = [{"role": "user", "content": "Describe the city Oslo as JSON."}]
    for seed in range(3):
        parsed = c.chat.completions.parse(model=MODEL, messages=ask, response_format=City, max_tokens=200, temperature=1, seed=seed).choices[0].message.parsed
        assert isinstance(parsed, City), parsed
    schema = {"type": "object", "properties": {"colour": {"enum": ["red", "green"]}}, "required": ["colour"], "additionalProperties": False}
    r = c.chat.completions.create(model=MODEL, messages=ask, max_tokens=50, temperature=1,
                                  response_format={"type": "json_schema", "json_schema": {"name": "c", "strict": True, "schema": schema}})
    assert json.loads(r.choices[0].message.content)["colour"] in ("red", "green")
    r = c.chat.completions.create(model=MODEL, messages=ask, max_tokens=150, temperature=1, seed=1, response_format={"type": "json_object"}, stop=["\n\n\n\n"])
    assert r.choices[0].finish_reason == "length" or isinstance(json.loads(r.choices[0].message.content), dict)
    odd = {"type": "json_schema", "json_schema": {"name": "c", "schema": {"type": "object", "unevaluatedProperties": False}}}
    assert "unevaluatedProperties" in raises(openai.BadRequestError, 400, c.chat.completions.create, model=MODEL, messages=ask, response_format=odd).message


class GetWeather(BaseModel):
    """Current weather in a city."""
    city: str
    days: int


@both
def tools_are_called_and_their_results_read(c):
    """With a forced choice the small model calls what it must, and the client's own schema holds."""
    tools = [openai.pydantic_function_tool(GetWeather, name="get_weather"),
             {"type": "function", "function": {"name": "now", "strict": True, "parameters": {"type": "object", "properties": {}, "additionalProperties": False}}}]
    messages = [{"role": "user", "content": "What is the weather in Oslo?"}]
    force = {"type": "function", "function": {"name": "get_weather"}}
    named = dict(model=MODEL, tools=tools, max_tokens=300, temperature=1, seed=2)
    r = c.chat.completions.parse(messages=messages, tool_choice=force, **named).choices[0]
    call = r.message.tool_calls[0]
    assert r.finish_reason == "tool_calls" and call.type == "function" and call.id and call.function.name == "get_weather"
    assert isinstance(call.function.parsed_arguments, GetWeather) and json.loads(call.function.arguments) == call.function.parsed_arguments.model_dump()
    with c.chat.completions.stream(messages=messages, tool_choice=force, **named) as stream:
        pieces = [e for e in stream if e.type == "tool_calls.function.arguments.delta"]
        last = stream.get_final_completion().choices[0]
    assert last.message.tool_calls[0].function.arguments == call.function.arguments == "".join(e.arguments_delta for e in pieces)
    any_of = c.chat.completions.parse(messages=messages, tool_choice="required", **named).choices[0].message.tool_calls[0]
    assert any_of.function.name in ("get_weather", "now")
    # The conversation goes on with what the tool said.
    messages += [{"role": "assistant", "content": None, "tool_calls": [call.model_dump(include={"id": True, "type": True, "function": {"name", "arguments"}})]},
                 {"role": "tool", "tool_call_id": call.id, "content": "snow"}]
    assert c.chat.completions.create(messages=messages, tool_choice="none", **dict(named, max_tokens=8)).choices[0].message.content is not None
    wrong = raises(openai.BadRequestError, 400, c.chat.completions.create, messages=messages,
                   tool_choice={"type": "function", "function": {"name": "nothing"}}, **named)
    assert wrong.param == "tool_choice"


# ---- errors -----------------------------------------------------------------------------------------------

@both
def errors_are_its_own_exceptions(c):
    e = raises(openai.BadRequestError, 400, c.chat.completions.create, model=MODEL, messages=QUESTION, temperature=3)
    assert e.param == "temperature" and e.type == "invalid_request_error"
    e = raises(openai.BadRequestError, 400, c.completions.create, model=MODEL, prompt=[5] * 9000, stream=True)
    assert e.code == "context_length_exceeded" and "9000" in e.message and "8192" in e.message
    assert raises(openai.NotFoundError, 404, c.models.retrieve, model="nothing").status_code == 404
    assert raises(openai.NotFoundError, 404, c.images.generate, prompt="a cat").status_code == 404  # what is not there says so
    try:
        c.chat.completions.parse(model=MODEL, messages=QUESTION, response_format=City, max_tokens=2, temperature=0)
        raise AssertionError("half an object was parsed")
    except openai.LengthFinishReasonError:
        pass


def keys_hosts_and_full_queues_are_its_own_exceptions_too():
    long = dict(max_tokens=200, n=8, stream=True, extra_body={"ignore_eos": True})
    with Server("--api-key", "secret", "--parallel", "1", "--max-queue", "1") as small:
        for kind in ("tcp", "unix"):
            assert raises(openai.AuthenticationError, 401, client(small, kind, "wrong").models.list).code == "invalid_api_key"
            good = client(small, kind, "secret")
            assert len(list(good.models.list())) == 1
            foreign = client(small, kind, "secret", default_headers={"Origin": "http://evil.example"})
            raises(openai.PermissionDeniedError, 403, foreign.models.list)
            held = [good.completions.create(model="m", prompt="a", **long)]
            seen = []
            for _ in range(50):  # one runs, one waits (its stream has begun), and the next is one too many
                try:
                    held.append(good.completions.create(model="m", prompt="a", **long))
                except openai.RateLimitError as e:
                    seen.append((e.status_code, e.code, int(e.response.headers["retry-after"]) >= 1))
                    break
            assert seen == [(429, "rate_limit_exceeded", True)], seen
            for stream in held:
                assert sum(len(x.choices) for x in stream) > 0
            # With its own retries the client comes through.
            patient = good.with_options(max_retries=5)
            assert patient.completions.create(model="m", prompt="a", max_tokens=2).choices
        assert small.is_healthy()
    gone = openai.OpenAI(api_key="x", base_url=f"http://127.0.0.1:{small.port}/v1", max_retries=0)
    try:
        gone.models.list()
        raise AssertionError("nobody answered, and nothing was raised")
    except openai.APIConnectionError:
        pass


TESTS = [models_are_listed, a_model_is_found_by_any_name_it_is_listed_under, a_chat_is_answered, streams_are_the_answer_in_pieces, the_streaming_helper_collects_the_answer, log_probabilities_are_probabilities,
         n_stop_seed_and_bias_mean_what_they_say, completions_take_text_tokens_and_lists, embeddings_are_unit_vectors, a_schema_is_kept_and_parsed, tools_are_called_and_their_results_read,
         errors_are_its_own_exceptions, keys_hosts_and_full_queues_are_its_own_exceptions_too]

if __name__ == "__main__":
    with Server(model=SMOLLM2) as big:
        clients = [client(big, kind) for kind in ("tcp", "unix")]
        run_tests(TESTS, [(KVASIR, "make"), (SMOLLM2, "./kvasir get smollm2")])
