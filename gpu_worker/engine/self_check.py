"""Does the fast decoder say what transformers says? Asked once per start, answered from a kept reference.

transformers' answers to a few prompts are computed in a process of its own (its memory ends with it) and kept beside
the ready file, named by a fingerprint of the base model; later starts only compare.
`python -m gpu_worker.engine.self_check BASE_MODEL REFERENCE_FILE` computes them.
"""

import hashlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from datasets_app.rendering import ChatRenderer
from gpu_worker.engine.config import Precision
from gpu_worker.engine.core import EngineCore
from gpu_worker.engine.sampling import SamplingParams
from gpu_worker.engine.sequence import Sequence

logger = logging.getLogger(__name__)

PROMPTS = (
    "What is the capital of France?",
    'Return the JSON object {"queue": "Network", "urgency": "High"} and nothing else.',
    "Напиши одно предложение о принтере.",
    "List three colours. Then explain, in one sentence each, why a person might like them. " * 6,
)
ANSWER_TOKENS = 12
REFERENCE_TIMEOUT_S = 180
TIES: Mapping[Precision, float] = {"fp32": 1e-3, "bf16": 0.5, "int8": 1.5}
"""Two logits closer than this are a tie: rounding may decide either way. The coarser the weights, the wider it is."""


@dataclass(frozen=True)
class ReferenceAnswer:
    """Greedy tokens of transformers, and at each how far the best logit was above the second."""

    token_ids: tuple[int, ...]
    margins: tuple[float, ...]

    def agrees(self, token_ids: list[int], tie: float) -> bool:
        """Whether an answer is equal, or parts at a tie (everything after a parting is another story)."""
        for own, other, margin in zip(self.token_ids, token_ids, self.margins, strict=False):
            if own != other:
                return margin < tie
        return len(self.token_ids) == len(token_ids)


class SelfCheck:
    """Gets hold of the reference while the engine loads, then compares."""

    def __init__(self, model_dir: Path, state_dir: Path, *, weights: Precision = "fp32") -> None:
        self._model_dir = model_dir
        self._weights = weights
        state_dir.mkdir(parents=True, exist_ok=True)
        self._file = state_dir / f"self-check-{fingerprint(model_dir)}.json"
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin computing the reference, if there is none yet, beside whatever the caller does next."""
        if self._file.exists():
            return
        command = [sys.executable, "-m", "gpu_worker.engine.self_check", str(self._model_dir), str(self._file)]
        # our own key is not for it, and it ends with us or after its time
        environment = {name: value for name, value in os.environ.items() if name != "ENGINE_API_KEY"}
        self._child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)

    def passes(self, core: EngineCore, renderer: ChatRenderer) -> bool:
        """Whether the engine's answers agree. Without a reference there is nothing to disagree with."""
        reference = self._reference()
        if reference is None:
            logger.warning("the self-check has no reference; the fast decoder is used unchecked")
            return True
        answers = _answers(core, renderer)
        tie = TIES[self._weights]
        failed = [index for index, answer in enumerate(reference) if not answer.agrees(answers[index], tie)]
        equal = sum(list(right.token_ids) == own for right, own in zip(reference, answers, strict=True))
        logger.info("%s: %d of %d answers equal those of transformers", self._weights, equal, len(answers))
        if failed:
            logger.warning("the fast decoder differs from transformers on self-check prompts %s", failed)
        return not failed

    def _reference(self) -> list[ReferenceAnswer] | None:
        if self._child is not None:
            try:
                self._child.wait(REFERENCE_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
        try:
            entries = json.loads(self._file.read_text(encoding="utf-8"))
            return [ReferenceAnswer(tuple(entry["token_ids"]), tuple(entry["margins"])) for entry in entries]
        except (OSError, ValueError, KeyError, TypeError):
            self._file.unlink(missing_ok=True)
            return None


def fingerprint(model_dir: Path) -> str:
    """Return a short name for the content of a base model folder and the version of the judge."""
    digest = hashlib.sha256(version("transformers").encode())
    for path in sorted(model_dir.iterdir()):
        if path.suffix in (".json", ".jinja"):
            digest.update(path.name.encode() + path.read_bytes())
        elif path.suffix == ".safetensors":
            # size and time instead of content: hashing gigabytes would cost what the check is meant to cost
            digest.update(f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


def _prompt_ids(renderer: ChatRenderer) -> list[list[int]]:
    return [renderer.prompt_ids([{"role": "user", "content": prompt}]) for prompt in PROMPTS]


def _answers(core: EngineCore, renderer: ChatRenderer) -> list[list[int]]:
    """Return the engine's own greedy answers, computed together."""
    answers: dict[str, list[int]] = {}
    for index, prompt in enumerate(_prompt_ids(renderer)):
        params = SamplingParams(max_tokens=ANSWER_TOKENS)
        sequence = Sequence.create(f"self-check-{index}", prompt, params, adapter=None, decode=renderer.decode)
        answers[sequence.id] = []
        core.submit([sequence])
    while core.busy:
        for output in core.step():
            answers[output.sequence_id].extend(output.token_ids)
    return list(answers.values())


def greedy_answer(model: Any, prompt: list[int], limit: int) -> ReferenceAnswer:
    """Return what a transformers model says to a prompt, in up to `limit` tokens."""
    import torch

    ids = torch.tensor([prompt])
    out = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=limit,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    best = torch.cat(out.logits).float().topk(2).values
    return ReferenceAnswer(tuple(out.sequences[0, len(prompt) :].tolist()), tuple((best[:, 0] - best[:, 1]).tolist()))


def compute_reference(model_dir: Path, file: Path) -> None:
    """Write transformers' greedy answers to a file, in one piece."""
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(
        model_dir, dtype=torch.float32, local_files_only=True, use_safetensors=True
    )
    model.eval()
    answers = [greedy_answer(model, ids, ANSWER_TOKENS) for ids in _prompt_ids(ChatRenderer.load(model_dir))]
    entries = [{"token_ids": answer.token_ids, "margins": answer.margins} for answer in answers]
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    partial.write_text(json.dumps(entries), encoding="utf-8")
    partial.replace(file)


if __name__ == "__main__":
    from gpu_worker.trainer.limits import die_with_parent

    die_with_parent()
    compute_reference(Path(sys.argv[1]), Path(sys.argv[2]))
