"""What tokens may do, call, and from where; peppers, rotation, owners who leave, and workers that agree at once."""

from __future__ import annotations

import re
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from portal import teams, tokens
from portal.actors import Actor
from portal.authentication import HasScope
from portal.errors import IllegalTransition, InvalidInput
from portal.models import ApiToken, AuditEvent, Role, Scope
from portal.rls import all_teams, team_scope
from tests.processes import processes

ROUTE = "/api/base-models/"
V1 = "/v1/models"


def knock(text: str, path: str = ROUTE, **options: object):
    return Client(headers={"Authorization": f"Bearer {text}"}).get(path, **options)


def code_of(response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


@pytest.fixture
def make(team, actor, alice):
    """Return a function that makes a token with the given powers: (row, text)."""

    def create(**powers: object) -> tuple[ApiToken, str]:
        chosen = {"name": "test", "scopes": list(Scope.values), **powers}
        with team_scope(team.pk):
            return tokens.create_token(team=team, actor=actor, owner=alice, **chosen)

    return create


# --- one look-up -------------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("route", [ROUTE, V1])
def test_a_refused_token_costs_one_query_whatever_is_wrong_with_it(team, make, route):
    _row, text = make()
    unknown = "tnp_" + "0" * 16 + text[20:]
    for refused in (unknown, text[:-4] + "zzzz", text.upper(), "tnp_", "'; DROP TABLE portal_team; --", "x" * 65536):
        with CaptureQueriesContext(connection) as asked:
            assert knock(refused, route).status_code == 401
        assert len(asked) <= 1
    assert knock(text, route).status_code == 200


@pytest.mark.django_db(transaction=True)
def test_unknown_ids_and_wrong_secrets_look_and_cost_the_same(make):
    _row, text = make()
    unknown, wrong = "tnp_" + "0" * 16 + text[20:], text[:-4] + "zzzz"
    assert knock(unknown).json() == knock(wrong).json()
    times: dict[str, list[float]] = {unknown: [], wrong: []}
    for _round in range(150):
        for candidate, durations in times.items():
            began = time.perf_counter()
            assert tokens.find_token(candidate) is None
            durations.append(time.perf_counter() - began)
    middle = {candidate: statistics.median(durations) for candidate, durations in times.items()}
    # A found row costs the time to build it, some tens of microseconds; a second hash or query would cost more.
    assert abs(middle[unknown] - middle[wrong]) < 0.001


@hypothesis_settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    header=st.text(st.characters(codec="latin-1"), max_size=300), scheme=st.sampled_from(["", "Bearer ", "bEaReR\t"])
)
def test_any_header_is_answered_cleanly_on_both_surfaces(db, django_assert_max_num_queries, header, scheme):
    for path in (V1, "/v1/chat/completions", ROUTE):
        with django_assert_max_num_queries(1):
            answer = Client(headers={"Authorization": scheme + header}).post(path, "{}", "application/json")
        assert answer.status_code in (401, 405)
        assert set(answer.json()["error"]) >= {"message", "type", "code", "param"}


# --- peppers -----------------------------------------------------------------------------------------------------


def test_old_tokens_work_after_the_pepper_was_changed(make, settings):
    _row, old = make()
    before = settings.TOKEN_PEPPER
    settings.TOKEN_PEPPER, settings.TOKEN_PEPPER_ID = "n" * 50, "2"
    assert knock(old).status_code == 401
    settings.OLD_TOKEN_PEPPERS = {"1": before}
    row, new = make()
    assert (row.pepper_id, knock(old).status_code, knock(new).status_code) == ("2", 200, 200)
    settings.TOKEN_PEPPER = "x" * 50
    assert knock(new).status_code == 401


