"""OpenVINO GenAI answering our requests: runs inside the peer's own environment and knows nothing of ours.

`python openvino_child.py ORDER.json`. Its continuous batching, on the GGUF file with the first adapter merged into the
weights: its best case. One batch cannot hold several adapters.
"""

import json
import time
from functools import partial
from typing import Any

STARTED = time.time()

import numpy as np  # noqa: E402 -- loading is part of a cold start, so it is timed
import openvino as ov  # noqa: E402
import openvino_genai as genai  # noqa: E402
from rounds import Answered, Request, read_order, report  # noqa: E402

CACHE_GB = 1


class Server:
    """A pipeline that takes requests between its steps."""

    def __init__(self, order: dict[str, Any]) -> None:
        scheduling = genai.SchedulerConfig()
        scheduling.cache_size = CACHE_GB
        scheduling.max_num_seqs = order["crowd"]
        scheduling.enable_prefix_caching = True
        self._pipeline = genai.ContinuousBatchingPipeline(order["merged"], scheduling, "CPU")
        self._order = order
        self._numbers = 0

    def _config(self, schema: dict[str, Any] | None) -> Any:
        config = genai.GenerationConfig()
        config.max_new_tokens = self._order["max_tokens"]
        config.do_sample = False
        config.apply_chat_template = False
        config.stop_token_ids = set(self._order["stops"])
        config.eos_token_id = self._order["stops"][0]
        if schema is not None:
            config.structured_output_config = genai.StructuredOutputConfig(json_schema=json.dumps(schema))
        return config

    def answer(self, requests: list[Request], in_flight: int, *, schema: dict[str, Any] | None = None) -> Answered:
        """Answer all requests; a request is asked when a place in flight is free."""
        config = self._config(schema)
        waiting = list(enumerate(requests))
        running: dict[int, tuple[Any, float]] = {}
        answers: list[list[int]] = [[] for _ in requests]
        latencies, firsts = [0.0] * len(requests), [0.0] * len(requests)
        while waiting or running:
            while waiting and len(running) < in_flight:
                number, (_, prompt) = waiting.pop(0)
                self._numbers += 1
                ids = ov.Tensor(np.array([prompt], dtype=np.int64))
                running[number] = (self._pipeline.add_request(self._numbers, ids, config), time.perf_counter())
            self._pipeline.step()
            for number, (handle, begun) in list(running.items()):
                now = time.perf_counter() - begun
                while handle.can_read():
                    for output in handle.read().values():
                        answers[number] += list(output.generated_ids)
                    firsts[number] = firsts[number] or now
                if handle.get_status() != genai.GenerationStatus.RUNNING:
                    latencies[number] = now
                    del running[number]
        return answers, latencies, firsts


if __name__ == "__main__":
    ORDER = read_order()
    SERVER = Server(ORDER)
    WITH_SCHEMA = partial(SERVER.answer, schema=ORDER["schema"])
    report(ORDER, {"": SERVER.answer, ", JSON schema": WITH_SCHEMA}, started=STARTED, mixes=False)
