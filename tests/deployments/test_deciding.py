"""Decisions and confidence of a deployment: calibrated, held back, of labels, and behind fields that are open."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from deployments import known_targets, lifecycle, metering, services
from deployments.advice import advice_of
from deployments.decidable import LEAST_FITTED_ROWS
from deployments.models import DeploymentVersion, InferenceRecord
from experiments.models import Evaluation
from experiments.problem_file import PROBLEM_FILE, Problem
from portal.rls import all_teams, team_scope
from tests.deployments.conftest import SYSTEM
from tests.deployments.figures import calibrate, evaluate
from tests.deployments.sdk import sdk

pytestmark = pytest.mark.django_db

QUEUES = ["vpn", "mail", "printers"]
QUEUE = {"type": "string", "enum": QUEUES}
CLOSED = {
    "type": "object",
    "properties": {"queue": QUEUE, "urgent": {"type": "boolean"}},
    "required": ["queue", "urgent"],
    "additionalProperties": False,
}
OPEN_FIRST = {
    "type": "object",
    "properties": {"summary": {"type": "string"}, "queue": QUEUE},
    "required": ["summary", "queue"],
    "additionalProperties": False,
}
ASK_QUEUE = {"type": "choice", "name": "queue", "choices": [{"value": value} for value in QUEUES]}
COLD = {"queue": (0.5, QUEUES), "urgent": (2.0, ["true", "false"])}


@pytest.fixture(autouse=True)
def _nothing_known():
    known_targets._versions.clear()
    known_targets._recent.clear()


@pytest.fixture
def deploy(team, actor, run, node, engine, load_placements) -> Callable[..., Any]:
    """Return a function that deploys the run as `demo`, with a report of these temperatures; (temperature, labels)."""

    def make(learned: dict[str, tuple[float, list[str] | None]] | None = None, *, rows: int = 60, **settings: Any):
        with team_scope(team.pk):
            if learned is not None:
                report(run, learned, rows)
            version = services.deploy_run(team=team, actor=actor, run=run, name="demo", **settings)
        load_placements(node)
        return version

    return make


def report(run, learned, rows: int = 60) -> None:
    getattr(run, "evaluation", None) and run.evaluation.delete()
    calibrate(evaluate(run), learned, rows)


def post(api: Client, path: str, body: dict[str, Any]):
    return api.post(f"/v1/{path}", json.dumps({"model": "demo", **body}), "application/json")


def decide(api: Client, *questions: dict, text: str = "VPN drops") -> dict[str, Any]:
    answer = post(api, "decisions", {"input": text, "questions": list(questions)})
    assert answer.status_code == 200, answer.content
    return answer.json()


def shares(answer: dict) -> dict[Any, float]:
    return {one["value"]: one["probability"] for one in answer["probabilities"]}


def scored(engine) -> list[dict]:
    return [body for body in engine.requests if "values" in body]


# --- fields -------------------------------------------------------------------------------------------------------


def test_what_leaves_the_api_is_taken_at_the_temperature_of_the_report(deploy, api, engine):
    deploy(COLD, response_schema=CLOSED)
    queue, urgent = decide(
        api, ASK_QUEUE, {"type": "choice", "name": "urgent", "choices": [{"value": True}, {"value": False}]}
    )["answers"]
    assert shares(queue) == pytest.approx({"vpn": 1 / 14, "mail": 4 / 14, "printers": 9 / 14})
    assert (queue["choice"], queue["calibrated"], urgent["calibrated"]) == ("printers", True, True)
    assert shares(urgent)[False] == pytest.approx(2**0.5 / (1 + 2**0.5))
    assert scored(engine)[0]["beginning"] == '{"queue": '
    assert scored(engine)[-1]["ending"] == "}"


def test_without_a_report_they_are_the_models_own_and_say_so(deploy, api):
    deploy(response_schema=CLOSED)
    (queue,) = decide(api, ASK_QUEUE)["answers"]
    assert shares(queue) == pytest.approx({"vpn": 1 / 6, "mail": 2 / 6, "printers": 3 / 6})
    assert queue["calibrated"] is False


def test_the_sdk_reads_answers_and_refusals(deploy, token):
    deploy(COLD, response_schema=CLOSED, thresholds={"urgent": 0.6})
    urgent = {"type": "predicate", "name": "urgent", "instructions": "Is it urgent?"}
    answer = sdk(token).decisions.create(model="demo", input="VPN drops", questions=[ASK_QUEUE, urgent])
    queue, refusal = answer.answers
    assert (queue.type, queue.choice, queue.confidence) == ("choice", "printers", pytest.approx(9 / 14))
    assert (refusal.type, refusal.name) == ("refusal", "urgent")
    assert answer.usage.input_tokens_details.cache_write_tokens == 0


def test_a_part_of_the_values_is_offered_and_every_kind_of_question_is_asked_of_the_field(deploy, api, engine):
    deploy(COLD, response_schema=CLOSED)
    few = {**ASK_QUEUE, "choices": [{"value": "vpn"}, {"value": "mail"}]}
    assert shares(decide(api, few)["answers"][0]) == pytest.approx({"vpn": 0.2, "mail": 0.8})
    urgent, words = decide(api, {"type": "predicate", "name": "urgent"}, {"type": "predicate", "name": "angry"})[
        "answers"
    ]
    assert urgent["probability"] == pytest.approx(1 / (1 + 2**0.5))
    assert (urgent["calibrated"], words["calibrated"]) == (True, False)
    levels = {"type": "score", "name": "queue", "levels": [{"label": value} for value in QUEUES]}
    (score,) = decide(api, levels)["answers"]
    assert (score["calibrated"], score["score"]) == (True, pytest.approx((4 + 2 * 9) / 14))
    before = len(scored(engine))
    other = {**ASK_QUEUE, "choices": [{"value": "vpn"}, {"value": "phones"}]}
    assert decide(api, other)["answers"][0]["calibrated"] is False, "it was not taught to say that"
    assert [body["beginning"] for body in scored(engine)[before:]] == [""]


def test_below_the_threshold_the_calibrated_probability_counts(deploy, api):
    deploy(COLD, response_schema=CLOSED, thresholds={"queue": 0.6, "urgent": 0.6})
    queue, urgent = decide(api, ASK_QUEUE, {"type": "predicate", "name": "urgent"})["answers"]
    assert queue["choice"] == "printers", "0.5 as the model has it, 0.64 calibrated"
    assert urgent == {"type": "refusal", "name": "urgent"}, "0.67 as the model has it, 0.59 calibrated"


def test_a_deployment_that_is_not_bound_knows_the_fields_of_its_dataset(deploy, api, engine, run, team):
    with team_scope(team.pk):
        team.answerschemas.create(version=run.dataset_version, number=1, origin="inferred", schema=CLOSED)
    version = deploy(COLD)
    assert (version.response_schema, version.decision_schema) == (None, CLOSED)
    (queue,) = decide(api, ASK_QUEUE)["answers"]
    assert queue["calibrated"] is True
    assert scored(engine)[0]["beginning"] == '{"queue": '


def test_an_engine_is_asked_in_the_way_that_it_knows_and_the_next_one_in_its_place_in_its_own(
    deploy, api, engine, node, base_model, load_placements
):
    deploy(COLD, response_schema=CLOSED)
    for scores_values, status in ((False, 502), (True, 200), (False, 502)):
        lifecycle.engine_starts(node=node, base_model=base_model, access_key=engine.key, scores_values=scores_values)
        lifecycle.engine_ready(node=node, base_model=base_model, url=engine.url)
        load_placements(node)
        known_targets._versions.clear()
        before = len(scored(engine))
        assert post(api, "decisions", {"input": "VPN drops", "questions": [ASK_QUEUE]}).status_code == status
        assert (len(scored(engine)) > before) is scores_values


# --- what a version takes from its run -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("learned", "rows", "kept"),
    [
        (COLD, 60, {"queue": 0.5, "urgent": 2.0}),
        ({"queue": (0.5, None)}, 60, {"queue": 0.5}),  # an older report does not say of which labels
        (COLD, 19, {}),
        ({"queue": (0.5, ["vpn", "mail"])}, 60, {}),
        (dict(reversed(COLD.items())), 60, {}),
        ({"nobody": (0.5, ["a"])}, 60, {}),
    ],
)
def test_a_version_keeps_the_temperatures_that_fit_its_fields(deploy, learned, rows, kept):
    assert deploy(learned, rows=rows, response_schema=CLOSED).temperatures == kept


def test_a_version_keeps_what_it_was_made_with_and_deploying_again_takes_the_new_report(deploy, api, run, team):
    assert deploy(COLD, response_schema=CLOSED).number == 1
    assert deploy(response_schema=CLOSED).number == 1
    with team_scope(team.pk):
        report(run, {"queue": (1.5, QUEUES)})
    assert shares(decide(api, ASK_QUEUE)["answers"][0])["printers"] == pytest.approx(9 / 14)
    with team_scope(team.pk):
        run.refresh_from_db()
    assert deploy(response_schema=CLOSED).number == 2


def test_a_version_of_before_decides_by_the_schema_of_its_answers(deploy, api, engine):
    version = deploy(COLD, response_schema=CLOSED)
    with all_teams("test"):
        DeploymentVersion.unscoped.filter(pk=version.pk).update(decision_schema=None, temperatures={})
    known_targets._versions.clear()
    (queue,) = decide(api, ASK_QUEUE)["answers"]
    assert (scored(engine)[0]["beginning"], queue["calibrated"]) == ('{"queue": ', False)


# --- classification ------------------------------------------------------------------------------------------------


@pytest.fixture
def labels(run) -> list[str]:
    found = ["Card", "Card lost", "404"]
    (run.adapter.folder / PROBLEM_FILE).write_text(Problem("classification", labels=tuple(found)).to_json())
    return found


def test_a_classification_decides_among_its_labels(deploy, api, engine, labels):
    version = deploy({"label": (0.5, labels)}, thresholds={"label": 0.6})
    assert (version.labels, version.temperatures, version.decision_schema) == (labels, {"label": 0.5}, None)
    every = {"type": "choice", "name": "intent", "choices": [{"value": label} for label in labels]}
    two = {"type": "choice", "name": "again", "choices": [{"value": "404"}, {"value": "Card"}]}
    even = {"type": "choice", "name": "even", "choices": [{"value": "Card lost"}, {"value": "Card"}]}
    engine.shares = {"Card": 2.0}
    first, second, third = decide(api, every, two, even)["answers"]
    assert first == {"type": "refusal", "name": "intent"}, "9 / 17 for the likeliest of all"
    assert shares(second) == pytest.approx({"404": 9 / 13, "Card": 4 / 13})
    assert second["calibrated"] is True
    assert third == {"type": "refusal", "name": "even"}
    (asked,) = scored(engine)
    assert (asked["values"], asked["beginning"], asked["ending"]) == (labels, "", "")
    assert asked["messages"][-1]["content"] == "VPN drops", "asked as it was taught, without a question behind the text"


# --- asked otherwise than when temperatures were fitted -------------------------------------------------------------


def are_calibrated(answer: Any) -> set[bool]:
    body = answer.json()
    entries = body["answers"] if "answers" in body else body["choices"][0]["confidence"]
    return {one["calibrated"] for one in entries}


def ask_for_both(api: Client, *messages: dict[str, str]) -> set[bool]:
    """Whether a decision and an answer's confidence say that they are calibrated."""
    said = [*messages, {"role": "user", "content": '#json {"queue": "mail", "urgent": true}'}]
    decided = post(api, "decisions", {"input": said, "questions": [ASK_QUEUE]})
    return are_calibrated(decided) | are_calibrated(
        post(api, "chat/completions", {"messages": said, "confidence": True})
    )


