"""The child of the proxy benchmark: migrate, make a team, start the servers, ask, write the table.

`python -m gpu_worker.benchmarks.proxy_measure <file> [--quick]`, with DATABASE_URL naming an empty database.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gpu_worker.benchmarks import bars, proxy_guests
from gpu_worker.benchmarks.bars import Bar
from gpu_worker.benchmarks.own_database import begin_child
from gpu_worker.benchmarks.processor_time import cpu_seconds, parent_of
from gpu_worker.benchmarks.proxy_guests import AFTERWARDS_S, STREAMS, Crowded, Flooded, HungUp
from gpu_worker.benchmarks.proxy_litellm import PACKAGE, WORKERS, running
from gpu_worker.benchmarks.proxy_load import Place, Times, measure, open_streams

SECONDS = 8.0
KEY = "engine-key"
# What the page is asked with: one person who clicks on.
PAGE = "/account/"


@dataclass(frozen=True)
class Measured:
    """All figures: by requests in flight the engine alone and through proxies; the page without and with streams.

    `cpu_ms`: processor time of a request at 32 in flight, of the portal's server, the database and the load.
    """

    direct: dict[int, Times]
    proxied: dict[int, Times]
    litellm: dict[int, Times]
    cpu_ms: dict[str, float]
    page_before: Times
    page_beside: Times
    streams: int
    hung_up: HungUp
    flooded: Flooded
    crowded: Crowded


def main() -> None:
    """Run the whole measurement."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--litellm", type=Path, help="the environment in which LiteLLM is installed")
    options = begin_child(parser)
    seconds = 1.0 if options.quick else SECONDS
    with ExitStack() as stack:
        engine_port = stack.enter_context(_engine())
        token, session = _seed(engine_port)
        from portal.management.commands import up

        firsts = (18_000, 19_000, 20_000)
        ports = [up.chosen_port("127.0.0.1", None, first=first) for first in firsts]
        services = [up.web("127.0.0.1", ports[0]), up.api("127.0.0.1", ports[1])]
        servers = [
            stack.enter_context(server(service, port)) for service, port in zip(services, ports[:2], strict=True)
        ]
        subject = Subject(
            engine=Place("127.0.0.1", engine_port, KEY),
            api=Place("127.0.0.1", ports[1], token),
            page=Place("127.0.0.1", ports[0], session),
            processes={"portal": servers[1], "database": parent_of(_backend())},
        )
        if options.litellm is not None:
            peer = running(options.litellm, engine_port=engine_port, engine_key=KEY, port=ports[2])
            subject = replace(subject, litellm=stack.enter_context(peer))
        measured = asyncio.run(_measure(subject, seconds))
    options.section.write_text(_section(measured), encoding="utf-8")


@dataclass(frozen=True)
class Subject:
    """Where to ask, and whose processor time to read: parents of processes."""

    engine: Place
    api: Place
    page: Place
    processes: dict[str, int]
    litellm: Place | None = None


async def _measure(subject: Subject, seconds: float) -> Measured:
    engine, api, page = subject.engine, subject.api, subject.page
    proxies = [api] if subject.litellm is None else [api, subject.litellm]
    for proxy in proxies:
        await measure(proxy, proxy.post(), in_flight=32, seconds=min(2.0, seconds))  # processes get warm
    direct: dict[int, Times] = {}
    found: list[dict[int, Times]] = [{} for _proxy in proxies]
    cpu_ms: dict[str, float] = {}
    for in_flight in (1, 8, 32):
        direct[in_flight] = await measure(engine, engine.post(), in_flight=in_flight, seconds=seconds / 2)
        for proxy, times in zip(proxies, found, strict=True):
            spent = _cpu_s(subject.processes)
            times[in_flight] = await measure(proxy, proxy.post(), in_flight=in_flight, seconds=seconds)
            if proxy is api:
                cpu_ms = {name: 1000 * (now - spent[name]) for name, now in _cpu_s(subject.processes).items()}
                cpu_ms = {name: spent / times[in_flight].count for name, spent in cpu_ms.items()}
            print(f"{in_flight} in flight at {proxy.port}: {times[in_flight]}", flush=True)
    await measure(page, page.get(PAGE), in_flight=1, seconds=min(2.0, seconds))
    before = await measure(page, page.get(PAGE), in_flight=1, seconds=seconds)
    async with open_streams(api, STREAMS) as streams:
        await asyncio.sleep(1)
        beside = await measure(page, page.get(PAGE), in_flight=1, seconds=seconds)
    print(f"page: {before}, beside {streams} streams: {beside}", flush=True)
    await asyncio.sleep(AFTERWARDS_S)
    hung_up = await proxy_guests.hang_up(api, engine, times=2 if seconds < SECONDS else proxy_guests.HANG_UPS)
    flooded = await proxy_guests.try_keys(api, seconds=seconds)
    crowded = await proxy_guests.sit_there(
        api, page, page.get(PAGE), server=subject.processes["portal"], seconds=min(2.0, seconds)
    )
    print(f"{hung_up}\nbad keys: {flooded.before}, beside them {flooded.beside}\n{crowded.answers}", flush=True)
    return Measured(direct, found[0], dict(*found[1:]), cpu_ms, before, beside, streams, hung_up, flooded, crowded)


