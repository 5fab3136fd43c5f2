"""Secrets of teams: sealed at rest, bound to team and name, never shown, and their key can be changed (F86)."""

from __future__ import annotations

import os
import subprocess
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from hypothesis import HealthCheck, given
from hypothesis import settings as fuzz
from hypothesis import strategies as st

from portal import secrets
from portal.embedded_postgres import binaries
from portal.errors import InvalidInput, NotFound
from portal.models import AuditEvent, TeamSecret
from portal.rls import all_teams, team_scope
from portal.secrets import Sealed

TEXT = "hf_CANARYcanaryCANARY0123456789"
OLD, NEW = "o" * 25 + "0123456789abcdefghijklmno", "n" * 25 + "0123456789abcdefghijklmno"


@pytest.fixture
def stored(scoped, actor) -> TeamSecret:
    return secrets.store(team=scoped, kind="hub_token", name="hub", text=TEXT, actor=actor)


def test_machine_code_gets_it_back_and_its_use_is_noted(scoped, stored):
    assert secrets.reveal(team=scoped, name="hub") == TEXT
    stored.refresh_from_db()
    assert stored.last_used_at is not None


@fuzz(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200))
def test_any_text_comes_back_as_it_was(scoped, actor, text):
    secrets.store(team=scoped, kind="connector", name="any", text=text, actor=actor)
    assert secrets.reveal(team=scoped, name="any") == text


def test_equal_texts_are_sealed_differently(scoped, stored, actor):
    again = secrets.store(team=scoped, kind="hub_token", name="hub2", text=TEXT, actor=actor)
    assert bytes(stored.ciphertext) != bytes(again.ciphertext)


def test_a_row_that_was_moved_copied_or_changed_does_not_open(scoped, stored, other_team):
    sealed = bytes(stored.ciphertext)

    def refused(**changes) -> None:
        fields = {"kind": "hub_token", "name": "hub", "ciphertext": sealed, "key_id": stored.key_id, "team": scoped}
        TeamSecret.unscoped.all().delete()
        row = TeamSecret.unscoped.create(**{**fields, **changes})
        with pytest.raises(Sealed):
            secrets.reveal(team=row.team, name=row.name)

    with all_teams("test"):
        TeamSecret.unscoped.all().delete()
        untouched = TeamSecret(kind="hub_token", name="hub", ciphertext=sealed, key_id=stored.key_id, team=scoped)
        untouched.save()
        assert secrets.reveal(team=scoped, name="hub") == TEXT, "a copy that is the same does open"
        refused(team=other_team)
        refused(name="other")
        refused(kind="connector")
        refused(ciphertext=sealed[:-1] + bytes([sealed[-1] ^ 1]))
        refused(ciphertext=b"")
        refused(key_id="0" * 16)


def test_names_of_other_teams_are_unknown(scoped, stored, other_team):
    with team_scope(other_team.pk), pytest.raises(NotFound):
        secrets.reveal(team=other_team, name="hub")


@pytest.mark.parametrize(
    ("kind", "name", "text"),
    [
        ("password", "x", "y"),
        ("hub_token", "", "y"),
        ("hub_token", "a b", "y"),
        ("hub_token", "a" * 61, "y"),
        ("hub_token", "a", ""),
        ("hub_token", "a", "x" * 8193),
    ],
)
def test_what_does_not_fit_is_refused(scoped, actor, kind, name, text):
    with pytest.raises(InvalidInput):
        secrets.store(team=scoped, kind=kind, name=name, text=text, actor=actor)
    assert not TeamSecret.unscoped.exists()


# --- the key is changed ------------------------------------------------------------------------------------------