@pytest.mark.parametrize("weights", ["fp32", "int8"])
def test_temperatures_hold_for_the_weights_that_they_were_fitted_with(
    deploy, api, engine, node, base_model, load_placements, weights
):
    deploy(COLD, response_schema=CLOSED)
    lifecycle.engine_starts(node=node, base_model=base_model, access_key=engine.key, weights=weights)
    lifecycle.engine_ready(node=node, base_model=base_model, url=engine.url)
    load_placements(node)
    known_targets._versions.clear()
    assert ask_for_both(api) == {weights == "fp32"}
    assert shares(decide(api, ASK_QUEUE)["answers"][0])["printers"] == pytest.approx(9 / 14), "the best guess there is"


def test_weights_of_the_report_count(deploy, api, run, team):
    with team_scope(team.pk):
        report(run, COLD)
        run.evaluation.report["weights"] = "bf16"
        run.evaluation.save()
    assert deploy(response_schema=CLOSED).fitted_under["weights"] == "bf16"
    assert ask_for_both(api) == {False}


def test_temperatures_hold_for_the_prompt_that_they_were_fitted_under(deploy, api):
    """The rows of this run's dataset have one system prompt, which the deployment adds to requests without one."""
    deploy(COLD, response_schema=CLOSED)
    assert ask_for_both(api) == {True}
    assert ask_for_both(api, {"role": "system", "content": SYSTEM}) == {True}
    assert ask_for_both(api, {"role": "system", "content": "Answer in rhymes."}) == {False}
    assert ask_for_both(api, {"role": "system", "content": SYSTEM}, {"role": "system", "content": "Rhyme."}) == {False}


