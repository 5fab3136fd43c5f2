"""The cast and one of everything, built once for a module whose many tests only look at it.

Import all names into the test module: they replace the fixtures of the same names. Each test works in a savepoint over
what was built and gets copies of the objects, so nothing of it reaches the next test; the folder with files is shared.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from django.db import transaction
from django.test import Client, override_settings
from django.utils import timezone

from datasets_app.models import DatasetVersion
from portal import teams, tokens
from portal.actors import Actor
from portal.models import BaseModel, Node, Role, Scope, Team, User
from portal.rls import team_scope
from tests import ready
from tests.in_process import CALLERS, run_in_process
from tests.world import World, make_world

__all__ = [
    "alice", "api", "base_model", "bob", "built_stage", "charlie", "node", "other_team", "paula", "ready_version",
    "stage", "stranger_api", "team", "token", "world",
]  # fmt: skip
PASSWORD = "correct horse battery staple"


@dataclass
class Stage:
    """What `build` made; `token` and `other_token` are texts of tokens with every scope."""

    alice: User
    bob: User
    charlie: User
    paula: User
    team: Team
    other_team: Team
    base_model: BaseModel
    node: Node
    token: str
    other_token: str
    ready_version: DatasetVersion
    world: World


def build(folder: Path, tiny_model: Path) -> Stage:
    """Make the cast, two teams and one of everything in the current transaction; files go below `folder`."""
    alice, bob, charlie = (
        User.objects.create_user(f"{name.lower()}@example.org", PASSWORD, name=name)
        for name in ("Alice", "Bob", "Charlie")
    )
    paula = User.objects.create_user("paula@example.org", PASSWORD, name="Paula", is_platform_admin=True)
    actor = Actor(user=alice, ip="127.0.0.1", request_id="req_test")
    team = teams.create_team(name="Service Desk", owner=alice, actor=actor)
    with team_scope(team.pk):
        team.memberships.create(user=bob, role=Role.VIEWER)
    other_team = teams.create_team(name="Finance", owner=charlie, actor=Actor(user=charlie))
    model = BaseModel.objects.create(
        slug="tiny", name="Tiny", source=BaseModel.Source.LOCAL, location="tiny", revision="0" * 40,
        parameters=100_000, context_tokens=512, size_bytes=400_000, is_allowed=True,
    )  # fmt: skip
    model.folder.parent.mkdir(parents=True, exist_ok=True)
    model.folder.symlink_to(tiny_model)
    node = Node.objects.create(name="local", slots=1, heartbeat_at=timezone.now())
    token, other_token = _token(team, alice), _token(other_team, charlie)
    version = ready.import_tickets(team, actor, folder)
    world = make_world(team, model, version)
    return Stage(
        alice, bob, charlie, paula, team, other_team, model, node, token, other_token, version, world
    )  # fmt: skip


def _token(team: Team, owner: User) -> str:
    with team_scope(team.pk):
        _row, text = tokens.create_token(
            team=team, actor=Actor(user=owner), owner=owner, name="test", scopes=list(Scope.values)
        )
    return text


@pytest.fixture(scope="module")
def built_stage(
    django_db_setup, django_db_blocker, tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path
) -> Iterator[tuple[Stage, Path]]:
    """The stage of a module, in a transaction around all of its tests, and its data folder."""
    folder = tmp_path_factory.mktemp("stage")
    hashers = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    with django_db_blocker.unblock(), transaction.atomic():
        with (
            pytest.MonkeyPatch.context() as patch,
            override_settings(DATA_DIR=folder / "var", FILE_UPLOAD_TEMP_DIR=folder, PASSWORD_HASHERS=hashers),
        ):
            for module in CALLERS:
                patch.setattr(f"{module}.run_capped", run_in_process)
            made = build(folder, tiny_model_folder)
        yield made, folder / "var"
        transaction.set_rollback(True)


@pytest.fixture
def stage(built_stage: tuple[Stage, Path], db: None, settings) -> Stage:
    """Copies of what was built, for one test."""
    made, data = built_stage
    settings.DATA_DIR = data
    return copy.deepcopy(made)


@pytest.fixture
def alice(stage: Stage) -> User:
    return stage.alice


@pytest.fixture
def bob(stage: Stage) -> User:
    return stage.bob


@pytest.fixture
def charlie(stage: Stage) -> User:
    return stage.charlie


@pytest.fixture
def paula(stage: Stage) -> User:
    return stage.paula


@pytest.fixture
def team(stage: Stage) -> Team:
    return stage.team


@pytest.fixture
def other_team(stage: Stage) -> Team:
    return stage.other_team


@pytest.fixture
def base_model(stage: Stage) -> BaseModel:
    return stage.base_model


@pytest.fixture
def node(stage: Stage) -> Node:
    return stage.node


@pytest.fixture
def ready_version(stage: Stage) -> DatasetVersion:
    return stage.ready_version


@pytest.fixture
def token(stage: Stage) -> str:
    return stage.token


@pytest.fixture
def world(stage: Stage) -> World:
    return stage.world


@pytest.fixture
def api(stage: Stage) -> Client:
    return Client(headers={"Authorization": f"Bearer {stage.token}"})


@pytest.fixture
def stranger_api(stage: Stage) -> Client:
    return Client(headers={"Authorization": f"Bearer {stage.other_token}"})
