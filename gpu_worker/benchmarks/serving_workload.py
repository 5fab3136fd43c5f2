"""What all serving subjects are asked: triage requests, three adapters, and the schema of the answers.

The adapters learn the same rows with differently named answers: an engine that takes one for another gives answers
that are plainly wrong, and cannot be right by luck.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
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
ADAPTERS = 3
VARIATION = 0.02
"""How far a varied adapter is from the trained one, relative to its weights: they answer alike, not equally."""

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
    """Train the adapters on other rows than are asked, and derive the schema. Raises: RuntimeError."""
    found = _conversations(rows, requests + training_steps * TRAINING_BATCH)
    asked, learned = found[:requests], found[requests:]
    schema = answer_schema([messages[-1]["content"] for messages in found])
    adapters = {}
    for number in range(ADAPTERS):
        rows_of_it = [_renamed(messages, schema, turn=number) for messages in learned]
        adapters[f"adapter-{number}"] = _train(rows_of_it, model_dir, folder / f"job-{number}", seed=number + 1)
    renderer = ChatRenderer.load(model_dir)
    prompts = [renderer.prompt_ids(messages[:-1]) for messages in asked]
    answers = [
        _renamed(messages, schema, turn=number)[-1]["content"] for messages in found for number in range(ADAPTERS)
    ]
    longest_answer = max(len(renderer.encode(answer)) for answer in answers)
    return Workload(
        model_dir=model_dir,
        conversations=[messages[:-1] for messages in asked],
        adapters=adapters,
        schema=schema,
        max_tokens=longest_answer + 8,
        prompt_tokens=sum(map(len, prompts)) / len(prompts),
        others=[messages[:-1] for messages in learned[:WARM_UP]],
    )


def _renamed(messages: Conversation, schema: Mapping[str, Any], *, turn: int) -> Conversation:
    *before, last = messages
    return [*before, last | {"content": renamed(last["content"], schema, turn=turn)}]


def renamed(answer: str, schema: Mapping[str, Any], *, turn: int) -> str:
    """Return an answer in which the value of each closed field is the one `turn` places on in the field's list."""
    if turn == 0:
        return answer
    entry = json.loads(answer)
    for name, described in schema["properties"].items():
        values = described.get("anyOf", [described])[0].get("enum", [])
        if entry[name] in values:
            entry[name] = values[(values.index(entry[name]) + turn) % len(values)]
    return json.dumps(entry, ensure_ascii=False)


def _train(conversations: Sequence[Conversation], model_dir: Path, job_dir: Path, *, seed: int) -> Path:
    """Train on the conversations once; return the adapter's folder."""
    (job_dir / "data").mkdir(parents=True)
    lines = [json.dumps({"row": row, "messages": messages}) for row, messages in enumerate(conversations, start=2)]
    (job_dir / "data" / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
    spec = {
        "format": 1,
        "run": "benchmark",
        "base_model": {"slug": model_dir.name, "path": str(model_dir), "revision": "local"},
        "hyperparameters": HYPERPARAMETERS | {"learning_rate": 2e-3, "seed": seed},
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
