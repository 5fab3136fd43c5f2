"""A language model elsewhere rates answers: what it is asked, what counts as missing, and what it must never reach."""

from __future__ import annotations

import http.server
import json
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.test import Client

from datasets_app.models import Split
from experiments import results, tasks
from experiments.llm_judge import asking, services
from experiments.llm_judge.models import Judgement, JudgeSetting
from experiments.llm_judge.rubric import DEFAULT_RUBRIC, figures_of, messages_for, rating_of, tokens_of
from experiments.models import Evaluation, Run
from portal import secrets
from portal.errors import IllegalTransition, InvalidInput, NotFound
from portal.models import AuditEvent, TeamSecret
from portal.reachable import OutboundRefused
from portal.rls import all_teams, team_scope
from tests.browser import fits
from tests.experiments.runs import make_version, submit

ROWS = 12
PAGE = "/t/service-desk/runs/{}/quality/"


def reply(text: str, prompt: int = 100, answer: int = 20) -> dict[str, Any]:
    """What an endpoint says to a chat completion."""
    usage = {"prompt_tokens": prompt, "completion_tokens": answer}
    return {"choices": [{"message": {"role": "assistant", "content": text}}], "usage": usage}


def honest(body: dict[str, Any]) -> tuple[int, Any]:
    """Rate a good answer 5 and any other 2."""
    good = "Good answer" in body["messages"][1]["content"].split("<<<ANSWER")[1]
    return 200, reply(json.dumps({"reason": "seen", "score": 5 if good else 2}))


