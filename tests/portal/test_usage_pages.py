"""Usage and limits as people see them: what the pages say is what the ledger holds."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from portal import alerts, limits, quotas, usage
from portal.models import Quota, TeamLimit
from portal.rls import all_teams, team_scope
from portal.usage_report import Month
from tests.browser import fits


@pytest.fixture
def admin(alice, client_for):
    """Alice, as a platform admin, in a browser."""
    alice.is_platform_admin = True
    alice.save()
    return client_for(alice)


def ask(team, token_id, model: str, count: int, *, day=None, tokens: int = 10) -> None:
    day = day or timezone.now().date()
    fact = usage.RequestFact(team.pk, day, token_id, model, False, tokens, 2)
    usage.add_requests([fact] * count)


def text_of(response) -> str:
    assert response.status_code == 200
    return " ".join(response.content.decode().split())


def test_the_month_by_day_token_and_model(world, team, other_team, client_for, bob):
    ask(team, world.token.pk, "triage", 3)
    ask(team, None, "tiny", 2)
    ask(other_team, None, "secret-model", 50)
    page = text_of(client_for(bob).get(f"/t/{team.slug}/usage/"))
    for words in ("triage", "tiny", "People in the playground", world.token.key_id, "Requests a day"):
        assert words in page
    assert "secret-model" not in page
    lines = client_for(bob).get(f"/t/{team.slug}/usage.csv").getvalue().decode().splitlines()
    assert lines[0] == "day,requests,errors,prompt_tokens,completion_tokens,gpu_seconds"
    today = next(line for line in lines if line.startswith(f"{timezone.now().date():%F}"))
    assert today.split(",")[1:5] == ["5", "0", "50", "10"]
    assert len(lines) == 1 + len(list(Month.present().days()))


def test_months_before_and_nonsense(team, client_for, bob):
    before = Month.present().previous
    ask(team, None, "old-model", 1, day=before.first)
    browser, page = client_for(bob), f"/t/{team.slug}/usage/"
    assert "old-model" not in text_of(browser.get(page))
    assert "old-model" in text_of(browser.get(f"{page}?month={before}"))
    for nonsense in ("2099-01", "1999-01", "x", "2026-13", "%00", ""):
        assert "Nothing was used" in text_of(browser.get(f"{page}?month={nonsense}"))


def test_limits_show_how_much_is_used(team, actor, client_for, bob):
    limits.set_team_limit(team=team, kind=Quota.TOKENS_PER_MONTH, value=200, actor=actor)
    limits.set_team_limit(team=team, kind=Quota.DEPLOYMENTS, value=None, actor=actor)
    quotas.reserve(team.pk, {Quota.TOKENS_PER_MONTH: 50})
    page = text_of(client_for(bob).get(f"/t/{team.slug}/usage/"))
    assert "50 of 200" in page
    assert 'value="0.2500"' in page
    assert "0 used, no limit" in page


def test_an_alert_stands_on_every_page_of_the_team(team, actor, client_for, bob, charlie, other_team):
    limits.set_team_limit(team=team, kind=Quota.TOKENS_PER_MONTH, value=10, actor=actor)
    quotas.reserve(team.pk, {Quota.TOKENS_PER_MONTH: 9})
    alerts.check_all()
    browser = client_for(bob)
    for path in ("", "members/", "playground/"):
        assert "The team has used 80% of a limit" in text_of(browser.get(f"/t/{team.slug}/{path}"))
    assert "of a limit" not in text_of(client_for(charlie).get(f"/t/{other_team.slug}/"))


def test_admins_of_the_platform_set_defaults(admin, team):
    page = text_of(admin.get("/platform/limits/"))
    assert 'value="500"' in page  # 1,800,000 s of GPU time are 500 hours
    form = {kind.value: value for kind, value in limits.default_limits().items()}
    form |= {"gpu_seconds_per_month": "12.5", "storage_bytes": "2", "deployments": "", "concurrent_runs": "4"}
    assert admin.post("/platform/limits/", form).status_code == 302
    now = limits.default_limits()
    assert (now[Quota.GPU_SECONDS], now[Quota.STORAGE_BYTES], now[Quota.DEPLOYMENTS]) == (45_000, 2 * 10**9, None)
    team.refresh_from_db()
    assert team.max_concurrent_runs == 4
    assert admin.post("/platform/limits/", {**form, "queued_runs": "-1"}).status_code == 400
    assert admin.post("/platform/limits/", {**form, "queued_runs": "9" * 30}).status_code == 400


def test_admins_of_the_platform_set_one_teams_limits(admin, team, other_team):
    page = f"/platform/teams/{team.slug}/limits/"
    assert "As all teams: 100" in text_of(admin.get(page))
    form = {f"{kind.value}_mode": "platform" for kind in Quota}
    own = {"queued_runs_mode": "own", "queued_runs": "7", "deployments_mode": "none"}
    assert admin.post(page, form | own).status_code == 302
    assert limits.own_limits(team) == {Quota.QUEUED_RUNS: 7, Quota.DEPLOYMENTS: None}
    assert limits.own_limits(other_team) == {}
    assert admin.post(page, form | {"queued_runs_mode": "own", "queued_runs": ""}).status_code == 400
    assert admin.post(page, form).status_code == 302
    with all_teams("test"):
        assert not TeamLimit.unscoped.exists()
    assert admin.get("/platform/teams/nobody/limits/").status_code == 404


def test_the_platform_sees_what_all_teams_use(admin, team, other_team):
    ask(team, None, "m", 3)
    ask(other_team, None, "m", 1, tokens=1_000_000)
    usage.measure_storage()
    page = text_of(admin.get("/platform/usage/"))
    assert "Service Desk" in page
    assert "1M" in page
    rows = admin.get("/platform/usage.csv").getvalue().decode().splitlines()
    assert rows[1:] == ["Finance,finance,1,0,1000000,2,0.0,0", "Service Desk,service-desk,3,0,30,6,0.0,0"]


def test_what_is_not_this_months_is_not_counted(team, admin):
    ask(team, None, "m", 3, day=Month.present().first - timedelta(days=1))
    rows = admin.get("/platform/usage.csv").getvalue().decode().splitlines()
    assert rows[1] == "Service Desk,service-desk,0,0,0,0,0.0,0"


PAGES = ["usage/", "tokens/", "service-accounts/"]


@pytest.mark.browser
@pytest.mark.django_db(transaction=True)
def test_pages_fit_and_say_nothing_in_the_console(world, team, actor, alice, open_page):
    alice.is_platform_admin = True
    alice.save()
    for number, day in enumerate(Month.present().days()):
        ask(team, world.token.pk if number % 3 else None, "triage" if number % 2 else "tiny", number * 7 % 23, day=day)
    with team_scope(team.pk):
        team.usagedays.filter(model="triage").update(gpu_seconds=400, errors=1)
    limits.set_team_limit(team=team, kind=Quota.TOKENS_PER_MONTH, value=1000, actor=actor)
    quotas.reserve(team.pk, {Quota.TOKENS_PER_MONTH: 900})
    alerts.check_all()
    paths = [f"/t/{team.slug}/{path}" for path in PAGES] + [f"/t/{team.slug}/tokens/{world.token.pk}/rotate/"]
    paths += ["/platform/limits/", f"/platform/teams/{team.slug}/limits/", "/platform/usage/"]
    for path in paths:
        fits(open_page(path), path.strip("/").replace("/", "-"))
