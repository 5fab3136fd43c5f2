"""A *simulated* vLLM server: the routes, shapes and refusals of `vllm serve`, with invented answers. Not vLLM.

Nothing here runs a model. It stands in where the portal's side of the contract is tested: vLLM itself wants a GPU.
`python simulated_vllm.py serve FOLDER --served-model-name NAME --host H --port P …`; shapes as of vLLM 0.11.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from llguidance import LLMatcher

SEPARATORS = (",", ":")  # no white space at all, as it is told to
BLOCK = 16
CONTEXT = 512


class Served:
    """What the simulated server knows: its models, and which prefixes were seen under which model and salt."""

    def __init__(self, base: str, key: str) -> None:
        self.base = base
        self.key = key
        self.adapters: dict[str, str] = {}
        self.seen: set[tuple[str, str, str]] = set()
        self.lock = threading.Lock()

    def cached_tokens(self, model: str, salt: str, prompt: str) -> int:
        """Return how many tokens (here: characters) of whole blocks were seen before, and remember the prompt."""
        found = 0
        with self.lock:
            for end in range(BLOCK, len(prompt), BLOCK):
                place = (model, salt, prompt[:end])
                if place in self.seen and found == end - BLOCK:
                    found = end
                self.seen.add(place)
        return found


def text_of(model: str, path: str, body: dict[str, Any], choice: int) -> str:
    """Return an invented answer that depends on the adapter's content and the prompt, or fits the schema."""
    wanted = schema_of(body)
    if wanted is not None:
        return json.dumps(
            {name: first_value(field) for name, field in wanted["properties"].items()}, separators=SEPARATORS
        )
    content = model
    if path:
        content = hashlib.sha256((Path(path) / "adapter_model.safetensors").read_bytes()).hexdigest()
    said = json.dumps(body.get("messages") or body.get("prompt"))
    word = hashlib.sha256(f"{content}{said}{choice if body.get('temperature') else 0}".encode()).hexdigest()
    return word[: min(body.get("max_tokens") or 12, 12)]


def schema_of(body: dict[str, Any]) -> dict[str, Any] | None:
    schema: dict[str, Any] | None = (body.get("response_format") or {}).get("json_schema", {}).get("schema")
    return schema


def grammar_error(schema: dict[str, Any]) -> str:
    """Return what vLLM's "guidance" says of a schema, by the library that it asks; empty if it takes it."""
    try:
        grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), defaults={"whitespace_flexible": False})
    except ValueError as error:
        return str(error)
    return str(LLMatcher.validate_grammar(grammar) or "")


def prompt_logprobs(model: str, path: str, body: dict[str, Any]) -> list[dict[str, Any] | None]:
    """Return the invented log probability of each character of a conversation, given all before it."""
    *earlier, last = body["messages"]
    closed = not body.get("continue_final_message")
    text = json.dumps(earlier) + last["content"] + ("<end>" if closed else "")
    found: list[dict[str, Any] | None] = [None]
    for place in range(1, len(text)):
        found.append({str(ord(text[place])): {"logprob": character_logprob(path or model, text, place), "rank": 1}})
    return found


def character_logprob(who: str, text: str, place: int) -> float:
    digest = hashlib.sha256(f"{Path(who).name} {text[: place + 1]}".encode()).digest()
    return -digest[0] / 64


