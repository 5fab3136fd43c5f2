"""Invitations, members and the last admin."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from datetime import timedelta

import pytest
from allauth.account.models import EmailAddress
from django.core import mail
from django.db import IntegrityError, connection, transaction
from django.test import Client
from django.utils import timezone

from portal import invitations, platform_teams, teams
from portal.actors import Actor
from portal.errors import IllegalTransition, InvalidInput, PortalError
from portal.models import AuditEvent, Invitation, Membership, Role, User
from portal.rls import all_teams, team_scope
from tests.cast import PASSWORD

DORA = "dora@example.org"


@pytest.fixture
def invited(team, actor) -> tuple[Invitation, str]:
    with team_scope(team.pk):
        return invitations.invite(team=team, email="Dora@Example.org", role=Role.EDITOR, actor=actor)


def sign_up(browser: Client, **values: str):
    form = {"email": "eve@example.org", "name": "Dora", "password1": PASSWORD, **values}
    return browser.post("/account/sign-up/", form)


def role_of(email: str, team) -> str | None:
    with team_scope(team.pk):
        found = team.memberships.filter(user__email=email).first()
        return found.role if found else None


def mailed_link() -> str:
    return re.search(r"http://testserver(\S+)", mail.outbox[-1].body).group(1)


def test_from_the_mailed_link_into_the_team(client_for, alice, team):
    page = client_for(alice).post(f"/t/{team.slug}/members/invite/", {"email": DORA, "role": "editor"})
    shown = re.search(r"http://testserver(/invitations/[\w-]+/)", page.content.decode()).group(1)
    assert mail.outbox[-1].to == [DORA]
    assert mail.outbox[-1].subject == "Join the team Service Desk on Tuneport"
    link = mailed_link()
    assert link.startswith(shown)
    assert shown not in client_for(alice).get(f"/t/{team.slug}/members/").content.decode(), "shown once"

    browser = Client()
    assert "Create your account" in browser.get(link).content.decode()
    answer = sign_up(browser)  # whatever address is typed, the invited one counts
    assert answer["Location"] == f"/t/{team.slug}/"
    assert browser.get(f"/t/{team.slug}/").status_code == 200
    assert role_of(DORA, team) == Role.EDITOR
    assert not User.objects.filter(email="eve@example.org").exists()
    assert EmailAddress.objects.get(email=DORA).verified
    assert Client().get(link).status_code == 404, "used twice"
    assert list(AuditEvent.objects.filter(team_id=team.pk).values_list("action", flat=True))[:3] == [
        "member.added",
        "invitation.accepted",
        "invitation.created",
    ]


def test_who_got_the_link_by_hand_chooses_no_password_for_the_address(invited, team):
    """Else an admin could make the account of somebody else, and wait for its owner to confirm it."""
    _invitation, token = invited
    browser = Client()
    page = browser.get(f"/invitations/{token}/").content.decode()
    assert "Open the link in your mail" in page
    assert "Create your account" not in page
    assert "Location" not in sign_up(browser)
    assert not User.objects.filter(email=DORA).exists()


def test_who_owns_an_invited_address_finds_the_invitation_on_the_start_page(invited, team, client_for):
    browser = client_for(User.objects.create_user(DORA, PASSWORD))
    page = browser.get("/").content.decode()
    assert "You are invited to" in page
    accept = re.search(r"/account/invitations/[\w-]+/", page).group(0)
    assert browser.post(accept)["Location"] == f"/t/{team.slug}/"
    assert role_of(DORA, team) == Role.EDITOR


def test_a_forged_proof_of_the_mail_proves_nothing(invited, team):
    _invitation, token = invited
    for proof in ("x", "eyJhIjoxfQ:1abc:def"):
        browser = Client()
        browser.get(f"/invitations/{token}/?mailed={proof}")
        assert "Location" not in sign_up(browser, name="Mallory")
        assert not User.objects.filter(email=DORA).exists()


def test_without_mail_the_handed_over_link_has_to_do(invited, team, settings):
    settings.EMAIL_BACKEND = "django.core.mail.backends.dummy.EmailBackend"
    _invitation, token = invited
    browser = Client()
    browser.get(f"/invitations/{token}/")
    assert sign_up(browser)["Location"] == f"/t/{team.slug}/"


def test_without_mail_an_address_proves_nothing_to_other_teams(invited, team, other_team, charlie, paula, settings):
    """Whoever was handed one team's link may have signed up with an address that is not theirs."""
    settings.EMAIL_BACKEND = "django.core.mail.backends.dummy.EmailBackend"
    _invitation, token = invited
    browser = Client()
    browser.get(f"/invitations/{token}/")
    sign_up(browser)
    with team_scope(other_team.pk):
        theirs, _token = invitations.invite(team=other_team, email=DORA, role=Role.ADMIN, actor=Actor(user=charlie))
    assert "You are invited to" not in browser.get("/").content.decode()
    assert browser.post(f"/account/invitations/{theirs.pk}/").status_code == 404
    _team, invitation, _token = platform_teams.open_team(name="New", email=DORA, actor=Actor(user=paula))
    assert invitation is not None