def test_another_prompt_of_the_version_is_none_that_they_were_fitted_under(deploy, api):
    deploy(COLD, response_schema=CLOSED, system_prompt="Answer in rhymes.")
    assert ask_for_both(api) == {False}
    assert ask_for_both(api, {"role": "system", "content": SYSTEM}) == {True}


@pytest.mark.parametrize(("weights", "prompt"), [("fp32", None), ("int8", None), ("fp32", "Answer in rhymes.")])
def test_the_page_says_where_temperatures_do_not_hold(
    deploy, engine, node, base_model, load_placements, team, alice, client_for, weights, prompt
):
    version = deploy(COLD, response_schema=CLOSED, system_prompt=prompt)
    lifecycle.engine_starts(node=node, base_model=base_model, access_key=engine.key, weights=weights)
    page = client_for(alice).get(f"/t/{team.slug}/deployments/{version.deployment_id}/").content.decode()
    assert ("do not call themselves calibrated" in page) is (weights != "fp32" or prompt is not None)


def test_a_version_of_before_is_taken_to_have_the_prompt_of_its_rows(deploy, api):
    version = deploy(COLD, response_schema=CLOSED)
    with all_teams("test"):
        DeploymentVersion.unscoped.filter(pk=version.pk).update(fitted_under=None)
    known_targets._versions.clear()
    assert ask_for_both(api) == {True}
    assert ask_for_both(api, {"role": "system", "content": "Answer in rhymes."}) == {False}