def _cpu_s(parents: dict[str, int]) -> dict[str, float]:
    return {name: cpu_seconds(parent) for name, parent in parents.items()} | {"load": time.process_time()}


def _backend() -> int:
    """Return the process that serves our connection to the database."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return int(cursor.fetchone()[0])


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
def server(service: Any, port: int) -> Iterator[int]:
    """Run one of the services of `manage.py up`; yield its process id. Raises: RuntimeError if it does not answer."""
    from portal.management.commands.up import answers

    child = subprocess.Popen(list(service.command), env={**os.environ, **service.environment}, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while not answers("127.0.0.1", port):
            if time.monotonic() > deadline or child.poll() is not None:
                raise RuntimeError(f"the server {service.name} does not answer")
            time.sleep(0.2)
        yield child.pid
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
    spent = ", ".join(f"{name} {ms:.2f}" for name, ms in found.cpu_ms.items())
    lines += ["", f"Processor time of a request at 32 in flight, ms: {spent}."]
    if found.litellm:
        lines += ["", *_litellm_lines(found)]
    lines += ["", proxy_guests.median_words(found.hung_up)]
    lines += ["", "Rates and times are those of answers with 200; one error is enough to miss a bar."]
    held = [*_own_bars(found), *proxy_guests.all_bars(found.hung_up, found.flooded, found.crowded)]
    return "\n".join([*lines, "", bars.table(held)]) + "\n"


def _own_bars(found: Measured) -> Iterator[Bar]:
    one, many = found.proxied[1], found.proxied[32]
    added = one.p50_ms - found.direct[1].p50_ms
    slower = found.page_beside.p95_ms / found.page_before.p95_ms - 1
    yield _without_errors(Bar.at_least("requests/s at 32 in flight", 500, many.requests_per_s, "{:.0f}"), many)
    yield _without_errors(Bar.at_most("added to one request at p50, ms", 4, added, "{:.1f}"), one)
    told = f", from {found.page_before.p95_ms:.0f} to {found.page_beside.p95_ms:.0f} ms"
    page = Bar.less_than(f"p95 of a page beside {STREAMS} open streams", 0.2, slower, "{:+.0%}")
    page = replace(page, measured=f"{page.measured}{told}; {found.streams} streams open")
    yield _without_errors(
        replace(page, is_reached=bool(page.is_reached) and found.streams == STREAMS),
        found.page_before + found.page_beside,
    )
    if found.litellm:
        theirs = found.litellm[32]
        ratio = many.requests_per_s / theirs.requests_per_s if theirs.requests_per_s else None
        yield _without_errors(Bar.at_least("requests/s at 32 in flight, to LiteLLM's", 4, ratio, "{:.1f}"), many)


def _without_errors(bar: Bar, times: Times) -> Bar:
    """Return the bar, missed if a request got anything but 200."""
    if not times.errors:
        return bar
    return replace(bar, measured=f"{bar.measured}; {times.errors} of {times.count} errors", is_reached=False)


def _litellm_lines(found: Measured) -> list[str]:
    lines = [
        f"LiteLLM's proxy ({PACKAGE.partition('==')[2]}, {WORKERS} workers, one key, no database, nothing counted)"
        " before the same engine, asked in turn with the portal:",
        "",
        "| in flight | LiteLLM, requests/s | p50, ms | p95, ms | errors | the portal's requests/s to LiteLLM's |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for in_flight, times in found.litellm.items():
        ratio = found.proxied[in_flight].requests_per_s / times.requests_per_s if times.requests_per_s else math.inf
        lines.append(
            f"| {in_flight} | {times.requests_per_s:.0f} | {times.p50_ms:.1f} | {times.p95_ms:.1f} | {times.errors} "
            f"| {ratio:.1f} |"
        )
    return lines


if __name__ == "__main__":
    main()
