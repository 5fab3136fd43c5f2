"""vLLM's build for processors answering our requests: runs in the peer's own environment and knows nothing of ours.

`python vllm_child.py ORDER.json`. Its engine steps in this process, without HTTP, in bfloat16, which it is built
for; adapters are mixed within a step, and equal beginnings of prompts are computed once.
"""

import os
import time
from functools import partial
from typing import Any

STARTED = time.time()
# read when it is imported: one process, memory that is small beside the model, and nothing is told to anybody
os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}

from rounds import Answered, Request, read_order, report  # noqa: E402
from vllm import EngineArgs, LLMEngine, SamplingParams  # noqa: E402 -- importing is part of a cold start, so it is timed
from vllm.lora.request import LoRARequest  # noqa: E402
from vllm.sampling_params import StructuredOutputsParams  # noqa: E402

CONTEXT, RANK = 1024, 16


class Server:
    """An engine that takes requests between its steps."""

    def __init__(self, order: dict[str, Any]) -> None:
        arguments = EngineArgs(
            model=order["model_dir"],
            dtype="bfloat16",
            max_model_len=CONTEXT,
            max_num_seqs=order["crowd"],
            enable_lora=True,
            max_loras=order["adapter_count"],
            max_lora_rank=RANK,
            enable_prefix_caching=True,
        )
        self._engine = LLMEngine.from_engine_args(arguments)
        self._adapters = [LoRARequest(f"adapter-{n}", n + 1, path) for n, path in enumerate(order["adapter_dirs"])]
        self._order = order
        self._numbers = 0

    def _params(self, schema: dict[str, Any] | None) -> Any:
        held = None if schema is None else StructuredOutputsParams(json=schema, disable_any_whitespace=True)
        return SamplingParams(
            temperature=0.0,
            max_tokens=self._order["max_tokens"],
            stop_token_ids=self._order["stops"],
            structured_outputs=held,
        )

    def answer(self, requests: list[Request], in_flight: int, *, schema: dict[str, Any] | None = None) -> Answered:
        """Answer all requests; a request is asked when a place in flight is free."""
        params = self._params(schema)
        waiting = list(enumerate(requests))
        running: dict[str, tuple[int, float]] = {}
        answers: list[list[int]] = [[] for _ in requests]
        latencies, firsts = [0.0] * len(requests), [0.0] * len(requests)
        while waiting or running:
            while waiting and len(running) < in_flight:
                number, (adapter, prompt) = waiting.pop(0)
                self._numbers += 1
                running[str(self._numbers)] = (number, time.perf_counter())
                self._engine.add_request(
                    str(self._numbers), {"prompt_token_ids": prompt}, params, lora_request=self._adapters[adapter]
                )
            for output in self._engine.step():
                if output.request_id not in running:
                    continue
                number, begun = running[output.request_id]
                now = time.perf_counter() - begun
                answers[number] = list(output.outputs[0].token_ids)
                firsts[number] = firsts[number] or (now if answers[number] else 0.0)
                if output.finished:
                    latencies[number] = now
                    del running[output.request_id]
        return answers, latencies, firsts


if __name__ == "__main__":
    ORDER = read_order()
    SERVER = Server(ORDER)
    WITH_SCHEMA = partial(SERVER.answer, schema=ORDER["schema"])
    report(ORDER, {"": SERVER.answer, ", JSON schema": WITH_SCHEMA}, started=STARTED, mixes=True)
    os._exit(0)  # its threads do not end by themselves