# --- behind open fields --------------------------------------------------------------------------------------------


def test_what_stands_behind_an_open_field_is_scored_behind_what_the_model_writes(deploy, api, engine, team):
    deploy({"queue": (0.5, QUEUES)}, response_schema=OPEN_FIRST)
    text = 'VPN drops #json {"summary": "VPN „drops“", "queue": "mail"}'
    answer = decide(api, ASK_QUEUE, {"type": "predicate", "name": "angry"}, text=text)
    assert shares(answer["answers"][0])["printers"] == pytest.approx(9 / 14)
    assert answer["answers"][0]["calibrated"] is True
    written, of_field, of_words = engine.requests
    assert written["response_format"]["json_schema"]["schema"] == OPEN_FIRST
    assert (written["temperature"], written["cache_salt"]) == (0.0, of_field["cache_salt"])
    assert of_field["beginning"] == '{"summary": "VPN „drops“", "queue": '
    assert of_words["beginning"] == ""
    usage = answer["usage"]
    assert (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]) == (11 + 20 + 20, 1, 52)
    metering.ledger.flush()
    with all_teams("test"):
        record = InferenceRecord.unscoped.exclude(request_id="").get()
    assert (record.prompt_tokens, record.completion_tokens) == (51, 1)


# --- confidence of answers -----------------------------------------------------------------------------------------


