"""The run page explains itself: what it learns from, what its curves mean, and the same without JavaScript."""

from __future__ import annotations

import json

import pytest

from experiments import lifecycle, services
from experiments.hyperparameters import Hyperparameters
from experiments.models import FirstBatch, Run, RunEvent
from portal.models import AuditEvent
from portal.rls import all_teams, team_scope
from tests.experiments.runs import change, make_version, put_to_work, submit

pytestmark = pytest.mark.django_db

ROW = {
    "given": [["Route: ", 1], ["VPN\x00", 2]],
    "learned": [["{}", 1], ["<|im_end|>", 1]],
    "given_tokens": 3,
    "learned_tokens": 2,
    "is_cut": False,
}


@pytest.fixture
def run(team, actor, base_model, node) -> Run:
    return submit(team, actor, make_version(team), base_model)


@pytest.fixture
def lease(run, node):
    return put_to_work(run, node)


@pytest.fixture
def browser(client_for, alice):
    return client_for(alice)


def page_of(run: Run, part: str = "") -> str:
    return f"/t/service-desk/runs/{run.pk}/{part}"


def steps(count: int, **values: object) -> list[dict[str, object]]:
    return [
        {"event": "metric", "step": step, "total_steps": count, "loss": 2.5 / step**0.5, **values}
        for step in range(1, count + 1)
    ]


def test_the_first_rows_are_shown_token_by_token_and_reading_them_is_written_down(run, lease, browser, team):
    asked = browser.get(page_of(run, "rows/"))
    assert (asked.status_code, "appear here" in asked.content.decode()) == (200, True)
    lifecycle.record_events(lease, [{"event": "first_batch", "rows": [ROW]}])
    shown = browser.get(page_of(run, "rows/"))
    assert browser.get(page_of(run, "rows/?seen=1-")).status_code == 204  # nothing new, and nothing read
    page = browser.get(page_of(run)).content.decode()
    for text in (shown.content.decode(), page):
        assert '<span title="2 tokens">VPN</span>' in text
        assert "3 given + 2 learned tokens" in text
        assert '<mark class="learned"><span>{}</span><span>&lt;|im_end|&gt;</span></mark>' in text
    with team_scope(team.pk):
        assert AuditEvent.objects.filter(team_id=team.pk, action="run.rows_read").exists()


def test_rows_are_no_part_of_the_log_and_are_kept_once(run, lease, api):
    other = {**ROW, "given": [["Something else", 1]]}
    lifecycle.record_events(lease, [{"event": "first_batch", "rows": [ROW]}])
    lifecycle.record_events(lease, [{"event": "first_batch", "rows": [other]}])
    with all_teams("test"):
        assert FirstBatch.unscoped.get(run=run).rows[0]["given_tokens"] == 3
        assert not RunEvent.unscoped.filter(run=run, message__contains="VPN").exists()
    assert "VPN" not in json.dumps(api.get(f"/api/runs/{run.pk}/events/").json())


@pytest.mark.parametrize(
    "rows", [None, 7, "x", [], [7], [{"given": 7}], [{"given": [["a"]], "learned": [[None, "x"]]}]]
)
def test_nonsense_of_a_broken_trainer_breaks_no_page(run, lease, browser, rows):
    lifecycle.record_events(lease, [{"event": "first_batch", "rows": rows}])
    assert browser.get(page_of(run)).status_code == 200


def test_the_curves_are_put_into_words(run, lease, browser):
    assert "Too early" not in browser.get(page_of(run)).content.decode()
    lifecycle.record_events(lease, steps(3))
    assert "Too early to tell" in browser.get(page_of(run, "status/")).content.decode()
    lifecycle.record_events(lease, steps(60))
    text = browser.get(page_of(run, "status/")).content.decode()
    assert "Learning well" in text
    assert "Let it finish" in text


def test_figures_have_units(run, lease, browser):
    more = {"memory_bytes": 1.5e9, "cpu_share": 0.93, "padding_share": 0.034, "gpu_share": 0.5, "grad_norm": 1.25}
    lifecycle.record_events(lease, steps(2, **more))
    text = browser.get(page_of(run, "status/")).content.decode()
    for figure in ("1.5\xa0GB", "93%", "3.4%", "50%"):
        assert figure in text


def test_without_javascript_there_is_a_table_with_every_validation_check(run, lease, browser):
    lifecycle.record_events(lease, [*steps(400), {"event": "metric", "step": 123, "validation_loss": 0.987}])
    change(run, status="succeeded", lease_token=None)
    page = browser.get(page_of(run)).content.decode()
    table = next(part for part in page.split("<noscript>") if "Figures by step" in part).split("</noscript>")[0]
    assert "0.9870" in table
    assert "Smoothed" in table
    assert 40 <= table.count("<tr>") <= 60


def test_answers_to_validation_rows_are_shown_check_by_check(run, lease, browser):
    assert "No answers yet" in browser.get(page_of(run)).content.decode()
    rows = [{"row": 7, "prompt": "Where is my VPN?", "expected": "{}", "answer": "{1}", "exact": False, "score": 0.0}]
    lifecycle.record_events(lease, [{"event": "sample", "step": 20, "rows": rows}])
    lifecycle.record_events(lease, [{"event": "metric", "step": 20, "loss": 1.0, "validation_exact_match": 0.5}])
    page = browser.get(page_of(run)).content.decode()
    assert "Where is my VPN?" in page
    assert "Step 20" in page
    assert 'data-right="validation_exact_match=Exact match"' in page
    assert "VPN" in browser.get(page_of(run, "rows/?seen=0-")).content.decode()
    assert browser.get(page_of(run, "rows/?seen=0-20")).status_code == 204


