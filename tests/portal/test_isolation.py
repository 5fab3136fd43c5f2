"""Two teams under one roof: nothing that belongs to one may be seen, named or reached by the other.

Every text column of the other team's rows holds a word that occurs nowhere else; then every page and API address that
can be found from a member's own pages is read, and none of these words may turn up.
"""

from __future__ import annotations

import ast
import json
import os
import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.conf import settings
from django.db import models
from django.test import Client
from drf_spectacular.generators import SchemaGenerator

from deployments.models import Engine, Placement
from deployments.targets import resolve
from portal.models import Role, User
from portal.rls import all_teams, team_scope
from portal.scoping import TeamOwned
from tests.experiments.runs import make_version
from tests.portal.test_query_counts import fill
from tests.portal.test_route_matrix import API, PAGES, address
from tests.world import World, make_world

pytestmark = pytest.mark.slow

MARK = "Kanarienvogel"
SHAPES = Path(__file__).with_name("exposed_fields.json")
FORBIDDEN = re.compile(r"password|digest|secret|pepper|access_key|lease|claim|token$|ciphertext")
# A signing secret of a webhook is told once, when it is made; its last letters afterwards. Those of judge and tracker
# are names.
SECRETS_TOLD = {
    ("Judge", "secret"),
    ("JudgeRequest", "secret"),
    ("Tracker", "secret"),
    ("TrackerRequest", "secret"),
    ("WebhookEndpoint", "signing_secret_hint"),
    ("WebhookEndpointWithSecret", "signing_secret"),
    ("WebhookEndpointWithSecret", "signing_secret_hint"),
    ("WebhookRotation", "keep_old_secret_active_for_24_hours"),
}
LINK = re.compile(r'(?:href|action|hx-get|data-url|data-src)="(/[^"#]*)"')
# Reading these changes something or leads outside of the team.
NOT_FOLLOWED = re.compile(r"/logout|/static/|/accounts/|/platform/|/language|\.zip$")
MOST_PAGES = 400


def mark_every_text(world: World) -> int:
    """Write a word of its own into every free text column of the team's rows; return into how many columns."""
    marked = 0
    for model in apps.get_models():
        if not issubclass(model, TeamOwned):
            continue
        rows = model.unscoped.filter(team=world.team)
        for field in model._meta.concrete_fields:
            if is_free_text(field) and rows.exists():
                for number, row in enumerate(rows.order_by("pk")):
                    word = f"{MARK}{model._meta.model_name}{field.name}{number}"
                    rows.filter(pk=row.pk).update(**{field.name: word[-(field.max_length or 200) :]})
                marked += 1
    type(world.team).objects.filter(pk=world.team.pk).update(name=f"{MARK}-team")
    return marked


def is_free_text(field: models.Field[Any, Any]) -> bool:
    if field.choices or not isinstance(field, (models.CharField, models.TextField)):
        return False
    return not (field.max_length and field.max_length < 60)  # keys, kinds and hashes have a shape of their own


def crawl(client: Client, starts: list[str]) -> dict[str, str]:
    """Return the text of every address that can be read from `starts` on, following links."""
    waiting, seen = deque(starts), {}
    while waiting and len(seen) < MOST_PAGES:
        url = waiting.popleft().replace("&amp;", "&")
        if url in seen or NOT_FOLLOWED.search(url):
            continue
        answer = client.get(url)
        seen[url] = answer.getvalue().decode(errors="replace")
        if answer.status_code in (301, 302):
            waiting.append(answer.headers["Location"])
        elif answer.headers.get("Content-Type", "").startswith("text/html"):
            waiting.extend(link for link in LINK.findall(seen[url]) if link not in seen)
    return seen


def starts(world: World) -> list[str]:
    return ["/", *(address(name, world) for name in PAGES)]


@pytest.fixture
def other_world(other_team, charlie, base_model, make_token) -> World:
    """One of everything of charlie's team, with the same names as in the team of alice."""
    make_token(other_team, charlie)
    with team_scope(other_team.pk):
        other_team.memberships.create(user=User.objects.create_user("dora@example.org"), role=Role.VIEWER)
    return make_world(other_team, base_model, make_version(other_team))


@pytest.fixture
def worlds(team, other_world, alice, base_model, ready_version, token, node) -> tuple[World, World]:
    """The team of alice, and the team of charlie with marks everywhere."""
    mine, theirs = make_world(team, base_model, ready_version), other_world
    fill(mine, alice, range(2))
    with all_teams("test"):
        type(alice).objects.filter(email__startswith="more").delete()
        assert mark_every_text(theirs) > 12
        theirs.deployment.refresh_from_db()
    theirs.team.refresh_from_db()
    return mine, theirs


