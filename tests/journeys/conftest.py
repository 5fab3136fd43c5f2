"""One real installation for all journeys of a test run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.journeys.installation import MODEL, ROOT, Installation


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """A running portal with a team and a token; when it is stopped, nothing of it may remain."""
    model = ROOT / "var" / "models" / MODEL
    if not (model / "model.safetensors").exists():
        pytest.skip("the embedded base model is not converted yet: run make test, or python -m gpu_worker.base_models")
    made = Installation(folder=tmp_path_factory.mktemp("an installation"))
    made.prepare(model)
    made.start()
    try:
        yield made
    finally:
        made.stop()
    assert made.leftovers() == []


@pytest.fixture(scope="session")
def tickets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.csv (40 rows), validation.csv (8) and test.csv (8) of demo tickets."""
    from datasets_app import demo_tickets

    folder = tmp_path_factory.mktemp("tickets")
    demo_tickets.write_files(folder, 7, train=40, validation=8, test=8)
    return folder