# --- scopes, models, networks ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("get", "/api/datasets/", Scope.DATASETS_READ),
        ("post", "/api/datasets/", Scope.DATASETS_WRITE),
        ("get", "/api/runs/", Scope.RUNS_READ),
        ("post", "/api/runs/", Scope.RUNS_WRITE),
        ("get", "/api/deployments/", Scope.DEPLOYMENTS_READ),
        ("post", "/api/deployments/", Scope.DEPLOYMENTS_WRITE),
        ("get", V1, Scope.INFERENCE),
        ("post", "/v1/chat/completions", Scope.INFERENCE),
    ],
)
def test_each_address_wants_its_own_scope(make, method, path, scope):
    _row, enough = make(scopes=[scope])
    _row, lacking = make(scopes=[other for other in Scope.values if other != scope])
    answers = {
        text: getattr(Client(headers={"Authorization": f"Bearer {text}"}), method)(path) for text in (enough, lacking)
    }
    assert code_of(answers[lacking]) == (403, "insufficient_scope")
    assert answers[enough].status_code not in (401, 403, 500)


@pytest.mark.parametrize("path", ["/api/runs/", "/api/datasets/", "/api/deployments/", "/api/base-models/"])
def test_head_wants_the_scope_of_get_and_unknown_methods_are_405(make, path):
    _row, lacking = make(scopes=[Scope.INFERENCE])
    _row, enough = make()
    weak, strong = (Client(headers={"Authorization": f"Bearer {text}"}) for text in (lacking, enough))
    assert weak.head(path).status_code == 403
    assert strong.head(path).status_code == 200
    assert strong.put(path).status_code == 405


def test_what_a_view_does_and_names_no_scope_for_nobody_may(make, rf):
    row, _text = make()
    view = type("View", (), {"scopes": {"GET": Scope.RUNS_READ}, "patch": None, "options": None})()
    for method, is_let_in in {"GET": True, "HEAD": True, "PATCH": False, "OPTIONS": True, "TRACE": True}.items():
        request = rf.generic(method, ROUTE)
        request.auth = row
        row.role = Role.ADMIN
        assert HasScope().has_permission(request, view) is is_let_in, method


def test_models_that_a_token_does_not_name_are_not_there(world, make):
    _row, text = make(allowed_models=["tiny"])
    listed = knock(text, V1).json()["data"]
    assert [model["id"] for model in listed] == ["tiny"]
    own, nobodys = knock(text, "/v1/models/triage"), knock(text, "/v1/models/nobody-has-this")
    assert code_of(own) == (404, "model_not_found")
    assert own.json() == nobodys.json()
    client = Client(headers={"Authorization": f"Bearer {text}"})
    body = {"model": "triage", "messages": [{"role": "user", "content": "x"}]}
    for path in ("/v1/chat/completions", "/v1/completions"):
        asked = body if "chat" in path else {"model": "triage", "prompt": "x"}
        assert code_of(client.post(path, asked, "application/json")) == (404, "model_not_found")


def test_networks(make):
    _row, text = make(networks=["10.1.0.0/16", "2001:db8::/32"])
    expected = {"10.1.2.3": 200, "::ffff:10.1.2.3": 200, "2001:db8::7": 200, "10.2.0.1": 403, "": 403, "nonsense": 403}
    expected |= {"fe80::1%eth0": 403, "2001:db8::7%eth0": 200}
    assert {address: knock(text, REMOTE_ADDR=address).status_code for address in expected} == expected
    assert code_of(knock(text, REMOTE_ADDR="192.0.2.1")) == (403, "ip_not_allowed")


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("route", [ROUTE, V1])
def test_a_token_from_the_wrong_network_is_looked_up_once(make, route):
    _row, text = make(networks=["10.1.0.0/16"])
    assert code_of(knock(text, route)) == (403, "ip_not_allowed")  # leaves its trace, once a minute
    with CaptureQueriesContext(connection) as asked:
        assert code_of(knock(text, route)) == (403, "ip_not_allowed")
    assert len(asked) <= 1


def test_forwarded_addresses_count_only_behind_our_own_proxy(make, settings):
    _row, text = make(networks=["10.1.0.0/16"])
    forged = {"HTTP_X_FORWARDED_FOR": "10.1.2.3", "REMOTE_ADDR": "192.0.2.1"}
    assert knock(text, **forged).status_code == 403
    settings.BEHIND_PROXY = True
    assert knock(text, **forged).status_code == 403, "this peer is not our proxy"
    assert knock(text, **{**forged, "REMOTE_ADDR": "127.0.0.1"}).status_code == 200
    assert knock(text, HTTP_X_FORWARDED_FOR="10.1.2.3, 192.0.2.9", REMOTE_ADDR="127.0.0.1").status_code == 403


