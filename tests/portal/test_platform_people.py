"""People as platform admins see them: rights, shutting out, and seeing the portal as somebody else."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from django.db import connection
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from portal import impersonation, people
from portal.actors import Actor
from portal.errors import Forbidden, IllegalTransition, InvalidInput
from portal.models import AuditEvent, Impersonation, User
from portal.rls import team_scope


@pytest.fixture
def admin(paula) -> Actor:
    return Actor(user=paula)


def test_the_last_platform_admin_stays(paula, alice, admin):
    with pytest.raises(IllegalTransition, match="at least one"):
        people.set_platform_admin(person=paula, is_admin=False, actor=admin)
    with pytest.raises(IllegalTransition, match="at least one"):
        people.deactivate(person=paula, actor=Actor.system("command line"))
    people.set_platform_admin(person=alice, is_admin=True, actor=admin)
    people.set_platform_admin(person=paula, is_admin=False, actor=Actor(user=alice))
    assert list(User.objects.filter(is_platform_admin=True)) == [alice]


@pytest.mark.django_db(transaction=True)
def test_two_admins_who_send_each_other_away_leave_one(paula, alice):
    User.objects.filter(pk=alice.pk).update(is_platform_admin=True)
    barrier, outcomes = threading.Barrier(2), []

    def send_away(admin: User, other: User) -> None:
        barrier.wait()
        try:
            people.set_platform_admin(person=other, is_admin=False, actor=Actor(user=admin))
            outcomes.append("done")
        except IllegalTransition:
            outcomes.append("refused")
        finally:
            connection.close()

    threads = [threading.Thread(target=send_away, args=pair) for pair in ((paula, alice), (alice, paula))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert sorted(outcomes) == ["done", "refused"]
    assert User.objects.filter(is_platform_admin=True).count() == 1


def test_nobody_shuts_themselves_out(paula, alice, admin):
    people.set_platform_admin(person=alice, is_admin=True, actor=admin)
    with pytest.raises(IllegalTransition, match="yourself"):
        people.deactivate(person=paula, actor=admin)


def test_deactivation_ends_sessions_and_tokens_and_reactivation_does_not_revive_sessions(
    team, alice, admin, client_for, api
):
    browser = client_for(alice)
    assert browser.get(f"/t/{team.slug}/").status_code == 200
    assert api.get(reverse("datasets-api:list")).status_code == 200
    people.deactivate(person=alice, actor=admin)
    assert browser.get(f"/t/{team.slug}/").status_code == 302
    assert api.get(reverse("datasets-api:list")).status_code == 401
    people.reactivate(person=alice, actor=admin)
    assert browser.get(f"/t/{team.slug}/").status_code == 302
    assert client_for(alice).get(f"/t/{team.slug}/").status_code == 200


def test_the_buttons(paula, alice, client_for):
    browser, address = client_for(paula), f"/platform/people/{alice.pk}/"
    for change, field, value in [
        ("make-admin", "is_platform_admin", True),
        ("unmake-admin", "is_platform_admin", False),
        ("deactivate", "is_active", False),
        ("reactivate", "is_active", True),
    ]:
        assert browser.get(f"{address}{change}/").status_code == 405
        assert browser.post(f"{address}{change}/").headers["Location"] == address
        alice.refresh_from_db()
        assert getattr(alice, field) is value
    assert browser.post(f"{address}promote/").status_code == 404


# --- impersonation -------------------------------------------------------------------------------------------------


@pytest.fixture
def as_alice(paula, alice, client_for) -> Client:
    """Paula's browser, in which she sees the portal as Alice."""
    browser = client_for(paula)
    answer = browser.post(f"/platform/people/{alice.pk}/", {"reason": "ticket 4711"})
    assert answer.headers["Location"] == "/"
    return browser


def test_it_needs_a_reason(paula, alice, client_for):
    assert client_for(paula).post(f"/platform/people/{alice.pk}/", {"reason": " "}).status_code == 400
    assert not Impersonation.objects.exists()


def test_the_admin_sees_what_the_person_sees_and_a_banner(team, as_alice, alice, paula):
    page = as_alice.get(f"/t/{team.slug}/").content.decode()
    assert "You see the portal as <strong>Alice</strong>" in page
    assert as_alice.get("/platform/").status_code == 404
    as_alice.post(reverse("portal:end_impersonation"))
    assert as_alice.get(f"/t/{team.slug}/").status_code == 404
    assert as_alice.get("/platform/").status_code == 200
    trail = AuditEvent.objects.filter(action__startswith="impersonation").order_by("at")
    assert [(event.action, event.detail.get("reason")) for event in trail] == [
        ("impersonation.started", "ticket 4711"),
        ("impersonation.ended", None),
    ]


