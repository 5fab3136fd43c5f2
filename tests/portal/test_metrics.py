"""What monitoring reads: a format that Prometheus' own parser takes, figures that are true, and nothing of a team."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone
from django_q.models import OrmQ
from prometheus_client.parser import text_string_to_metric_families

from deployments import request_totals, tasks
from deployments.models import Engine, InferenceRecord, RequestTotals
from experiments.models import MetricPoint
from portal import prometheus
from portal.prometheus import Family, Sample
from portal.rls import all_teams, team_scope
from tests.experiments.runs import change, make_version, put_to_work, submit

TOKEN = "a-token-of-more-than-20-letters"
ENGINE_SAYS = """# HELP engine_steps_total Steps.
# TYPE engine_steps_total counter
engine_steps_total 12
# TYPE engine_http_responses_total counter
engine_http_responses_total{route="/v1/chat \\"x\\"",status="200"} 3
# TYPE engine_request_seconds histogram
engine_request_seconds_bucket{le="0.5"} 1
engine_request_seconds_bucket{le="+Inf"} 2
engine_request_seconds_sum 1.25
engine_request_seconds_count 2
this is no sample
engine_steps_total{node="another"} 99
"""


@pytest.fixture
def token(settings) -> str:
    settings.METRICS_TOKEN = TOKEN
    return TOKEN


def read(token: str = TOKEN) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Return {name: {labels: value}} as Prometheus' parser understands the page."""
    answer = Client().get("/metrics", headers={"authorization": f"Bearer {token}"})
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    names = []
    for family in text_string_to_metric_families(answer.content.decode()):
        names.append(family.name)
        for sample in family.samples:
            place = found.setdefault(sample.name, {})
            key = tuple(sorted(sample.labels.items()))
            assert key not in place, "the same number twice"
            place[key] = sample.value
    assert len(names) == len(set(names)), "a family stands together"
    return found


@pytest.fixture
def engine_server() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            text = ENGINE_SAYS.encode() if self.headers["Authorization"] == "Bearer engine-key" else b""
            self.send_response(200 if text and self.path == "/metrics" else 401)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.django_db
def test_without_a_token_of_the_operator_there_is_no_such_page(client_for, paula, token, settings):
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {TOKEN}"}):
        answer = Client().get("/metrics", headers=headers)
        assert (answer.status_code, answer.headers["WWW-Authenticate"][:6]) == (401, "Bearer")
    assert client_for(paula).get("/metrics").status_code == 401
    settings.METRICS_TOKEN = ""
    assert Client().get("/metrics", headers={"authorization": "Bearer "}).status_code == 404


@pytest.mark.django_db
def test_runs_nodes_and_their_load_are_told(team, actor, base_model, node, token):
    version = make_version(team)
    waiting, working, paused = (submit(team, actor, version, base_model) for _number in range(3))
    change(waiting, queued_at=timezone.now() - timedelta(minutes=5))
    change(paused, is_held=True)
    put_to_work(working, node)
    with all_teams("test"):
        for step, share in ((1, 0.25), (2, 0.75)):
            MetricPoint.unscoped.create(team=team, run=working, step=step, values={"gpu_share": share})
    for _number in range(2):
        OrmQ.objects.create(key="default", payload="", lock=timezone.now())
    found = read()
    runs = {dict(labels)["status"]: value for labels, value in found["tuneport_runs"].items()}
    assert runs == {
        "queued": 1, "paused": 1, "running": 1, "assigned": 0, "succeeded": 0, "failed": 0, "cancelled": 0,
    }  # fmt: skip
    assert found["tuneport_run_longest_wait_seconds"][()] == pytest.approx(300, abs=30)
    of_node = (("node", node.name),)
    assert found["tuneport_node_up"] == {of_node: 1}
    assert found["tuneport_node_slots_busy"] == {of_node: 1}
    assert found["tuneport_node_device_busy_ratio"] == {(("device", "gpu"), *of_node): 0.75}
    assert found["tuneport_queue_messages"] == {(("cluster", "default"),): 2}
    text = Client().get("/metrics", headers={"authorization": f"Bearer {TOKEN}"}).content.decode()
    assert team.slug not in text
    assert str(team.pk) not in text