def test_a_run_is_paused_and_resumed_on_its_page(browser, client_for, bob, run, node):
    assert f'action="{page_of(run, "pause/")}"' in browser.get(page_of(run)).content.decode()
    browser.post(page_of(run, "pause/"))
    shown = browser.get(page_of(run)).content.decode()
    assert f'action="{page_of(run, "resume/")}"' in shown
    assert f'action="{page_of(run, "pause/")}"' not in shown
    assert "Paused" in shown
    assert "Queued" not in browser.get(page_of(run, "status/")).content.decode()
    viewer = client_for(bob)
    assert viewer.post(page_of(run, "resume/")).status_code == 403
    assert f'action="{page_of(run, "resume/")}"' not in viewer.get(page_of(run)).content.decode()
    browser.post(page_of(run, "resume/"))
    assert "Queued" in browser.get(page_of(run, "status/")).content.decode()
    again = browser.post(page_of(run, "resume/"), follow=True).content.decode()
    assert "is not paused" in again


def test_a_running_training_that_is_asked_to_pause_says_so(browser, run, lease):
    browser.post(page_of(run, "pause/"))
    shown = browser.get(page_of(run)).content.decode()
    assert "writes a checkpoint" in shown
    assert f'action="{page_of(run, "resume/")}"' not in shown


def test_the_last_lines_of_a_long_log_are_shown_and_all_of_it_can_be_read(run, browser, client_for, charlie):
    with team_scope(run.team_id):
        lines = [RunEvent(team=run.team, run=run, message=f"line {number:04}\nmore") for number in range(1203)]
        RunEvent.unscoped.bulk_create(lines)
        told = RunEvent.unscoped.filter(run=run).count()
    change(run, status="succeeded")
    page = browser.get(page_of(run)).content.decode()
    assert "line 1202" in page
    assert "line 0000" not in page
    assert f"{told - 500} earlier lines" in page
    assert f'data-log-first="{told - 500}"' in page
    assert "line 0000" in browser.get(page_of(run, "log/all/")).content.decode()
    assert "line 1202" in browser.get(page_of(run, "log/all/?page=3")).content.decode()
    file = browser.get(page_of(run, "log.txt"))
    text = b"".join(file.streaming_content).decode().splitlines()
    assert [line.split()[-1] for line in text if " line " in line] == [f"{number:04}" for number in range(1203)]
    assert text[-2].endswith("INFO    line 1202")
    assert text[-1] == "    more"
    assert client_for(charlie).get(page_of(run, "log.txt")).status_code == 404


def test_a_log_of_a_running_training_goes_on_after_its_last_line(run, lease, browser):
    with team_scope(run.team_id):
        RunEvent.unscoped.bulk_create(RunEvent(team=run.team, run=run, message=f"line {n}") for n in range(600))
        told = RunEvent.unscoped.filter(run=run).count()
    page = browser.get(page_of(run)).content.decode()
    first = int(page.split('data-log-first="')[1].split('"')[0])
    known = first + page.count("log-line log-")
    assert known == told
    assert browser.get(page_of(run, f"log/?after={known}")).status_code == 204
    lifecycle.record_events(lease, [{"event": "log", "message": "one more"}])
    assert "one more" in browser.get(page_of(run, f"log/?after={known}")).content.decode()


GENERAL = "Computed the general way, by transformers and PEFT: LoRA dropout is above 0."


def started(**fields: object) -> dict[str, object]:
    return {"event": "started", "total_steps": 10, "path": "general", "why": "LoRA dropout is above 0", **fields}


def test_the_page_and_the_log_say_which_way_is_computed_and_why(run, lease, browser):
    assert "Computed the" not in browser.get(page_of(run)).content.decode()
    lifecycle.record_events(lease, [started()])
    assert GENERAL in browser.get(page_of(run, "status/")).content.decode()
    with all_teams("test"):
        assert RunEvent.unscoped.get(run=run, kind="plan").message == GENERAL
    lifecycle.record_events(lease, [started(path="fast", why="a llama-shaped base model in 32 bit on a CPU")])
    told = "Computed the fast way, written by hand for such models: a llama-shaped base model in 32 bit on a CPU."
    assert told in browser.get(page_of(run)).content.decode()


def test_before_the_start_the_settings_tell_the_way_or_a_trial_of_them(team, actor, base_model, node, browser):
    version = make_version(team)
    chosen = {"hyperparameters": Hyperparameters(lora_dropout=0.1)}
    dropout = submit(team, actor, version, base_model, **chosen)
    told = "It will be computed the general way, by transformers and PEFT: LoRA dropout is above 0."
    assert told in browser.get(page_of(dropout)).content.decode()
    trial = submit(team, actor, version, base_model, kind=Run.Kind.PREFLIGHT)
    lease = put_to_work(trial, node)
    lifecycle.record_events(lease, [started(path="fast", why="a llama-shaped base model")])
    lifecycle.finish_preflight(lease)
    with team_scope(team.pk):
        whole = services.rerun(run=trial, actor=actor)
    told = "As in its trial: Computed the fast way, written by hand for such models: a llama-shaped base model."
    assert told in browser.get(page_of(whole)).content.decode()
