"""A fake inference engine with the routes and manners of the real one, for tests of what surrounds it.

It answers `<model> heard: <last user text>`, word by word, without any model. Words in the user's text steer it:
#slow (0.2 s between words), #silent (3 s before the first), #die (the connection breaks after two words),
#error (an error frame after two words), #busy (503), #toolong (400), #forever (until the client hangs up), #unscored
(values are refused, 400), #json (the answer is what stands behind it). What a stop text cuts says so as vLLM does, in
`stop_reason`. Values are as likely as `shares` says, else the
later the likelier.
It runs inside a test (`FakeEngine().start()`), or as the child process of a node agent with the real one's arguments.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class FakeEngine(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, *, key: str = "engine-key", name: str = "tiny", host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__((host, port), Handler)
        self.key, self.name = key, name
        self.adapters: dict[str, str] = {}
        self.requests: list[dict] = []
        self.hang_ups = 0
        self.self_check = "unchecked" if "unchecked" in name else "passed"
        self.shares: dict[str, float] = {}
        self.tokens_of_score = 20

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def start(self) -> FakeEngine:
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def handle_error(self, request: object, client_address: object) -> None:
        pass


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FakeEngine

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/health":
            return self.reply(200, {"self_check": self.server.self_check})
        models = [self.server.name, *self.server.adapters]
        return self.reply(200, {"object": "list", "data": [{"id": model} for model in models]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.headers.get("authorization") != f"Bearer {self.server.key}":
            return self.refuse(401, "wrong key", "invalid_api_key")
        if self.path == "/v1/load_lora_adapter":
            if not (Path(body["lora_path"]) / "adapter_config.json").exists():
                return self.refuse(400, "There is no adapter in this folder.", "invalid_adapter")
            self.server.adapters[body["lora_name"]] = body["lora_path"]
            return self.reply(200, {})
        if self.path == "/v1/unload_lora_adapter":
            known = self.server.adapters.pop(body["lora_name"], None)
            return self.reply(200, {}) if known else self.refuse(404, "not loaded", "model_not_found")
        self.server.requests.append(body)
        if self.path == "/v1/score_values":
            return self.score(body)
        return self.complete(body) if self.path == "/v1/completions" else self.chat(body)

    def complete(self, body: dict) -> None:
        words = f"{body['model']} continues: {body['prompt']}".split()
        choice = {"index": 0, "text": " ".join(words), "finish_reason": "stop", "logprobs": None}
        self.reply(200, {**head(body, "text_completion"), "choices": [choice], "usage": usage(words)})

    def score(self, body: dict) -> None:
        """The last value is the likeliest, unless told otherwise: shares grow with the place."""
        if len(body["values"]) > 1024 or "#unscored" in body["messages"][-1]["content"]:
            return self.refuse(400, "These values cannot be scored.", "invalid_value", param="values")
        shares = [self.server.shares.get(value, place) for place, value in enumerate(body["values"], start=1)]
        logprobs = [math.log(share / sum(shares)) for share in shares]
        return self.reply(
            200,
            {"object": "scored_values", "logprobs": logprobs, "usage": {"prompt_tokens": self.server.tokens_of_score}},
        )

    def chat(self, body: dict) -> None:
        asked = body["messages"][-1]["content"]
        if body["model"] not in {self.server.name, *self.server.adapters}:
            return self.refuse(404, "not loaded", "model_not_found")
        if "#busy" in asked:
            return self.refuse(503, "full", "server_is_overloaded", {"Retry-After": "7"})
        if "#toolong" in asked:
            return self.refuse(400, "The prompt is too long.", "context_length_exceeded", param="messages")
        if "#silent" in asked:
            time.sleep(3)
        words = f"{body['model']} heard: {asked}".split()
        if "#json " in asked:
            words = [asked.partition("#json ")[2]]
        if body.get("stream"):
            return self.stream(body, asked, words)
        if "#slow" in asked:
            self.wait_or_hang_up(10)
        said, stop = " ".join(words), next((one for one in body.get("stop") or () if one in " ".join(words)), None)
        choice = {"index": 0, "finish_reason": "stop", "logprobs": None, **({"stop_reason": stop} if stop else {})}
        message = {"role": "assistant", "content": said.partition(stop)[0] if stop else said, "refusal": None}
        choices = [{**choice, "index": index, "message": message} for index in range(body.get("n", 1))]
        return self.reply(200, {**head(body, "chat.completion"), "choices": choices, "usage": usage(words)})

    def wait_or_hang_up(self, seconds: float) -> None:
        """Wait like a busy engine, but see the client go."""
        import select

        poll = select.poll()
        poll.register(self.connection, select.POLLRDHUP)
        if poll.poll(seconds * 1000):
            self.server.hang_ups += 1

    def stream(self, body: dict, asked: str, words: list[str]) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        if "#waits" in asked:
            self.wait_or_hang_up(10)
        try:
            for index, event in enumerate(self.events(body, asked, words)):
                self.write_chunk(b"data: " + json.dumps(event).encode() + b"\n\n")
                if "#die" in asked and index == 2:
                    self.connection.shutdown(2)
                    return
                if "#error" in asked and index == 2:
                    self.write_chunk(b'data: {"error": {"message": "It broke.", "type": "server_error"}}\n\n')
                    break
                time.sleep(0.2 if "#slow" in asked or "#forever" in asked else 0)
            self.write_chunk(b"data: [DONE]\n\n")
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.server.hang_ups += 1

    def events(self, body: dict, asked: str, words: list[str]) -> Iterator[dict]:
        known = {**head(body, "chat.completion.chunk"), "usage": None}
        choice = {"index": 0, "finish_reason": None, "logprobs": None}
        yield {**known, "choices": [{**choice, "delta": {"role": "assistant", "content": ""}}]}
        while True:
            for word in words:
                yield {**known, "choices": [{**choice, "delta": {"content": word + " "}}]}
            if "#forever" not in asked:
                break
        yield {**known, "choices": [{**choice, "delta": {}, "finish_reason": "stop"}]}
        if (body.get("stream_options") or {}).get("include_usage"):
            yield {**known, "choices": [], "usage": usage(words)}

    def write_chunk(self, payload: bytes) -> None:
        self.wfile.write(f"{len(payload):x}\r\n".encode() + payload + b"\r\n")

    def refuse(
        self, status: int, message: str, code: str, headers: dict | None = None, param: str | None = None
    ) -> None:
        kind = "invalid_request_error" if status < 500 else "service_unavailable_error"
        error = {"message": message, "type": kind, "param": param, "code": code}
        self.reply(status, {"error": error}, headers)

    def reply(self, status: int, body: dict, headers: dict | None = None) -> None:
        payload = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {**(headers or {}), "content-length": str(len(payload))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(payload)


def head(body: dict, kind: str) -> dict:
    return {"id": "chatcmpl-fake", "object": kind, "created": 1_800_000_000, "model": body["model"]}


def usage(words: list[str]) -> dict:
    return {
        "prompt_tokens": 11,
        "completion_tokens": len(words),
        "total_tokens": 11 + len(words),
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def main() -> None:
    """Behave like `python -m gpu_worker.engine`; an environment dump beside the ready file is for the tests."""
    parser = argparse.ArgumentParser()
    for option in ("--base-model", "--name", "--host", "--port", "--ready-file"):
        parser.add_argument(option, required=True)
    options = parser.parse_args()
    ready = Path(options.ready_file)
    ready.with_suffix(".environ").write_text(json.dumps(dict(os.environ)))
    if "broken" in options.name:
        sys.exit("cannot load this model")
    engine = FakeEngine(key=os.environ["ENGINE_API_KEY"], name=options.name, host=options.host, port=int(options.port))
    aside = ready.with_suffix(".new")
    aside.write_text(json.dumps({"pid": os.getpid(), "port": engine.server_port, "host": options.host}))
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    aside.replace(ready)
    engine.serve_forever()


if __name__ == "__main__":
    main()