def first_value(field: dict[str, Any]) -> Any:
    return field["enum"][0] if "enum" in field else {"boolean": True, "string": "x"}[field["type"]]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: Served

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def reply(self, status: int, body: object) -> None:
        content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "text/plain" if isinstance(body, str) else "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def refuse(self, status: int, message: str, kind: str, param: str | None = None) -> None:
        # the code is a number here, as in vLLM
        self.reply(status, {"error": {"message": message, "type": kind, "param": param, "code": status}})

    def do_GET(self) -> None:
        if self.path == "/health":
            self.reply(200, "")
        else:
            self.refuse(404, "Not Found", "NotFoundError")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.headers.get("authorization") != f"Bearer {self.served.key}":
            self.reply(401, {"error": "Unauthorized"})
            return
        routes = {
            "/v1/load_lora_adapter": self.load,
            "/v1/unload_lora_adapter": self.unload,
            "/v1/chat/completions": self.answer,
            "/v1/completions": self.answer,
        }
        if self.path not in routes:
            self.reply(404, {"detail": "Not Found"})
            return
        routes[self.path](body)

    def load(self, body: dict[str, Any]) -> None:
        name, path = body["lora_name"], body["lora_path"]
        if name in self.served.adapters or name == self.served.base:
            self.refuse(400, f"The lora adapter '{name}' has already been loaded.", "InvalidUserInput")
        elif not (Path(path) / "adapter_config.json").exists():
            self.refuse(404, f"Loading lora {name} failed: No adapter found for {path}", "NotFoundError")
        else:
            self.served.adapters[name] = path
            self.reply(200, f"Success: LoRA adapter '{name}' added successfully.")

    def unload(self, body: dict[str, Any]) -> None:
        if self.served.adapters.pop(body["lora_name"], None) is None:
            self.refuse(404, f"The lora adapter '{body['lora_name']}' cannot be found.", "NotFoundError")
        else:
            self.reply(200, f"Success: LoRA adapter '{body['lora_name']}' removed successfully.")

    def answer(self, body: dict[str, Any]) -> None:
        model = body["model"]
        if model != self.served.base and model not in self.served.adapters:
            self.refuse(404, f"The model `{model}` does not exist.", "NotFoundError", "model")
            return
        if not 0 <= body.get("temperature", 1) <= 2:
            self.refuse(400, "temperature must be in [0, 2]", "BadRequestError", "temperature")
            return
        prompt = json.dumps(body.get("messages") or body.get("prompt"))
        limit = body.get("max_tokens") or 12
        if len(prompt) + limit > CONTEXT:
            message = f"This model's maximum context length is {CONTEXT} tokens. However, you requested {limit} more."
            self.refuse(400, message, "BadRequestError")
            return
        if (schema := schema_of(body)) is not None and (error := grammar_error(schema)):
            self.refuse(400, f"Grammar error: {error}", "BadRequestError")
            return
        path = self.served.adapters.get(model, "")
        texts = [text_of(model, path, body, choice) for choice in range(body.get("n") or 1)]
        usage = {
            "prompt_tokens": len(prompt),
            "completion_tokens": sum(map(len, texts)),
            "total_tokens": len(prompt) + sum(map(len, texts)),
            "prompt_tokens_details": {
                "cached_tokens": self.served.cached_tokens(model, body.get("cache_salt", ""), prompt)
            },
        }
        if body.get("stream"):
            self.stream(body, texts, usage)
        else:
            choices = [self.choice(body, index, text) for index, text in enumerate(texts)]
            told = {**self.head(model, "chat.completion"), "choices": choices, "usage": usage}
            if body.get("prompt_logprobs") is not None:
                told["prompt_logprobs"] = prompt_logprobs(model, path, body)
            self.reply(200, told)

    def choice(self, body: dict[str, Any], index: int, text: str) -> dict[str, Any]:
        said = {"message": {"role": "assistant", "content": text, "refusal": None}}
        return {"index": index, **(said if "messages" in body else {"text": text}), "logprobs": None,
                "finish_reason": "stop", "stop_reason": None, "token_ids": None}  # fmt: skip

    def head(self, model: str, kind: str) -> dict[str, Any]:
        return {"id": "chatcmpl-simulated", "object": kind, "created": 1, "model": model}

    def stream(self, body: dict[str, Any], texts: list[str], usage: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        pieces: list[dict[str, Any]] = []
        for index, text in enumerate(texts):
            for part in (text[:3], text[3:]):
                pieces.append({"index": index, "delta": {"content": part}, "finish_reason": None})
            pieces.append({"index": index, "delta": {}, "finish_reason": "stop", "stop_reason": None})
        events = [{**self.head(body["model"], "chat.completion.chunk"), "choices": [piece]} for piece in pieces]
        if (body.get("stream_options") or {}).get("include_usage"):
            events.append({**self.head(body["model"], "chat.completion.chunk"), "choices": [], "usage": usage})
        for event in events:
            self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True


def make_server(host: str, port: int, *, base: str, key: str) -> ThreadingHTTPServer:
    """Return a server that is ready to `serve_forever`."""
    handler = type("Handler", (Handler,), {"served": Served(base, key)})
    server = ThreadingHTTPServer((host, port), handler)
    server.daemon_threads = True
    return server


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("action", choices=["serve"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--served-model-name", required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    for name in (
        "--max-loras",
        "--max-cpu-loras",
        "--max-lora-rank",
        "--max-num-seqs",
        "--generation-config",
        "--structured-outputs-config",
    ):
        parser.add_argument(name, required=True)
    for name in ("--enable-lora", "--enable-prefix-caching", "--enable-prompt-tokens-details"):
        parser.add_argument(name, action="store_true", required=True)
    parser.add_argument("--disable-uvicorn-access-log", action="store_true")
    options = parser.parse_args()
    assert os.environ["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"
    assert json.loads(options.structured_outputs_config)["disable_any_whitespace"]
    server = make_server(options.host, options.port, base=options.served_model_name, key=os.environ["VLLM_API_KEY"])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
