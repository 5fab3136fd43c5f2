"""Signing in at the company's identity provider, and everything such a provider may get wrong."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from allauth.mfa.totp.internal.auth import TOTP, generate_totp_secret
from allauth.socialaccount.models import SocialAccount
from cryptography.hazmat.primitives.asymmetric import rsa
from django.core.cache import cache
from django.test import Client

from portal import invitations, teams
from portal.actors import Actor
from portal.models import AuditEvent, Role, User
from portal.oidc.config import read_providers
from portal.rls import team_scope
from tests.cast import PASSWORD
from tests.portal.identity_provider import IdentityProvider

pytestmark = pytest.mark.slow

DORA = "dora@example.org"
GROUPS = {"desk": {"service-desk": "editor"}, "desk-leads": {"service-desk": "admin"}, "money": {"finance": "viewer"}}


def use(settings: Any, *descriptions: dict[str, Any]) -> None:
    """Configure providers as the environment would."""
    settings.SIGN_IN_PROVIDERS = read_providers(json.dumps(descriptions))
    known = settings.SOCIALACCOUNT_PROVIDERS["openid_connect"]
    apps = [provider.allauth_app() for provider in settings.SIGN_IN_PROVIDERS]
    settings.SOCIALACCOUNT_PROVIDERS = {"openid_connect": {**known, "APPS": apps}}


def description(provider: IdentityProvider, **more: Any) -> dict[str, Any]:
    return {
        "id": "company",
        "name": "Company",
        "server_url": provider.url,
        "client_id": provider.client_id,
        "client_secret": provider.client_secret,
        "groups": GROUPS,
        **more,
    }


@pytest.fixture
def idp(settings, db) -> Iterator[IdentityProvider]:
    cache.clear()
    provider = IdentityProvider()
    use(settings, description(provider))
    yield provider
    provider.close()


def way_there(browser: Client, provider: str = "company", query: str = "") -> str:
    """Press the button, and return the address to which our page leads."""
    page = browser.post(f"/account/oidc/{provider}/login/{query}").content.decode()
    return html.unescape(re.search(r'content="0; url=([^"]+)"', page).group(1))


def way_back(browser: Client, address: str):
    """Go to the provider and come back; returns our answer."""
    target = urlsplit(httpx.get(address).headers["Location"])
    return browser.get(f"{target.path}?{target.query}")


def sign_in(browser: Client | None = None, **options: Any):
    browser = browser or Client()
    browser.answer = way_back(browser, way_there(browser, **options))
    return browser


def is_in(browser: Client) -> bool:
    return browser.get("/account/").status_code == 200


def role_of(email: str, team) -> str | None:
    with team_scope(team.pk):
        found = team.memberships.filter(user__email=email).first()
        return found.role if found else None


def test_a_group_leads_into_the_team(idp, team, other_team):
    idp.claims["groups"] = ["desk", "everybody"]
    browser = sign_in()
    assert browser.answer["Location"] == "/"
    assert browser.get("/")["Location"] == f"/t/{team.slug}/"
    assert role_of(DORA, team) == Role.EDITOR
    assert role_of(DORA, other_team) is None
    dora = User.objects.get(email=DORA)
    assert (dora.name, dora.has_usable_password()) == ("Dora", False)
    assert SocialAccount.objects.get(user=dora).provider == "company"
    noted = set(AuditEvent.objects.filter(user_id=dora.pk).values_list("action", flat=True))
    assert {"person.signed_up", "sign_in.succeeded", "member.added"} <= noted


def test_roles_follow_the_groups_at_each_sign_in(idp, team, other_team):
    for groups, desk, money in (
        (["desk"], Role.EDITOR, None),
        (["desk", "desk-leads", "money"], Role.ADMIN, Role.VIEWER),
        (["desk"], Role.EDITOR, None),
        (["money"], None, Role.VIEWER),
    ):
        idp.claims["groups"] = groups
        sign_in()
        assert (role_of(DORA, team), role_of(DORA, other_team)) == (desk, money), groups
    del idp.claims["groups"]
    sign_in()
    assert (role_of(DORA, team), role_of(DORA, other_team)) == (None, None)


def test_the_last_admin_stays_whatever_the_groups_say(idp, team, alice, actor):
    idp.claims["groups"] = ["desk-leads"]
    sign_in()
    with team_scope(team.pk):
        teams.remove_member(membership=team.memberships.get(user=alice), actor=actor)
    for groups in (["desk"], []):
        idp.claims["groups"] = groups
        sign_in()
        assert role_of(DORA, team) == Role.ADMIN
    assert AuditEvent.objects.filter(action="member.kept_last_admin").count() == 2


def test_roles_that_a_person_gave_are_not_touched(idp, team, actor):
    idp.claims["groups"] = ["desk"]
    sign_in()
    with team_scope(team.pk):
        own = team.memberships.get(user__email=DORA)
        teams.change_role(membership=own, role=Role.VIEWER, actor=actor)
    for groups in (["desk-leads"], []):
        idp.claims["groups"] = groups
        sign_in()
        assert role_of(DORA, team) == Role.VIEWER


def test_without_a_group_or_an_invitation_nobody_gets_in(idp, team):
    browser = sign_in()
    assert "By invitation only" in browser.answer.content.decode()
    assert not is_in(browser)
    assert not User.objects.filter(email=DORA).exists()


def test_an_invitation_opens_the_way_too(idp, team, actor):
    with team_scope(team.pk):
        _kept, token = invitations.invite(team=team, email=DORA, role=Role.VIEWER, actor=actor)
    browser = Client()
    assert "Continue with Company" in browser.get(f"/invitations/{token}/").content.decode()
    sign_in(browser)
    assert role_of(DORA, team) == Role.VIEWER


@pytest.mark.parametrize("verified", [False, None, "true", 1])
def test_an_address_that_is_not_confirmed_is_refused(idp, team, verified):
    idp.claims |= {"groups": ["desk"], "email_verified": verified}
    browser = sign_in()
    assert browser.answer.status_code == 403
    assert "has not confirmed your e-mail address" in browser.answer.content.decode()
    assert not is_in(browser)


def test_an_operator_may_vouch_for_a_domain(idp, team, settings):
    use(settings, description(idp, verified_domains=["example.org"]))
    idp.claims |= {"groups": ["desk"], "email_verified": None}
    assert is_in(sign_in())
    idp.claims |= {"sub": "u-2", "email": "dora@example.com"}
    assert not is_in(sign_in())


def test_no_account_is_taken_over_by_its_address(idp, team, alice):
    idp.claims |= {"email": alice.email, "groups": ["desk-leads"]}
    browser = sign_in()
    assert "There is an account with your address already" in browser.answer.content.decode()
    assert not is_in(browser)
    assert not SocialAccount.objects.exists()


def test_two_providers_never_share_an_account(idp, team, settings):
    idp.claims["groups"] = ["desk"]
    assert is_in(sign_in())
    other = IdentityProvider()
    try:
        use(settings, description(idp), description(other, id="other", name="Other"))
        other.claims["groups"] = ["desk"]  # same subject, same address, other provider
        browser = sign_in(provider="other")
        assert "There is an account with your address already" in browser.answer.content.decode()
        assert not is_in(browser)
    finally:
        other.close()


def test_a_signed_in_person_connects_and_disconnects(idp, team, alice):
    idp.claims |= {"email": "alice@private.example"}
    browser = Client()
    browser.post("/login/", {"login": alice.email, "password": PASSWORD})
    assert "Connect Company" in browser.get("/account/connections/").content.decode()
    browser.post("/account/confirm-again/", {"password": PASSWORD})
    sign_in(browser, query="?process=connect")
    connected = SocialAccount.objects.get(user=alice)
    again = sign_in()
    assert is_in(again)
    assert again.get("/account/").wsgi_request.user == alice
    alice.refresh_from_db()
    assert alice.email == "alice@example.org"
    browser.post("/account/connections/", {"account": connected.pk})
    assert not SocialAccount.objects.exists()


def test_a_deactivated_person_stays_out(idp, team):
    idp.claims["groups"] = ["desk"]
    sign_in()
    User.objects.filter(email=DORA).update(is_active=False)
    assert sign_in().answer["Location"] == "/account/inactive/"


def test_the_second_factor_is_asked_for_here_too(idp, team):
    idp.claims["groups"] = ["desk"]
    sign_in()
    TOTP.activate(User.objects.get(email=DORA), generate_totp_secret())
    browser = sign_in()
    assert browser.answer["Location"].startswith("/login/second-step/")
    assert not is_in(browser)


@pytest.mark.parametrize("trusted", [True, False])
def test_a_provider_with_second_factors_of_its_own_satisfies_a_strict_team(idp, team, paula, settings, trusted):
    use(settings, description(idp, trust_mfa=trusted))
    teams.set_mfa_required(team=team, required=True, actor=Actor(user=paula))
    idp.claims["groups"] = ["desk"]
    assert sign_in().get(f"/t/{team.slug}/").status_code == (200 if trusted else 302)


LIES = {
    "other nonce": {"nonce": "x" * 32},
    "no nonce": {"nonce": None},
    "other issuer": {"iss": "https://evil.example"},
    "other audience": {"aud": "somebody-else"},
    "several audiences": {"aud": ["portal", "somebody-else"]},
    "too old": {"exp": 1},
    "no subject": {"sub": None},
}


@pytest.mark.parametrize("lie", LIES)
def test_a_token_that_does_not_fit_is_refused(idp, team, lie):
    idp.claims["groups"] = ["desk"]
    idp.lies = LIES[lie]
    browser = sign_in()
    assert "did not answer as it should" in browser.answer.content.decode()
    assert not is_in(browser)
    assert not User.objects.filter(email=DORA).exists()


@pytest.mark.parametrize("algorithm", ["stranger's key", "HS256", "none"])
def test_a_token_that_the_provider_did_not_sign_is_refused(idp, team, algorithm):
    idp.claims["groups"] = ["desk"]
    if algorithm == "stranger's key":
        idp.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    else:
        idp.algorithm = algorithm
    assert not is_in(sign_in())


def test_a_provider_that_speaks_for_another_issuer_is_refused(idp, team):
    idp.issuer = "https://login.example"
    page = Client().post("/account/oidc/company/login/").content.decode()
    assert "did not answer as it should" in page


def test_userinfo_fills_in_but_never_about_somebody_else(idp, team):
    idp.lies = {"email": None, "email_verified": None}
    idp.userinfo = {"email": DORA, "email_verified": True, "groups": ["desk"]}
    assert is_in(sign_in())
    idp.userinfo |= {"sub": "u-9", "email": "boss@example.org"}
    assert not is_in(sign_in())


def test_state_binds_the_answer_to_this_browser_and_works_once(idp, team):
    idp.claims["groups"] = ["desk"]
    browser, victim = Client(), Client()
    answer = httpx.get(way_there(browser)).headers["Location"]
    target = urlsplit(answer)
    back = f"{target.path}?{target.query}"
    victim.get(back)
    assert not is_in(victim), "an answer that another browser asked for"
    browser.get(back)
    assert is_in(browser)
    browser.post("/logout/")
    browser.get(back)
    assert not is_in(browser), "a replayed answer"
    stranger = Client()
    stranger.get(f"{target.path}?code={parse_qs(target.query)['code'][0]}")
    assert not is_in(stranger)


def test_turning_back_and_a_provider_that_is_down_have_pages(idp, team):
    browser = Client()
    state = parse_qs(urlsplit(way_there(browser)).query)["state"][0]
    answer = browser.get(f"/account/oidc/company/login/callback/?error=access_denied&state={state}", follow=True)
    assert "You turned back" in answer.content.decode()
    idp.is_down = True
    assert "did not answer as it should" in browser.post("/account/oidc/company/login/").content.decode()


def test_the_address_of_the_button_asks_before_it_leads_away(idp, team):
    browser = Client()
    assert "Go to Company?" in browser.get("/account/oidc/company/login/").content.decode()
    away = way_there(browser, query="?auth_params=redirect_uri%3Dhttps%3A%2F%2Fevil.example&scope=everything")
    asked = parse_qs(urlsplit(away).query)
    assert asked["redirect_uri"] == ["http://testserver/account/oidc/company/login/callback/"]
    assert set(asked["scope"][0].split()) == {"openid", "profile", "email"}
    assert browser.get("/account/oidc/nobody/login/").status_code == 404


@pytest.mark.parametrize("there_too", [True, False])
def test_signing_out_ends_the_providers_session_where_wanted(idp, team, settings, there_too):
    use(settings, description(idp, logout=there_too))
    idp.claims["groups"] = ["desk"]
    browser = sign_in()
    answer = browser.post("/logout/", follow=True)
    assert not is_in(browser)
    found = re.search(r'content="0; url=([^"]+)"', answer.content.decode())
    assert bool(found) is there_too
    if found:
        httpx.get(html.unescape(found.group(1)))
        assert idp.signed_out[0]["post_logout_redirect_uri"] == "http://testserver/login/"
        assert idp.signed_out[0]["id_token_hint"].count(".") == 2
    assert Client().get("/account/oidc/leaving/?to=https://evil.example").status_code == 404


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "not JSON"),
        ('[{"id": "a"}]', "0.name"),
        ('[{"id": "A b", "name": "x", "server_url": "https://x", "client_id": "x", "client_secret": "y"}]', "0.id"),
        ('[{"id": "a", "name": "x", "server_url": "http://x", "client_id": "x", "client_secret": "y"}]', "https://"),
        (
            '[{"id": "a", "name": "x", "server_url": "https://x", "client_id": "x", "client_secret": "hush",'
            ' "groups": {"g": {"t": "owner"}}}]',
            "groups",
        ),
    ],
)
def test_a_mistake_in_the_configuration_is_named_without_secrets(text, complaint):
    with pytest.raises(ValueError, match=re.escape(complaint)) as caught:
        read_providers(text)
    assert "hush" not in str(caught.value)


def test_nested_group_claims_are_found():
    (provider,) = read_providers(
        '[{"id": "a", "name": "x", "server_url": "https://x", "client_id": "x", "client_secret": "y",'
        ' "group_claim": "realm_access.roles"}]'
    )
    assert provider.groups_in({"realm_access": {"roles": ["a", 1, "b"]}}) == ["a", "b"]
    assert provider.groups_in({"realm_access.roles": "a"}) == ["a"]
    assert provider.groups_in({}) == []
