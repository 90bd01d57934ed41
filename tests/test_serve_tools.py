#!/usr/bin/env python3
"""Tools and thoughts over the API: what the model is told, what comes of its reply, in a stream and whole. A grammar makes the small model
say what a trained one would; with tool_choice required it says what it likes, and that must be a call that validates."""
import json
import os
import random
import sys
import tempfile

import jsonschema

sys.path.insert(0, "tests/support")
from runner import run_tests  # noqa: E402
from server import KVASIR, SMOLLM2, Server  # noqa: E402

WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "Current weather in a city.",
    "parameters": {"type": "object", "required": ["city", "unit"], "additionalProperties": False, "properties": {
        "city": {"type": "string", "maxLength": 12}, "unit": {"enum": ["celsius", "fahrenheit"]}, "days": {"type": "integer", "minimum": 1, "maximum": 7}}}}}
NODE = {"type": "function", "function": {
    "name": "add_node", "parameters": {
        "type": "object", "required": ["node"], "additionalProperties": False, "properties": {"node": {"$ref": "#/$defs/node"}},
        "$defs": {"node": {"type": "object", "required": ["v"], "additionalProperties": False,
                           "properties": {"v": {"type": "boolean"}, "const": {"$ref": "#/$defs/leaf"}}}, "leaf": {"const": {"$ref": "#"}}}}}}
PLAIN = {"type": "function", "function": {"name": "now"}}
TOOLS = [WEATHER, NODE, PLAIN]
SCHEMAS = {t["function"]["name"]: t["function"].get("parameters", {"type": "object", "additionalProperties": False}) for t in TOOLS}

# Templates as small as they can be with the markers that tell the format.
CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls or [] %}@@{% endfor %}<|im_end|>\n{% endfor %}" \
         "{% if tools %}{{ tools | tojson }}{% endif %}<|im_start|>assistant\n"
TEMPLATES = {
    "hermes": CHATML.replace("@@", "<tool_call>{{ c.function.arguments | tojson }}</tool_call>") + "{# <think> #}",
    "thinking": CHATML.replace("@@", "<tool_call>") + "<think>\n",
    "llama": CHATML.replace("@@", "<|python_tag|>"),
    "mistral": CHATML.replace("@@", "[TOOL_CALLS]"),
    "mistral-args": CHATML.replace("@@", "[TOOL_CALLS][ARGS]"),
    "harmony": CHATML.replace("@@", "<|channel|>analysis<|message|>"),
    "command-r7b": CHATML.replace("@@", "<|START_ACTION|><|START_THINKING|>"),
    "deepseek": CHATML.replace("@@", "<｜tool▁calls▁begin｜>{{ c.function.arguments + '' }}"),
}


def gbnf(text):
    return 'root ::= "%s"' % "".join(f"\\x{b:02x}" if b < 0x80 else chr(b) for b in text.encode()) if text.isascii() else \
        'root ::= "%s"' % "".join(c if ord(c) >= 0x80 else f"\\x{ord(c):02x}" for c in text)


def ask(text=None, **more):
    body = {"messages": [{"role": "user", "content": "What is the weather in Oslo?"}], "max_tokens": 200, "temperature": 1, "seed": 3, "tools": TOOLS}
    if text is not None:
        body["grammar"] = gbnf(text)
    return dict(body, **more)


def collect(events):
    """What a client makes of a stream: (message, finish_reason)."""
    message = {"role": "assistant", "content": None}
    reason = None
    for e in events:
        for c in e["choices"]:
            assert reason is None
            reason = c["finish_reason"]
            d = c["delta"]
            for key in ("content", "reasoning_content"):
                if d.get(key):
                    message[key] = (message.get(key) or "") + d[key]
            for call in d.get("tool_calls", []):
                calls = message.setdefault("tool_calls", [])
                if call["index"] == len(calls):
                    assert call["id"] and call["type"] == "function" and call["function"]["name"]
                    calls.append({"id": call["id"], "type": "function", "function": {"name": call["function"]["name"], "arguments": ""}})
                calls[call["index"]]["function"]["arguments"] += call["function"]["arguments"]
    if message["content"] is None and "tool_calls" not in message:
        message["content"] = ""
    return message, reason


