"""Teams that demand a second factor, and platform admins."""

from __future__ import annotations

import pytest
from allauth.mfa.totp.internal.auth import TOTP, generate_totp_secret

from portal import teams
from portal.actors import Actor
from portal.errors import IllegalTransition
from portal.models import AuditEvent

SET_UP = "/account/second-factor/"


@pytest.fixture
def strict_team(team, alice, actor):
    TOTP.activate(alice, generate_totp_secret())
    teams.set_mfa_required(team=team, required=True, actor=actor)
    return team


def test_a_member_without_one_is_led_to_set_it_up_first(strict_team, client_for, alice, bob, api):
    home = f"/t/{strict_team.slug}/"
    assert client_for(alice).get(home).status_code == 200
    browser = client_for(bob)
    answer = browser.get(f"{home}members/")
    assert answer["Location"] == f"{SET_UP}?next=%2Ft%2Fservice-desk%2Fmembers%2F"
    page = browser.get(answer["Location"]).content.decode()
    assert "demands more than a password" in page
    assert browser.post(f"{home}datasets/import/")["Location"] == SET_UP
    partial = browser.get(f"{home}active-runs/", headers={"HX-Request": "true"})
    assert (partial.status_code, partial["HX-Redirect"], partial.content) == (200, SET_UP, b"")
    assert api.get("/api/runs/").status_code == 200, "API tokens are not people"
    TOTP.activate(bob, generate_totp_secret())
    assert browser.get(f"{home}members/").status_code == 200
    assert f'href="{home}members/"' in browser.get(answer["Location"]).content.decode()


def test_the_way_on_never_leads_outside(client_for, bob):
    page = client_for(bob).get(SET_UP, {"next": "https://evil.example/"}).content.decode()
    assert "evil" not in page


def test_recovery_codes_alone_are_no_second_factor(strict_team, client_for, bob):
    from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes

    RecoveryCodes.activate(bob)
    assert client_for(bob).get(f"/t/{strict_team.slug}/").status_code == 302


def test_other_teams_are_not_concerned(strict_team, other_team, client_for, charlie):
    assert client_for(charlie).get(f"/t/{other_team.slug}/").status_code == 200
    assert client_for(charlie).get(f"/t/{strict_team.slug}/").status_code == 404, "a stranger learns nothing"


def test_who_demands_one_has_one(team, alice, actor, client_for):
    with pytest.raises(IllegalTransition):
        teams.set_mfa_required(team=team, required=True, actor=actor)
    answer = client_for(alice).post(f"/t/{team.slug}/members/second-factor/", {"required": "yes"})
    assert answer.status_code == 409
    TOTP.activate(alice, generate_totp_secret())
    browser = client_for(alice)
    for required in ("yes", "yes", "no"):
        assert browser.post(f"/t/{team.slug}/members/second-factor/", {"required": required}).status_code == 302
    noted = AuditEvent.objects.filter(action="team.mfa_required_changed")
    assert [event.detail for event in noted] == [{"required": False}, {"required": True}]


def test_a_platform_admin_demands_it_of_any_team(team, paula):
    teams.set_mfa_required(team=team, required=True, actor=Actor(user=paula))
    team.refresh_from_db()
    assert team.mfa_required


def test_platform_admins_need_one_where_the_installation_says_so(paula, client_for, settings):
    browser = client_for(paula)
    assert browser.get("/platform/").status_code == 200
    settings.REQUIRE_ADMIN_MFA = True
    assert browser.get("/platform/")["Location"].startswith(SET_UP)
    TOTP.activate(paula, generate_totp_secret())
    assert browser.get("/platform/").status_code == 200
