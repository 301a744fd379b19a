"""The official Python clients against `backstop outage serve`: what they parse and what they raise.

    python tests/sdks/python.py target/debug/backstop            what it answers itself
    python tests/sdks/python.py target/debug/backstop --proxy    what it breaks on the way from another server

Retries of the clients are off: each failure has to show itself.
"""

import json

import anthropic
import google.genai
import google.genai.errors
import google.genai.types
import httpx
import ollama
import openai
from outage import run

WORDS = "the quick brown fox"
SCHEMA = {
    "type": "object",
    "required": ["city"],
    "additionalProperties": False,
    "properties": {"city": {"type": "string"}},
}
SAY = {"fault": "answer", "text": WORDS}
# Longer than a loopback answer takes on a busy machine, shorter than anybody's patience.
PATIENCE = 5
SHORT = 0.5


def statuses(wire):
    """What a wire answers with, by fault."""
    return {
        "overloaded": 529 if wire == "anthropic" else 503,
        "server-error": 500,
        "unavailable": 503,
        "gateway-timeout": 504,
        "rate-limited": 429,
        "unauthorized": 400 if wire == "gemini" else 401,
        "forbidden": 403,
        "out-of-credit": 400 if wire == "anthropic" else 429,
        "no-such-model": 404,
        "too-long": 400,
    }


def stainless(cases, sdk, wire, ask, stream):
    """The failures of the two clients that are made alike."""
    by_status = {
        400: sdk.BadRequestError,
        401: sdk.AuthenticationError,
        403: sdk.PermissionDeniedError,
        404: sdk.NotFoundError,
        429: sdk.RateLimitError,
        500: sdk.InternalServerError,
        503: sdk.InternalServerError,
        504: sdk.InternalServerError,
    }
    if sdk is anthropic:
        by_status |= {
            503: anthropic._exceptions.ServiceUnavailableError,
            504: anthropic._exceptions.GatewayTimeoutError,
            529: anthropic._exceptions.OverloadedError,
        }
    for fault, status in statuses(wire).items():
        for kind, call in [("unary", ask), ("stream", stream)]:
            named = lambda error: error.status_code == status and error.request_id.startswith("req_")
            cases.raises(f"{wire} {kind} {fault}", call, by_status[status], named, fault=fault)
    for hint, header, value in [("seconds", "retry-after", "9"), ("millis", "retry-after-ms", "9000")]:
        told = lambda error: error.response.headers[header] == value
        rule = {"fault": "rate-limited", "hint": hint, "retry_after": "9s"}
        cases.raises(f"{wire} hint in {hint}", ask, sdk.RateLimitError, told, **rule)
    silent = lambda error: "retry-after" not in error.response.headers
    cases.raises(f"{wire} no hint", ask, sdk.RateLimitError, silent, fault="rate-limited", hint="none")
    cases.raises(f"{wire} malformed", ask, json.JSONDecodeError, fault="malformed")