class Endpoint:
    """A small OpenAI-compatible server on this machine."""

    def __init__(self) -> None:
        self.answering: Callable[[dict[str, Any]], tuple[int, Any]] = honest
        self.asked: list[tuple[str, str, dict[str, Any]]] = []
        endpoint = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.asked.append((self.path, self.headers.get("Authorization", ""), body))
                status, answer = endpoint.answering(body)
                content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                if status == 302:
                    self.send_header("Location", "/elsewhere")
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: Any) -> None:
                """Say nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> Endpoint:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def endpoint(settings) -> Iterator[Endpoint]:
    settings.OUTBOUND_ALLOW = ["127.0.0.1"]
    with Endpoint() as one:
        yield one


@pytest.fixture
def run(team, actor, base_model, node) -> Run:
    return submit(team, actor, make_version(team), base_model, name="Do kind words help?")


@pytest.fixture
def evaluation(run, tmp_path) -> Evaluation:
    path = tmp_path / "predictions.jsonl"
    lines = [
        {"row": row, "prompt": f"Question {row}", "expected": f"Reference {row}"}
        | {"untuned": "No idea", "tuned": f"Good answer {row}"}
        for row in range(ROWS)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with all_teams("test"):
        return results.record_evaluation(run, results.judge(path, Split.TEST, run.dataset_version))


@pytest.fixture
def judge(team, actor, endpoint) -> JudgeSetting:
    with team_scope(team.pk):
        secrets.store(
            team=team, kind=TeamSecret.Kind.ENDPOINT_KEY, name="judge-key", text="sk-told-nobody", actor=actor
        )
        chosen = {"model": "big", "secret": "judge-key", "rubric": DEFAULT_RUBRIC, "rows": 8}
        return services.set_judge(team=team, actor=actor, address=endpoint.address, **chosen)


@pytest.fixture
def asked(team, actor, evaluation, judge) -> Callable[[], Judgement]:
    """Ask the judge as the page does, and work as the queue does."""

    def ask() -> Judgement:
        with team_scope(team.pk):
            judgement = services.ask_judge(evaluation=evaluation, actor=actor)
        tasks.judge_answers(str(judgement.pk))
        with all_teams("test"):
            return Judgement.unscoped.get(pk=judgement.pk)

    return ask


def test_both_answers_are_rated_blind_and_tokens_are_counted(asked, endpoint):
    found = asked()
    assert (found.status, found.done, found.rows) == ("ready", 8, 8)
    assert (found.figures["tuned"]["mean"], found.figures["untuned"]["mean"]) == (5, 2)
    assert (found.figures["difference"]["mean"], found.figures["few"]) == (3, True)
    assert (found.prompt_tokens, found.answer_tokens) == (1600, 320)
    assert len(endpoint.asked) == 16
    path, key, body = endpoint.asked[0]
    assert (path, key, body["model"], body["temperature"]) == (
        "/v1/chat/completions",
        "Bearer sk-told-nobody",
        "big",
        0,
    )
    assert "tuned" not in json.dumps(body)
    assert DEFAULT_RUBRIC in body["messages"][0]["content"]
    again = asked()
    assert [one["row"] for one in again.ratings] == [one["row"] for one in found.ratings], "the same rows each time"


def test_what_cannot_be_read_is_missing_and_counts_nowhere(asked, endpoint):
    count = iter(range(1000))

    def moody(body: dict[str, Any]) -> tuple[int, Any]:
        number = next(count)
        return [(500, b"down"), honest(body), (200, reply("I like it")), (200, b"{not json"), honest(body)][number % 5]

    endpoint.answering = moody
    found = asked()
    figures = found.figures
    assert found.status == "ready"
    assert figures["tuned"]["missing"] + figures["untuned"]["missing"] == 16 - 6
    assert (figures["tuned"]["mean"], figures["untuned"]["mean"]) == (5, 2)
    assert sum(one["tuned"] is None for one in found.ratings) == figures["tuned"]["missing"]


@pytest.mark.parametrize(
    ("answer", "words"),
    [((401, b"no"), "refuses access"), ((302, b""), "HTTP 302"), ((200, reply("fine!")), "not with a rating")],
)
def test_an_endpoint_that_never_rates_ends_in_a_sentence(asked, endpoint, answer, words):
    endpoint.answering = lambda body: answer
    found = asked()
    assert (found.status, found.figures) == ("failed", {})
    assert words in found.error
    assert len(endpoint.asked) <= 2 * asking.GIVE_UP_AFTER
    assert all(path == "/v1/chat/completions" for path, _key, _body in endpoint.asked), "no redirect is followed"


def test_the_own_network_is_never_asked(asked, endpoint, settings):
    settings.OUTBOUND_ALLOW = []
    found = asked()
    assert found.status == "failed"
    assert "public internet" in found.error
    assert endpoint.asked == []


def test_a_lost_worker_is_taken_over_where_it_was(asked, endpoint, monkeypatch, team):
    count = iter(range(1000))

    def dies(body: dict[str, Any]) -> tuple[int, Any]:
        if next(count) == 6:
            raise KeyboardInterrupt
        return honest(body)

    real = asking._post
    monkeypatch.setattr(asking, "_post", lambda http, url, body: dies(body)[1])
    with pytest.raises(KeyboardInterrupt):
        asked()
    with all_teams("test"):
        left = Judgement.unscoped.get()
        Judgement.unscoped.update(heartbeat_at=None)
    assert (left.status, left.done) == ("running", 3)
    monkeypatch.setattr(asking, "_post", real)
    tasks.judge_answers(str(left.pk))
    with all_teams("test"):
        found = Judgement.unscoped.get()
    assert (found.status, len(found.ratings)) == ("ready", 8)
    assert len(endpoint.asked) == 10, "what was rated is not asked again"


def test_one_judgement_at_a_time_and_none_without_a_judge(team, actor, evaluation, judge):
    with team_scope(team.pk):
        services.ask_judge(evaluation=evaluation, actor=actor)
        with pytest.raises(IllegalTransition):
            services.ask_judge(evaluation=evaluation, actor=actor)
        services.remove_judge(setting=judge, actor=actor)
        with pytest.raises(NotFound):
            services.ask_judge(evaluation=evaluation, actor=actor)


def test_a_stopped_judge_is_not_asked_further(asked, endpoint, monkeypatch, team, actor, evaluation):
    bodies: list[dict[str, Any]] = []

    def stopped(body: dict[str, Any]) -> tuple[int, Any]:
        bodies.append(body)
        if len(bodies) == 5:  # in the third row
            with team_scope(team.pk):
                services.cancel_judgement(evaluation=evaluation, actor=actor)
        return honest(body)

    real = asking._post
    monkeypatch.setattr(asking, "_post", lambda http, url, body: stopped(body)[1])
    found = asked()
    assert (found.status, found.done, found.figures, len(bodies)) == ("cancelled", 2, {}, 6)
    with team_scope(team.pk), pytest.raises(IllegalTransition):
        services.cancel_judgement(evaluation=evaluation, actor=actor)
    monkeypatch.setattr(asking, "_post", real)
    assert asked().status == "ready", "and may be asked anew"


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"address": "file:///etc/passwd"}, OutboundRefused),
        ({"address": "https://user:pass@example.org/v1"}, OutboundRefused),
        ({"secret": "unknown"}, InvalidInput),
        ({"rows": 100_000}, InvalidInput),
        ({"rubric": " "}, InvalidInput),
    ],
)
def test_settings_are_checked(team, actor, changed, error):
    given = {"address": "https://example.org/v1", "model": "m", "secret": "", "rubric": "r", "rows": 5} | changed
    with team_scope(team.pk), pytest.raises(error):
        services.set_judge(team=team, actor=actor, **given)


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ('{"reason": "x", "score": 4}', 4),
        ('Sure:\n```json\n{"score": 1}\n```', 1),
        ('{"score": 6}', None),
        ('{"score": true}', None),
        ('{"score": "5"}', None),
        ("5", None),
        ("{", None),
        (None, None),
    ],
)
def test_only_a_rating_is_read_as_one(text, score):
    found = rating_of(reply(text))
    assert (found.score if found else None) == score


@pytest.mark.parametrize(
    "junk",
    [None, [], {}, {"choices": []}, {"choices": [{"message": {}}], "usage": []}, {"usage": {"prompt_tokens": -1}}],
)
def test_junk_is_no_rating_and_costs_nothing(junk):
    assert rating_of(junk) is None
    assert tokens_of(junk) == (0, 0)


def test_material_is_cut_and_marked():
    _order, told = messages_for("r", prompt="p" * 10_000, expected="e", answer="a")
    assert told["content"].count("p") == 6_000
    assert figures_of([])["tuned"] == {"rated": 0, "missing": 0, "mean": None, "low": None, "high": None}


def test_people_set_ask_and_read(client_for, alice, bob, run, evaluation, endpoint, team):
    owner, viewer = client_for(alice), client_for(bob)
    assert "No judge is set" in owner.get(PAGE.format(run.pk)).content.decode()
    assert viewer.get("/t/service-desk/judge/").status_code == 403
    given = {"address": endpoint.address, "model": "big", "secret": "", "rubric": "5: good", "rows": 4}
    assert owner.post("/t/service-desk/judge/", given | {"rows": 0}).status_code == 400
    assert owner.post("/t/service-desk/judge/", given).status_code == 302
    assert viewer.post(f"/t/service-desk/runs/{run.pk}/judgement/ask/").status_code == 403
    assert owner.post(f"/t/service-desk/runs/{run.pk}/judgement/ask/").status_code == 302
    waiting = viewer.get(f"/t/service-desk/runs/{run.pk}/judgement/")
    assert (waiting.status_code, b"0 of 4" in waiting.content) == (200, True)
    assert b"judgement/cancel" not in waiting.content
    assert viewer.post(f"/t/service-desk/runs/{run.pk}/judgement/cancel/").status_code == 403
    assert owner.post(f"/t/service-desk/runs/{run.pk}/judgement/cancel/").status_code == 302
    assert "Stopped after 0 of 4 rows" in viewer.get(PAGE.format(run.pk)).content.decode()
    assert owner.post(f"/t/service-desk/runs/{run.pk}/judgement/ask/").status_code == 302
    with all_teams("test"):
        tasks.judge_answers(str(Judgement.unscoped.get(status="queued").pk))
    text = viewer.get(PAGE.format(run.pk)).content.decode()
    assert "tuned minus untuned is 3.00" in text
    assert viewer.get(f"/t/service-desk/runs/{run.pk}/judgement/").status_code == 286
    assert owner.post("/t/service-desk/judge/delete/").status_code == 302


def test_programs_set_the_judge_and_never_see_its_key(api, team, make_token, bob, client_for, alice, actor):
    """The key goes in and stays in: neither answers, the audit trail nor the page have it."""
    given = {"address": "https://judge.example/v1/", "model": "big", "key": "sk-told-nobody"}

    def put(**changed: object):
        return api.put("/api/judge/", given | changed, content_type="application/json")

    assert (api.get("/api/judge/").status_code, api.get("/api/judge/").json()["error"]["code"]) == (404, "no_judge")
    told = put()
    assert told.status_code == 200, told.content
    body = told.json()
    assert (body.pop("updated_at") > "2", body) == (
        True,
        {
            "address": "https://judge.example/v1",
            "model": "big",
            "secret": "judge-key",
            "rubric": DEFAULT_RUBRIC,
            "rows": 50,
            "prompt_price": 0.0,
            "answer_price": 0.0,
            "most_cost": None,
        },
    )
    with team_scope(team.pk):
        assert secrets.reveal(team=team, name="judge-key") == "sk-told-nobody"
        secrets.store(team=team, kind=TeamSecret.Kind.HUB_TOKEN, name="hub", text="hf_x", actor=actor)
    trail = [f"{event.action} {event.object_name} {event.detail}" for event in AuditEvent.objects.all()]
    assert any(event.startswith("judge.set") for event in trail)
    page = client_for(alice).get("/t/service-desk/judge/").content.decode()
    shown = [told.content.decode(), api.get("/api/judge/").content.decode(), page, *trail]
    assert "sk-told-nobody" not in " ".join(shown)
    for changed, param in (
        ({"secret": "hub"}, "secret"),
        ({"secret": "no slug"}, "secret"),
        ({"rows": 201}, "rows"),
        ({"key": ""}, "key"),
        ({"model": ""}, "model"),
    ):
        refused = put(**changed)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
    viewer = Client(headers={"Authorization": f"Bearer {make_token(team, bob, scopes=['runs:read', 'runs:write'])}"})
    assert viewer.get("/api/judge/").status_code == 403
    assert viewer.put("/api/judge/", given, content_type="application/json").status_code == 403
    assert viewer.delete("/api/judge/").status_code == 403
    assert api.delete("/api/judge/").status_code == 204
    assert api.delete("/api/judge/").status_code == 404
    with team_scope(team.pk):
        assert team.teamsecrets.filter(name="judge-key").exists()


@pytest.fixture
def priced(team, actor, endpoint, judge) -> Callable[..., JudgeSetting]:
    """Say what the judge's tokens cost: a question is told to have 100 tokens, a reply 20."""

    def priced(**limits: float) -> JudgeSetting:
        with team_scope(team.pk):
            chosen = {"model": "big", "secret": "judge-key", "rubric": "5: good", "rows": 8}
            prices = {"prompt_price": 1000.0, "answer_price": 5000.0}
            return services.set_judge(team=team, actor=actor, address=endpoint.address, **chosen, **prices, **limits)

    return priced


