"""What every test may use: the cast of `tests.cast`, and rows made by the services themselves.

Alice is an admin of `team`, Bob a viewer of it, Charlie an admin of `other_team`, Paula a platform admin.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from django.test import Client
from hypothesis import settings

from portal import audit, bad_tokens, platform_state
from portal.actors import Actor
from portal.models import BaseModel, Node, Team, User
from portal.rls import team_scope
from tests import cast
from tests.browser import chromium, open_page  # noqa: F401 — fixtures for every browser test
from tests.in_process import work_in_process  # noqa: F401
from tests.template_database import use_template

if TYPE_CHECKING:
    from datasets_app.models import DatasetVersion
    from tests.ready import KeptImport

# How long an example takes says something of a busy machine only.
settings.register_profile("busy machine", deadline=None)
settings.load_profile("busy machine")


@pytest.fixture(scope="session")
def django_db_modify_db_settings(django_db_blocker) -> None:
    """Give each process of a run its own database, and let several people share a server: PYTEST_DB names them."""
    from django.db import connection

    name = f"test_{os.environ.get('PYTEST_DB') or 'tuneport'}"
    with django_db_blocker.unblock():
        use_template(name)
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    connection.settings_dict["TEST"]["NAME"] = f"{name}_{worker}" if worker else name


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, settings) -> None:
    """Give each test its own data folder, static files without a manifest, and a cheap password hash."""
    audit._noted.clear()
    bad_tokens.refused.clear()
    # Open, without announcements, and not read again within a test; what a test changes is seen at once.
    platform_state._latest = platform_state.Snapshot(None, "", 0, (), read_at=time.monotonic() + 3600)
    settings.DATA_DIR = tmp_path / "var"
    settings.FILE_UPLOAD_TEMP_DIR = tmp_path
    settings.PASSWORD_HASHERS = cast.CHEAP_HASHERS
    settings.STORAGES = {
        **settings.STORAGES,
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
    }


@pytest.fixture(autouse=True)
def counted_requests(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let the ledger finish before a transactional test's tables are emptied under it."""
    marker = request.node.get_closest_marker("django_db")
    names = {"transactional_db", "live_server"} & set(request.fixturenames)
    if not names and not (marker and marker.kwargs.get("transaction")):
        yield
        return
    request.getfixturevalue("transactional_db")
    yield
    from deployments.metering import ledger

    ledger.flush()


@pytest.fixture
def alice(db) -> User:
    return cast.person("Alice")


@pytest.fixture
def bob(db) -> User:
    return cast.person("Bob")


@pytest.fixture
def charlie(db) -> User:
    return cast.person("Charlie")


@pytest.fixture
def paula(db) -> User:
    """A platform admin who is in no team."""
    return cast.person("Paula", is_platform_admin=True)


@pytest.fixture
def actor(alice: User) -> Actor:
    return cast.acting(alice)


@pytest.fixture
def team(alice: User, bob: User) -> Team:
    return cast.service_desk(alice, bob)


@pytest.fixture
def other_team(charlie: User) -> Team:
    return cast.finance(charlie)


@pytest.fixture
def scoped(team: Team) -> Iterator[Team]:
    """Run the test inside the row scope of `team`."""
    with team_scope(team.pk):
        yield team


@pytest.fixture
def client_for() -> Callable[[User], Client]:
    """Return a signed-in browser for a person."""

    def sign_in(user: User) -> Client:
        client = Client()
        client.force_login(user)
        return client

    return sign_in


@pytest.fixture
def make_token() -> Callable[..., str]:
    """Return the text of a new API token: `make_token(team, owner, scopes=[…])`, by default with every scope."""
    return cast.token_of


@pytest.fixture
def token(team: Team, alice: User) -> str:
    return cast.token_of(team, alice)


@pytest.fixture
def api(token: str) -> Client:
    """A program of `team` with a token that may do everything."""
    return cast.program(token)


@pytest.fixture
def stranger_api(other_team: Team, charlie: User) -> Client:
    """A program of `other_team` with a token that may do everything there."""
    return cast.program(cast.token_of(other_team, charlie))


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer base model, made once for the whole test run; treat it as read-only."""
    from tests.tiny_model import make_tiny_model

    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def base_model(db, settings, tiny_model_folder: Path) -> BaseModel:
    """The tiny model, registered and allowed; its folder is a link to the session's one."""
    return cast.tiny_base_model(tiny_model_folder)


@pytest.fixture
def node(db) -> Node:
    """A live node with one slot."""
    return cast.live_node()


@pytest.fixture(scope="session")
def kept_import() -> list[KeptImport]:
    """The first import of the test run; empty until a test has needed it."""
    return []


@pytest.fixture
def ready_version(
    team: Team, actor: Actor, tmp_path: Path, kept_import: list[KeptImport], tmp_path_factory: pytest.TempPathFactory
) -> DatasetVersion:
    """A small dataset version (20 training, 4 validation rows), imported once and copied for every other test."""
    from tests import ready

    if kept_import:
        return ready.copy_of(kept_import[0], team, actor)
    version = ready.import_tickets(team, actor, tmp_path)
    kept_import.append(ready.keep(version, tmp_path_factory.mktemp("ready") / "version"))
    return version


@pytest.fixture
def world(team: Team, base_model: BaseModel, node: Node, ready_version, token: str):
    """A finished run with an adapter, a deployment and a token, all of `team`."""
    from tests.world import make_world

    return make_world(team, base_model, ready_version)