def both(server, body):
    """The answer, whole and as a stream, which must say the same. (message, finish_reason)"""
    choice = server.post("/v1/chat/completions", body)["choices"][0]
    message, reason = collect(server.stream("/v1/chat/completions", body))
    for m in (message, choice["message"]):
        ids = [c.pop("id") for c in m.get("tool_calls", [])]
        assert len(set(ids)) == len(ids) and all(i.isalnum() and len(i) == 9 for i in ids), ids
    assert message == choice["message"] and reason == choice["finish_reason"], (message, reason, choice)
    return message, reason


def calls_of(message):
    return [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in message.get("tool_calls", [])]


# ---- what is said becomes calls ------------------------------------------------------------------------------

def calls_come_back_in_the_format_of_the_template():
    oslo = {"city": "Oslo", "unit": "celsius"}
    call = json.dumps({"name": "get_weather", "arguments": oslo})
    said = {
        "hermes": f"<tool_call>\n{call}\n</tool_call>", "thinking": f"Hm.\n</think>\n\n<tool_call>\n{call}\n</tool_call>",
        "llama": json.dumps({"name": "get_weather", "parameters": oslo}), "mistral": f"[TOOL_CALLS][{call}]",
        "mistral-args": f"[TOOL_CALLS]get_weather[ARGS]{json.dumps(oslo)}",
        "harmony": f"<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{json.dumps(oslo)}",
        "command-r7b": "<|START_ACTION|>[{\"tool_name\": \"get_weather\", \"parameters\": %s}]<|END_ACTION|>" % json.dumps(oslo),
        "deepseek": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n%s\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>" % json.dumps(oslo)}
    assert set(said) == set(TEMPLATES)
    for name, text in said.items():
        message, reason = both(servers[name], ask(text))
        assert calls_of(message) == [("get_weather", oslo)] and message["content"] is None and reason == "tool_calls", (name, message)
        assert message.get("reasoning_content") == ("Hm." if name in ("thinking", "harmony") else None), (name, message)
        assert json.dumps(oslo) == message["tool_calls"][0]["function"]["arguments"]
        # a function that is not there, and JSON that is none, are text
        for wrong in (text.replace("get_weather", "get_wether"), text.replace(': "Oslo"', ': Oslo')):
            message, reason = both(servers[name], ask(wrong))
            assert "tool_calls" not in message and reason == "stop" and "Oslo" in message["content"], (name, message)


def several_calls_and_text_between():
    text = 'I look.\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>\n<tool_call>{"name": "add_node", "arguments": {"node": {"v": true}}}</tool_call>'
    message, reason = both(servers["hermes"], ask(text))
    assert message["content"] == "I look." and calls_of(message) == [("now", {}), ("add_node", {"node": {"v": True}})] and reason == "tool_calls"
    message, _ = both(servers["hermes"], ask(text, parallel_tool_calls=False))
    assert calls_of(message) == [("now", {})]
    message, reason = both(servers["hermes"], ask(text, tool_choice="none"))
    assert message == {"role": "assistant", "content": text} and reason == "stop"
    message, reason = both(servers["hermes"], {k: v for k, v in ask(text).items() if k != "tools"})
    assert message == {"role": "assistant", "content": text} and reason == "stop"
    message, reason = both(servers["hermes"], ask(text, max_tokens=12))
    assert "tool_calls" not in message and reason == "length"


def thoughts_are_told_apart():
    text = "<think>\nIs it cold?\n</think>\n\nIt is cold."
    for tools in (TOOLS, []):
        message, reason = both(servers["hermes"], ask(text, tools=tools))
        assert message == {"role": "assistant", "content": "It is cold.", "reasoning_content": "Is it cold?"} and reason == "stop", message
    message, _ = both(servers["hermes"], ask(text, reasoning_format="none"))
    assert message == {"role": "assistant", "content": text}
    message, _ = both(servers["thinking"], ask("Well.\n</think>\nYes.", tools=[]))
    assert message == {"role": "assistant", "content": "Yes.", "reasoning_content": "Well."}
    message, _ = both(plain, ask(text, tools=[]))  # a model that is not known to think
    assert message == {"role": "assistant", "content": text}


def log_probabilities_come_with_every_token():
    text = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    whole = servers["hermes"].post("/v1/chat/completions", ask(text, logprobs=True))
    events = servers["hermes"].stream("/v1/chat/completions", ask(text, logprobs=True))
    streamed = [p for e in events for c in e["choices"] if c["logprobs"] for p in c["logprobs"]["content"]]
    assert streamed == whole["choices"][0]["logprobs"]["content"] and "".join(p["token"] for p in streamed) == text


# ---- what must come comes ---------------------------------------------------------------------------------------

def required_calls_validate():
    rng = random.Random(5)
    for name, server in [*servers.items(), ("plain", plain)]:
        for choice in ("required", *({"type": "function", "function": {"name": n}} for n in ("add_node", "now")), {"type": "function", "function": {"name": "get_weather"}}):
            body = ask(tool_choice=choice, seed=rng.randrange(1 << 30), n=2, max_tokens=600, tools=TOOLS)
            for c in server.post("/v1/chat/completions", body)["choices"]:
                (function, arguments), = calls_of(c["message"])
                jsonschema.validate(arguments, SCHEMAS[function])
                assert c["finish_reason"] == "tool_calls" and c["message"]["content"] is None, (name, c)
                assert choice == "required" or function == choice["function"]["name"], (name, c)
        if name in ("hermes", "harmony"):
            message, reason = both(server, ask(tool_choice="required", max_tokens=600, tools=TOOLS[:2]))
            assert len(message["tool_calls"]) == 1 and reason == "tool_calls"
    cut = plain.post("/v1/chat/completions", ask(tool_choice="required", max_tokens=3))["choices"][0]
    assert cut["finish_reason"] == "length" and "tool_calls" not in cut["message"] and cut["message"]["content"], cut


def a_subset_of_the_tools_may_be_called_and_all_are_told():
    def subset(mode, *names):
        return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [{"type": "function", "function": {"name": n}} for n in names]}}

    text = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    for names, is_call in ((("now",), True), (("add_node", "now"), True), (("add_node",), False)):
        message, reason = both(servers["hermes"], ask(text, tool_choice=subset("auto", *names)))
        assert message == {"role": "assistant", "content": text} if not is_call else calls_of(message) == [("now", {})], (names, message)
    assert prompt_of(servers["hermes"], tool_choice=subset("auto", "now")) == prompt_of(servers["hermes"])
    for name, server in [*servers.items(), ("plain", plain)]:
        for names in ("now",), ("now", "add_node"):
            for c in server.post("/v1/chat/completions", ask(tool_choice=subset("required", *names), seed=3, n=3, max_tokens=600, tools=TOOLS))["choices"]:
                (function, arguments), = calls_of(c["message"])
                assert function in names, (name, names, function)
                jsonschema.validate(arguments, SCHEMAS[function])
    for choice, param in ((subset("none", "now"), ".mode"), (subset("auto"), ".tools"), (subset("auto", "now", "x"), ".tools[1].function.name")):
        r = plain.request("POST", "/v1/chat/completions", ask(tool_choice=choice))
        assert r.status == 400 and r.json()["error"]["param"] == "tool_choice.allowed_tools" + param, r.body


