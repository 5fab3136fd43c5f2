"""The child of the pages benchmark: migrate, seed, ask every list and detail page, write the table.

`python -m gpu_worker.benchmarks.pages_measure <file> [--quick]`, with DATABASE_URL naming an empty database.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from gpu_worker.benchmarks.own_database import begin_child

REPEATS = 40
TOKEN_REPEATS = 400


@dataclass(frozen=True)
class Figures:
    """One page: median and 95th percentile in milliseconds, and how many statements it sent."""

    name: str
    median_ms: float
    p95_ms: float
    queries: int


def main() -> None:
    """Run the whole measurement."""
    options = begin_child()
    from django.conf import settings

    from gpu_worker.benchmarks.pages_seed import Size, seed
    from portal.warm import load_pages

    # Django's test environment would count and copy every template; only the client's name of a host is needed.
    settings.ALLOWED_HOSTS = [*settings.ALLOWED_HOSTS, "testserver"]
    size = Size().divided(50) if options.quick else Size()
    begun = time.monotonic()
    seeded = seed(size, _say)
    _say(f"seeded in {time.monotonic() - begun:.0f} s")
    load_pages()  # as a web process does
    pages = [_measured(name, ask) for name, ask in _askers(seeded)]
    options.section.write_text(_section(size, pages, _token_check(seeded.token_text)), encoding="utf-8")


def _askers(seeded: Any) -> list[tuple[str, Callable[[], Any]]]:
    """Return (name, function that asks once) for each page and API list of the large team."""
    from django.test import Client

    person, operator = Client(), Client()
    person.force_login(seeded.admin)
    operator.force_login(seeded.operator)
    program = Client(headers={"Authorization": f"Bearer {seeded.token_text}"})
    asked = [(name, address, person) for name, address in _pages(seeded)]
    asked += [(name, address, operator) for name, address in _console(seeded)]
    lists = ["/api/datasets/", "/api/experiments/", "/api/runs/", "/api/adapters/", "/api/deployments/", "/v1/models"]
    asked += [(address, address, program) for address in lists]
    return [(name, partial(by.get, address)) for name, address, by in asked]


def _pages(seeded: Any) -> list[tuple[str, str]]:
    from django.urls import reverse

    from portal.rls import team_scope

    team = seeded.team
    with team_scope(team.pk):
        run = team.runs.filter(status="succeeded", adapter__isnull=False).first()
        deployment = team.deployments.first()
        _write_rows(run.dataset_version)
        keys = {
            "run": run.pk, "experiment": run.experiment_id, "dataset": run.dataset_version.dataset_id,
            "version": run.dataset_version_id, "deployment": deployment.pk,
        }  # fmt: skip
    return [
        (name, reverse(name, kwargs={"team": team.slug, **({"pk": keys[key]} if key else {})}))
        for name, key in PAGES.items()
    ]


def _console(seeded: Any) -> list[tuple[str, str]]:
    from django.urls import reverse

    found = [(name, reverse(name)) for name in CONSOLE]
    found.append(("platform:teams_detail", reverse("platform:teams_detail", args=[seeded.team.slug])))
    return [*found, ("platform:people_detail", reverse("platform:people_detail", args=[seeded.admin.pk]))]


def _write_rows(version: Any) -> None:
    """Give the version that is looked at the file that its page reads."""
    from datasets_app import store
    from datasets_app.models import Split
    from datasets_app.rows import CanonicalRow

    version.folder.mkdir(parents=True)
    for split in Split:
        rows = []
        for number in range(version.row_count(split)):
            messages = (
                {"role": "user", "content": f"Ticket {number}: the printer on floor {number % 9} is out of paper."},
                {"role": "assistant", "content": '{"service": "Printing", "urgency": "Low"}'},
            )
            rows.append(CanonicalRow(number + 2, messages, number + 1))
        store.write_rows(version.rows_path(split), rows)


# Page → whose key it takes. Pages that only answer parts of others are left out.
PAGES = {
    "portal:dashboard": "",
    "portal:members": "",
    "portal:tokens": "",
    "portal:usage": "",
    "portal:audit": "",
    "datasets:list": "",
    "datasets:detail": "dataset",
    "datasets:version": "version",
    "experiments:list": "",
    "experiments:detail": "experiment",
    "experiments:new": "",
    "experiments:queue": "",
    "experiments:run": "run",
    "experiments:metrics": "run",
    "experiments:settings": "run",
    "deployments:list": "",
    "deployments:detail": "deployment",
    "deployments:playground": "",
}
CONSOLE = (
    "platform:overview", "platform:teams", "platform:people", "platform:usage", "platform:nodes", "platform:audit",
    "experiments:platform_runs", "deployments:platform_deployments",
)  # fmt: skip


def _measured(name: str, ask: Callable[[], Any]) -> Figures:
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    with CaptureQueriesContext(connection) as sent:
        answer = ask()
        queries = len(sent)  # the next request empties the log
    if answer.status_code != 200:
        raise SystemExit(f"{name} answered {answer.status_code}")
    ask()
    figures = Figures(name, *_milliseconds(ask, REPEATS), queries=queries)
    _say(f"{name}: {figures.median_ms:.0f} ms, p95 {figures.p95_ms:.0f} ms, {figures.queries} queries")
    return figures


def _token_check(text: str) -> tuple[float, float]:
    """Return median and p95 of looking a token up and proving it, in milliseconds."""
    from portal import tokens

    def check() -> None:
        if tokens.find_token(text) is None:
            raise SystemExit("the benchmark's own token is not found")

    check()
    return _milliseconds(check, TOKEN_REPEATS)


def _milliseconds(work: Callable[[], Any], repeats: int) -> tuple[float, float]:
    taken = []
    for _ in range(repeats):
        begun = time.perf_counter()
        work()
        taken.append((time.perf_counter() - begun) * 1000)
    return statistics.median(taken), statistics.quantiles(taken, n=20)[-1]


def _section(size: Any, pages: list[Figures], token: tuple[float, float]) -> str:
    lines = [
        "## Pages",
        "",
        f"{size.teams:,} teams, {size.users:,} users, {size.runs:,} runs, {size.metric_points:,} metric points, "
        f"{size.usage_rows:,} counted requests and {size.audit_events:,} audit events; asked as an admin of the team "
        f"that has a quarter of the runs. Time at the server, without the network; {REPEATS} requests each, one at a "
        "time.",
        "",
        "| page | median, ms | p95, ms | queries |",
        "|---|---|---|---|",
        *(f"| {page.name} | {page.median_ms:.0f} | {page.p95_ms:.0f} | {page.queries} |" for page in pages),
        "",
        f"Looking up and proving an API token: median {token[0]:.2f} ms, p95 {token[1]:.2f} ms "
        f"({TOKEN_REPEATS} times).",
    ]
    return "\n".join(lines)


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