@pytest.mark.parametrize(
    "networks", [["nowhere"], ["10.0.0.1/8"], ["10.0.0.0/33"], [" "], ["::1"] * 101, ["fe80::1%eth0"]]
)
def test_networks_that_are_none_are_refused(make, networks):
    with pytest.raises(InvalidInput) as refused:
        make(networks=networks)
    assert refused.value.param == "networks"


# --- owners ------------------------------------------------------------------------------------------------------


def test_a_persons_tokens_end_with_the_membership_and_do_not_come_back(team, actor, alice, charlie, make_token):
    with team_scope(team.pk):
        membership = team.memberships.create(user=charlie, role=Role.EDITOR)
    text = make_token(team, charlie)
    assert knock(text).status_code == 200
    with team_scope(team.pk):
        teams.remove_member(membership=membership, actor=actor)
    assert knock(text).status_code == 401
    with team_scope(team.pk):
        team.memberships.create(user=charlie, role=Role.EDITOR)
    assert knock(text).status_code == 401


def test_a_row_deleted_behind_our_back_counts_as_well(team, charlie, make_token):
    with team_scope(team.pk):
        membership = team.memberships.create(user=charlie, role=Role.EDITOR)
    text = make_token(team, charlie)
    with team_scope(team.pk):
        membership.delete()
    assert knock(text).status_code == 401


def test_a_token_can_do_no_more_than_its_owner(team, charlie, make_token):
    with team_scope(team.pk):
        membership = team.memberships.create(user=charlie, role=Role.EDITOR)
    text = make_token(team, charlie)
    membership.role = Role.VIEWER
    with team_scope(team.pk):
        membership.save()
    client = Client(headers={"Authorization": f"Bearer {text}"})
    assert client.get("/api/runs/").status_code == 200
    assert code_of(client.post("/api/runs/", {}, "application/json")) == (403, "insufficient_role")


def test_a_service_accounts_tokens_live_on_until_it_is_switched_off(team, actor, alice, make):
    with team_scope(team.pk):
        account = tokens.create_service_account(team=team, actor=actor, name="Service desk")
    _row, own = make()
    _row, text = make(service_account=account)
    alice.is_active = False
    alice.save()
    assert (knock(own).status_code, knock(text).status_code) == (401, 200)
    with team_scope(team.pk):
        tokens.switch_service_account(account=account, actor=actor, is_active=False)
    assert knock(text).status_code == 401
    with team_scope(team.pk):
        tokens.switch_service_account(account=account, actor=actor, is_active=True)
    assert knock(text).status_code == 200


def test_what_a_service_account_does_is_nobodys_doing(team, actor, rf, make):
    with team_scope(team.pk):
        account = tokens.create_service_account(team=team, actor=actor, name="Service desk")
    _row, text = make(service_account=account)
    request = rf.get(ROUTE)
    request.auth = tokens.find_token(text)
    doer = Actor.of(request)
    assert (doer.user, doer.label) == (None, "Service desk (token test)")


def test_service_accounts_of_other_teams_cannot_be_chosen(team, other_team, charlie, client_for, alice):
    with team_scope(other_team.pk):
        foreign = tokens.create_service_account(team=other_team, actor=Actor(user=charlie), name="Theirs")
    page = f"/t/{team.slug}/tokens/"
    answer = client_for(alice).post(page, {"name": "x", "scopes": ["inference"], "service_account": foreign.pk})
    assert answer.status_code == 400
    with all_teams("test"):
        assert not ApiToken.unscoped.exists()


# --- rotation ----------------------------------------------------------------------------------------------------


