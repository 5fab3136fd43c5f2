"""What a recipe is chosen for: a dataset version's rows and lengths, a base model, and the nodes that are there."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from django.db.models import F, Func, TextField

from datasets_app import store
from datasets_app.models import DatasetVersion, DoctorReport, Split
from datasets_app.rendering import learned_places
from experiments.recipes import Situation
from portal.models import BaseModel, Node

# Where nobody has counted tokens: letters per token, and what a chat template adds to a row.
LETTERS_PER_TOKEN: Final = 4.0
TEMPLATE_TOKENS: Final = 16
SAMPLED_ROWS: Final = 200
# How gpu_worker.machine names a node without GPUs.
_CORES: Final = re.compile(r"CPU · (\d+) ×")


def situation_of(
    version: DatasetVersion | None, base_model: BaseModel | None, *, problem_type: str = "chat"
) -> Situation:
    """Return what is known. Call it in the team's row scope."""
    facts: dict[str, Any] = {"rows": version.train_rows if version else 1000, "problem_type": problem_type}
    if version is not None:
        facts |= _counted(version) or _guessed(version.rows_path(Split.TRAIN), version.train_rows)
    if base_model is not None:
        facts |= {"parameters": base_model.parameters or 1, "context_tokens": base_model.context_tokens or 1024}
    return Situation(**facts, **_hardware())


def _counted(version: DatasetVersion) -> dict[str, Any]:
    """Return the lengths that the newest examination has counted, empty if there is none."""
    found = counted_tokens(version)
    if not found:
        return {}
    row, answer = found["row"], found["answer"]
    # Reports from before every answer of a conversation was learned say nothing of it.
    computed = found["prompt"]["mean"] + found["learned"]["mean"] if "learned" in found else row["mean"]
    lengths = {"row_tokens": round(computed, 1) or None, "longest_row": row["max"] or None}
    return {**lengths, "answer_tokens": answer["mean"], "longest_answer": answer["max"] or None, "counted": True}


def counted_tokens(version: DatasetVersion, base_model: BaseModel | None = None) -> Mapping[str, Any]:
    """Return what the newest examination has counted, empty if there is none.

    `base_model`: only what was counted by its tokenizer. Call it in the team's row scope.
    """
    tokens = Func(F("report"), template="(%(expressions)s::json ->> 'tokens')", output_field=TextField())
    reports = DoctorReport.unscoped.filter(version=version, status=DoctorReport.Status.READY)
    if base_model is not None:
        reports = reports.filter(base_model=base_model)
    text = reports.order_by("-created_at").annotate(tokens=tokens).values_list("tokens", flat=True).first()
    found = json.loads(text) if text else None
    return found if isinstance(found, Mapping) else {}


@lru_cache(maxsize=256)
def _guessed(path: Path, _rows: int) -> dict[str, Any]:
    """Return lengths guessed from the letters of the first rows; a version's rows never change."""
    try:
        batch = next(store.read_batches(path, rows=SAMPLED_ROWS), None)
    except (OSError, ValueError, LookupError):
        return {}
    conversations = [row.messages for row in store.rows_of(batch)] if batch is not None else []
    if not conversations:
        return {}
    answers = [_guessed_tokens(row[place]) + 1 for row in conversations for place in learned_places(row)]
    rows = [sum(map(_guessed_tokens, row)) + TEMPLATE_TOKENS for row in conversations]
    return {
        "row_tokens": round(sum(rows) / len(rows), 1),
        "longest_row": round(max(rows)),
        "answer_tokens": round(sum(answers) / len(answers), 1),
    }


def _guessed_tokens(message: Mapping[str, Any]) -> float:
    return len(message["content"]) / LETTERS_PER_TOKEN


def _hardware() -> dict[str, Any]:
    """Return the device that the next run probably gets: GPUs if any open node has them, else its cores."""
    nodes = list(Node.objects.open())
    gpus = [node for node in nodes if node.has_gpus]
    if gpus:
        return {"device": "cuda", "memory_bytes": max(node.memory_of_a_gpu for node in gpus) or None}
    cores = [int(found[1]) // max(1, node.slots) for node in nodes if (found := _CORES.match(node.device))]
    return {"cores": max(1, max(cores))} if cores else {}
