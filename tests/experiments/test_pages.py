"""Pages of experiments and runs: what people see in each state, and what they may do."""

from __future__ import annotations

import json

import pytest

from experiments import services
from experiments.hyperparameters import Hyperparameters, from_yaml
from experiments.models import Run
from portal.models import BaseModel
from portal.rls import team_scope


@pytest.fixture
def browser(client_for, alice):
    return client_for(alice)


@pytest.fixture
def queued(team, actor, ready_version, base_model) -> Run:
    with team_scope(team.pk):
        return services.start_experiment(
            team=team,
            actor=actor,
            name="First question",
            dataset_version=ready_version,
            base_model=base_model,
            recipe="fast",
        )


def change(run: Run, **values: object) -> Run:
    with team_scope(run.team_id):
        Run.unscoped.filter(pk=run.pk).update(**values)
        run.refresh_from_db()
    return run


def page_of(run: Run, part: str = "") -> str:
    return f"/t/service-desk/runs/{run.pk}/{part}"


def form(version, **values: object) -> dict[str, object]:
    return {
        "name": "Does it learn?",
        "dataset_version": version.pk,
        "base_model": "tiny",
        "recipe": "fast",
        **values,
    }


def test_list_is_friendly_when_empty_and_finds_by_name(browser, queued, team):
    assert "First question" in browser.get("/t/service-desk/experiments/").content.decode()
    assert "First question" in browser.get("/t/service-desk/experiments/?q=QUESTION").content.decode()
    assert "Nothing found" in browser.get("/t/service-desk/experiments/?q=%00zzz").content.decode()
    assert browser.get("/t/service-desk/experiments/?page=nonsense").status_code == 200


def test_empty_list(browser, team):
    assert "No experiments yet" in browser.get("/t/service-desk/experiments/").content.decode()


def test_without_a_dataset_the_form_says_what_to_do_first(browser, team):
    assert "no dataset to learn from" in browser.get("/t/service-desk/experiments/new/").content.decode()


def test_a_recipe_is_enough_to_start(browser, team, ready_version, base_model):
    answer = browser.post("/t/service-desk/experiments/new/", form(ready_version))
    with team_scope(team.pk):
        run = team.runs.get()
        assert answer["Location"] == page_of(run)
        assert (run.recipe, run.status, run.base_revision) == ("fast", "queued", base_model.revision)


def test_typed_values_replace_the_recipes(browser, team, ready_version, base_model):
    values = {"hp_lora_r": "4", "hp_gradient_checkpointing": "yes", "hp_schedule": "linear", "deploy_as": "triage"}
    browser.post("/t/service-desk/experiments/new/", form(ready_version, **values))
    with team_scope(team.pk):
        run = team.runs.get()
    chosen = Hyperparameters.model_validate(run.hyperparameters)
    assert (chosen.lora_r, chosen.gradient_checkpointing, chosen.schedule) == (4, True, "linear")
    assert run.deploy_as == "triage"


