"""Whatever is typed into any form or sent as any body: a page or an error in plain words, never a server error."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from http.cookies import SimpleCookie
from itertools import cycle

import pytest
from django.db import transaction
from django.test import Client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from portal.models import User
from tests.portal.test_route_matrix import API, OWN, PAGES, PLATFORM, PUBLIC, address
from tests.stage import *  # noqa: F403

pytestmark = pytest.mark.slow

NAMES = re.compile(r'<(?:input|select|textarea|button)[^>]*\bname="([^"]+)"')
# Strange on purpose: NUL, surrogates' neighbours, right-to-left marks, numbers that no column holds, SQL and HTML.
STRANGE = st.one_of(
    st.text(max_size=60),
    st.sampled_from(
        ["", " ", "\x00", "a\x00b", "\u202e", "9" * 40, "-1", "1e999", "NaN", "null", "[]", "{}", "' OR 1=1 --", "%s",
         "<script>", "../../etc/passwd", "\U0001f600" * 40, "x" * 5000, "2026-13-45", "0" * 36]
    ),
)  # fmt: skip
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), STRANGE),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(STRANGE, inner, max_size=3)),
    max_leaves=8,
)
FEW = settings(
    max_examples=3,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
# What a body may hold at the top, so that values get past the first look.
KEYS = [
    "name", "messages", "model", "prompt", "dataset_version", "base_model", "recipe", "hyperparameters", "run",
    "experiment", "deploy_as", "priority", "version", "max_tokens", "stream", "notes", "kind", "weights", "step",
    "repository", "credential", "is_on", "max_recall_drop", "logs_text", "log_days", "correction", "reason",
    "share", "address", "secret", "key", "rubric", "rows",
]  # fmt: skip


class _Undo(Exception):
    """Takes back what an example did."""


def unharmed(ask) -> None:
    """Ask in a transaction that is taken back, and see that it was no server error."""
    try:
        with transaction.atomic():
            answer = ask()
            assert answer.status_code < 500 or answer.status_code == 503, answer.content[:500]
            raise _Undo
    except _Undo:
        pass


@dataclass
class Door:
    """A caller in front of a page, before anything was typed, and the names of the page's fields."""

    cookies: SimpleCookie
    fields: list[str]

    def client(self) -> Client:
        """A browser as it was then, whatever an earlier one did."""
        client = Client()
        client.cookies = copy.deepcopy(self.cookies)
        return client


@pytest.fixture
def doors(client_for) -> Callable[[str, User | None], Door]:
    """Return the door of an address and a person; it is looked at once for all examples."""

    @functools.cache
    def door(url: str, user: User | None) -> Door:
        client = client_for(user) if user else Client()
        cookies = copy.deepcopy(client.cookies)
        shown = client.get(url).getvalue().decode(errors="replace")
        return Door(cookies, sorted(set(NAMES.findall(shown)) - {"csrfmiddlewaretoken"}))

    return door


@pytest.mark.django_db
@pytest.mark.parametrize("name", [*PAGES, *PLATFORM])
@FEW
@given(typed=st.lists(STRANGE, min_size=7, max_size=7))
def test_forms(name, typed, world, doors, alice, paula):
    url = address(name, world)
    door = doors(url, paula if name in PLATFORM else alice)
    client = door.client()
    values = dict(zip(door.fields or ["name", "q", "priority", "model", "message"], cycle(typed)))
    unharmed(lambda: client.post(url, values))
    unharmed(lambda: client.get(url, {**values, "q": f"{typed[0]}\x00"}))


@pytest.mark.django_db
@pytest.mark.parametrize("name", [*PUBLIC, *OWN])
@FEW
@given(typed=st.lists(STRANGE, min_size=7, max_size=7))
def test_doors(name, typed, world, doors, alice):
    """What everybody may call: sign-in, resets, links of mails, and what people do to their own account."""
    url = address(name, world)
    usual = [
        "login",
        "password",
        "email",
        "code",
        "credential",
        "next",
        "key",
        "token",
        "mailed",
        "to",
        "state",
        "name",
    ]
    for door in (doors(url, None), doors(url, alice)):
        client = door.client()
        values = dict(zip([*door.fields, *usual], cycle(typed)))
        unharmed(lambda client=client, values=values: client.post(url, values))
        unharmed(lambda client=client, values=values: client.get(url, values))


@pytest.mark.django_db
@pytest.mark.parametrize("name", API)
@FEW
@given(body=st.one_of(JSON, st.dictionaries(st.sampled_from(KEYS), JSON, max_size=6)))
def test_bodies(name, body, world, api):
    url = address(name, world)
    for method in ("post", "patch", "put"):
        unharmed(lambda method=method: getattr(api, method)(url, body, content_type="application/json"))


@pytest.mark.django_db
@FEW
@given(raw=st.binary(max_size=80), kind=st.sampled_from(["application/json", "text/plain", "multipart/form-data", "x"]))
def test_raw_bodies(raw, kind, api: Client):
    for path in ("/api/experiments/", "/api/datasets/", "/v1/chat/completions", "/v1/completions"):
        unharmed(lambda path=path: api.post(path, raw, content_type=kind))