def of_openai(outage, cases):
    client = openai.OpenAI(base_url=f"{outage.url}/v1", api_key="any", max_retries=0, timeout=PATIENCE)
    hasty = client.with_options(timeout=SHORT)
    hello = [{"role": "user", "content": "Hello."}]

    def chat(client=client, **more):
        return client.chat.completions.create(model="gpt-6-sol", messages=hello, **more)

    def text(client=client):
        return chat(client).choices[0].message.content

    def chunks(client=client):
        stream = chat(client, stream=True, stream_options={"include_usage": True})
        return [chunk for chunk in stream]

    def stream(client=client):
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks(client) if chunk.choices)

    tool = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA, "strict": True}}
    called = lambda call: call.name == "weather" and set(json.loads(call.arguments)) == {"city"}
    cases.answers("chat", text, WORDS, **SAY)
    cases.answers("chat usage", lambda: chat().usage.total_tokens > 0, True, **SAY)
    cases.answers("chat stream", stream, WORDS, **SAY)
    cases.answers("chat stream usage", lambda: chunks()[-1].usage.completion_tokens, 5, **SAY)
    cases.answers("chat tool", lambda: chat(tools=[tool]).choices[0].message.tool_calls[0].function, called, fault="loop")

    def streamed_tool():
        with client.chat.completions.stream(model="gpt-6-sol", messages=hello, tools=[tool]) as stream:
            return stream.get_final_completion().choices[0].message.tool_calls[0].function

    cases.answers("chat tool in a stream", streamed_tool, called, fault="loop")
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}
    meets = lambda said: isinstance(json.loads(said)["city"], str)
    schemed = lambda: chat(response_format=form).choices[0].message.content
    cases.answers("chat schema met", schemed, meets)
    cases.answers("chat schema broken", schemed, lambda said: not meets(said), fault="schema-invalid")
    cases.answers("chat refusal", lambda: chat().choices[0].message.refusal, "No.", fault="refusal", text="No.")
    cases.answers("chat cut", lambda: chat().choices[0].finish_reason, "length", fault="cut")
    cases.answers("models", lambda: [model.id for model in client.models.list()], lambda ids: "gpt-6-sol" in ids)
    stainless(cases, openai, "openai", text, stream)
    cases.raises("chat hang", lambda: text(hasty), openai.APITimeoutError, fault="hang")
    cases.raises("chat stall", lambda: stream(hasty), openai.APITimeoutError, fault="slow", pause="30s")
    cases.raises("chat reset", text, openai.APIConnectionError, fault="reset")
    cases.raises("chat stream reset", stream, openai.APIConnectionError, fault="reset")
    cases.raises("chat error event", stream, openai.APIError, fault="error-mid-stream")
    cases.answers("chat truncated, unnoticed", stream, lambda said: said != "", fault="truncated")
    cases.answers("chat html, unnoticed", lambda: type(chat()).__name__, "str", fault="html")

    def respond(client=client, **more):
        return client.responses.create(model="gpt-6-sol", input="Hello.", **more)

    def events(client=client, **more):
        with client.responses.stream(model="gpt-6-sol", input="Hello.", **more) as stream:
            kinds = [event.type for event in stream]
            return kinds, stream.get_final_response()

    tool = {"type": "function", "name": "weather", "parameters": SCHEMA, "strict": True}
    cases.answers("responses", lambda: respond().output_text, WORDS, **SAY)
    cases.answers("responses usage", lambda: respond().usage.output_tokens, 5, **SAY)
    cases.answers("responses stream", lambda: events()[1].output_text, WORDS, **SAY)
    cases.answers("responses stream kinds", lambda: events()[0][-1], "response.completed", **SAY)
    cases.answers("responses tool", lambda: respond(tools=[tool]).output[0], called, fault="loop")
    cases.answers("responses tool in a stream", lambda: events(tools=[tool])[1].output[0], called, fault="loop")
    refused = lambda: respond().output[0].content[0].refusal
    cases.answers("responses refusal", refused, "No.", fault="refusal", text="No.")
    cases.answers("responses refusal in a stream", lambda: events()[1].output[0].content[0].refusal, "No.", fault="refusal", text="No.")
    cut = lambda response: (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    cases.answers("responses cut", respond, cut, fault="cut")
    raw = lambda: [event.type for event in respond(stream=True)]
    stainless(cases, openai, "openai-responses", lambda: respond().output_text, raw)
    # An event like any other to this client; whoever reads it has to look.
    cases.answers("responses error event", raw, lambda kinds: kinds[-1] == "error", fault="error-mid-stream")
    cases.raises("responses hang", lambda: respond(hasty), openai.APITimeoutError, fault="hang")
    cases.raises("responses stream reset", raw, openai.APIConnectionError, fault="reset")

    nobody = openai.OpenAI(base_url="http://127.0.0.1:1/v1", api_key="any", max_retries=0)
    cases.raises("nobody there", lambda: text(nobody), openai.APIConnectionError)


def of_anthropic(outage, cases):
    client = anthropic.Anthropic(base_url=outage.url, api_key="any", max_retries=0, timeout=PATIENCE)
    hasty = client.with_options(timeout=SHORT)
    old = client.with_options(default_headers={"anthropic-version": "2023-06-01", "x-api-key": "any"})
    hello = {"model": "claude-opus-5-5", "max_tokens": 64, "messages": [{"role": "user", "content": "Hello."}]}

    def ask(client=client, **more):
        return client.messages.create(**hello, **more)

    def text(client=client):
        return ask(client).content[0].text

    def final(client=client, **more):
        with client.messages.stream(**hello, **more) as stream:
            return stream.get_final_message()

    def stream(client=client):
        return "".join(
            event.delta.text
            for event in ask(client, stream=True)
            if event.type == "content_block_delta"
        )

    tool = {"name": "weather", "input_schema": SCHEMA}
    called = lambda block: block.type == "tool_use" and block.name == "weather" and set(block.input) == {"city"}
    cases.answers("messages", text, WORDS, **SAY)
    cases.answers("messages, old headers", lambda: text(old), WORDS, **SAY)
    cases.answers("usage", lambda: ask().usage.output_tokens, 5, **SAY)
    cases.answers("stream", stream, WORDS, **SAY)
    cases.answers("stream helper", lambda: final().content[0].text, WORDS, **SAY)
    cases.answers("stream usage", lambda: final().usage.output_tokens, 5, **SAY)
    cases.answers("tool", lambda: ask(tools=[tool]).content[0], called, fault="loop")
    cases.answers("tool in a stream", lambda: final(tools=[tool]).content[0], called, fault="loop")
    wrong = lambda block: not isinstance(block.input.get("city"), str)
    cases.answers("tool, wrong arguments", lambda: ask(tools=[tool]).content[0], wrong, fault="wrong-arguments")
    refused = lambda message: message.stop_reason == "refusal" and message.stop_details.type == "refusal"
    cases.answers("refusal", ask, refused, fault="refusal")
    cases.answers("refusal in a stream", lambda: final().stop_reason, "refusal", fault="refusal")
    cases.answers("cut", lambda: ask().stop_reason, "max_tokens", fault="cut")
    cases.answers("models", lambda: [model.id for model in client.models.list()], lambda ids: "claude-opus-5-5" in ids)
    left = lambda: ask_raw(client, hello).headers["anthropic-ratelimit-output-tokens-remaining"]
    cases.answers("what is left", left, "8000")
    stainless(cases, anthropic, "anthropic", text, stream)
    cases.raises("hang", lambda: text(hasty), anthropic.APITimeoutError, fault="hang")
    cases.raises("reset", text, anthropic.APIConnectionError, fault="reset")
    # This client lets what breaks in a stream through as it is, and finds the status of an error in one fine.
    broke = lambda error: error.status_code == 200 and "overloaded_error" in str(error)
    cases.raises("error event", stream, anthropic.APIStatusError, broke, fault="error-mid-stream")
    cases.answers("truncated, unnoticed", stream, lambda said: said != "", fault="truncated")
    cases.answers("html, unnoticed", lambda: type(ask()).__name__, "str", fault="html")
    nobody = anthropic.Anthropic(base_url="http://127.0.0.1:1", api_key="any", max_retries=0)
    cases.raises("nobody there", lambda: text(nobody), anthropic.APIConnectionError)


def ask_raw(client, hello):
    return client.messages.with_raw_response.create(**hello)


def of_gemini(outage, cases):
    errors, types = google.genai.errors, google.genai.types

    def connected(timeout):
        options = types.HttpOptions(base_url=outage.url, timeout=int(timeout * 1000))
        return google.genai.Client(api_key="any", http_options=options)

    client, hasty = connected(PATIENCE), connected(SHORT)

    def ask(client=client, **config):
        return client.models.generate_content(model="gemini-3.8-flash", contents="Hello.", config=config or None)

    def pieces(client=client, **config):
        return list(
            client.models.generate_content_stream(model="gemini-3.8-flash", contents="Hello.", config=config or None)
        )

    def stream():
        return "".join(piece.text or "" for piece in pieces())

    declared = types.Tool(function_declarations=[{"name": "weather", "parameters_json_schema": SCHEMA}])
    tools = {"tools": [declared], "automatic_function_calling": {"disable": True}}
    called = lambda call: call.name == "weather" and set(call.args) == {"city"}
    cases.answers("generate", lambda: ask().text, WORDS, **SAY)
    cases.answers("usage", lambda: ask().usage_metadata.candidates_token_count, 5, **SAY)
    cases.answers("stream", stream, WORDS, **SAY)
    cases.answers("stream usage", lambda: pieces()[-1].usage_metadata.candidates_token_count, 5, **SAY)
    cases.answers("tool", lambda: ask(**tools).function_calls[0], called, fault="loop")
    cases.answers("tool in a stream", lambda: pieces(**tools)[0].function_calls[0], called, fault="loop")
    schema = {"response_mime_type": "application/json", "response_json_schema": SCHEMA}
    cases.answers("schema met", lambda: json.loads(ask(**schema).text), lambda said: isinstance(said["city"], str))
    reason = lambda: ask().candidates[0].finish_reason
    cases.answers("refusal", reason, types.FinishReason.SAFETY, fault="refusal")
    cases.answers("cut", reason, types.FinishReason.MAX_TOKENS, fault="cut")
    cases.answers("models", lambda: [model.name for model in client.models.list()], lambda names: "models/gemini-4-argon" in names)
    for fault, status in statuses("gemini").items():
        expected = errors.ServerError if status >= 500 else errors.ClientError
        for kind, call in [("unary", ask), ("stream", stream)]:
            named = lambda error: error.code == status and bool(error.status)
            cases.raises(f"{kind} {fault}", call, expected, named, fault=fault)
    told = lambda error: any(detail.get("retryDelay") == "9s" for detail in error.details["error"]["details"])
    cases.raises("hint in the body", ask, errors.ClientError, told, fault="rate-limited", retry_after="9s")
    cases.raises("error in a stream", stream, errors.ServerError, lambda error: error.code == 503, fault="error-mid-stream")
    cases.answers("truncated, unnoticed", stream, lambda said: said != "", fault="truncated")
    cases.raises("malformed", ask, json.JSONDecodeError, fault="malformed")
    cases.raises("html", ask, json.JSONDecodeError, fault="html")
    timeouts = ("ReadTimeout", "Timeout", "ServerTimeoutError", "TimeoutError")
    cases.answers("hang", lambda: name_of(lambda: ask(hasty)), lambda name: name in timeouts, fault="hang")
    cases.answers("reset", lambda: name_of(ask), "RemoteProtocolError", fault="reset")


def name_of(call):
    """The name of what a call raises: of a transport's error, whose type is not the client's own."""
    try:
        return call()
    except Exception as error:
        return type(error).__name__


def of_ollama(outage, cases):
    client, hasty = ollama.Client(host=outage.url), ollama.Client(host=outage.url, timeout=SHORT)
    hello = {"model": "llama3.3", "messages": [{"role": "user", "content": "Hello."}]}

    def ask(client=client, **more):
        return client.chat(**hello, **more)

    def lines():
        return list(client.chat(**hello, stream=True))

    def stream():
        return "".join(line.message.content for line in lines())

    tool = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
    called = lambda call: call.function.name == "weather" and set(call.function.arguments) == {"city"}
    cases.answers("chat", lambda: ask().message.content, WORDS, **SAY)
    cases.answers("chat usage", lambda: ask().eval_count, 5, **SAY)
    cases.answers("stream", stream, WORDS, **SAY)
    cases.answers("stream end", lambda: (lines()[-1].done, lines()[-1].done_reason), (True, "stop"), **SAY)
    cases.answers("generate", lambda: client.generate("llama3.3", "Hello.").response, WORDS, **SAY)
    cases.answers("tool", lambda: ask(tools=[tool]).message.tool_calls[0], called, fault="loop")
    cases.answers("schema met", lambda: json.loads(ask(format=SCHEMA).message.content), lambda said: isinstance(said["city"], str))
    cases.answers("cut", lambda: ask().done_reason, "length", fault="cut")
    cases.answers("models", lambda: [model.model for model in client.list().models], lambda names: "qwen3:latest" in names)
    for fault, status in statuses("ollama").items():
        for kind, call in [("unary", ask), ("stream", stream)]:
            cases.raises(f"{kind} {fault}", call, ollama.ResponseError, lambda error: error.status_code == status, fault=fault)
    cases.raises("error in a stream", stream, ollama.ResponseError, fault="error-mid-stream")
    cases.raises("hang", lambda: ask(hasty), httpx.ReadTimeout, fault="hang")
    cases.raises("reset", ask, httpx.RemoteProtocolError, fault="reset")


run({"openai": of_openai, "anthropic": of_anthropic, "google-genai": of_gemini, "ollama": of_ollama})