# ---- what the model is told -----------------------------------------------------------------------------------------

TURNS = [{"role": "user", "content": "Weather?"},
         {"role": "assistant", "content": None, "tool_calls": [{"id": "abcdefgh1", "type": "function", "function": {"name": "now", "arguments": '{"z": 1}'}},
                                                               {"id": "abcdefgh2", "type": "function", "function": {"name": "now", "arguments": "{}"}}]},
         {"role": "tool", "tool_call_id": "abcdefgh1", "content": "five"}, {"role": "tool", "tool_call_id": "abcdefgh2", "content": "six"}]


def prompt_of(server, **body):
    return server.post("/apply-template", dict({"messages": TURNS, "tools": [PLAIN]}, **body))["prompt"]


def templates_get_tools_and_arguments_as_they_want_them():
    said = prompt_of(servers["hermes"])
    assert '<tool_call>{"z": 1}</tool_call><tool_call>{}</tool_call>' in said and '"name": "now"' in said, said
    assert '{"z": 1}' in prompt_of(servers["deepseek"])  # would fail on an object
    objects = json.loads(json.dumps(TURNS))
    objects[1]["tool_calls"][0]["function"]["arguments"] = {"z": 1}
    assert '{"z":1}' in prompt_of(servers["deepseek"], messages=objects)
    assert '"now"' not in prompt_of(servers["hermes"], tool_choice="none")