def record(team, status: int = 200, duration_ms: int = 40, first_token_ms: int | None = None) -> None:
    with team_scope(team.pk):
        InferenceRecord(
            team=team, model="m", status=status, duration_ms=duration_ms, first_token_ms=first_token_ms,
            prompt_tokens=10, completion_tokens=5,
        ).save()  # fmt: skip


def a_minute_later() -> int:
    RequestTotals.objects.update(seen_at=timezone.now() - timedelta(minutes=1))
    return tasks.count_requests()


@pytest.mark.django_db
def test_requests_are_counted_once_and_a_late_one_is_not_missed(team, other_team, token):
    record(team)  # before the first count: not of its time
    assert tasks.count_requests() == 0
    for duration_ms in (50, 51, 2_000, 70_000):
        record(team, duration_ms=duration_ms, first_token_ms=duration_ms // 2)
    record(other_team, status=503, duration_ms=10)
    assert a_minute_later() == 0  # the newest is known now; what committed beside it may yet come
    assert a_minute_later() == 5
    assert a_minute_later() == 0
    assert tasks.count_requests() == 0  # a doubled message
    found = read()
    requests = {dict(labels)["status"]: value for labels, value in found["tuneport_requests_total"].items()}
    assert requests == {"2xx": 4, "4xx": 0, "5xx": 1}
    assert {dict(labels)["kind"]: value for labels, value in found["tuneport_tokens_total"].items()} == {
        "prompt": 50, "completion": 25,
    }  # fmt: skip
    buckets = {dict(labels)["le"]: value for labels, value in found["tuneport_request_seconds_bucket"].items()}
    assert (buckets["0.05"], buckets["0.1"], buckets["2.0" if "2.0" in buckets else "2"]) == (2, 3, 4)
    assert (buckets["60.0" if "60.0" in buckets else "60"], buckets["+Inf"]) == (4, 5)
    assert found["tuneport_request_seconds_sum"][()] == pytest.approx(72.111)
    assert found["tuneport_first_token_seconds_count"][()] == 4
    assert request_totals.BOUNDS_MS[-1] == 60_000


@pytest.mark.django_db
def test_engines_are_relayed_with_their_node_and_those_that_are_away_are_said(base_model, node, token, engine_server):
    from portal.models import Node

    away = Node.objects.create(name="away")
    for where, url, key in ((node, engine_server, "engine-key"), (away, "http://127.0.0.1:9", "k")):
        Engine.objects.create(node=where, base_model=base_model, status="ready", url=url, access_key=key)
    found = read()
    place = (("base_model", base_model.slug), ("node", node.name))
    assert found["tuneport_engine_up"] == {place: 1, (("base_model", base_model.slug), ("node", "away")): 0}
    assert found["engine_steps_total"] == {place: 12}
    (labels,) = found["engine_http_responses_total"]
    assert dict(labels)["route"] == '/v1/chat "x"'
    buckets = {dict(labels)["le"]: value for labels, value in found["engine_request_seconds_bucket"].items()}
    assert buckets == {"0.5": 1, "+Inf": 2}


def test_labels_and_helps_are_escaped_and_names_checked():
    odd = 'a"b\\c\nd'
    text = "\n".join(Family("ok", "gauge", odd, [Sample(1.5, {"x": odd})]).lines()) + "\n"
    (family,) = text_string_to_metric_families(text)
    assert family.samples[0].labels == {"x": odd}
    assert family.documentation == odd
    with pytest.raises(ValueError, match="no name"):
        list(Family("not ok", "gauge", "x", []).lines())
    assert [prometheus.number(value) for value in (3, 0.25, float("inf"))] == ["3", "0.25", "+Inf"]