def test_what_it_costs_is_told_before_and_counted(asked, priced, client_for, alice, run, evaluation):
    priced()
    page = client_for(alice).get(PAGE.format(run.pk)).content.decode()
    told = re.search(r"Asking about 8 rows takes about ([\d ,.\u202f]+) tokens", page)
    assert told
    assert "That costs about" in page
    assert "It ends before" not in page
    found = asked()
    assert found.cost == pytest.approx((1600 * 1000 + 320 * 5000) / 1e6)
    assert (found.is_capped, found.done) == (False, 8)
    assert "(3.20 EUR)" in client_for(alice).get(PAGE.format(run.pk)).content.decode()


def test_it_ends_before_it_might_cost_more_than_the_limit(asked, priced, endpoint, client_for, alice, run):
    """A row costs 0.4, and might cost 0.5 for its questions and 4 for two replies of 400 tokens."""
    priced(most_cost=6.0)
    found = asked()
    assert found.status == "ready"
    assert found.is_capped
    assert 2 <= found.done < 8
    assert found.cost <= 6.0
    assert found.figures["tuned"]["rated"] == found.done == len(endpoint.asked) / 2
    page = client_for(alice).get(PAGE.format(run.pk)).content.decode()
    assert f"It ended after {found.done} of 8 rows" in page
    assert "It ends before it would cost more than 6.00 EUR." in page


