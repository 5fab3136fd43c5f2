"""API tokens: shown once, hashed, scoped, revoked at once; refused in one query whatever is sent."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from portal import tokens
from portal.errors import InvalidInput
from portal.models import ApiToken, AuditEvent, Scope
from portal.rls import all_teams, team_scope

ROUTE = "/api/base-models/"


def knock(header: str) -> int:
    return Client(headers={"Authorization": header}).get(ROUTE).status_code


def test_a_token_opens_the_api_and_its_hash_alone_is_kept(token, team):
    assert knock(f"Bearer {token}") == 200
    with team_scope(team.pk):
        row = team.apitokens.get()
    assert token.rpartition("_")[2] not in str(row.__dict__)
    assert row.digest != token
    assert len(row.digest) == 64


def test_use_is_noted_at_most_once_a_minute(token, team):
    knock(f"Bearer {token}")
    with team_scope(team.pk):
        first = team.apitokens.get().last_used_at
    knock(f"Bearer {token}")
    with team_scope(team.pk):
        assert team.apitokens.get().last_used_at == first is not None


def test_refusals(token, team, actor, alice, make_token):
    wrong_secret = token[:-4] + ("aaaa" if token[-4:] != "aaaa" else "bbbb")
    unknown = "tnp_" + "0" * 16 + token[20:]
    assert {knock(f"Bearer {t}") for t in (wrong_secret, unknown, "x", "")} == {401}
    assert knock(f"Basic {token}") == 401
    assert Client().get(ROUTE).status_code == 401
    assert Client().get(f"{ROUTE}?token={token}").status_code == 401
    with team_scope(team.pk):
        row = team.apitokens.get()
        tokens.revoke_token(token=row, actor=actor)
        tokens.revoke_token(token=row, actor=actor)
    assert knock(f"Bearer {token}") == 401
    assert AuditEvent.objects.filter(action="token.revoked").count() == 1
    late = make_token(team, alice)
    with all_teams("test"):
        ApiToken.unscoped.update(revoked_at=None, expires_at=timezone.now() - timedelta(seconds=1))
    answer = Client(headers={"Authorization": f"Bearer {late}"}).get(ROUTE)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "expired_api_key")


def test_a_deactivated_owner_takes_the_token_along(token, alice):
    alice.is_active = False
    alice.save()
    assert knock(f"Bearer {token}") == 401


def test_a_token_without_the_scope_is_refused_by_name(team, alice, make_token):
    weak = make_token(team, alice, scopes=[Scope.INFERENCE])
    answer = Client(headers={"Authorization": f"Bearer {weak}"}).get(ROUTE)
    assert answer.status_code == 403
    error = answer.json()["error"]
    assert error["code"] == "insufficient_scope"
    assert "runs:read" in error["message"]


def test_sessions_are_ignored_by_the_api(client_for, alice, team):
    assert client_for(alice).get(ROUTE).status_code == 401


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"name": " "}, "name"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["root"]}, "scopes"),
        ({"expires_at": timezone.now() - timedelta(days=1)}, "expires_at"),
    ],
)
def test_bad_wishes_are_refused_and_leave_nothing(team, actor, alice, change, param):
    wish = {"name": "x", "scopes": [Scope.INFERENCE]} | change
    with team_scope(team.pk):
        with pytest.raises(InvalidInput) as refused:
            tokens.create_token(team=team, actor=actor, owner=alice, **wish)
        assert refused.value.param == param
        assert team.apitokens.count() == 0


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    header=st.text(st.characters(codec="latin-1"), max_size=300)
    | st.binary(max_size=300).map(lambda b: b.decode("latin-1"))
)
def test_any_authorization_header_gets_a_clean_answer_in_one_query(db, django_assert_max_num_queries, header):
    with django_assert_max_num_queries(1):
        assert knock(header) == 401
    with django_assert_max_num_queries(1):
        assert knock(f"Bearer {header}") == 401


def test_the_page_shows_the_text_once_and_revokes(client_for, alice, bob, charlie, team):
    page = f"/t/{team.slug}/tokens/"
    browser = client_for(alice)
    assert "No tokens yet" in browser.get(page).content.decode()
    made = browser.post(page, {"name": "Webhook", "scopes": ["inference"]}).content.decode()
    assert "tnp_" in made
    assert "not shown again" in made
    with team_scope(team.pk):
        row = team.apitokens.get()
    assert f"tnp_{row.key_id}_…" in browser.get(page).content.decode()
    assert browser.post(page, {"name": "", "scopes": []}).status_code == 400
    revoke = f"{page}{row.pk}/revoke/"
    assert client_for(bob).post(revoke).status_code == 403
    assert client_for(charlie).post(revoke).status_code == 404
    assert browser.get(revoke).status_code == 405
    assert browser.post(revoke).status_code == 302
    with team_scope(team.pk):
        assert team.apitokens.get().revoked_at is not None


@pytest.mark.django_db(transaction=True)
def test_the_look_up_is_planned_once_for_a_connection_and_goes_on_without_its_plan(token):
    def found() -> tuple[str, int]:
        with CaptureQueriesContext(connection) as asked:
            row, is_valid = tokens.look_up(token)
        assert row is not None
        assert is_valid
        return row.key_id, len(asked)

    connection.close()
    key_id, messages = found()
    assert messages == 1
    assert found() == (key_id, 1)
    connection.connection.execute("DEALLOCATE ALL")  # as behind a pooler
    assert found()[0] == key_id
    connection.close()
    assert found() == (key_id, 1)
    assert tokens.look_up(token[:-1] + ("a" if token[-1] != "a" else "b")) == (None, False)
