"""Does the fast decoder say what transformers says? Asked once per start, answered from a kept reference.

transformers' answers to a few prompts, of the bare base model and under two made-up adapters, are computed in a process
of its own (its memory ends with it) and kept beside the ready file with the adapters, named by a fingerprint of the
base model; later starts only compare, all prompts in the same steps.
`python -m gpu_worker.engine.self_check BASE_MODEL REFERENCE_FOLDER` computes them.
"""

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from datasets_app.rendering import ChatRenderer
from gpu_worker.engine.adapter_folder import MODULES
from gpu_worker.engine.config import Precision
from gpu_worker.engine.core import CheckResult, EngineCore
from gpu_worker.engine.errors import BadAdapter
from gpu_worker.engine.sampling import SamplingParams
from gpu_worker.engine.sequence import Sequence

logger = logging.getLogger(__name__)

PROMPTS = (
    "What is the capital of France?",
    'Return the JSON object {"queue": "Network", "urgency": "High"} and nothing else.',
    "Напиши одно предложение о принтере.",
    "List three colours. Then explain, in one sentence each, why a person might like them. " * 6,
)
MADE_UP_RANKS: Mapping[str, int] = {"self-check-a": 5, "self-check-b": 3}
"""Adapters with random weights and their ranks: odd ones, so that no row of the second begins at a round number."""
ADAPTED_WEIGHT = 0.6
"""Size of their weights: an update about a third as large as what it is added to changes what the model says."""
QUESTIONS: tuple[tuple[str, str | None], ...] = (
    (PROMPTS[0], "self-check-b"),
    (PROMPTS[0], None),
    (PROMPTS[1], "self-check-a"),
    (PROMPTS[1], None),
    (PROMPTS[2], None),
    (PROMPTS[0], "self-check-a"),
    (PROMPTS[3], None),
    (PROMPTS[2], "self-check-b"),
)
"""Each prompt and the adapter that answers it, mixed: neighbours in a step have different ones."""
ANSWER_TOKENS = 12
REFERENCE_FILE = "answers.json"
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
        self._folder = state_dir / f"self-check-{fingerprint(model_dir)}"
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin computing the reference, if there is none yet, beside whatever the caller does next."""
        if self._kept() is not None:
            return
        for left in (self._folder, *self._abandoned()):
            shutil.rmtree(left, ignore_errors=True)
        command = [sys.executable, "-m", "gpu_worker.engine.self_check", str(self._model_dir), str(self._folder)]
        # our own key is not for it, and it ends with us or after its time
        environment = {name: value for name, value in os.environ.items() if name != "ENGINE_API_KEY"}
        self._child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)

    def _abandoned(self) -> Iterator[Path]:
        """Find what killed children left; a young one may be another engine's, on its way to the same reference."""
        for partial in self._folder.parent.glob(f".{self._folder.name}.*"):
            with suppress(FileNotFoundError):
                if time.time() - partial.stat().st_mtime > 2 * REFERENCE_TIMEOUT_S:
                    yield partial

    def run(self, core: EngineCore, renderer: ChatRenderer) -> CheckResult:
        """Say whether the engine's answers agree; "unchecked" without a reference. The next start tries to make one.

        `core` needs room for the made-up adapters; they are gone from it afterwards.
        """
        reference = self._reference()
        try:
            adapters = {name: core.read_adapter(self._folder / name) for name in MADE_UP_RANKS}
        except BadAdapter:
            reference = None
        if reference is None:
            logger.warning("the self-check has no reference; the fast decoder is used unchecked")
            shutil.rmtree(self._folder, ignore_errors=True)
            return "unchecked"
        for name, adapter in adapters.items():
            core.add_adapter(name, adapter)
        answers = _answers(core, renderer)
        for name in MADE_UP_RANKS:
            core.remove_adapter(name)
        tie = TIES[self._weights]
        failed = [index for index, answer in enumerate(reference) if not answer.agrees(answers[index], tie)]
        equal = sum(list(right.token_ids) == own for right, own in zip(reference, answers, strict=True))
        logger.info("%s: %d of %d answers equal those of transformers", self._weights, equal, len(answers))
        if failed:
            logger.warning("the fast decoder differs from transformers on self-check questions %s", failed)
        return "failed" if failed else "passed"

    def _reference(self) -> list[ReferenceAnswer] | None:
        if self._child is not None:
            try:
                self._child.wait(REFERENCE_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
        return self._kept()

    def _kept(self) -> list[ReferenceAnswer] | None:
        try:
            entries = json.loads((self._folder / REFERENCE_FILE).read_text(encoding="utf-8"))
            return [ReferenceAnswer(tuple(entry["token_ids"]), tuple(entry["margins"])) for entry in entries]
        except (OSError, ValueError, KeyError, TypeError):
            return None


def fingerprint(model_dir: Path) -> str:
    """Return a short name for the content of a base model folder, the version of the judge and what it is asked."""
    digest = hashlib.sha256(_judge().encode())
    digest.update(repr((QUESTIONS, MADE_UP_RANKS, ADAPTED_WEIGHT, ANSWER_TOKENS)).encode())
    for path in sorted(model_dir.iterdir()):
        if path.suffix in (".json", ".jinja"):
            digest.update(path.name.encode() + path.read_bytes())
        elif path.suffix == ".safetensors":
            # size and time instead of content: hashing gigabytes would cost what the check is meant to cost
            digest.update(f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


def _judge() -> str:
    """Return the version of transformers, empty where it is missing: the engine by hand does without."""
    try:
        return version("transformers")
    except PackageNotFoundError:
        return ""


def _prompt_ids(renderer: ChatRenderer, prompt: str) -> list[int]:
    return renderer.prompt_ids([{"role": "user", "content": prompt}])


def _answers(core: EngineCore, renderer: ChatRenderer) -> list[list[int]]:
    """Return the engine's own greedy answers, computed together."""
    answers: dict[str, list[int]] = {}
    for index, (prompt, name) in enumerate(QUESTIONS):
        sequence = Sequence.create(
            f"self-check-{index}",
            _prompt_ids(renderer, prompt),
            SamplingParams(max_tokens=ANSWER_TOKENS),
            adapter=core.find_adapter(name) if name else None,
            decode=renderer.decode,
        )
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


def compute_reference(model_dir: Path, folder: Path) -> None:
    """Write made-up adapters and transformers' greedy answers into a folder, in one piece."""
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    partial.mkdir()
    try:
        entries = [asdict(answer) for answer in _reference_answers(model_dir, partial)]
        (partial / REFERENCE_FILE).write_text(json.dumps(entries), encoding="utf-8")
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _reference_answers(model_dir: Path, folder: Path) -> list[ReferenceAnswer]:
    """Return the answers, and leave PEFT's folders of the adapters behind."""
    import torch
    from transformers import AutoModelForCausalLM

    base: Any = AutoModelForCausalLM.from_pretrained(
        model_dir, dtype=torch.float32, local_files_only=True, use_safetensors=True
    )
    renderer = ChatRenderer.load(model_dir)
    model = _with_made_up_adapters(base)
    model.eval()
    model.save_pretrained(folder, selected_adapters=list(MADE_UP_RANKS))
    answers = []
    for prompt, name in QUESTIONS:
        ids = _prompt_ids(renderer, prompt)
        if name is None:
            with model.disable_adapter():
                answers.append(greedy_answer(model, ids, ANSWER_TOKENS))
        else:
            model.set_adapter(name)
            answers.append(greedy_answer(model, ids, ANSWER_TOKENS))
    return answers


def _with_made_up_adapters(base: Any) -> Any:
    """Return PEFT's model with seeded random adapters on every projection."""
    import torch
    from peft import LoraConfig, get_peft_model

    configs = {
        name: LoraConfig(r=rank, lora_alpha=rank, target_modules=list(MODULES), task_type="CAUSAL_LM")
        for name, rank in MADE_UP_RANKS.items()
    }
    first, *others = configs
    model: Any = get_peft_model(base, configs[first], adapter_name=first)
    for name in others:
        model.add_adapter(name, configs[name])
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                # fan-in of A is its width, of B its rank: both keep what they are given about as large as it was
                scale = ADAPTED_WEIGHT / parameter.shape[1] ** 0.5
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return model


if __name__ == "__main__":
    from gpu_worker.trainer.limits import die_with_parent

    die_with_parent()
    compute_reference(Path(sys.argv[1]), Path(sys.argv[2]))
