"""Sources on this machine, and an import from them as the pages and the queue do it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from datasets_app import tasks
from datasets_app.models import DatasetVersion, RemoteFetch
from datasets_app.remote import fetching
from datasets_app.remote.services import start_fetch
from portal import secrets
from portal.actors import Actor
from portal.models import Team, TeamSecret
from portal.rls import all_teams, team_scope


@pytest.fixture(autouse=True)
def this_machine_is_allowed(settings) -> None:
    settings.OUTBOUND_ALLOW = ["127.0.0.1"]


@pytest.fixture
def browser(team, alice, client_for) -> Client:
    return client_for(alice)


@pytest.fixture
def keep_secret(team: Team, actor: Actor) -> Callable[..., None]:
    """Store a secret of the team: `keep_secret("hub_token", "name", "text")`."""

    def keep(kind: str, name: str, text: str) -> None:
        with team_scope(team.pk):
            secrets.store(team=team, kind=TeamSecret.Kind(kind), name=name, text=text, actor=actor)

    return keep


@pytest.fixture
def fetched(team: Team, actor: Actor) -> Callable[..., DatasetVersion]:
    """Fetch a source as the queue does and return the version: `fetched({"kind": …}, begin={})`."""

    def fetch(source: dict[str, str], name: str = "Tickets", **more: Any) -> DatasetVersion:
        with team_scope(team.pk):
            version = start_fetch(team=team, actor=actor, name=name, source=source, **more)
        fetching.run(version.pk)
        if "begin" in more:
            tasks.import_version(str(version.pk))
        return fresh(version)

    return fetch


def fresh(version: DatasetVersion) -> DatasetVersion:
    """The version as it is now."""
    with all_teams("test"):
        return DatasetVersion.unscoped.select_related("team", "dataset", "fetch").get(pk=version.pk)


def sources_of(version: DatasetVersion) -> dict[str, Any]:
    """The files of a version by their split."""
    with all_teams("test"):
        return {source.split: source for source in version.sources.select_related("version__team")}


def fetch_of(version: DatasetVersion) -> RemoteFetch:
    """How far the files of a version are."""
    with all_teams("test"):
        return RemoteFetch.unscoped.get(version=version.pk)
