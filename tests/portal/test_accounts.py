"""Passwords, second factors, sessions: what a thief of one of them can and cannot do."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest
from allauth.account.models import EmailAddress
from allauth.mfa.models import Authenticator
from allauth.mfa.totp.internal import auth as totp
from django.core import mail
from django.core.cache import cache
from django.core.management import call_command
from django.test import Client
from django.utils import timezone

from portal import people
from portal.accounts import sealing
from portal.actors import Actor
from portal.models import AuditEvent, Team, User
from portal.templatetags.accounts import browser_name
from tests.cast import PASSWORD

NEW_PASSWORD = "a quite different sentence"


@pytest.fixture(autouse=True)
def no_counts_of_earlier_tests(db) -> None:
    cache.clear()


def sign_in(email: str, password: str = PASSWORD, **options: str):
    browser = Client(**options)
    browser.answer = browser.post("/login/", {"login": email, "password": password})
    return browser


def text(answer) -> str:
    """The page without what differs from request to request."""
    return re.sub(r'name="csrfmiddlewaretoken" value="[^"]+"|X-CSRFToken[^}]+', "", answer.content.decode())


@pytest.fixture
def with_app(alice: User) -> Callable[[], str]:
    """Alice has an authenticator app; returns its present code."""
    secret = totp.generate_totp_secret()
    totp.TOTP.activate(alice, secret)
    return lambda: f"{totp.hotp_value(secret, int(time.time()) // 30):06d}"


def is_in(browser: Client) -> bool:
    return browser.get("/account/").status_code == 200


def test_known_and_unknown_addresses_get_the_same_answer(alice):
    known, unknown = sign_in("alice@example.org", "no"), sign_in("nobody@example.org", "no")
    assert known.answer.status_code == unknown.answer.status_code == 200
    assert text(known.answer).replace("alice", "nobody") == text(unknown.answer)
    reset = [Client().post("/account/password/reset/", {"email": who}) for who in (alice.email, "nobody@example.org")]
    assert [(answer.status_code, answer["Location"]) for answer in reset] == [
        (302, "/account/password/reset/sent/")
    ] * 2
    assert [message.subject for message in mail.outbox] == [
        "Choose a new password",
        "There is no account with this address",
    ]


def test_a_mail_server_that_is_down_changes_nothing_for_the_caller(alice, settings, caplog):
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", 9  # nobody listens there
    answer = Client().post("/account/password/reset/", {"email": alice.email})
    assert answer["Location"] == "/account/password/reset/sent/"
    assert "was not sent" in caplog.text
    assert alice.email not in caplog.text


def test_a_person_is_guessed_at_five_times_from_one_network(alice, bob):
    for _try in range(5):
        assert "do not match" in sign_in(alice.email, "no").answer.content.decode()
    assert "Too many tries" in sign_in(alice.email, PASSWORD).answer.content.decode()
    assert sign_in(bob.email).answer.status_code == 302
    elsewhere = sign_in(alice.email, PASSWORD, REMOTE_ADDR="192.0.2.7")
    assert elsewhere.answer.status_code == 302, "a stranger must not be able to lock Alice out"


@pytest.mark.slow
def test_a_person_is_not_guessed_at_from_many_networks(alice):
    for number in range(120):
        sign_in(alice.email, "no", REMOTE_ADDR=f"192.0.2.{number}")
    assert "Too many tries" in sign_in(alice.email, PASSWORD).answer.content.decode()


def test_one_network_cannot_shut_anybody_out(alice):
    """What it may guess in an hour is far less than what closes an account."""
    for _ in range(40):
        sign_in(alice.email, "no", REMOTE_ADDR="192.0.2.1")
    assert sign_in(alice.email, PASSWORD, REMOTE_ADDR="192.0.2.2").answer.status_code == 302


def test_a_network_that_signs_in_too_often_waits(alice):
    answers = [sign_in(f"{number}@example.org", "no").answer for number in range(31)]
    assert answers[-1].status_code == 429
    assert "Too many tries" in answers[-1].content.decode()


def test_forwarded_addresses_count_only_behind_a_known_proxy(alice, settings):
    for number in range(5):
        sign_in(alice.email, "no", HTTP_X_FORWARDED_FOR=f"198.51.100.{number}")
    assert "Too many tries" in sign_in(alice.email, HTTP_X_FORWARDED_FOR="198.51.100.9").answer.content.decode()
    settings.BEHIND_PROXY = True
    assert sign_in(alice.email, HTTP_X_FORWARDED_FOR="198.51.100.9").answer.status_code == 302


def test_an_unconfirmed_address_cannot_sign_in(alice):
    EmailAddress.objects.filter(user=alice).update(verified=False)
    browser = sign_in(alice.email)
    assert browser.answer["Location"] == "/account/email/sent/"
    assert not is_in(browser)
    link = re.search(r"http://testserver(/account/email/confirm/\S+)", mail.outbox[-1].body).group(1)
    assert browser.get(link).status_code == 200, "opening the link alone confirms nothing: mail scanners open links"
    assert not EmailAddress.objects.get(user=alice).verified
    browser.post(link)
    assert is_in(sign_in(alice.email))


def test_the_session_changes_at_sign_in(alice):
    browser = Client()
    browser.get("/login/")
    session = browser.session
    session["planted"] = True
    session.save()
    planted = session.session_key
    browser.cookies["sessionid"] = planted
    browser.post("/login/", {"login": alice.email, "password": PASSWORD})
    assert is_in(browser)
    assert browser.session.session_key != planted
    thief = Client()
    thief.cookies["sessionid"] = planted
    assert not is_in(thief)


def test_a_new_password_ends_all_other_sessions(alice):
    here, elsewhere = sign_in(alice.email), sign_in(alice.email)
    answer = here.post(
        "/account/password/", {"oldpassword": PASSWORD, "password1": NEW_PASSWORD, "password2": NEW_PASSWORD}
    )
    assert answer.status_code == 302
    assert is_in(here)
    assert not is_in(elsewhere)
    assert mail.outbox[-1].subject == "Your password was changed"
    assert AuditEvent.objects.filter(action="person.password_changed", user_id=alice.pk).count() == 1


def test_signing_out_elsewhere_leaves_this_browser(alice):
    here, elsewhere = sign_in(alice.email), sign_in(alice.email)
    assert "This browser" in here.get("/account/sessions/").content.decode()
    here.post("/account/sessions/")
    assert is_in(here)
    assert not is_in(elsewhere)


def test_a_deactivated_person_is_out_at_once_and_learns_it_only_with_the_password(alice, client_for, paula):
    browser, unlisted = sign_in(alice.email), client_for(alice)
    people.deactivate(person=alice, actor=Actor(user=paula))
    assert not is_in(browser)
    assert sign_in(alice.email).answer["Location"] == "/account/inactive/"
    assert text(sign_in(alice.email, "no").answer) == text(sign_in("nobody@example.org", "no").answer).replace(
        "nobody", "alice"
    )
    people.reactivate(person=alice, actor=Actor(user=paula))
    assert not is_in(browser), "sessions from before stay dead"
    assert not is_in(unlisted)
    noted = AuditEvent.objects.filter(object_id=str(alice.pk), action__startswith="person.")
    assert list(noted.values_list("action", flat=True)) == [
        "person.reactivated",
        "person.deactivated",
    ]


def test_the_password_alone_does_not_open_an_account_with_a_second_factor(alice, with_app):
    browser = sign_in(alice.email)
    assert browser.answer["Location"].startswith("/login/second-step/")
    assert not is_in(browser)
    assert "Incorrect" in browser.post("/login/second-step/", {"code": "000000"}).content.decode()
    assert not is_in(browser)
    browser.post("/login/second-step/", {"code": with_app()})
    assert is_in(browser)


def test_a_code_of_the_app_works_once(alice, with_app):
    code = with_app()
    first, replay = sign_in(alice.email), sign_in(alice.email)
    first.post("/login/second-step/", {"code": code})
    replay.post("/login/second-step/", {"code": code})
    assert is_in(first)
    assert not is_in(replay)


def test_codes_are_not_guessed(alice, with_app):
    browser = sign_in(alice.email)
    for _try in range(5):
        assert "Incorrect" in browser.post("/login/second-step/", {"code": "000000"}).content.decode()
    another = sign_in(alice.email, REMOTE_ADDR="192.0.2.8")  # who has the password starts over elsewhere
    for guesser in (browser, another):
        answer = guesser.post("/login/second-step/", {"code": with_app()}, follow=True)
        assert not is_in(guesser)
        assert answer.status_code in (200, 429)


def test_a_recovery_code_works_once(alice, with_app):
    from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes

    code = RecoveryCodes.activate(alice).get_unused_codes()[0]
    first, replay = sign_in(alice.email), sign_in(alice.email)
    first.post("/login/second-step/", {"code": code})
    replay.post("/login/second-step/", {"code": code})
    assert is_in(first)
    assert not is_in(replay)


def test_secrets_of_second_factors_are_sealed_in_the_database(alice, with_app):
    from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes

    codes = RecoveryCodes.activate(alice).get_unused_codes()
    stored = str(list(Authenticator.objects.values_list("data", flat=True)))
    secret = Authenticator.objects.get(type="totp").wrap().instance.data["secret"]
    assert secret.startswith("gAAAA")
    assert not any(code in stored for code in codes)


def test_second_factors_survive_a_new_key(alice, with_app, settings):
    old = settings.SECRETS_KEY
    settings.SECRETS_KEY, settings.OLD_SECRETS_KEYS = "n" * 50, [old]
    assert sealing.seal_all_again() == (1, [])
    settings.OLD_SECRETS_KEYS = []
    browser = sign_in(alice.email)
    browser.post("/login/second-step/", {"code": with_app()})
    assert is_in(browser)
    settings.SECRETS_KEY = "o" * 50
    assert sealing.seal_all_again() == (0, ["alice@example.org (totp)"])


def test_a_password_reset_does_not_pass_by_the_second_factor(alice, with_app):
    here = sign_in(alice.email)
    here.post("/login/second-step/", {"code": with_app()})
    browser = Client()
    browser.post("/account/password/reset/", {"email": alice.email})
    link = re.search(r"http://testserver(/account/password/reset/\S+)", mail.outbox[-1].body).group(1)
    form = browser.get(link, follow=True)
    browser.post(form.request["PATH_INFO"], {"password1": NEW_PASSWORD, "password2": NEW_PASSWORD})
    assert not is_in(here), "a reset ends every session"
    assert not is_in(browser)
    again = sign_in(alice.email, NEW_PASSWORD)
    assert again.answer["Location"].startswith("/login/second-step/")
    assert not is_in(again)
    assert browser.get(link, follow=True).content.decode().count("too old") == 1, "the link works once"


def test_second_factors_are_changed_only_after_another_proof(alice, client_for):
    browser = client_for(alice)  # signed in without a recent proof
    answer = browser.get("/account/two-factor/app/")
    assert answer["Location"].startswith("/account/confirm-again/")


def test_nobody_signs_up_unasked(db):
    browser = Client()
    assert "invitation only" in browser.get("/account/sign-up/").content.decode()
    browser.post("/account/sign-up/", {"email": "eve@example.org", "name": "Eve", "password1": PASSWORD})
    assert not User.objects.exists()


def test_a_bearer_token_is_nothing_to_a_page(team, token):
    program = Client(headers={"Authorization": f"Bearer {token}"})
    for page in ("/", f"/t/{team.slug}/", f"/t/{team.slug}/tokens/", "/account/"):
        assert program.get(page)["Location"].startswith("/login/")


def test_passkey_sign_in_counts_tries_and_refuses_nonsense(db):
    browser = Client()
    assert "request_options" in browser.get("/login/passkey/", headers={"Accept": "application/json"}).json()
    for nonsense in ("{}", "", "null", '{"id": "x", "rawId": "x", "type": "public-key", "response": {}}'):
        assert browser.post("/login/passkey/", {"credential": nonsense}).status_code in (200, 302)
    assert not is_in(browser)


@pytest.mark.parametrize(
    ("user_agent", "name"),
    [
        (
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/140.0 Safari/537.36 Edg/140.0",
            "Edge, Windows",
        ),
        ("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "Firefox, Linux"),
        ("Mozilla/5.0 (iPhone; CPU iPhone OS 19_0 like Mac OS X) Version/19.0 Mobile Safari/604.1", "Safari, iPhone"),
        ("<script>", "<script>"),
        ("", "unknown"),
    ],
)
def test_browsers_have_names(user_agent, name):
    assert browser_name(user_agent) == name


def test_who_was_made_on_the_command_line_signs_in_at_once(db, capsys):
    call_command("createteam", "Night Shift", "--owner", "Nora@Example.org")
    password = re.search(r"password (\S+)", capsys.readouterr().out).group(1)
    browser = sign_in("nora@example.org", password)
    assert browser.get("/")["Location"] == "/t/night-shift/"
    page = browser.get("/account/").content.decode()
    assert "Night Shift" in page
    Team.objects.update(archived_at=timezone.now())
    assert "Night Shift" not in browser.get("/account/").content.decode()


def test_a_name_is_changed_on_the_profile(alice, client_for):
    browser = client_for(alice)
    assert browser.post("/account/", {"name": " "}).status_code == 400
    browser.post("/account/", {"name": "Alice Ahl"})
    alice.refresh_from_db()
    assert alice.name == "Alice Ahl"


def test_a_new_address_counts_once_it_is_confirmed(alice, client_for):
    browser = sign_in(alice.email)
    browser.post("/account/confirm-again/", {"password": PASSWORD})
    browser.post("/account/email/", {"email": "alice@new.example", "action_add": ""})
    assert "Not confirmed yet" in browser.get("/account/email/").content.decode()
    assert not is_in(sign_in("alice@new.example"))
    link = next(
        found
        for message in mail.outbox
        if (found := re.search(r"testserver(/account/email/confirm/\S+)", message.body))
    )
    browser.post(link.group(1))
    alice.refresh_from_db()
    assert alice.email == "alice@new.example"
    assert not is_in(sign_in("alice@example.org"))
    assert is_in(sign_in("alice@new.example"))


def test_people_from_before_keep_signing_in(db):
    """The data migration vouches for the addresses that operators entered."""
    import importlib

    from django.apps import apps

    User.objects.bulk_create([User(email="old@example.org", password="x")])
    importlib.import_module("portal.migrations.0006_verified_addresses").vouch(apps, None)
    address = EmailAddress.objects.get(email="old@example.org")
    assert address.verified
    assert address.primary