def test_rotation_keeps_the_powers_and_lets_the_old_token_work_for_a_while(team, actor, make):
    old, old_text = make(allowed_models=["m"], networks=["127.0.0.0/8"], scopes=["inference", "runs:read"])
    with team_scope(team.pk):
        new, new_text = tokens.rotate_token(token=old, actor=actor, overlap=timedelta(hours=1))
    assert (new.allowed_models, new.networks, new.scopes, new.expires_at) == (
        old.allowed_models,
        old.networks,
        old.scopes,
        None,
    )
    assert (knock(old_text).status_code, knock(new_text).status_code) == (200, 200)
    with all_teams("test"):
        late = ApiToken.unscoped.get(pk=old.pk)
        assert timedelta(minutes=59) < late.expires_at - timezone.now() <= timedelta(hours=1)
        ApiToken.unscoped.filter(pk=old.pk).update(expires_at=timezone.now() - timedelta(seconds=1))
    assert code_of(knock(old_text)) == (401, "expired_api_key")
    assert knock(new_text).status_code == 200
    assert AuditEvent.objects.filter(action="token.rotated").count() == 1


def test_rotation_without_overlap_ends_the_old_token_at_once_and_happens_once(team, actor, make):
    old, old_text = make()
    with team_scope(team.pk):
        tokens.rotate_token(token=old, actor=actor, overlap=timedelta(0))
    assert knock(old_text).status_code == 401
    with team_scope(team.pk), pytest.raises(IllegalTransition):
        tokens.rotate_token(token=old, actor=actor, overlap=timedelta(0))


# --- never in the open -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["token", "api_key", "q"])
def test_a_token_in_the_address_is_refused_even_with_a_good_header(make, name, caplog):
    _row, text = make()
    for path in (ROUTE, V1):
        for value in (text, text.replace("_", "%5F")):
            answer = knock(text, f"{path}?{name}={value}")
            assert code_of(answer) == (401, "token_in_address")
            assert text not in answer.content.decode()
    assert text not in caplog.text


def test_a_token_is_never_echoed(make, client_for, alice, team, caplog):
    row, text = make()
    secret = text.rpartition("_")[2]
    client = Client(headers={"Authorization": f"Bearer {text}"})
    seen = [client.get("/v1/models/nothing"), client.post("/v1/chat/completions", text, "application/json")]
    seen += [client.get("/api/nowhere/"), client.get(f"/t/{team.slug}/"), knock(text + "x"), client.get("/api/schema/")]
    browser = client_for(alice)
    seen += [browser.get(f"/t/{team.slug}/tokens/"), browser.get(f"/t/{team.slug}/tokens/{row.pk}/rotate/")]
    for answer in seen:
        assert secret not in answer.content.decode()
        assert row.digest not in answer.content.decode()
        assert secret not in str(answer.headers)
    assert secret not in caplog.text


def test_a_token_opens_no_page_and_a_session_opens_no_api(make, team, client_for, alice):
    _row, text = make()
    assert knock(text, f"/t/{team.slug}/").status_code == 302
    browser = client_for(alice)
    for path in (ROUTE, V1):
        assert browser.get(path).status_code == 401
        forged = browser.post(
            "/v1/chat/completions", "{}", "application/json", headers={"Origin": "https://evil.example"}
        )
        assert forged.status_code == 401


# --- every worker at once ----------------------------------------------------------------------------------------

KNOCKING = """
import time
from django.test import Client
client = Client(headers={"Authorization": "Bearer " + sys.argv[1]})
print("ready", flush=True)
began, last = time.monotonic(), None
while time.monotonic() - began < 30:
    status = client.get("/api/base-models/", SERVER_NAME="localhost").status_code
    if status != last:
        print(status, time.time(), flush=True)
        last = status
    if status == 401:
        break
    time.sleep(0.05)
"""


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_a_revoked_token_is_refused_by_all_processes_within_seconds(team, actor, make):
    row, text = make()
    with processes(KNOCKING, text, count=3) as workers:
        for worker in workers:
            assert worker.stdout.readline().strip() == "ready"
            assert worker.stdout.readline().startswith("200 ")
        with team_scope(team.pk):
            tokens.revoke_token(token=row, actor=actor)
        revoked_at = time.time()
        for worker in workers:
            status, moment = worker.stdout.readline().split()
            assert status == "401"
            assert float(moment) - revoked_at < 5


