"""The child of the proxy benchmark: migrate, make a team, start the servers, ask, write the table.

`python -m gpu_worker.benchmarks.proxy_measure <file> [--quick]`, with DATABASE_URL naming an empty database.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from gpu_worker.benchmarks.own_database import begin_child
from gpu_worker.benchmarks.proxy_load import Place, Times, measure, open_streams

SECONDS = 8.0
STREAMS = 200
KEY = "engine-key"
# What the page is asked with: one person who clicks on.
PAGE = "/account/"


@dataclass(frozen=True)
class Measured:
    """All figures: by requests in flight the engine alone and through the portal; the page without and with streams."""

    direct: dict[int, Times]
    proxied: dict[int, Times]
    page_before: Times
    page_beside: Times
    streams: int


def main() -> None:
    """Run the whole measurement."""
    options = begin_child()
    seconds = 1.0 if options.quick else SECONDS
    with ExitStack() as stack:
        engine_port = stack.enter_context(_engine())
        token, session = _seed(engine_port)
        from portal.management.commands import up

        ports = [up.chosen_port("127.0.0.1", None, first=first) for first in (18_000, 19_000)]
        services = [up.web("127.0.0.1", ports[0]), up.api("127.0.0.1", ports[1])]
        for service, port in zip(services, ports, strict=True):
            stack.enter_context(_server(service, port))
        engine, api, page = (
            Place("127.0.0.1", engine_port, KEY),
            Place("127.0.0.1", ports[1], token),
            Place("127.0.0.1", ports[0], session),
        )
        measured = asyncio.run(_measure(engine, api, page, seconds))
    options.section.write_text(_section(measured), encoding="utf-8")


async def _measure(engine: Place, api: Place, page: Place, seconds: float) -> Measured:
    await measure(api, api.post(), in_flight=32, seconds=min(2.0, seconds))  # processes get warm
    direct, proxied = {}, {}
    for in_flight in (1, 8, 32):
        direct[in_flight] = await measure(engine, engine.post(), in_flight=in_flight, seconds=seconds / 2)
        proxied[in_flight] = await measure(api, api.post(), in_flight=in_flight, seconds=seconds)
        print(f"{in_flight} in flight: {proxied[in_flight]}", flush=True)
    await measure(page, page.get(PAGE), in_flight=1, seconds=min(2.0, seconds))
    before = await measure(page, page.get(PAGE), in_flight=1, seconds=seconds)
    async with open_streams(api, STREAMS) as streams:
        await asyncio.sleep(1)
        beside = await measure(page, page.get(PAGE), in_flight=1, seconds=seconds)
    print(f"page: {before}, beside {streams} streams: {beside}", flush=True)
    return Measured(direct, proxied, before, beside, streams)


@contextmanager
def _engine() -> Iterator[int]:
    command = [sys.executable, "-m", "gpu_worker.benchmarks.proxy_engine"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            yield int(child.stdout.readline())
        finally:
            child.kill()


@contextmanager
def _server(service: Any, port: int) -> Iterator[None]:
    from portal.management.commands.up import answers

    child = subprocess.Popen(list(service.command), env={**os.environ, **service.environment}, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while not answers("127.0.0.1", port):
            if time.monotonic() > deadline or child.poll() is not None:
                raise RuntimeError(f"the server {service.name} does not answer")
            time.sleep(0.2)
        yield
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _seed(engine_port: int) -> tuple[str, str]:
    """Make a team with limits that count but never bite, and an engine; return an API token and a session key."""
    from django.test import Client
    from django.utils import timezone

    from deployments.models import Engine
    from portal import limits, teams, tokens
    from portal.actors import Actor
    from portal.models import BaseModel, Node, Quota, Scope, User
    from portal.rls import team_scope

    person = User.objects.create_user("benchmark@example.org", "correct horse battery staple", name="Benchmark")
    actor = Actor(user=person)
    team = teams.create_team(name="Benchmark", owner=person, actor=actor)
    for kind in (Quota.REQUESTS_PER_MINUTE, Quota.TOKENS_PER_MINUTE, Quota.TOKENS_PER_MONTH):
        limits.set_team_limit(team=team, kind=kind, value=10**12, actor=actor)
    model = BaseModel.objects.create(
        slug="trivial", name="Trivial", source="local", location="trivial", revision="0" * 40, parameters=1,
        context_tokens=4096, size_bytes=1, is_allowed=True,
    )  # fmt: skip
    node = Node.objects.create(name="local", slots=1, heartbeat_at=timezone.now())
    Engine.objects.create(
        node=node, base_model=model, status="ready", url=f"http://127.0.0.1:{engine_port}", access_key=KEY
    )
    with team_scope(team.pk):
        _row, token = tokens.create_token(
            team=team, actor=actor, owner=person, name="benchmark", scopes=[Scope.INFERENCE.value]
        )
    browser = Client()
    browser.force_login(person)
    return token, browser.cookies["sessionid"].value


def _section(found: Measured) -> str:
    one, many = found.proxied[1], found.proxied[32]
    added = one.p50_ms - found.direct[1].p50_ms
    slower = 100 * (found.page_beside.p95_ms / found.page_before.p95_ms - 1)
    lines = [
        "## Proxy: from a caller to an engine",
        "",
        "A trivial engine that answers at once, asked directly and through the portal's server of `/v1` as"
        " `manage.py up` starts it (2 processes), with authentication, limits of requests and tokens, and metering on."
        " The load comes from the same machine.",
        "",
        "| in flight | engine alone, requests/s | through the portal, requests/s | p50, ms | p95, ms | errors |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for in_flight, times in found.proxied.items():
        alone = found.direct[in_flight].requests_per_s
        lines.append(
            f"| {in_flight} | {alone:.0f} | {times.requests_per_s:.0f} | {times.p50_ms:.1f} | {times.p95_ms:.1f} "
            f"| {times.errors} |"
        )
    bars = [
        (f"{many.requests_per_s:.0f} requests/s at 32 in flight (at least 500)", many.requests_per_s >= 500),
        (f"{added:.1f} ms added to one request at p50 (at most 4)", added <= 4),
        (
            f"{found.streams} of {STREAMS} streams open move the p95 of a page by {slower:+.0f} % (less than 20),"
            f" from {found.page_before.p95_ms:.0f} to {found.page_beside.p95_ms:.0f} ms",
            found.streams == STREAMS and slower < 20,
        ),
    ]
    lines += ["", *(f"* {'Reached' if is_reached else 'Missed'}: {text}." for text, is_reached in bars)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
