"""A cell of a confusion matrix leads to the rows in it, as many as it says."""

from __future__ import annotations

import html
import json
import re

import pytest

from datasets_app.models import Split
from experiments import results
from experiments.models import Evaluation, Run
from portal.models import AuditEvent
from portal.rls import all_teams, team_scope
from tests.browser import fits
from tests.experiments.runs import make_version, submit

PATH = "/t/service-desk/runs/{}/quality/"
CELL = re.compile(r'href="([^"]+)" aria-label="(\d+) expected (\w+), answered ([^"]+)"')
# expected, answered, how often: a value that nothing expects, and an answer that is no JSON, have columns of their own
ROWS = [("VPN", "VPN", 12), ("VPN", "Mail", 3), ("Mail", "Mail", 2), ("Mail", "Fax", 1), ("Mail", None, 2)]


@pytest.fixture
def run(team, actor, base_model, node) -> Run:
    return submit(team, actor, make_version(team), base_model, name="Which are confused?")


@pytest.fixture
def evaluation(run, tmp_path) -> Evaluation:
    lines = []
    for expected, answered, times in ROWS:
        for _ in range(times):
            place = len(lines)
            tuned = "no JSON" if answered is None else json.dumps({"urgent": place % 2 == 0, "service": answered})
            wanted = json.dumps({"service": expected, "urgent": place % 2 == 0})
            item = {"row": place + 2, "prompt": f"{expected} as {answered}", "expected": wanted, "tuned": tuned}
            lines.append(json.dumps(item | {"untuned": "", "place": place}) + "\n")
    (tmp_path / "predictions.jsonl").write_text("".join(lines))
    with all_teams("test"):
        judged = results.judge(tmp_path / "predictions.jsonl", Split.TEST, run.dataset_version)
        return results.record_evaluation(run, judged)


def page_text(browser, run: Run) -> str:
    return browser.get(PATH.format(run.pk)).content.decode()


def cells_of(text: str) -> dict[tuple[str, str], tuple[int, str]]:
    return {(wanted, given): (int(count), html.unescape(to)) for to, count, wanted, given in CELL.findall(text)}


@pytest.mark.django_db
def test_each_cell_leads_to_its_rows(run, evaluation, client_for, bob):
    viewer = client_for(bob)
    cells = cells_of(page_text(viewer, run))
    services = {pair: count for pair, (count, _to) in cells.items() if pair[0] in ("VPN", "Mail")}
    assert services == {("VPN", "VPN"): 12, ("VPN", "Mail"): 3, ("Mail", "Mail"): 2, ("Mail", "…"): 1, ("Mail", "—"): 2}
    (services_table,) = viewer.get(PATH.format(run.pk)).context["tables"][:1]
    assert [cell[:3] for cell in services_table["confused"]] == [
        ("VPN", "Mail", 3), ("Mail", "—", 2), ("Mail", "…", 1),
    ]  # fmt: skip
    for (wanted, _given), (count, address) in cells.items():
        shown = viewer.get(address).context
        assert shown["page"].paginator.count == count
        if wanted in ("VPN", "Mail"):
            assert all(answer.prompt.startswith(wanted) for answer, _others in shown["shown_rows"])
    prompts = [answer.prompt for answer, _others in viewer.get(cells["VPN", "Mail"][1]).context["shown_rows"]]
    assert prompts == ["VPN as Mail"] * 3


@pytest.mark.django_db
def test_rows_are_paged_and_narrowed_within_the_cell(run, evaluation, client_for, alice, team):
    browser = client_for(alice)
    address = PATH.format(run.pk) + "rows/"
    cell = {"field": "service", "expected": "VPN", "answered": "VPN"}
    second = browser.get(address, {**cell, "page": "2"})
    assert [answer.prompt for answer, _others in second.context["shown_rows"]] == ["VPN as VPN"] * 2
    back = re.search(r'rel="prev" href="([^"]*)"', second.content.decode())
    assert back is not None
    assert {"answered=VPN", "page=1"} <= set(html.unescape(back[1]).removeprefix("?").split("&"))
    assert browser.get(address, {**cell, "show": "wrong"}).context["page"].paginator.count == 0
    assert "All of these rows are answered exactly." in browser.get(address, {**cell, "show": "wrong"}).content.decode()
    assert browser.get(address, {"show": "wrong"}).context["page"].paginator.count == 6
    assert browser.get(address, {"field": "service", "expected": "Mail"}).context["page"].paginator.count == 5
    assert browser.get(address, {"order": "random", "page": "x"}).status_code == 200
    with team_scope(team.pk):
        assert AuditEvent.objects.filter(team_id=team.pk, action="run.answers_read").count() == 6


@pytest.mark.django_db
@pytest.mark.parametrize(
    "asked",
    [
        {"field": "service", "expected": "Fax"},
        {"field": "none", "expected": "VPN"},
        {"field": "service", "expected": "VPN", "answered": "Fax"},
        {"expected": "VPN"},
    ],
)
def test_a_cell_that_is_not_in_the_report_is_not_there(run, evaluation, client_for, alice, asked):
    assert client_for(alice).get(PATH.format(run.pk) + "rows/", asked).status_code == 404


@pytest.mark.django_db
def test_labels_that_are_whole_answers_have_cells_too(run, evaluation, client_for, alice):
    with all_teams("test"):
        confusion = {"labels": ["VPN"], "answers": ["VPN", "…"], "counts": [[1, 1]]}
        classes = [{"label": "VPN", "precision": 1, "recall": 0.5, "f1": 0.7, "support": 2, "predicted": 1}]
        figures = {"name": "accuracy", "tuned": 0.5, "untuned": 0, "style": "percent", "lower_is_better": False}
        verdict = {"code": "too_few_rows", "gain": 0.5, "low": 0, "high": 1, **figures}
        problem = {"problem_type": "classification", "rows": 2, "figures": [figures], "verdict": verdict}
        evaluation.report["problem"] = problem | {"confusion": confusion, "classes": classes}
        evaluation.save()
        for answer, text in zip(evaluation.answers.all()[:2], (" VPN", "Fax"), strict=True):
            answer.expected, answer.tuned = "VPN", text
            answer.save()
    links = [html.unescape(to) for to, *_rest in CELL.findall(page_text(client_for(alice), run))]
    whole = [to for to in links if "field=" not in to]
    assert len(whole) == 2
    for address, text in zip(whole, (" VPN", "Fax"), strict=True):
        shown = client_for(alice).get(address).context["shown_rows"]
        assert [answer.tuned for answer, _others in shown] == [text]


@pytest.mark.django_db
def test_the_rows_add_up_to_the_headline(run, evaluation):
    with all_teams("test"):
        rows = list(evaluation.answers.all())
    tuned = evaluation.report["tuned"]
    assert sum(row.tuned_score for row in rows) / len(rows) == pytest.approx(tuned["score"])
    assert sum(row.is_exact for row in rows) / len(rows) == pytest.approx(tuned["exact_match"])
    untuned = evaluation.report["untuned"]
    assert sum(row.untuned_score for row in rows) / len(rows) == pytest.approx(untuned["score"])


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_a_cell_is_reached_by_keyboard_without_scripts(run, evaluation, open_page):
    page = open_page(PATH.format(run.pk), scripts=False)
    link = page.locator(".confusion a", has_text="3").first
    link.focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/rows/**")
    assert "Expected “VPN”, answered “Mail”" in page.inner_text("h1")
    page.click("text=Quality report")
    page.wait_for_url("**/quality/#confusion-**")
    fits(open_page(PATH.format(run.pk) + "rows/?field=service&expected=VPN&answered=Mail"), "cell-rows")
