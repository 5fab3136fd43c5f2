"""The child of the soak: an installation, load without kills for rolling back, load with kills, then the checks.

`python -m gpu_worker.benchmarks.soak_measure <file> --minutes 30 [--tiny | --model DIR]`, with DATABASE_URL naming an
empty database.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx

from gpu_worker.benchmarks import soak_installation, soak_load, soak_processes
from gpu_worker.benchmarks.own_database import begin_child
from gpu_worker.benchmarks.soak_installation import NAME, Installation, TeamAccess
from gpu_worker.benchmarks.soak_load import ANSWER, ERROR, HUNG_UP, Load, Outcome, User

USERS: Final = 12
KILL_EVERY_S, QUICK_KILL_EVERY_S = 30.0, 6.0
ROLLBACKS, QUICK_ROLLBACKS = 20, 4
# The rest of the time, of half an hour three minutes, everything settles: what broke last has its time to be mended.
KILLING_SHARE: Final = 0.9
ROLLBACK_EVERY_S: Final = 1.0
# An answer that was made while its version was being replaced may still come from the one before.
_SWITCH_LIMIT_S: Final = 30.0
_LEDGER_S: Final = 5.0


@dataclass
class Soaked:
    """Everything that was measured. `switches_s`: how long each change of the answering version took."""

    minutes: float
    users: int
    teams: int
    tokens: int
    outcomes: list[Outcome]
    quiet: list[Outcome]
    batches: list[str]
    kills: list[soak_processes.Kill]
    memory: list[soak_processes.Memory]
    switches_s: list[float] = field(default_factory=list)


def main() -> None:
    """Run the whole soak."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--model", type=Path)
    options = begin_child(parser)
    from django.conf import settings
    from django.core.management import call_command

    from gpu_worker.benchmarks import soak_ledger, soak_report

    folder = Path(settings.DATA_DIR)
    call_command("ensure_schedules")
    base_model = soak_installation.bring_base_model(folder, model=None if options.tiny else options.model)
    teams = [soak_installation.make_team(name) for name in ("Soak-A", "Soak-B")]
    with soak_installation.running(folder) as installation:
        say("the servers answer")
        for team, versions in zip(teams, (2, 1), strict=True):
            soak_installation.train(installation, team, base_model=base_model, versions=versions)
            say(f"team {team.slug}: {versions} trained and deployed")
        soaked = soak(installation, teams, base_model, options)
        time.sleep(_LEDGER_S)
        for count, line in errors_in(installation.log):
            say(f"{count} × {line}")
        ledger = soak_ledger.compare_with_database(soaked.outcomes + soaked.quiet)
    options.section.write_text(soak_report.section(soaked, ledger, base_model), encoding="utf-8")


def say(line: str) -> None:
    """Tell whoever waits how far it is."""
    print(f"{time.strftime('%X')} {line}", flush=True)


def soak(installation: Installation, teams: list[TeamAccess], base_model: str, options: argparse.Namespace) -> Soaked:
    """Let users ask: first beside changes of the answering version, then beside kills."""
    users = soak_installation.users_of(installation, teams, base_model, count=USERS)
    quiet = Load(users, seed=options.seed + 1)
    switches = asyncio.run(
        _with_rollbacks(quiet, installation, teams[0], QUICK_ROLLBACKS if options.quick else ROLLBACKS)
    )
    say(f"{len(switches)} changes of version, the slowest took {max(switches):.2f} s")
    load = Load(users, seed=options.seed)
    probes: list[Outcome] = []
    every_s = QUICK_KILL_EVERY_S if options.quick else KILL_EVERY_S
    watch = soak_processes.Watch(
        installation.folder, options.seed, every_s, is_up=_look(installation, users[0], probes, options.seed)
    )
    watch.start()
    calm = threading.Timer(60 * options.minutes * KILLING_SHARE, watch.calm)
    calm.start()
    try:
        asyncio.run(load.run(60 * options.minutes))
    finally:
        calm.cancel()
        watch.stop()
    say(f"{len(load.outcomes)} requests, {len(watch.kills)} kills")
    return Soaked(
        minutes=options.minutes,
        users=USERS,
        teams=len(teams),
        tokens=len({user.token for user in users}),
        outcomes=load.outcomes + probes,
        quiet=quiet.outcomes,
        batches=load.batches + quiet.batches,
        kills=watch.kills,
        memory=watch.memory(),
        switches_s=switches,
    )


