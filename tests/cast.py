"""Who and what the tests play with: people, two teams, a tiny base model, a node, tokens; all made by the services.

Alice is an admin of the service desk, Bob a viewer of it, Charlie an admin of finance, Paula a platform admin.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from django.test import Client
from django.utils import timezone

from portal import teams, tokens
from portal.actors import Actor
from portal.models import BaseModel, Node, Role, Scope, Team, User
from portal.rls import team_scope

PASSWORD = "correct horse battery staple"
CHEAP_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


def person(name: str, *, is_platform_admin: bool = False) -> User:
    """Make somebody whose address is that of the name at example.org."""
    address = f"{name.lower()}@example.org"
    return User.objects.create_user(address, PASSWORD, name=name, is_platform_admin=is_platform_admin)


def acting(user: User) -> Actor:
    """A person at a browser of this machine."""
    return Actor(user=user, ip="127.0.0.1", request_id="req_test")


def service_desk(alice: User, bob: User) -> Team:
    """Make the team whose admin Alice is and whose viewer Bob is."""
    made = teams.create_team(name="Service Desk", owner=alice, actor=acting(alice))
    with team_scope(made.pk):
        made.memberships.create(user=bob, role=Role.VIEWER)
    return made


def finance(charlie: User) -> Team:
    """Make the other team."""
    return teams.create_team(name="Finance", owner=charlie, actor=Actor(user=charlie))


def tiny_base_model(folder: Path) -> BaseModel:
    """Register and allow the tiny model in `folder`; its own folder is a link to that."""
    model = BaseModel.objects.create(
        slug="tiny",
        name="Tiny",
        source=BaseModel.Source.LOCAL,
        location="tiny",
        revision="0" * 40,
        parameters=100_000,
        context_tokens=512,
        size_bytes=400_000,
        is_allowed=True,
    )
    model.folder.parent.mkdir(parents=True, exist_ok=True)
    model.folder.symlink_to(folder)
    return model


def live_node() -> Node:
    """A node with one slot."""
    return Node.objects.create(name="local", slots=1, heartbeat_at=timezone.now())


def token_of(team: Team, owner: User, *, scopes: Sequence[str] = (), name: str = "test") -> str:
    """Return the text of a new API token, by default with every scope."""
    with team_scope(team.pk):
        _row, text = tokens.create_token(
            team=team, actor=Actor(user=owner), owner=owner, name=name, scopes=list(scopes) or list(Scope.values)
        )
    return text


def program(token: str) -> Client:
    """A program that shows a token."""
    return Client(headers={"Authorization": f"Bearer {token}"})
