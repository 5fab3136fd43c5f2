"""What is set aside for reading allowed values is enough for what engines count, and not far too much."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from datasets_app.rendering import ChatRenderer
from deployments import admission, reading_bounds
from deployments.engine_client import EngineTarget
from experiments.scoring.choosing import ClosedFields, Walk
from gpu_worker.engine.decisions import value_ids
from gpu_worker.engine.token_tree import count_tokens

MODEL = Path(__file__).resolve().parents[3] / "var" / "models" / "smollm2-135m-instruct"
pytestmark = pytest.mark.skipif(not MODEL.exists(), reason="the embedded base model has not been made yet")

OURS, VLLM = EngineTarget("http://ours", ""), EngineTarget("http://vllm", "", scores_values=False)
INTENTS = [
    "activate_my_card", "age_limit", "balance_not_updated_after_bank_transfer", "card_arrival", "lost_or_stolen_card",
    "cash_withdrawal_charge", "pin_blocked", "request_refund", "top_up_by_cash_or_cheque", "why_verify_identity",
    "Überweisung",
]  # fmt: skip
MESSAGES = [
    {"role": "system", "content": "Read the customer's message and answer with one JSON object."},
    {"role": "user", "content": "My card has not arrived and the app says it was sent two weeks ago. " * 4},
]
NOTE = "The card was sent two weeks ago and has not arrived yet."
FIELDS = ClosedFields(
    {
        "type": "object",
        "properties": {
            "urgent": {"type": "boolean"}, "intent": {"enum": INTENTS}, "note": {"type": "string"},
            "language": {"enum": ["English", "German", "French"]}, "priority": {"enum": [1, 2, 3, 4, 5]},
        },
        "required": ["urgent", "intent", "note", "language", "priority"],
    }
)  # fmt: skip


@pytest.fixture(scope="module")
def renderer() -> ChatRenderer:
    return ChatRenderer.load(MODEL)


def counted(renderer: ChatRenderer, engine: EngineTarget, beginning: str, values: list[str], ending: str) -> int:
    """What the engine counts for one request to score values."""
    prompt = len(renderer.prompt_ids(MESSAGES))
    ids = value_ids(renderer, values, beginning=beginning, ending=ending)
    return prompt + count_tokens(ids) if engine.scores_values else sum(prompt + len(one) for one in ids)


@pytest.mark.parametrize("engine", [OURS, VLLM], ids=["ours", "vllm"])
@pytest.mark.parametrize("name", FIELDS.labels)
def test_fields_of_an_answer(renderer: ChatRenderer, engine: EngineTarget, name: str) -> None:
    read = 0

    def score(beginning: str, values: list[str], ending: str) -> list[float]:
        nonlocal read
        read += counted(renderer, engine, beginning, values, ending)
        return [-math.log(len(values))] * len(values)

    Walk(FIELDS, score, json.dumps({"note": NOTE})).of(name)
    prompt, written = admission.likely_prompt_tokens({"messages": MESSAGES}), len(renderer.encode(NOTE))
    bound = reading_bounds.of_fields(engine, FIELDS, [name], prompt=prompt, written=written)
    assert read <= bound <= 2 * read


@pytest.mark.parametrize("engine", [OURS, VLLM], ids=["ours", "vllm"])
def test_labels_alone(renderer: ChatRenderer, engine: EngineTarget) -> None:
    read = counted(renderer, engine, "", INTENTS, "")
    prompt = admission.likely_prompt_tokens({"messages": MESSAGES})
    assert read <= reading_bounds.of_values(engine, INTENTS, before=prompt) <= 2 * read