def test_layers_are_named_and_checked_against_the_base_models_files(browser, team, ready_version, base_model):
    values = {"hp_lora_targets": "own", "hp_lora_target_names": "down_proj, norm"}
    answer = browser.post("/t/service-desk/experiments/new/", form(ready_version, **values))
    assert answer.status_code == 400
    assert "no linear layer “norm”. Its layers are: down_proj, gate_proj, k_proj," in answer.content.decode()
    values["hp_lora_target_names"] = "q_proj, down_proj"
    assert browser.post("/t/service-desk/experiments/new/", form(ready_version, **values)).status_code == 302
    with team_scope(team.pk):
        run = team.runs.get()
        page = browser.get(f"{page_of(run)}settings/").content.decode()
    assert run.hyperparameters["lora_target_names"] == "down_proj, q_proj"
    assert "down_proj, q_proj" in page


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"hp_lora_targets": "own"}, "Name at least one layer"),
        ({"hp_stop_texts": "a|b|c|d|e"}, "At most 4 texts"),
        ({"name": ""}, "required"),
        ({"recipe": "magic"}, "magic"),
        ({"base_model": "gpt"}, "valid choice"),
        ({"dataset_version": "11111111-1111-1111-1111-111111111111"}, "valid choice"),
        ({"dataset_version": "nonsense"}, "valid"),
        ({"hp_learning_rate": "5"}, "less than or equal to 0.1"),
        ({"hp_learning_rate": "nan"}, "number"),
        ({"hp_epochs": "-1"}, "greater than or equal"),
        ({"hp_lora_r": "3.5"}, "whole number"),
        ({"hp_schedule": "wild"}, "valid choice"),
        ({"deploy_as": "Not a name!"}, "valid"),
    ],
)
def test_bad_values_are_named_and_start_nothing(browser, team, ready_version, base_model, values, told):
    answer = browser.post("/t/service-desk/experiments/new/", form(ready_version, **values))
    assert answer.status_code == 400
    assert told in answer.content.decode()
    with team_scope(team.pk):
        assert not team.runs.exists()
        assert not team.experiments.exists()


def test_what_does_not_fit_is_said_in_our_words_where_it_can_be_seen(browser, team, ready_version, base_model):
    values = {"hp_dora": "yes", "hp_lora_init": "pissa"}
    page = browser.post("/t/service-desk/experiments/new/", form(ready_version, **values)).content.decode()
    assert "This start cannot be combined with DoRA. Switch one of them off." in page
    assert "Value error" not in page
    assert '<details class="advanced" open><summary>LoRA adapter' in page
    assert '<details class="advanced"><summary>Precision and memory' in page


def test_the_api_says_it_in_our_words_too(api, team, ready_version, base_model):
    wanted = {"name": "By API", "dataset_version": str(ready_version.pk), "base_model": "tiny"}
    wanted["hyperparameters"] = {"dora": True, "lora_init": "pissa"}
    answer = api.post("/api/experiments/", wanted, content_type="application/json").content.decode()
    assert "This start cannot be combined with DoRA. Switch one of them off." in answer
    assert "Value error" not in answer


@pytest.mark.parametrize(
    ("name", "proposed"),
    [
        ("Route support tickets", "route-support-tickets"),
        ("Does rank_8 help?", "does-rank-8-help"),
        ("Tickets of the " + "very " * 20 + "long year", "tickets-of-the-very-very-very-very-very-very-very"),
        ("工单", ""),
    ],
)
def test_the_name_proposed_to_deploy_under_is_one_that_the_form_takes(team, queued, name, proposed):
    with team_scope(team.pk):
        queued.experiment.name = name
        assert queued.proposed_name == proposed
        queued.deploy_as = "triage"
        assert queued.proposed_name == "triage"


def test_settings_tell_in_words_what_the_run_reported(browser, queued):
    started = {"path": "fast", "why": "a llama-shaped model", "device": "cpu", "precision": "fp32", "rows": 1234}
    finished = {"seconds": 61.0, "validation_seconds": 6.1, "peak_memory_bytes": 1_400_000_000}
    change(queued, facts={"started": {**started, "processes": 1, "resumed_from_step": None}, "finished": finished})
    page = browser.get(page_of(queued, "settings/")).content.decode().split("What the run reported")[1]
    for words in ("Computed the fast way", "processor", "32 bit", "1,234", "1\xa0min 1\xa0s", "10.0%", "1.4\xa0GB"):
        assert words in page, words
    assert "{" not in page.split("</dl>")[0]
    assert "Processes" not in page
    change(queued, facts={"started": {"rows": "many", "device": 3}, "finished": None})
    assert browser.get(page_of(queued, "settings/")).status_code == 200


def test_settings_show_only_what_matters_for_the_kind_of_problem(browser, queued):
    page = browser.get(page_of(queued, "settings/")).content.decode()
    assert "Rank" in page
    assert "Preference loss" not in page
    change(queued, hyperparameters={**queued.hyperparameters, "problem_type": "preference"})
    assert "Preference loss" in browser.get(page_of(queued, "settings/")).content.decode()