def complete(api: Client, text: str, **options: Any):
    return post(api, "chat/completions", {"messages": [{"role": "user", "content": text}], **options})


def test_an_answer_says_how_sure_it_is_of_each_closed_field(deploy, api, engine):
    deploy(COLD, response_schema=CLOSED, thresholds={"urgent": 0.6})
    body = complete(api, '#json {"queue": "mail", "urgent": true}', confidence=True).json()
    (choice,) = body["choices"]
    queue, urgent = choice["confidence"]
    assert queue == {
        "name": "queue", "value": "mail", "confidence": pytest.approx(4 / 14), "calibrated": True, "abstained": False,
    }  # fmt: skip
    assert (urgent["value"], urgent["abstained"]) == (True, True)
    assert urgent["confidence"] == pytest.approx(1 / (1 + 2**0.5))
    assert json.loads(choice["message"]["content"]) == {"queue": "mail", "urgent": True}, "the answer stays as it is"
    assert body["usage"]["prompt_tokens"] == 11 + 20 * len(scored(engine))
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + 1
    assert "confidence" not in engine.requests[0]
    metering.ledger.flush()
    with all_teams("test"):
        assert InferenceRecord.unscoped.exclude(request_id="").get().prompt_tokens == body["usage"]["prompt_tokens"]


def test_confidence_of_open_fields_before_and_of_several_answers(deploy, api, engine):
    deploy({"queue": (0.5, QUEUES)}, response_schema=OPEN_FIRST)
    body = complete(api, '#json {"summary": "Mail", "queue": "mail"}', confidence=True, n=2, temperature=1).json()
    assert [choice["confidence"][0]["value"] for choice in body["choices"]] == ["mail", "mail"]
    assert {asked["beginning"] for asked in scored(engine)} == {'{"summary": "Mail", "queue": '}
    assert len([asked for asked in engine.requests if "values" not in asked]) == 1, "nothing is written a second time"


def test_confidence_of_a_classification(deploy, api, labels):
    deploy({"label": (0.5, labels)}, thresholds={"label": 0.5})
    (choice,) = complete(api, "#json Card lost", confidence=True).json()["choices"]
    assert choice["confidence"] == [
        {"name": "label", "value": "Card lost", "confidence": pytest.approx(4 / 14), "calibrated": True,
         "abstained": True}
    ]  # fmt: skip


def test_a_schema_of_the_requests_own_has_no_temperatures(deploy, api):
    deploy(COLD, response_schema=CLOSED)
    own = {**CLOSED, "properties": {"queue": {"enum": ["mail", "vpn"]}, "urgent": {"type": "boolean"}}}
    for schema, is_calibrated in ((own, False), (CLOSED, True)):
        wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        text = '#json {"queue": "mail", "urgent": true}'
        (choice,) = complete(api, text, confidence=True, response_format=wanted).json()["choices"]
        assert [one["calibrated"] for one in choice["confidence"]] == [is_calibrated] * 2


def test_without_being_asked_for_nothing_is_scored(deploy, api, engine):
    deploy(COLD, response_schema=CLOSED)
    for options in ({}, {"confidence": False}):
        assert "confidence" not in complete(api, "Hi", **options).json()["choices"][0]
    assert complete(api, "no json", confidence=True).json()["choices"][0]["confidence"] == []
    assert scored(engine) == []


