"""transformers' continuous batching answering our requests, float32, one adapter merged into the weights.

`python batching_child.py ORDER.json`. It knows no adapters of its own: merged is its best case, mixed is impossible.
"""

import time
from typing import Any

STARTED = time.time()

import torch  # noqa: E402 -- importing is part of a cold start, so it is timed
from peft import PeftModel  # noqa: E402
from rounds import Answered, Request, read_order, report  # noqa: E402
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig  # noqa: E402

BLOCKS, PAGE_TOKENS, BATCH_TOKENS = 512, 16, 512


class Server:
    """A model behind its manager of continuous batches."""

    def __init__(self, order: dict[str, Any]) -> None:
        base = AutoModelForCausalLM.from_pretrained(
            order["model_dir"],
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            attn_implementation="paged|sdpa",
        )
        model: Any = PeftModel.from_pretrained(base, order["adapter_dirs"][0])
        self._model = model.merge_and_unload().eval()
        settings: Any = GenerationConfig  # untyped there
        self._config = settings(
            max_new_tokens=order["max_tokens"],
            do_sample=False,
            eos_token_id=order["stops"],
            pad_token_id=order["stops"][0],
        )
        self._batching = ContinuousBatchingConfig(
            page_size=PAGE_TOKENS, num_blocks=BLOCKS, max_batch_tokens=BATCH_TOKENS
        )
        self._manager = self._model.init_continuous_batching(
            generation_config=self._config, continuous_batching_config=self._batching
        )
        self._manager.start()

    def answer(self, requests: list[Request], in_flight: int) -> Answered:
        """Answer all requests; a request is asked when a place in flight is free."""
        waiting = list(enumerate(requests))
        asked: dict[str, tuple[int, float]] = {}
        answers: list[list[int]] = [[] for _ in requests]
        latencies, firsts = [0.0] * len(requests), [0.0] * len(requests)
        while waiting or asked:
            while waiting and len(asked) < in_flight:
                number, (_, prompt) = waiting.pop(0)
                begun = time.perf_counter()
                # with one request in flight its tokens are heard one by one, for the time to the first
                asked[self._manager.add_request(prompt, streaming=in_flight == 1)] = (number, begun)
            output = self._manager.get_result(timeout=1)
            if output is None:
                if not self._manager.is_running():
                    raise SystemExit("continuous batching broke off")
                continue
            if output.error:
                raise SystemExit(str(output.error))
            number, begun = asked[output.request_id]
            now = time.perf_counter() - begun
            if output.generated_tokens and not firsts[number]:
                firsts[number] = now
            if output.is_finished():
                answers[number], latencies[number] = list(output.generated_tokens), now
                del asked[output.request_id]
        return answers, latencies, firsts

    def stop(self) -> None:
        """End the manager's thread."""
        self._manager.stop(block=True)


if __name__ == "__main__":
    ORDER = read_order()
    SERVER = Server(ORDER)
    report(ORDER, {"": SERVER.answer}, started=STARTED, mixes=False)
    SERVER.stop()