def test_a_validation_loss_is_shown_though_many_steps_came_after_it(browser, team, queued, node):
    lease = {"lease_token": "11111111-1111-1111-1111-111111111111", "node": node, "slot": 0}
    change(queued, status="running", phase="training", step=120, total_steps=200, **lease)
    with team_scope(team.pk):
        team.metricpoints.create(run=queued, step=2, values={"loss": 2.0, "validation_loss": 0.6543})
        for step in range(3, 120):
            team.metricpoints.create(run=queued, step=step, values={"loss": 1.0})
    for part in ("", "status/"):
        assert "0.6543" in browser.get(page_of(queued, part)).content.decode().split("Validation loss")[1][:300], part


def test_a_model_that_is_not_allowed_cannot_be_chosen(browser, team, ready_version, base_model):
    BaseModel.objects.update(is_allowed=False)
    assert browser.post("/t/service-desk/experiments/new/", form(ready_version)).status_code == 400


def test_the_api_tells_a_model_off_the_allow_list_from_one_that_is_not_there(api, team, ready_version, base_model):
    BaseModel.objects.update(is_allowed=False)
    wanted = {"name": "By API", "dataset_version": str(ready_version.pk), "base_model": "tiny"}
    refused = api.post("/api/experiments/", wanted, content_type="application/json")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "model_not_allowed")
    unknown = api.post("/api/experiments/", {**wanted, "base_model": "elsewhere"}, content_type="application/json")
    assert unknown.status_code == 404
    with team_scope(team.pk):
        assert not team.experiments.exists()


def test_another_teams_dataset_cannot_be_chosen(client_for, charlie, other_team, ready_version, base_model):
    answer = client_for(charlie).post("/t/finance/experiments/new/", form(ready_version))
    assert answer.status_code == 400 or "no dataset to learn from" in answer.content.decode()
    with team_scope(other_team.pk):
        assert not other_team.runs.exists()


def test_the_recipe_part_follows_the_choice(browser, team, ready_version, base_model):
    part = "/t/service-desk/experiments/new/hyperparameters/"
    fast = browser.get(part, {"recipe": "fast", "dataset_version": ready_version.pk, "hp_lora_r": "9"}).content.decode()
    best = browser.get(part, {"recipe": "best", "dataset_version": ready_version.pk}).content.decode()
    assert 'value="9"' in fast
    assert fast != best
    assert browser.get(part, {"recipe": "x", "dataset_version": "y", "hp_lora_r": "z"}).status_code == 200


def test_yaml_goes_out_and_in_unchanged(browser, team, queued, ready_version, tmp_path):
    text = browser.get(page_of(queued, "settings.yaml")).content.decode()
    assert from_yaml(text).model_dump(mode="json") == queued.hyperparameters
    file = tmp_path / "run.yaml"
    file.write_text(text.replace("lora_r: 16", "lora_r: 7"))
    with file.open("rb") as handle:
        browser.post("/t/service-desk/experiments/new/", form(ready_version, yaml=handle))
    with team_scope(team.pk):
        assert team.runs.order_by("-queued_at").first().hyperparameters["lora_r"] == 7
    for nonsense in (b"\xff\xfe", b"- a\n- b", b"lora_r: 1000000", b"unknown: 1", b"{"):
        file.write_bytes(nonsense)
        with file.open("rb") as handle:
            assert browser.post("/t/service-desk/experiments/new/", form(ready_version, yaml=handle)).status_code == 400


