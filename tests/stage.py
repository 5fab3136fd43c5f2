"""The cast and one of everything, built once for a module whose many tests only look at it.

Import all names into the test module: they replace the fixtures of the same names. Each test works in a savepoint over
what was built and gets copies of the objects, so nothing of it reaches the next test; the folder with files is shared.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.cookies import SimpleCookie
from pathlib import Path

import pytest
from django.db import transaction
from django.test import Client, override_settings

from datasets_app.models import DatasetVersion
from portal.models import BaseModel, Node, Team, User
from tests import cast, ready
from tests.in_process import CALLERS, run_in_process
from tests.world import World, make_world

__all__ = [
    "alice", "api", "base_model", "bob", "built_stage", "charlie", "client_for", "node", "other_team", "paula",
    "ready_version", "stage", "stranger_api", "team", "token", "world",
]  # fmt: skip


@dataclass
class Stage:
    """What `build` made: tokens with every scope as texts, and the cookies of people who have signed in."""

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
    sessions: dict[object, SimpleCookie]


def build(folder: Path, tiny_model: Path) -> Stage:
    """Make the cast, two teams and one of everything in the current transaction; files go below `folder`."""
    alice, bob, charlie = (cast.person(name) for name in ("Alice", "Bob", "Charlie"))
    paula = cast.person("Paula", is_platform_admin=True)
    team, other_team = cast.service_desk(alice, bob), cast.finance(charlie)
    model, node = cast.tiny_base_model(tiny_model), cast.live_node()
    token, other_token = cast.token_of(team, alice), cast.token_of(other_team, charlie)
    version = ready.import_tickets(team, cast.acting(alice), folder)
    world = make_world(team, model, version)
    sessions = {person.pk: _signed_in(person).cookies for person in (alice, bob, charlie, paula)}
    return Stage(
        alice, bob, charlie, paula, team, other_team, model, node, token, other_token, version, world, sessions
    )  # fmt: skip


def _signed_in(person: User) -> Client:
    client = Client()
    client.force_login(person)
    return client


@pytest.fixture(scope="module")
def built_stage(
    django_db_setup, django_db_blocker, tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path
) -> Iterator[tuple[Stage, Path]]:
    """The stage of a module, in a transaction around all of its tests, and its data folder."""
    folder = tmp_path_factory.mktemp("stage")
    with django_db_blocker.unblock(), transaction.atomic():
        with (
            pytest.MonkeyPatch.context() as patch,
            override_settings(
                DATA_DIR=folder / "var", FILE_UPLOAD_TEMP_DIR=folder, PASSWORD_HASHERS=cast.CHEAP_HASHERS
            ),
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
def client_for(stage: Stage) -> Callable[[User], Client]:
    """Return a new browser in which a person has signed in already."""

    def browser(person: User) -> Client:
        if person.pk not in stage.sessions:
            return _signed_in(person)
        client = Client()
        client.cookies = copy.deepcopy(stage.sessions[person.pk])
        return client

    return browser


@pytest.fixture
def api(stage: Stage) -> Client:
    return cast.program(stage.token)


@pytest.fixture
def stranger_api(stage: Stage) -> Client:
    return cast.program(stage.other_token)
