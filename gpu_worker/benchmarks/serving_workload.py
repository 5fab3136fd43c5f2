"""What both serving subjects are asked: triage requests, three adapters, and the schema of the answers."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from datasets_app.rendering import ChatRenderer
from gpu_worker.benchmarks.training import HYPERPARAMETERS, OWN_ENVIRONMENT, _conversations

TRAINING_BATCH = 8
WARM_UP = 16
"""Requests under every adapter before anything is measured: an engine may have learned what its answers look like."""
MAX_CHOICES = 100
"""A field with more different values than this is free text."""
VARIATION = 0.02
"""How far the other adapters are from the trained one, relative to its weights: they answer alike, not equally."""

Conversation = list[dict[str, str]]


@dataclass(frozen=True)
class Workload:
    """The requests (without their answers), the adapters by name, and the answers' schema."""

    model_dir: Path
    conversations: list[Conversation]
    adapters: dict[str, Path]
    schema: dict[str, Any]
    max_tokens: int
    prompt_tokens: float
    others: list[Conversation] = field(default_factory=list)
    """Requests that are never measured: every engine is warmed with them."""

    def to_dict(self) -> dict[str, Any]:
        """Return what the baseline's process needs."""
        return {
            "model_dir": str(self.model_dir),
            "conversations": self.conversations,
            "adapters": {name: str(path) for name, path in self.adapters.items()},
            "max_tokens": self.max_tokens,
        }


def prepare_workload(
    rows: Path | None, model_dir: Path, folder: Path, *, requests: int, training_steps: int
) -> Workload:
    """Train an adapter on other rows than are asked, vary it, and derive the schema. Raises: RuntimeError."""
    found = _conversations(rows, requests + training_steps * TRAINING_BATCH)
    asked, learned = found[:requests], found[requests:]
    trained = _train(learned, model_dir, folder / "job")
    renderer = ChatRenderer.load(model_dir)
    prompts = [renderer.prompt_ids(messages[:-1]) for messages in asked]
    longest_answer = max(len(renderer.encode(messages[-1]["content"])) for messages in found)
    return Workload(
        model_dir=model_dir,
        conversations=[messages[:-1] for messages in asked],
        adapters={f"adapter-{seed}": vary(trained, folder / f"adapter-{seed}", seed=seed) for seed in range(3)},
        schema=answer_schema([messages[-1]["content"] for messages in found]),
        max_tokens=longest_answer + 8,
        prompt_tokens=sum(map(len, prompts)) / len(prompts),
        others=[messages[:-1] for messages in learned[:WARM_UP]],
    )


def _train(conversations: Sequence[Conversation], model_dir: Path, job_dir: Path) -> Path:
    """Train on the conversations once; return the adapter's folder."""
    (job_dir / "data").mkdir(parents=True)
    lines = [json.dumps({"row": row, "messages": messages}) for row, messages in enumerate(conversations, start=2)]
    (job_dir / "data" / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
    spec = {
        "format": 1,
        "run": "benchmark",
        "base_model": {"slug": model_dir.name, "path": str(model_dir), "revision": "local"},
        "hyperparameters": HYPERPARAMETERS | {"learning_rate": 2e-3},
        "resume": False,
    }
    (job_dir / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    child = subprocess.run(
        [sys.executable, "-m", "gpu_worker.trainer", str(job_dir)],
        env={**os.environ, **OWN_ENVIRONMENT, "TUNEPORT_STANDALONE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode:
        raise RuntimeError(f"the adapter could not be trained: {child.stderr[-2000:]}")
    return job_dir / "adapter"


def vary(adapter: Path, target: Path, *, seed: int) -> Path:
    """Copy an adapter, changed a little for every seed but 0; return the copy's folder."""
    target.mkdir()
    (target / "adapter_config.json").write_bytes((adapter / "adapter_config.json").read_bytes())
    generator = torch.Generator().manual_seed(seed)
    scale = VARIATION if seed else 0.0
    tensors = {
        name: tensor * (1 + scale * torch.randn(tensor.shape, generator=generator))
        for name, tensor in load_file(adapter / "adapter_model.safetensors").items()
    }
    save_file(tensors, target / "adapter_model.safetensors", metadata={"format": "pt"})
    return target


def answer_schema(answers: Sequence[str]) -> dict[str, Any]:
    """Return a JSON schema for answers that are flat JSON objects: closed where few values occur."""
    objects = [json.loads(answer) for answer in answers]
    names = list(objects[0])
    return {
        "type": "object",
        "properties": {name: _field_schema([entry[name] for entry in objects]) for name in names},
        "required": names,
        "additionalProperties": False,
    }


def _field_schema(values: Sequence[Any]) -> dict[str, Any]:
    texts = sorted({value for value in values if isinstance(value, str)})
    closed = len(texts) <= min(MAX_CHOICES, len(values) // 2)
    text: dict[str, Any] = {"type": "string", "enum": texts} if closed else {"type": "string", "maxLength": 200}
    return {"anyOf": [text, {"type": "null"}]} if None in values else text
