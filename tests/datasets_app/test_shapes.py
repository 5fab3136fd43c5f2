"""F3: conversations and instructions in the shapes that others publish them in, without any mapping by a person."""

from __future__ import annotations

from pathlib import Path

import pytest

from datasets_app import services, store, tasks
from datasets_app.models import DatasetVersion, Split
from datasets_app.rendering import ChatRenderer
from portal.rls import team_scope

FOLDER = Path(__file__).parent / "shapes"
DIALOGUE = ["user", "assistant", "user", "assistant"]


def imported(team, actor, name: str):
    """Return the version and its rows, all of them for training."""
    with team_scope(team.pk):
        version = services.import_files(
            team=team,
            actor=actor,
            name=name,
            files={Split.TRAIN: FOLDER / name},
            options={"validation_share": 0, "test_share": 0},
        )
    tasks.import_version(str(version.pk))
    with team_scope(team.pk):
        version = DatasetVersion.unscoped.select_related("team").get(pk=version.pk)
        assert (version.status, version.train_rows) == ("ready", 6)
        return version, list(store.read_rows(version.rows_path(Split.TRAIN)))


@pytest.mark.parametrize("name", ["messages.jsonl", "sharegpt.json"])
def test_conversations_keep_their_roles(team, actor, name, tiny_model_folder):
    version, rows = imported(team, actor, name)
    assert version.mapping["messages"] == ("messages" if name == "messages.jsonl" else "conversations")
    for number, row in enumerate(rows):
        roles = [message["role"] for message in row.messages]
        assert roles == (["system", *DIALOGUE] if number % 2 else DIALOGUE)
        assert row.answer == f"Queue: Network {number}"
    rendered = ChatRenderer.load(tiny_model_folder).row(rows[1].messages)
    marks = [part.split("\n")[0] for part in rendered.prompt_text.split("<|im_start|>")[1:]]
    assert marks == ["system", "user", "assistant", "user", "assistant"]
    assert rendered.answer_text.startswith("Queue: Network 1")


def test_both_shapes_of_a_conversation_are_the_same_rows(team, actor):
    hashes = {imported(team, actor, name)[0].content_hash for name in ("messages.jsonl", "sharegpt.json")}
    assert len(hashes) == 1


def test_instructions_with_and_without_input(team, actor):
    _version, rows = imported(team, actor, "alpaca.json")
    assert [(row.prompt, row.answer) for row in rows[:2]] == [
        ("Name the queue of this ticket.", "Network 0"),
        ("Name the queue of this ticket.\n\nMy VPN drops, case 1", "Network 1"),
    ]