def test_somebody_else_cannot_use_it(invited, team, charlie, client_for):
    invitation, token = invited
    browser = client_for(charlie)
    page = browser.get(f"/invitations/{token}/").content.decode()
    assert "You are signed in with another address" in page
    assert browser.post(f"/invitations/{token}/").status_code == 409
    assert browser.post(f"/account/invitations/{invitation.pk}/").status_code == 404
    assert role_of(charlie.email, team) is None


def test_an_address_that_is_not_confirmed_is_not_owned(invited, team):
    invitation, _token = invited
    dora = User.objects.create_user(DORA, PASSWORD)
    EmailAddress.objects.filter(user=dora).update(verified=False)
    with pytest.raises(IllegalTransition):
        invitations.accept(invitation=invitation, actor=Actor(user=dora))
    assert invitations.waiting_for(dora) == []


def test_a_person_with_an_account_signs_in_and_joins(invited, team, client_for):
    _invitation, token = invited
    dora = User.objects.create_user(DORA, PASSWORD)
    assert "Sign in to join" in Client().get(f"/invitations/{token}/").content.decode()
    browser = client_for(dora)
    assert "Join the team" in browser.get(f"/invitations/{token}/").content.decode()
    assert browser.post(f"/invitations/{token}/")["Location"] == f"/t/{team.slug}/"
    assert role_of(DORA, team) == Role.EDITOR


@pytest.mark.parametrize("end", ["expired", "revoked", "resent"])
def test_links_that_are_over_lead_nowhere(invited, team, actor, end):
    invitation, token = invited
    opened_before = Client()
    opened_before.get(f"/invitations/{token}/")
    with all_teams("test"):
        if end == "expired":
            Invitation.unscoped.update(expires_at=timezone.now() - timedelta(seconds=1))
        elif end == "revoked":
            invitations.revoke(invitation=invitation, actor=actor)
        else:
            newer = invitations.renew(invitation=invitation, actor=actor)
    answer = Client().get(f"/invitations/{token}/")
    assert answer.status_code == 404
    assert "Ask the admin of the team for a new one" in answer.content.decode()
    if end == "resent":
        assert Client().get(f"/invitations/{newer}/").status_code == 200
    else:
        assert "invitation only" in opened_before.get("/account/sign-up/").content.decode()
        dora = User.objects.create_user(DORA, PASSWORD)
        with pytest.raises(IllegalTransition):
            invitations.accept(invitation=invitation, actor=Actor(user=dora))


def test_one_open_invitation_for_each_address(invited, team, actor, bob):
    with team_scope(team.pk):
        for email in (DORA, bob.email, "no address"):
            with pytest.raises(InvalidInput):
                invitations.invite(team=team, email=email, role=Role.VIEWER, actor=actor)
        with pytest.raises(IntegrityError), transaction.atomic():
            team.invitations.create(email=DORA, digest="1" * 64, expires_at=timezone.now())
        team.invitations.update(expires_at=timezone.now())
        invitations.invite(team=team, email=DORA, role=Role.VIEWER, actor=actor)


def test_only_a_hash_of_the_token_is_kept(invited):
    invitation, token = invited
    assert token not in str(vars(invitation))
    assert len(invitation.digest) == 64


def test_an_invitation_never_lowers_a_role(team, actor):
    dora = User.objects.create_user(DORA, PASSWORD)
    with team_scope(team.pk):
        invitation, _token = invitations.invite(team=team, email=DORA, role=Role.VIEWER, actor=actor)
        team.memberships.create(user=dora, role=Role.ADMIN, given_by="company")
    invitations.accept(invitation=invitation, actor=Actor(user=dora))
    with team_scope(team.pk):
        kept = team.memberships.get(user=dora)
    assert (kept.role, kept.given_by) == (Role.ADMIN, "")


