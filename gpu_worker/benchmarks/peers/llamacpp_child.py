"""llama.cpp's own server answering our requests: runs inside the peer's own environment and knows nothing of ours.

`python llamacpp_child.py ORDER.json`. The server runs in this process and is asked over HTTP. Each request names its
adapter; the server puts sequences of one adapter into a step and lets those of others wait. Prompts are kept (its
default), which is what it is known for giving wrong answers by, between adapters: equality is counted all the same.
"""

import http.client
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from urllib.parse import urlsplit

STARTED = time.time()

import xllamacpp  # noqa: E402 -- loading is part of a cold start, so it is timed
from rounds import Answered, Request, read_order, report  # noqa: E402

CONTEXT = 512


class Server:
    """A running server with the base model and all adapters."""

    def __init__(self, order: dict[str, Any]) -> None:
        settings = xllamacpp.CommonParams()
        settings.model.path = order["base"]
        settings.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, 1.0) for path in order["adapters"]]
        settings.lora_init_without_apply = True
        settings.n_parallel = order["crowd"]
        settings.n_ctx = order["crowd"] * CONTEXT
        settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = os.cpu_count() or 1
        settings.warmup = False
        settings.ui = False
        settings.verbosity = -1
        settings.port = 0
        self._server = xllamacpp.Server(settings)
        self._address = urlsplit(self._server.listening_address).netloc
        self._order = order

    def answer(self, requests: list[Request], in_flight: int, *, schema: dict[str, Any] | None = None) -> Answered:
        """Answer all requests; a request is asked when a place in flight is free."""
        with ThreadPoolExecutor(in_flight) as pool:
            found = list(pool.map(partial(self._ask, schema=schema), requests))
        return [ids for ids, _, _ in found], [seconds for _, seconds, _ in found], [first for _, _, first in found]

    def _ask(self, request: Request, *, schema: dict[str, Any] | None) -> tuple[list[int], float, float]:
        adapter, prompt = request
        scales = [{"id": one, "scale": float(one == adapter)} for one in range(self._order["adapter_count"])]
        body = {
            "prompt": prompt, "n_predict": self._order["max_tokens"], "temperature": 0.0, "stream": True,
            "return_tokens": True, "lora": scales,
        }  # fmt: skip
        if schema is not None:
            body["json_schema"] = schema
        begun, first, ids = time.perf_counter(), 0.0, []
        connection = http.client.HTTPConnection(self._address, timeout=600)
        try:
            connection.request("POST", "/completion", json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            if response.status != http.client.OK:
                raise SystemExit(f"llama.cpp answered {response.status}: {response.read(300)!r}")
            for line in response:
                if not line.startswith(b"data: {"):
                    continue
                piece = json.loads(line[len(b"data: ") :])
                if piece.get("tokens"):
                    first = first or time.perf_counter() - begun
                    ids += piece["tokens"]
        finally:
            connection.close()
        return ids, time.perf_counter() - begun, first


if __name__ == "__main__":
    ORDER = read_order()
    SERVER = Server(ORDER)
    WITH_SCHEMA = partial(SERVER.answer, schema=ORDER["schema"])
    report(ORDER, {"": SERVER.answer, ", JSON schema": WITH_SCHEMA}, started=STARTED, mixes=True)
    os._exit(0)  # its threads do not end by themselves