def test_the_key_can_be_changed(settings, scoped, actor):
    settings.SECRETS_KEY, settings.OLD_SECRETS_KEYS = OLD, []
    before = secrets.store(team=scoped, kind="hub_token", name="hub", text=TEXT, actor=actor)
    settings.SECRETS_KEY, settings.OLD_SECRETS_KEYS = NEW, [OLD]
    assert secrets.reveal(team=scoped, name="hub") == TEXT
    said = StringIO()
    call_command("rotatesecrets", stdout=said)
    call_command("rotatesecrets", stdout=said)
    assert said.getvalue().splitlines() == [
        "encrypted under the newest key: 1 of the teams' secrets, 0 second factors",
        "encrypted under the newest key: 0 of the teams' secrets, 0 second factors",
    ]
    settings.OLD_SECRETS_KEYS = []
    assert secrets.reveal(team=scoped, name="hub") == TEXT
    after = TeamSecret.unscoped.get()
    assert (after.pk, after.key_id != before.key_id) == (before.pk, True)
    assert AuditEvent.objects.filter(action__startswith="secret.").count() == 1


def test_a_lost_key_is_named_and_the_others_are_saved(settings, scoped, actor):
    settings.SECRETS_KEY, settings.OLD_SECRETS_KEYS = OLD, []
    secrets.store(team=scoped, kind="hub_token", name="lost", text=TEXT, actor=actor)
    settings.SECRETS_KEY = NEW
    secrets.store(team=scoped, kind="hub_token", name="kept", text=TEXT, actor=actor)
    with pytest.raises(Sealed, match="lost"):
        secrets.reveal(team=scoped, name="lost")
    with pytest.raises(CommandError, match="service-desk/lost"):
        call_command("rotatesecrets", stdout=StringIO())
    assert secrets.reveal(team=scoped, name="kept") == TEXT


# --- never shown --------------------------------------------------------------------------------------------------


def test_the_page_stores_replaces_and_forgets_but_never_shows(team, alice, bob, charlie, client_for):
    browser, address = client_for(alice), f"/t/{team.slug}/secrets/"
    for text in (TEXT, f"{TEXT}-2"):
        answer = browser.post(address, {"kind": "hub_token", "name": "hub", "text": text}, follow=True)
        assert "CANARY" not in answer.content.decode()
        assert "cannot be read again" in answer.content.decode()
    with team_scope(team.pk):
        assert secrets.reveal(team=team, name="hub") == f"{TEXT}-2"
        pk = TeamSecret.unscoped.get().pk
    refused = browser.post(address, {"kind": "hub_token", "name": "not a slug", "text": TEXT})
    assert refused.status_code == 400
    assert "CANARY" not in refused.content.decode()
    assert "CANARY" not in str(list(AuditEvent.objects.values()))
    assert client_for(bob).get(address).status_code == 403
    assert client_for(charlie).post(f"{address}{pk}/delete/").status_code == 404
    assert browser.post(f"{address}{pk}/delete/").status_code == 302
    with team_scope(team.pk):
        assert not TeamSecret.unscoped.exists()


def test_it_prints_as_its_name_only(stored):
    assert (str(stored), "CANARY" in repr(stored), "CANARY" in repr(vars(stored))) == ("hub", False, False)


@pytest.mark.django_db(transaction=True)
def test_a_dump_of_the_database_holds_no_text(team, actor, tmp_path):
    with team_scope(team.pk):
        secrets.store(team=team, kind="hub_token", name="hub", text=TEXT, actor=actor)
    known = connection.settings_dict
    pg_dump = binaries.find_binaries(None)[0] / "pg_dump"
    dump = subprocess.run(
        [str(pg_dump), "--data-only", "--inserts", "--enable-row-security", "-t", "portal_*", known["NAME"]],
        env={
            **os.environ,
            "PGHOST": known["HOST"],
            "PGPORT": str(known["PORT"]),
            "PGUSER": known["USER"],
            "PGPASSWORD": known["PASSWORD"],
            "PGOPTIONS": "-c app.all_teams=on",
        },
        capture_output=True,
        check=True,
        timeout=60,
    ).stdout
    assert b"INSERT INTO public.portal_teamsecret" in dump
    for form in (TEXT.encode(), TEXT.encode().hex().encode(), TEXT.encode()[::-1]):
        assert form not in dump