def a_template_without_tools_is_told_in_words():
    said = prompt_of(plain)
    assert said.startswith("<|im_start|>system\n") and '<tools>\n{"type": "function", "function": {"name": "now"}}\n</tools>' in said, said
    assert '<|im_start|>assistant\n<tool_call>\n{"name": "now", "arguments": {"z": 1}}\n</tool_call>\n<tool_call>' in said, said
    assert "<|im_start|>user\n<tool_response>\nfive\n</tool_response>\n<tool_response>\nsix\n</tool_response><|im_end|>" in said, said
    with_system = prompt_of(plain, messages=[{"role": "system", "content": "Be brief."}, *TURNS])
    assert with_system.startswith("<|im_start|>system\nBe brief.\n\n# Tools"), with_system
    message, _ = both(plain, ask('<tool_call>{"name": "now", "arguments": {}}</tool_call>'))
    assert calls_of(message) == [("now", {})]


def refusals_name_the_field():
    bad = [({"tool_choice": "always"}, "tool_choice"), ({"tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
           ({"tools": None, "tool_choice": "required"}, "tool_choice"), ({"parallel_tool_calls": 1}, "parallel_tool_calls"),
           ({"reasoning_format": "x"}, "reasoning_format"), ({"reasoning_format": 1}, "reasoning_format"),
           ({"tool_choice": "required", "grammar": 'root ::= "a"'}, "grammar"),
           ({"tool_choice": "required", "response_format": {"type": "json_object"}}, "response_format"),
           ({"tool_choice": "required", "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}]}, "tools"),
           ({"tool_choice": "required", "tools": [{"type": "function", "function": {"name": "f", "parameters": {"not": {}}}}]}, "tools"),
           ({"tools": [{"type": "function", "function": {"name": "f" * 300}}]}, "tools[0].function.name"),
           ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools[0].function.name"),
           ({"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]}, "tools[0].function.parameters"),
           ({"tools": [{"type": "web_search"}]}, "tools[0]")]
    for more, param in bad:
        r = plain.request("POST", "/v1/chat/completions", ask(**more))
        assert r.status == 400 and r.json()["error"]["param"] == param, (more, r.body)
    r = plain.request("POST", "/v1/chat/completions", ask(tool_choice="required", tools=[
        {"type": "function", "function": {"name": "f", "parameters": {"properties": {"x": {"not": {}}}}}}]))
    assert "'not'" in r.json()["error"]["message"], r.body
    assert plain.is_healthy()


TESTS = [calls_come_back_in_the_format_of_the_template, several_calls_and_text_between, thoughts_are_told_apart, log_probabilities_come_with_every_token,
         required_calls_validate, a_subset_of_the_tools_may_be_called_and_all_are_told, templates_get_tools_and_arguments_as_they_want_them, a_template_without_tools_is_told_in_words, refusals_name_the_field]

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, Server(model=SMOLLM2) as plain:
        servers = {}
        try:
            for name, source in TEMPLATES.items():
                path = os.path.join(folder, name)
                with open(path, "w", encoding="utf-8") as f:
                    f.write(source)
                servers[name] = Server("--chat-template-file", path)
            run_tests(TESTS, [(KVASIR, "make"), (SMOLLM2, "./kvasir get smollm2")])
        finally:
            for server in servers.values():
                server.stop()