def test_a_mail_that_cannot_be_sent_is_admitted(client_for, alice, team, settings):
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", 9
    page = client_for(alice).post(f"/t/{team.slug}/members/invite/", {"email": DORA, "role": "editor"})
    assert "could not be sent" in page.content.decode()


def test_invitations_are_the_admins_business(invited, client_for, bob, alice, team):
    invitation, _token = invited
    page = client_for(bob).get(f"/t/{team.slug}/members/").content.decode()
    assert DORA not in page
    assert "Second factor" not in page
    browser = client_for(alice)
    assert DORA in browser.get(f"/t/{team.slug}/members/").content.decode()
    answer = browser.post(f"/t/{team.slug}/invitations/{invitation.pk}/resend/")
    assert "is not shown again" in answer.content.decode()
    browser.post(f"/t/{team.slug}/invitations/{invitation.pk}/revoke/")
    assert "Open invitations" not in browser.get(f"/t/{team.slug}/members/").content.decode()


def test_roles_are_changed_and_members_removed_on_the_page(client_for, alice, bob, team):
    with team_scope(team.pk):
        membership = team.memberships.get(user=bob)
    browser, base = client_for(alice), f"/t/{team.slug}/members/{membership.pk}"
    browser.post(f"{base}/role/", {"role": "editor"})
    assert role_of(bob.email, team) == Role.EDITOR
    browser.post(f"{base}/role/", {"role": "owner"})
    assert role_of(bob.email, team) == Role.EDITOR
    assert "Remove Bob" in browser.get(f"{base}/remove/").content.decode()
    assert role_of(bob.email, team) == Role.EDITOR, "asking removes nobody"
    browser.post(f"{base}/remove/")
    assert role_of(bob.email, team) is None


def test_members_leave_but_not_the_last_admin(client_for, alice, bob, team):
    assert "Leave the team Service Desk?" in client_for(bob).get(f"/t/{team.slug}/members/leave/").content.decode()
    assert client_for(bob).post(f"/t/{team.slug}/members/leave/")["Location"] == "/"
    assert role_of(bob.email, team) is None
    answer = client_for(alice).post(f"/t/{team.slug}/members/leave/")
    assert answer.status_code == 409
    assert "at least one admin" in answer.content.decode()
    assert role_of(alice.email, team) == Role.ADMIN


def test_an_admin_who_is_deactivated_looks_after_nothing(alice, bob, team, actor):
    with team_scope(team.pk):
        own, other = team.memberships.get(user=alice), team.memberships.get(user=bob)
        teams.change_role(membership=other, role=Role.ADMIN, actor=actor)
        User.objects.filter(pk=bob.pk).update(is_active=False)
        with pytest.raises(IllegalTransition):
            teams.remove_member(membership=own, actor=actor)


def at_the_same_time(*deeds: Callable[[], object]) -> list[object]:
    """Do all deeds at once, each with a connection of its own, and return what each raised or None."""
    start, outcomes = threading.Barrier(len(deeds)), [None] * len(deeds)

    def run(index: int) -> None:
        start.wait()
        try:
            deeds[index]()
        except PortalError as error:
            outcomes[index] = error
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=[index]) for index in range(len(deeds))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


@pytest.mark.django_db(transaction=True)
def test_two_accept_one_invitation_at_the_same_time(invited, team):
    invitation, _token = invited
    dora = User.objects.create_user(DORA, PASSWORD)
    accept = lambda: invitations.accept(invitation=invitation, actor=Actor(user=dora))  # noqa: E731
    outcomes = at_the_same_time(*[accept] * 6)
    assert outcomes.count(None) == 1
    with all_teams("test"):
        assert Membership.unscoped.filter(user=dora).count() == 1
    assert AuditEvent.objects.filter(action="invitation.accepted").count() == 1


@pytest.mark.django_db(transaction=True)
def test_two_admins_cannot_leave_at_the_same_time(alice, bob, team, actor):
    with team_scope(team.pk):
        own, other = team.memberships.get(user=alice), team.memberships.get(user=bob)
        teams.change_role(membership=other, role=Role.ADMIN, actor=actor)

    def leave(membership: Membership) -> Callable[[], None]:
        def deed() -> None:
            with team_scope(team.pk):
                teams.remove_member(membership=Membership.unscoped.get(pk=membership.pk), actor=actor)

        return deed

    outcomes = at_the_same_time(leave(own), leave(other))
    assert outcomes.count(None) == 1
    with all_teams("test"):
        assert Membership.unscoped.filter(team=team, role=Role.ADMIN).count() == 1
