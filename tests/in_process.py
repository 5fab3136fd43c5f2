"""Work on files in the test's own process instead of a capped child, which takes a second to start.

Everything crosses the border as JSON, as it does to a child, and refusals are made by the same code. What a child is
for, its limits and its death, is tested with real ones: mark such tests with `capped_child`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from datasets_app import capped

CALLERS = (
    "datasets_app.conversion",
    "datasets_app.unpacking",
    "datasets_app.remote.gather",
    "datasets_app.doctor_reports.examination",
)


class _OfTheCaller(Exception):
    """Carries what `on_message` raised past the work, which must not see it."""


def run_in_process(
    function_path: str,
    arguments: Mapping[str, Any],
    *,
    memory_bytes: int,
    cpu_seconds: int,
    file_bytes: int = capped.DEFAULT_FILE_BYTES,
    on_message: capped.OnMessage | None = None,
) -> dict[str, Any]:
    """Do what `run_capped` does, without its bounds."""
    limits = {"memory_bytes": memory_bytes, "cpu_seconds": cpu_seconds, "file_bytes": file_bytes}

    def say(message: capped.Message) -> None:
        try:
            if on_message is not None:
                on_message(json.loads(json.dumps(message)))
        except Exception as error:
            raise _OfTheCaller from error

    order = json.loads(json.dumps({"function": function_path, "arguments": dict(arguments)}))
    try:
        return dict(json.loads(json.dumps(capped._call(order, say))))
    except _OfTheCaller as wrapped:
        raise wrapped.__cause__ from None  # type: ignore[misc]
    except Exception as error:
        raise capped._refusal({"error": capped._described(error)}, 0, b"", limits) from None


@pytest.fixture(autouse=True)
def work_in_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the test the start of children, unless it is about them."""
    if request.node.get_closest_marker("capped_child") is None:
        for module in CALLERS:
            monkeypatch.setattr(f"{module}.run_capped", run_in_process)
