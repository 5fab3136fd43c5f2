"""What a process remembers of tokens and models saves look-ups, and never lets anything pass that has changed since."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
from django.db import transaction
from django.test import Client
from django.utils import timezone

from deployments import known_targets, services
from deployments.models import Deployment
from portal.models import ApiToken, BaseModel, Membership, Quota, QuotaWindow, Role, Scope, Team, User
from portal.rls import all_teams

CHAT = "/v1/chat/completions"


def ask(client: Client, **changes: object):
    body = {"model": "demo-triage", "messages": [{"role": "user", "content": "hi"}], **changes}
    return client.post(CHAT, json.dumps(body), "application/json")


def code_of(response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


@pytest.fixture
def known(api: Client, deployed, monkeypatch) -> Client:
    """A client whose token and model this process has seen a moment ago, on a machine that may be slow."""
    monkeypatch.setattr(known_targets, "KNOWN_FOR_S", 60.0)
    for _time in range(3):
        assert ask(api).status_code == 200
    return api


def taken() -> dict[str, int]:
    with all_teams("test"):
        return dict(QuotaWindow.unscoped.values_list("kind", "used"))


@pytest.mark.parametrize("model", ["demo-triage", "tiny"])
def test_a_known_request_is_let_in_by_one_statement(known, django_assert_max_num_queries, model):
    for _time in range(2):
        assert ask(known, model=model).status_code == 200
    with django_assert_max_num_queries(99) as seen:
        answer = ask(known, model=model)
    assert answer.status_code == 200
    # What is left is the count of the request, which is written at once within a test's transaction.
    asking = re.compile("apitoken|deployments_deployment|basemodel|token_stamp|portal_reserve|deployments_admit")
    selects = [query["sql"] for query in seen.captured_queries if "SELECT" in query["sql"]]
    [statement] = [sql for sql in selects if asking.search(sql)]
    assert "deployments_admit(" in statement
    assert int(answer["x-ratelimit-remaining-requests"]) == 6000 - taken()[Quota.REQUESTS_PER_MINUTE]


CHANGES: dict[str, Callable[[Team, User], object]] = {
    "revoked": lambda team, _person: ApiToken.unscoped.update(revoked_at=timezone.now()),
    "expired": lambda team, _person: ApiToken.unscoped.update(expires_at=timezone.now()),
    "archived": lambda team, _person: Team.objects.filter(pk=team.pk).update(archived_at=timezone.now()),
    "deactivated": lambda _team, person: User.objects.filter(pk=person.pk).update(is_active=False),
    "left": lambda team, person: Membership.unscoped.filter(team=team, user=person).delete(),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("body", [{}, {"model": "nobody-has-this"}, {"messages": "broken"}, {"stream": True}])
def test_a_token_that_ended_is_refused_at_once(known, team, alice, engine, change, body):
    before, asked = taken(), len(engine.requests)
    with all_teams("test"):
        CHANGES[change](team, alice)
    expected = "expired_api_key" if change == "expired" else "invalid_api_key"
    assert code_of(ask(known, **body)) == (401, expected)
    assert (taken(), len(engine.requests)) == (before, asked)


def test_a_change_that_is_undone_leaves_the_token_as_good_as_it_was(known):
    with transaction.atomic(), all_teams("test"):
        ApiToken.unscoped.update(revoked_at=timezone.now())
        transaction.set_rollback(True)
    assert ask(known).status_code == 200


def test_a_broken_body_of_a_known_token_is_read_once_and_counted_once(known):
    before = taken()[Quota.REQUESTS_PER_MINUTE]
    answer = known.post(CHAT, b"{broken", "application/json")
    assert code_of(answer) == (400, "invalid_json")
    assert taken()[Quota.REQUESTS_PER_MINUTE] == before + 1
    assert code_of(known.post(CHAT, b" " * (4 * 1024 * 1024 + 1), "application/json"))[0] == 413


def test_less_rights_of_the_owner_are_felt_at_once(known, team, alice, make_token):
    with all_teams("test"):
        ApiToken.unscoped.update(scopes=[Scope.DATASETS_READ.value])
        Membership.unscoped.filter(team=team, user=alice).update(role=Role.VIEWER)
    assert code_of(ask(known)) == (403, "insufficient_scope")


def test_a_deployment_that_changed_is_looked_up(known, team, actor, deployed):
    with all_teams("test"):
        services.stop_deployment(deployment=deployed.deployment, actor=actor)
    assert code_of(ask(known)) == (400, "deployment_stopped")
    with all_teams("test"):
        Deployment.unscoped.filter(pk=deployed.deployment.pk).update(is_running=True, name="renamed")
    assert code_of(ask(known)) == (404, "model_not_found")
    assert ask(known, model="renamed").status_code == 200


def test_a_base_model_that_may_not_be_used_any_more_is_gone_at_once(known):
    assert ask(known, model="tiny").status_code == 200
    assert ask(known, model="tiny").status_code == 200
    BaseModel.objects.filter(slug="tiny").update(is_allowed=False)
    assert code_of(ask(known, model="tiny")) == (404, "model_not_found")


def test_a_deployment_that_takes_the_name_of_a_base_model_is_found(known, deployed, engine):
    for _time in range(2):
        assert ask(known, model="tiny").status_code == 200
    with all_teams("test"):
        Deployment.unscoped.filter(pk=deployed.deployment.pk).update(name="tiny")
    answer = ask(known, model="tiny")
    assert answer.json()["choices"][0]["message"]["content"].startswith(deployed.adapter.engine_name)


def test_what_one_team_may_call_is_nothing_to_another(known, stranger_api):
    for _time in range(2):
        theirs = ask(stranger_api)
        nobody = ask(stranger_api, model="nobody-has-this")
        assert (theirs.status_code, theirs.content) == (404, nobody.content)


def test_a_full_limit_refuses_a_known_request(known, team):
    with all_teams("test"):
        team.teamlimits.update_or_create(kind=Quota.REQUESTS_PER_MINUTE, defaults={"value": 3})
    before = taken()
    refused = ask(known)
    assert code_of(refused) == (429, "rate_limit_exceeded")
    assert refused["x-ratelimit-remaining-requests"] == "0"
    assert taken() == before
