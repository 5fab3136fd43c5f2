"""Several people look at the same live run: all see it move, and what it costs does not grow with its length."""

from __future__ import annotations

import http.client
import threading
import time
from urllib.parse import urlsplit

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from experiments import lifecycle
from experiments.models import Run
from portal.models import Role, User
from portal.rls import team_scope
from tests.experiments.runs import make_version, put_to_work, submit

VIEWERS = 5
SCOPES = ("SAVEPOINT", "RELEASE", "SELECT set_config", "SELECT current_setting")
ROW = {"given": [["Route", 1]], "learned": [["{}", 1]], "given_tokens": 1, "learned_tokens": 1, "is_cut": False}


@pytest.fixture
def run(team, actor, base_model, node) -> Run:
    return submit(team, actor, make_version(team), base_model)


def course(first: int, last: int) -> list[dict[str, object]]:
    figures = {"total_steps": 2000, "tokens_per_s": 400.5, "eta_s": 7.0, "grad_norm": 0.5}
    return [
        {"event": "metric", "step": step, "loss": 0.3 + 2 / step**0.5, **figures} for step in range(first, last + 1)
    ]


def poll(browser, run: Run, step: int, lines: int) -> tuple[int, int]:
    """Ask what an open page asks every few seconds; return how many queries and bytes that took."""
    address = f"/t/service-desk/runs/{run.pk}/"
    parts = ("status/?was=running", f"metrics/?after={step}", f"log/?after={lines}", "rows/?seen=1-")
    with CaptureQueriesContext(connection) as sent:
        answers = [browser.get(address + part) for part in parts]
        queries = sum(not query["sql"].startswith(SCOPES) for query in sent.captured_queries)
    assert [answer.status_code for answer in answers] == [200, 200, 204, 204]
    return queries, sum(len(answer.content) for answer in answers)


@pytest.mark.django_db
@pytest.mark.slow
def test_what_a_look_costs_does_not_grow_with_the_run(run, node, client_for, alice, team):
    lease = put_to_work(run, node)
    browser = client_for(alice)
    lifecycle.record_events(lease, [{"event": "first_batch", "rows": [ROW]}, *course(1, 20)])
    with team_scope(team.pk):
        lines = run.events.count()
    poll(browser, run, 20, lines)  # what is looked up once for each process
    early = poll(browser, run, 20, lines)
    lifecycle.record_events(lease, course(21, 1500))
    late = poll(browser, run, 1500, lines)
    assert late[0] <= early[0] < 40
    assert late[1] < 1.2 * early[1] < 20_000


@pytest.mark.django_db(transaction=True)
@pytest.mark.slow
def test_five_people_see_the_same_run_move(run, node, client_for, live_server, team):
    sessions = [client_for(person).cookies["sessionid"].value for person in _people(team)]
    lease = put_to_work(run, node)
    seen: list[list[int]] = [[] for _ in sessions]
    failures: list[str] = []

    def look(session: str, steps: list[int]) -> None:
        door = http.client.HTTPConnection(urlsplit(live_server.url).netloc, timeout=20)
        path = f"/t/service-desk/runs/{run.pk}/status/?was=running"
        until = time.monotonic() + 20
        while (not steps or steps[-1] < 60) and time.monotonic() < until:
            door.request("GET", path, headers={"Cookie": f"sessionid={session}"})
            answer = door.getresponse()
            text = answer.read().decode()
            if answer.status != 200:
                failures.append(f"{answer.status}")
                return
            steps.append(int(text.split("step ")[1].split(" of")[0]) if "step " in text and " of 2,000" in text else 0)
            time.sleep(0.1)

    viewers = [threading.Thread(target=look, args=pair) for pair in zip(sessions, seen, strict=True)]
    for viewer in viewers:
        viewer.start()
    for step in range(1, 61, 20):
        lifecycle.record_events(lease, course(step, step + 19))
        time.sleep(0.3)
    for viewer in viewers:
        viewer.join(30)
    assert failures == []
    assert [steps[-1] for steps in seen] == [60] * VIEWERS
    assert all(steps == sorted(steps) for steps in seen)


def _people(team) -> list[User]:
    with team_scope(team.pk):
        people = [User.objects.create_user(f"viewer{number}@example.org") for number in range(VIEWERS)]
        for person in people:
            team.memberships.create(user=person, role=Role.VIEWER)
    return people