@pytest.mark.parametrize(
    ("schema", "options", "param"),
    [
        (None, {"confidence": True}, "confidence"),
        (CLOSED, {"confidence": True, "stream": True}, "confidence"),
        (CLOSED, {"confidence": "yes"}, "confidence"),
        (CLOSED, {"confidence": True, "response_format": {"type": "text"}}, "confidence"),
        (CLOSED, {"confidence": True, "response_format": {"type": "json_object"}}, "confidence"),
    ],
)
def test_confidence_that_cannot_be_told_is_refused_by_name(deploy, api, engine, schema, options, param):
    deploy(response_schema=schema)
    answer = complete(api, "Hi", **options)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert engine.requests == []


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": ["queue"], "required": 7},
        {"properties": {"queue": True, "a": {"enum": "x"}}, "required": ["queue", {}, "a"]},
        {"properties": {"queue": {"enum": []}}, "required": ["queue"]},
        {"enum": ["a"]},
    ],
)
def test_strange_schemas_of_requests_hold_no_fields(deploy, api, schema):
    deploy(response_schema=CLOSED)
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    answer = complete(api, "Hi", confidence=True, response_format=wanted)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "confidence")


def test_a_field_of_thousands_of_values_is_taken_for_an_open_one(deploy, api, engine):
    deploy(response_schema=CLOSED)
    codes = {"enum": [f"c{number}" for number in range(2_000)]}
    schema = {"type": "object", "properties": {"code": codes, "queue": QUEUE}, "required": ["code", "queue"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    body = complete(api, '#json {"code": "c7", "queue": "mail"}', confidence=True, response_format=wanted).json()
    assert [one["name"] for one in body["choices"][0]["confidence"]] == ["queue"]
    assert [asked["beginning"] for asked in scored(engine)] == ['{"code": "c7", "queue": ']


def test_what_was_written_counts_even_if_it_cannot_be_scored(deploy, api):
    deploy(response_schema=OPEN_FIRST)
    text = '#json {"summary":"#unscored","queue":"mail"}'
    questions = {"input": text, "questions": [ASK_QUEUE]}
    refused = [complete(api, text, confidence=True), post(api, "decisions", questions)]
    assert [answer.status_code for answer in refused] == [400, 400]
    metering.ledger.flush()
    with all_teams("test"):
        records = InferenceRecord.unscoped.exclude(request_id="")
        counted = list(records.values_list("prompt_tokens", "completion_tokens", "status"))
    assert counted == [(11, 1, 400), (11, 1, 400)]


# --- pages ---------------------------------------------------------------------------------------------------------


def test_a_threshold_that_was_rounded_up_to_one_is_offered_below_it():
    """Nothing is ever sure to the last digit, so a threshold of 1 would keep nothing of what the report kept."""
    cut = {"target": 0.95, "threshold": 1.0, "share": 1.0, "precision": 1.0}
    field = {"name": "queue", "fitted_rows": LEAST_FITTED_ROWS, "abstention": [cut]}
    [advised] = advice_of(Evaluation(report={"calibration": [field]})).fields
    assert (advised.threshold, advised.line) == (0.9999, "queue = 0.9999")


def test_pages_offer_the_thresholds_of_the_report(deploy, run, team, client_for, alice, bob):
    version = deploy(COLD, response_schema=CLOSED)
    page = client_for(alice).get(f"/t/{team.slug}/deployments/new/?run={run.pk}").content.decode()
    assert "queue = 0.7123\nurgent = 0.7123" in page
    assert "queue: 83% of the held-out answers were kept, of which 96% were right." in page
    shown = client_for(bob).get(f"/t/{team.slug}/deployments/{version.deployment_id}/").content.decode()
    assert "urgent = 0.7123 (83% kept)" in shown
    assert "deploy with thresholds" not in shown, "a viewer deploys nothing"
