"""Fixtures of the trainer's tests: one tiny base model for all of them."""

from pathlib import Path

import pytest

from datasets_app.rendering import ChatRenderer
from tests.tiny_model import make_tiny_model


@pytest.fixture(scope="session")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="session")
def renderer(base_model: Path) -> ChatRenderer:
    return ChatRenderer.load(base_model)
