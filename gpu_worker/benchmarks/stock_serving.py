"""The serving baseline: transformers' generate with PEFT adapters, static batches, float32.

`python -m gpu_worker.benchmarks.stock_serving ORDER.json` prints one line of JSON with its figures.
"""

import json
import os
import statistics
import sys
import time

STARTED = time.time()

from collections.abc import Iterator, Sequence  # noqa: E402 -- importing is part of a cold start, so it is timed
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402
from peft import PeftModel  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

from datasets_app.rendering import ChatRenderer  # noqa: E402


class StockServer:
    """generate with named adapters; prompts of a batch are padded on the left."""

    def __init__(self, model_dir: Path, adapters: dict[str, str]) -> None:
        base = AutoModelForCausalLM.from_pretrained(
            model_dir, dtype=torch.float32, local_files_only=True, use_safetensors=True
        )
        (first, path), *others = adapters.items()
        self._model: Any = PeftModel.from_pretrained(base, path, adapter_name=first)
        for name, other in others:
            self._model.load_adapter(other, adapter_name=name)
        self._model.eval()
        self._renderer = ChatRenderer.load(model_dir)

    def answer(self, conversations: Sequence[Any], adapters: Sequence[str], max_tokens: int) -> list[str]:
        """Return the greedy answers of one batch; a batch of one adapter switches to it, a mixed one names them."""
        prompts = [self._renderer.prompt_ids(messages) for messages in conversations]
        longest = max(map(len, prompts))
        padding = self._renderer.eos_id
        ids = torch.tensor([[padding] * (longest - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        named: dict[str, Any] = {}
        self._model.set_adapter(adapters[0])
        if len(set(adapters)) > 1:
            named["adapter_names"] = list(adapters)
        with torch.inference_mode():
            out = self._model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=max_tokens,
                do_sample=False,
                pad_token_id=padding,
                **named,
            )
        return [self._renderer.decode(row[longest:].tolist()) for row in out]


def _batches(count: int, size: int) -> Iterator[range]:
    for start in range(0, count, size):
        yield range(start, min(start + size, count))


def measure(order: dict[str, Any], *, started: float) -> dict[str, Any]:
    """Return the figures of all kinds of load."""
    server = StockServer(Path(order["model_dir"]), order["adapters"])
    conversations, names, limit = order["conversations"], list(order["adapters"]), order["max_tokens"]
    server.answer(conversations[:1], names[:1], 1)
    cold_start_s = time.time() - started
    alone, answers, first = [], [], []
    for messages in conversations[: max(4, len(conversations) // 3)]:
        begun = time.perf_counter()
        answers += server.answer([messages], names[:1], limit)
        alone.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        server.answer([messages], names[:1], 1)
        first.append(time.perf_counter() - begun)
    one_s, _ = _static(server, conversations, names[:1], limit, order["in_flight"])
    mixed_s, latencies = _static(server, conversations, names, limit, order["in_flight"])
    return {
        "latency_s": statistics.median(alone),
        "first_token_s": statistics.median(first),
        "one_adapter_per_s": len(conversations) / one_s,
        "mixed_per_s": len(conversations) / mixed_s,
        "mixed_p95_s": statistics.quantiles(latencies, n=20, method="inclusive")[-1],
        "resident_bytes": int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
        "cold_start_s": cold_start_s,
        "answers": answers,
    }


def _static(
    server: StockServer, conversations: Sequence[Any], names: Sequence[str], limit: int, size: int
) -> tuple[float, list[float]]:
    """Return the seconds for everything and each request's latency: that of its batch, which all wait for."""
    begun, latencies = time.perf_counter(), []
    for batch in _batches(len(conversations), size):
        batch_begun = time.perf_counter()
        adapters = [names[index % len(names)] for index in batch]
        server.answer([conversations[index] for index in batch], adapters, limit)
        latencies += [time.perf_counter() - batch_begun] * len(batch)
    return time.perf_counter() - begun, latencies


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(Path(sys.argv[1]).read_text()), started=STARTED)))