@pytest.mark.django_db(transaction=True)
def test_last_use_is_written_once_a_minute_also_when_many_come_at_once(team, make):
    row, text = make()
    found = [tokens.find_token(text) for _caller in range(5)]
    for one in found:
        tokens.note_use(one)
    with team_scope(team.pk):
        first = team.apitokens.get(pk=row.pk).last_used_at
    for one in found:
        tokens.note_use(one)
    with team_scope(team.pk):
        assert team.apitokens.get(pk=row.pk).last_used_at == first


# --- pages -------------------------------------------------------------------------------------------------------


def test_the_pages_create_replace_and_switch(client_for, alice, bob, team):
    browser, base = client_for(alice), f"/t/{team.slug}"
    assert "No service accounts yet" in browser.get(f"{base}/service-accounts/").content.decode()
    assert browser.post(f"{base}/service-accounts/", {"name": "Desk"}).status_code == 302
    assert browser.post(f"{base}/service-accounts/", {"name": "Desk"}).status_code == 400
    with team_scope(team.pk):
        account = team.serviceaccounts.get()
    form = {"name": "x", "scopes": ["inference"], "service_account": account.pk, "networks": "10.0.0.0/8\n\n192.0.2.1"}
    made = browser.post(f"{base}/tokens/", form).content.decode()
    text = re.search(r"tnp_[0-9a-f]{16}_[\w-]{43}", made)[0]
    with team_scope(team.pk):
        row = team.apitokens.get()
    assert row.networks == ["10.0.0.0/8", "192.0.2.1/32"]
    assert browser.post(f"{base}/tokens/", {**form, "networks": "nowhere"}).status_code == 400
    rotate = f"{base}/tokens/{row.pk}/rotate/"
    assert browser.get(rotate).status_code == 200
    assert client_for(bob).get(rotate).status_code == 403
    assert browser.post(rotate, {"overlap_hours": "5"}).status_code == 400
    replaced = browser.post(rotate, {"overlap_hours": "24"}).content.decode()
    successor = re.search(r"tnp_[0-9a-f]{16}_[\w-]{43}", replaced)[0]
    assert successor != text
    assert browser.post(rotate, {"overlap_hours": "24"}).status_code == 409
    assert "replaced by" in browser.get(f"{base}/tokens/").content.decode()
    switch = f"{base}/service-accounts/{account.pk}/switch/"
    assert browser.post(switch, {"active": "0"}).status_code == 302
    assert knock(successor, V1, REMOTE_ADDR="10.0.0.1").status_code == 401
    assert "Account is off" in browser.get(f"{base}/tokens/").content.decode()


@pytest.mark.django_db(transaction=True)
def test_a_flood_of_bad_tokens_leaves_no_trace_and_good_ones_pass(make):
    row, text = make()
    bad = [text[:-4] + "zzzz", "tnp_" + "0" * 16 + text[20:]]
    before = AuditEvent.objects.count()

    def knock_often(number: int) -> list[int]:
        try:
            return [knock(bad[number % 2]).status_code for _time in range(20)] + [knock(text).status_code]
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(knock_often, range(8)))
    assert answers == [[401] * 20 + [200]] * 8
    assert AuditEvent.objects.count() == before
    assert row.pk


@pytest.mark.django_db
def test_a_persons_token_is_replaced_by_that_person_only(team, alice, bob, client_for, make_token):
    """Its successor would act in their name, for whoever pressed the button."""
    make_token(team, alice)
    with team_scope(team.pk):
        team.memberships.filter(user=bob).update(role="editor")
        token = team.apitokens.get()
    answer = client_for(bob).post(f"/t/{team.slug}/tokens/{token.pk}/rotate/", {"overlap_hours": "24"})
    assert answer.status_code in (400, 403)
    with team_scope(team.pk):
        assert team.apitokens.count() == 1
    assert f"/tokens/{token.pk}/rotate/" not in client_for(bob).get(f"/t/{team.slug}/tokens/").content.decode()