def test_a_limit_below_one_row_is_said_and_asks_nothing(asked, priced, endpoint):
    priced(most_cost=0.5)
    found = asked()
    assert (found.status, endpoint.asked) == ("failed", [])
    assert "Not even one row" in found.error


def test_where_an_endpoint_counts_nothing_its_characters_are(asked, priced, endpoint):
    def silent(body):
        status, answer = honest(body)
        return status, {"choices": answer["choices"]}

    endpoint.answering = silent
    priced()
    assert asked().cost > 0.5


@pytest.mark.parametrize(
    ("prices", "param"),
    [
        ({"most_cost": 5.0}, "most_cost"),
        ({"most_cost": -1.0, "prompt_price": 1.0}, "most_cost"),
        ({"prompt_price": -1.0}, "prompt_price"),
        ({"answer_price": float("nan")}, "answer_price"),
    ],
)
def test_prices_that_cannot_be_are_refused_by_name(team, actor, prices, param):
    given = {"address": "https://example.org/v1", "model": "m", "secret": "", "rubric": "r", "rows": 5} | prices
    with team_scope(team.pk), pytest.raises(InvalidInput) as caught:
        services.set_judge(team=team, actor=actor, **given)
    assert caught.value.param == param


def test_fewer_rows_may_be_asked_and_never_more(team, actor, evaluation, judge, api, run):
    with team_scope(team.pk), pytest.raises(InvalidInput) as caught:
        services.ask_judge(evaluation=evaluation, actor=actor, rows=9)
    assert caught.value.param == "rows"
    answer = api.post(f"/api/runs/{run.pk}/judgements/", {"rows": 3}, content_type="application/json")
    assert (answer.status_code, answer.json()["rows"], answer.json()["cost"]) == (201, 3, None)


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_the_pages_fit(asked, run, open_page):
    asked()
    fits(open_page(PAGE.format(run.pk)), "quality-page-judged")
    fits(open_page("/t/service-desk/judge/"), "judge-settings")
