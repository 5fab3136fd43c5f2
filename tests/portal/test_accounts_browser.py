"""Accounts in a real browser: passkeys with a virtual authenticator, and every page within policy and width."""

from __future__ import annotations

import time
from typing import Any

import pytest
from allauth.mfa.models import Authenticator
from allauth.mfa.totp.internal import auth as totp
from django.core.cache import cache

from portal import invitations
from portal.models import Role
from portal.rls import team_scope
from tests.browser import complaints_of, fits
from tests.cast import PASSWORD
from tests.portal.identity_provider import IdentityProvider
from tests.portal.test_oidc import description, use

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
sync_api = pytest.importorskip("playwright.sync_api")

ENTRANCE = [
    "/login/",
    "/account/password/reset/",
    "/account/password/reset/sent/",
    "/account/sign-up/",
    "/account/inactive/",
]
OWN = [
    "/account/",
    "/account/second-factor/",
    "/account/email/",
    "/account/password/",
    "/account/two-factor/",
    "/account/sessions/",
]
RECENT = ["/account/two-factor/app/", "/account/two-factor/keys/", "/account/two-factor/keys/add/"]


@pytest.fixture
def page(chromium, live_server, alice):
    """A browser with an authenticator that says yes to everything, as a fingerprint reader does."""
    cache.clear()
    context = chromium.new_context(base_url=live_server.url)
    page = context.new_page()
    page.complaints = complaints_of(page)
    devtools = context.new_cdp_session(page)
    devtools.send("WebAuthn.enable")
    options = {"protocol": "ctap2", "transport": "internal", "hasResidentKey": True, "hasUserVerification": True}
    options |= {"isUserVerified": True, "automaticPresenceSimulation": True}
    devtools.send("WebAuthn.addVirtualAuthenticator", {"options": options})
    yield page
    context.close()


def sign_in(page: Any) -> None:
    page.goto("/login/")
    page.get_by_label("E-mail").fill("alice@example.org")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_load_state("networkidle")


def sign_out(page: Any) -> None:
    page.locator(".user-menu summary").click()
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/login/")


def confirm_again(page: Any) -> None:
    """Changes of how one signs in ask for the password once more."""
    page.goto("/account/two-factor/app/")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Confirm").click()
    page.wait_for_url("**/account/two-factor/app/")


def add_passkey(page: Any) -> None:
    page.goto("/account/two-factor/keys/add/")
    page.get_by_label("Name").fill("Laptop")
    page.get_by_label("Passkey: sign in").check()
    page.get_by_role("button", name="Add").click()
    sync_api.expect(page.locator("main")).to_contain_text("Recovery codes")


def test_a_passkey_signs_in_alone_and_as_second_step(page, team):
    sign_in(page)
    confirm_again(page)
    add_passkey(page)
    sign_out(page)
    page.get_by_role("button", name="Use a passkey").click()
    page.wait_for_url(f"**/t/{team.slug}/")
    sign_out(page)
    sign_in(page)
    assert "/login/second-step/" in page.url
    page.get_by_role("button", name="Use a passkey").click()
    page.wait_for_url(f"**/t/{team.slug}/")
    assert Authenticator.objects.filter(type="webauthn", last_used_at__isnull=False).count() == 1
    assert page.complaints == []


def test_leaving_the_dialog_says_so_in_plain_words(page):
    page.goto("/login/")
    page.evaluate(
        "() => { navigator.credentials.get = async () => { throw new DOMException('no', 'NotAllowedError') } }"
    )
    page.get_by_role("button", name="Use a passkey").click()
    sync_api.expect(page.locator("#toasts")).to_contain_text("did not use a passkey")
    assert page.complaints == []


def test_an_authenticator_app_is_set_up_with_its_code(page, team):
    sign_in(page)
    page.goto("/account/two-factor/")
    confirm_again(page)
    assert page.locator("img.qr").evaluate("image => image.naturalWidth") > 0
    secret = page.locator(".copy-value code").inner_text()
    page.get_by_label("Code").fill(f"{totp.hotp_value(secret, int(time.time()) // 30):06d}")
    page.get_by_role("button", name="Set up").click()
    sync_api.expect(page.locator("main")).to_contain_text("Recovery codes")
    assert page.locator("main pre, main code").first.inner_text().strip()
    assert page.complaints == []


def test_the_companys_sign_in_is_reached_under_the_real_policy(page, team, settings):
    """A form may not lead to another site, so a page of ours does; cookies survive the way back."""
    provider = IdentityProvider()
    use(settings, description(provider, logout=True))
    provider.claims["groups"] = ["desk"]
    page.goto("/login/")
    page.get_by_role("button", name="Continue with Company").click()
    page.wait_for_url(f"**/t/{team.slug}/")
    page.goto("/account/connections/")
    sync_api.expect(page.locator("main")).to_contain_text("Disconnect")
    fits(page, "connections")
    sign_out(page)
    sync_api.expect(page.locator("h1")).to_contain_text("Sign in")
    assert len(provider.signed_out) == 1
    assert page.complaints == []
    provider.close()


def test_pages_fit_and_break_no_policy(page, team, actor):
    def look(address: str) -> None:
        answer = page.goto(address, wait_until="networkidle")
        assert answer.status == 200, address
        assert page.url.endswith(address)
        fits(page, address.strip("/").replace("/", "-").replace(token, "token"))

    with team_scope(team.pk):
        _kept, token = invitations.invite(team=team, email="dora@example.org", role=Role.EDITOR, actor=actor)
    for address in [*ENTRANCE, f"/invitations/{token}/"]:
        look(address)
    sign_in(page)
    for address in [*OWN, f"/invitations/{token}/"]:
        look(address)
    members = f"/t/{team.slug}/members/"
    look(members)
    look(f"{members}leave/")
    page.goto(members)
    page.get_by_label("E-mail").fill("emil@example.org")
    page.get_by_role("button", name="Invite").click()
    sync_api.expect(page.locator("main")).to_contain_text("emil@example.org is invited")
    fits(page, "invited")
    confirm_again(page)
    for address in RECENT:
        look(address)
    add_passkey(page)
    for address in ["/account/two-factor/", "/account/two-factor/keys/", "/account/two-factor/codes/"]:
        look(address)
    assert page.complaints == []