def test_every_state_of_a_run_has_its_words(browser, queued, node):
    assert "Waiting in the queue" in browser.get(page_of(queued)).content.decode()
    lease = {"lease_token": "11111111-1111-1111-1111-111111111111", "node": node, "slot": 0}
    change(queued, status="running", phase="training", step=3, total_steps=10, eta_s=61, **lease)
    running = browser.get(page_of(queued)).content.decode()
    assert "step 3 of 10" in running
    assert "on node local" in running
    change(queued, status="failed", error_message="The disk is full. Free some space.")
    assert "The disk is full" in browser.get(page_of(queued)).content.decode()
    change(queued, status="cancelled")
    assert "before it had learned anything" in browser.get(page_of(queued)).content.decode()
    change(queued, status="succeeded")
    assert browser.get(page_of(queued, "status/")).status_code == 286


def test_metrics_come_in_order_and_resume_where_the_page_stopped(browser, team, queued):
    with team_scope(team.pk):
        for step in (1, 2, 3):
            team.metricpoints.create(run=queued, step=step, values={"loss": 1 / step})
    answer = browser.get(page_of(queued, "metrics/")).json()
    assert [point["step"] for point in answer["points"]] == [1, 2, 3]
    assert (answer["next"], answer["done"]) == (3, False)
    assert [p["step"] for p in browser.get(page_of(queued, "metrics/?after=3")).json()["points"]] == [3]
    assert browser.get(page_of(queued, "metrics/?after=nonsense")).status_code == 200
    change(queued, status="succeeded")
    assert browser.get(page_of(queued, "metrics/?after=3")).json()["done"] is True


def test_the_log_is_escaped_and_stops_polling_at_the_end(browser, team, queued):
    with team_scope(team.pk):
        team.runevents.create(run=queued, message="<script>alert(1)</script>")
    page = browser.get(page_of(queued, "log/")).content.decode()
    assert "&lt;script&gt;" in page
    assert "<script>" not in page
    count = json.dumps(page.count("log-line "))
    assert browser.get(page_of(queued, f"log/?after={count}")).status_code in (200, 204)
    change(queued, status="succeeded")
    assert browser.get(page_of(queued, "log/?after=1000")).status_code == 286


def test_stopping_asks_first_and_then_stops(browser, queued):
    assert "Stop this run?" in browser.get(page_of(queued, "cancel/")).content.decode()
    assert browser.post(page_of(queued, "cancel/")).status_code == 302
    change(queued)
    assert queued.status == "cancelled"
    assert browser.post(page_of(queued, "cancel/")).status_code == 409


def test_a_viewer_sees_the_run_and_no_buttons(client_for, bob, queued):
    page = client_for(bob).get(page_of(queued)).content.decode()
    assert "Stop" not in page.split("<main")[1].split("run-status")[0]


def test_queue_says_why_a_run_waits(browser, queued):
    page = browser.get("/t/service-desk/queue/").content.decode()
    assert "First question #1" in page
    assert "1 run is waiting." in page
    change(queued, status="cancelled")
    assert "No run is waiting." in browser.get("/t/service-desk/queue/").content.decode()


def test_priority_of_a_waiting_run_is_changed_on_the_queue_page(browser, client_for, bob, queued):
    address = page_of(queued, "priority/")
    assert browser.post(address, {"priority": "1"}).status_code == 302
    assert change(queued) or queued.priority == 1
    part = browser.get("/t/service-desk/queue/", headers={"HX-Request": "true"}).content.decode()
    assert "<html" not in part
    assert 'value="1" aria-current="true" disabled' in part
    for nonsense in ("", "2", "high", "1e9"):
        assert browser.post(address, {"priority": nonsense}).status_code == 400
    assert client_for(bob).post(address, {"priority": "1"}).status_code == 403
    change(queued, status="cancelled")
    assert browser.post(address, {"priority": "0"}).status_code == 409


def test_priority_of_a_waiting_run_is_changed_by_the_api(api, queued):
    answer = api.patch(f"/api/runs/{queued.pk}/", {"priority": -1}, content_type="application/json")
    assert (answer.status_code, answer.json()["priority"]) == (200, -1)
    assert api.patch(f"/api/runs/{queued.pk}/", {"priority": 7}, content_type="application/json").status_code == 400