async def _with_rollbacks(load: Load, installation: Installation, team: TeamAccess, count: int) -> list[float]:
    """Let versions 1 and 2 take turns while users ask; return how long each change took to be seen by a caller."""
    loading = asyncio.create_task(load.run(count * ROLLBACK_EVERY_S * 2 + 2))
    headers = {"Authorization": f"Bearer {team.tokens[0]}"}
    user = next(user for user in load.users if user.team == team.slug)
    took: list[float] = []
    with httpx.Client(base_url=installation.url, headers=headers, timeout=60, trust_env=False) as client:
        async with httpx.AsyncClient(base_url=user.url, headers=headers, timeout=60, trust_env=False) as asking:
            marks = {number: await _mark(asking, f"{NAME}@v{number}", load.outcomes, user) for number in (1, 2)}
            for turn in range(count):
                number = 1 if turn % 2 == 0 else 2
                await asyncio.sleep(ROLLBACK_EVERY_S)
                begun = time.monotonic()
                await asyncio.to_thread(soak_installation.promote, client, number)
                while await _mark(asking, NAME, load.outcomes, user) != marks[number]:
                    if time.monotonic() - begun > _SWITCH_LIMIT_S:
                        raise RuntimeError(f"version {number} does not answer after {_SWITCH_LIMIT_S:.0f} s")
                took.append(time.monotonic() - begun)
            load.end()
    await loading
    return took


async def _mark(client: httpx.AsyncClient, model: str, outcomes: list[Outcome], user: User) -> str:
    """Ask a model for one token and return by which adapter it was answered."""
    request_id, started = f"soak-{uuid.uuid4().hex}", time.monotonic()
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    found = await soak_load.whole(client, "chat/completions", body, request_id)
    found.pop("answer", None)
    outcomes.append(Outcome("version probe", request_id, user.team, started=started, ended=time.monotonic(), **found))
    return str(found.get("fingerprint") or "")


def _look(installation: Installation, user: User, probes: list[Outcome], seed: int) -> Callable[[str], bool]:
    """Return a function that says whether what a role does works again."""
    ports = {"web": installation.port, "api": installation.api_port}
    draw = random.Random(seed)  # noqa: S311 - no secret

    def is_up(role: str) -> bool:
        if role in ports:
            return installation.is_up(ports[role])
        if role != "engine":
            return True
        outcome = asyncio.run(_probe(user, draw))
        probes.append(outcome)
        return outcome.result == ANSWER

    return is_up


async def _probe(user: User, draw: random.Random) -> Outcome:
    async with soak_load.client_of(user) as client:
        return await soak_load.ended("engine probe", soak_load.plain, client, user, draw)


def errors_in(log: Path) -> list[tuple[int, str]]:
    """Return what the processes complained of, without what differs from time to time, the most frequent first."""
    lines = (line for line in log.read_text(errors="replace").splitlines() if " ERROR " in line)
    found = Counter(re.sub(r"[0-9a-f]{8,}|\d+", "…", line.partition(" ERROR ")[2])[:200] for line in lines)
    return [(count, line) for line, count in found.most_common(20)]


def failed_among(outcomes: list[Outcome]) -> list[Outcome]:
    """Return the requests that deserved an answer and got none."""
    wanted = [one for one in outcomes if one.kind != "nonsense" and one.result not in (ANSWER, HUNG_UP)]
    return [one for one in wanted if one.result != ERROR or one.status != 429]


if __name__ == "__main__":
    main()