def test_what_is_done_meanwhile_carries_both_names(team, as_alice, alice, paula):
    with team_scope(team.pk):
        dataset = team.datasets.create(name="old")
    as_alice.post(reverse("datasets:delete", args=[team.slug, dataset.pk]))
    event = AuditEvent.objects.get(action="dataset.deleted")
    assert (event.user_id, event.impersonator_id) == (alice.pk, paula.pk)
    assert event.actor == "paula@example.org as alice@example.org"


def test_what_would_outlast_it_is_refused(world, as_alice, alice):
    team = world.team.slug
    key = {"name": "loot", "scopes": ["inference"]}
    before = world.token.__class__.unscoped
    refused = [
        as_alice.post(reverse("portal:tokens", args=[team]), key),
        as_alice.post(reverse("portal:rotate_token", args=[team, world.token.pk]), {"overlap_hours": 1}),
        as_alice.get(reverse("portal:audit_export", args=[team])),
        as_alice.get(reverse("portal:usage_export", args=[team])),
        as_alice.get(reverse("datasets:download", args=[team, world.version.pk, "train", "jsonl"])),
        as_alice.get(reverse("experiments:predictions", args=[team, world.run.pk])),
        as_alice.get(reverse("experiments:log_text", args=[team, world.run.pk])),
        as_alice.get(reverse("experiments:adapter_download", args=[team, world.run.pk])),
        as_alice.get(reverse("experiments:kept_download", args=[team, world.run.pk, 2])),
        as_alice.post(reverse("portal:secrets", args=[team]), {"kind": "hub_token", "name": "x", "text": "y"}),
        as_alice.get(reverse("account_change_password")),
        as_alice.post(reverse("account_change_password"), {"password1": "x", "password2": "x"}),
        as_alice.get(reverse("account_email")),
        as_alice.get(reverse("mfa_index")),
        as_alice.get(reverse("mfa_view_recovery_codes")),
        as_alice.get(reverse("usersessions_list")),
    ]
    assert [answer.status_code for answer in refused] == [403] * len(refused)
    assert all("somebody else" in answer.content.decode() for answer in refused)
    with team_scope(world.team.pk):
        assert before.count() == 1


def test_it_ends_by_itself(team, as_alice, paula):
    Impersonation.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    assert as_alice.get(f"/t/{team.slug}/").status_code == 404
    assert as_alice.get("/platform/").status_code == 200
    event = AuditEvent.objects.get(action="impersonation.ended")
    assert (event.user_id, event.detail["why"]) == (paula.pk, "time is over")


def test_it_ends_when_either_loses_what_it_needs(team, as_alice, alice, paula, bob):
    User.objects.filter(pk=alice.pk).update(is_active=False)
    assert as_alice.get(f"/t/{team.slug}/").status_code == 404
    assert Impersonation.objects.get().ended_at is not None


def test_signing_out_ends_it(as_alice):
    as_alice.post("/logout/")
    assert Impersonation.objects.get().ended_at is not None
    assert as_alice.get("/platform/").status_code == 302


def test_another_browser_cannot_use_somebodys_impersonation(as_alice, bob, team, client_for):
    thief = client_for(bob)
    session = thief.session
    session[impersonation.SESSION_KEY] = str(Impersonation.objects.get().pk)
    session.save()
    page = thief.get(f"/t/{team.slug}/").content.decode()
    assert "You see the portal as" not in page
    assert impersonation.SESSION_KEY not in thief.session


def test_who_may_not_begin_and_who_may_not_be_seen_through(paula, alice, bob, admin):
    with pytest.raises(Forbidden):
        impersonation.start(person=bob, reason="x", actor=Actor(user=alice))
    with pytest.raises(Forbidden):
        impersonation.start(person=bob, reason="x", actor=Actor(user=paula, impersonator=alice))
    with pytest.raises(InvalidInput):
        impersonation.start(person=bob, reason="two\nlines", actor=admin)
    User.objects.filter(pk__in=[alice.pk]).update(is_platform_admin=True)
    alice.refresh_from_db()
    for person in (alice, paula):
        with pytest.raises(IllegalTransition):
            impersonation.start(person=person, reason="x", actor=admin)


def test_programs_are_never_stood_in_for(team, as_alice, token):
    answer = as_alice.get(reverse("datasets-api:list"), headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 200
    assert as_alice.get(reverse("datasets-api:list")).status_code == 401


def test_nobody_is_invited_in_somebody_elses_name(team, as_alice):
    answer = as_alice.post(reverse("portal:invite", args=[team.slug]), {"email": "friend@example.org", "role": "admin"})
    assert answer.status_code in (400, 403)
    assert "somebody else" in answer.content.decode()
    with team_scope(team.pk):
        assert not team.invitations.exists()