@pytest.mark.django_db
def test_no_word_of_another_team_is_on_any_page(worlds, client_for, alice, charlie, paula):
    mine, theirs = worlds
    seen = crawl(client_for(alice), starts(mine))
    assert len(seen) > 60
    assert [url for url, text in seen.items() if MARK in text] == []
    # The same walk by a member finds them, so the words can be found at all.
    own = crawl(client_for(charlie), starts(theirs))
    words = {word for text in own.values() for word in re.findall(MARK + r"\w+", text)}
    assert len(words) > 10
    # Whoever is asked for the other team's addresses by name gives nothing away either.
    there = {url: client_for(alice).get(url) for url in starts(theirs) if url != "/"}
    assert {answer.status_code for answer in there.values()} == {404}
    assert [url for url, answer in there.items() if MARK in answer.content.decode()] == []


@pytest.mark.django_db
def test_no_word_of_another_team_is_in_the_api(worlds, api, stranger_api):
    _mine, theirs = worlds
    for name in API:
        for world in worlds:
            assert MARK not in api.get(address(name, world)).getvalue().decode(errors="replace"), name
    found = "".join(stranger_api.get(address(name, theirs)).getvalue().decode(errors="replace") for name in API)
    assert len(set(re.findall(MARK + r"\w+", found))) > 5


@pytest.mark.django_db
def test_equal_names_in_two_teams_never_meet(team, other_world, base_model, ready_version, token, node):
    """Folders, engine names and lookups by name are each team's own."""
    mine, theirs = make_world(team, base_model, ready_version), other_world
    assert mine.deployment.name == theirs.deployment.name
    pairs = [(mine.version.folder, theirs.version.folder), (mine.run.folder, theirs.run.folder)]
    pairs += [(mine.adapter.folder, theirs.adapter.folder), (mine.adapter.engine_name, theirs.adapter.engine_name)]
    for one, other in pairs:
        assert one != other
        assert str(team.pk) not in str(other)
    Engine.objects.create(node=node, base_model=base_model, status=Engine.Status.READY, url="http://x", access_key="k")
    for world in (mine, theirs):
        with team_scope(world.team.pk):
            world.team.placements.create(adapter=world.adapter, node=node, status=Placement.Status.READY)
        assert resolve(world.team, "triage").version_id == world.deployment_version.pk


def exposed_fields() -> dict[str, list[str]]:
    """Return the fields of every object that the API speaks of."""
    document = SchemaGenerator().get_schema(public=True)
    shapes = document["components"]["schemas"]
    return {name: sorted(shape["properties"]) for name, shape in sorted(shapes.items()) if "properties" in shape}


def test_what_the_api_exposes_was_agreed_to():
    """A new field is a decision: write it down with UPDATE_EXPOSED_FIELDS=1 and look at the difference."""
    now = exposed_fields()
    if os.environ.get("UPDATE_EXPOSED_FIELDS"):
        SHAPES.write_text(json.dumps(now, indent=1) + "\n")
    assert now == json.loads(SHAPES.read_text())
    told = {(name, field) for name, fields in now.items() for field in fields if FORBIDDEN.search(field)}
    assert told == SECRETS_TOLD


def modules() -> Iterator[tuple[Path, ast.Module]]:
    for app in ("portal", "datasets_app", "experiments", "deployments", "gpu_worker"):
        for path in sorted((Path(settings.BASE_DIR) / app).rglob("*.py")):
            if "migrations" not in path.parts:
                yield path, ast.parse(path.read_text())


def test_nobody_goes_around_the_walls():
    """Django's own back doors are used nowhere; pages of teams reach rows through the team only."""
    doors = {"_base_manager", "_default_manager"}
    found = []
    for path, tree in modules():
        names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        is_page = "views" in path.parts and not {"platform", "platform.py"} & set(path.parts)
        if names & doors or ("unscoped" in names and is_page):
            found.append(str(path.relative_to(settings.BASE_DIR)))
    assert found == []


def test_no_input_becomes_a_query_by_its_names():
    """`filter(**request.data)` and its like let a caller name columns."""
    found = []
    for path, tree in modules():
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if node.func.attr in {"filter", "exclude", "annotate", "order_by", "values", "values_list", "alias"}:
                stars = [keyword.value for keyword in node.keywords if keyword.arg is None]
                stars += [argument.value for argument in node.args if isinstance(argument, ast.Starred)]
                found += [
                    f"{path.relative_to(settings.BASE_DIR)}:{node.lineno}"
                    for star in stars
                    if re.search(r"request|\bdata\b|query_params|\bPOST\b|\bGET\b", ast.unparse(star))
                ]
    assert found == []
