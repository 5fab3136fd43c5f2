"""What callers of the wrong kind cost the others: who hangs up, who tries keys, and crowds that only sit there."""

from __future__ import annotations

import asyncio
import math
import secrets
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from gpu_worker.benchmarks.bars import Bar
from gpu_worker.benchmarks.processor_time import Held, held_by
from gpu_worker.benchmarks.proxy_engine import SLOWLY
from gpu_worker.benchmarks.proxy_flood import flood_from_elsewhere
from gpu_worker.benchmarks.proxy_load import Place, Times, crowd, measure, open_streams, seconds_until_stopped

STREAMS = 200
# So many silent connections, and streams asked for beside them; then a moment in which slots become free again.
CROWD = 1000
AFTERWARDS_S = 3.0
HANG_UPS = 10
STOPPED_WITHIN_S = 1.0
BAD_KEYS_PER_S = 50.0
MOST_SLOWER = 0.2
# What a crowd may leave behind: memory that the interpreter keeps for the next one, and files of idle connections.
LEFT_MB, LEFT_FILES = 64.0, 100


@dataclass(frozen=True)
class HungUp:
    """Seconds for which the engine went on after its caller had hung up, of plain and of streamed requests."""

    plain: tuple[float, ...]
    streamed: tuple[float, ...]


async def hang_up(api: Place, engine: Place, *, times: int = HANG_UPS) -> HungUp:
    """Hang up in the middle of answers, one after the other."""
    plain = [await seconds_until_stopped(api, engine, api.post(asked=SLOWLY)) for _number in range(times)]
    streamed = [await seconds_until_stopped(api, engine, api.post(stream=True)) for _number in range(times)]
    return HungUp(tuple(plain), tuple(streamed))


@dataclass(frozen=True)
class Flooded:
    """Good requests, one at a time, without and with others that try keys; and how those were answered."""

    before: Times
    beside: Times
    answers: Counter[int]

    @property
    def slower(self) -> float:
        """By which share the p95 of good requests is longer."""
        return self.beside.p95_ms / self.before.p95_ms - 1


async def try_keys(api: Place, *, seconds: float) -> Flooded:
    """Measure good requests without and with bad keys beside them, twice each, in an order that is fair to both."""
    beginning, _underscore, secret = api.bearer.rpartition("_")
    keys = [f"{beginning}_{'x' * len(secret)}", *(f"tnp_{secrets.token_hex(8)}_{'x' * 43}" for _number in range(99))]
    found: dict[bool, list[Times]] = {False: [], True: []}
    answers: Counter[int] = Counter()
    for is_flooded in (False, True, True, False):
        if is_flooded:
            async with flood_from_elsewhere(api, keys, BAD_KEYS_PER_S) as answered:
                found[True].append(await measure(api, api.post(), in_flight=1, seconds=seconds / 2))
            answers += answered
        else:
            found[False].append(await measure(api, api.post(), in_flight=1, seconds=seconds / 2))
    return Flooded(found[False][0] + found[False][1], found[True][0] + found[True][1], answers)


@dataclass(frozen=True)
class Crowded:
    """The answers to streams asked for beside as many silent connections, and what was possible and left afterwards."""

    answers: Counter[int]
    page: Times
    streams_afterwards: int
    before: Held
    after: Held


async def sit_there(api: Place, page: Place, request: bytes, *, server: int, seconds: float) -> Crowded:
    """Let a crowd come and go. `server`: the process whose children answer at `api`."""
    before = held_by(server)
    async with crowd(api, CROWD) as answers:
        crowded = await measure(page, request, in_flight=1, seconds=seconds)
    await asyncio.sleep(AFTERWARDS_S)
    async with open_streams(api, STREAMS) as afterwards:
        pass
    await asyncio.sleep(AFTERWARDS_S)
    return Crowded(answers, crowded, afterwards, before, held_by(server))


def hung_up_bars(found: HungUp) -> list[Bar]:
    """Return the bars of callers who hang up."""
    return [
        Bar.at_most(
            f"the engine stops after the caller of a {kind} request hung up, s (slowest of {len(times)})",
            STOPPED_WITHIN_S,
            max(times, default=math.inf),
        )
        for kind, times in (("plain", found.plain), ("streamed", found.streamed))
    ]


def flooded_bar(found: Flooded) -> Bar:
    """Return the bar of keys that are tried."""
    sent, refused = sum(found.answers.values()), found.answers[401] + found.answers[429]
    errors = found.before.errors + found.beside.errors
    measured = (
        f"{found.slower:+.0%}, from {found.before.p95_ms:.1f} to {found.beside.p95_ms:.1f} ms; {errors} errors; "
        f"{refused} of {sent} bad keys refused"
    )
    is_reached = found.slower <= MOST_SLOWER and not errors and refused == sent > 0
    what = f"p95 of good requests beside {BAD_KEYS_PER_S:.0f} bad keys a second"
    return Bar(what, f"at most {MOST_SLOWER:+.0%}", measured, is_reached)


def crowded_bars(found: Crowded) -> list[Bar]:
    """Return the bars of the crowd: how it was answered, and what it left."""
    answered = ", ".join(f"{count} with {status}" for status, count in sorted(found.answers.items()))
    is_fine = set(found.answers) <= {200, 429} and not found.page.errors and bool(found.page.seconds)
    files = found.after.files - found.before.files
    return [
        Bar(
            f"{CROWD:,} streams asked for beside {CROWD:,} silent connections",
            f"200 or 429, {STREAMS} of {STREAMS} open afterwards",
            f"{answered}; {found.streams_afterwards} open afterwards; p95 of a page beside them "
            f"{found.page.p95_ms:.0f} ms, {found.page.errors} errors",
            is_fine and found.streams_afterwards == STREAMS,
        ),
        Bar.at_most(
            f"memory that the crowd left in the server, MB (from {found.before.resident_mb:.0f})",
            LEFT_MB,
            found.after.resident_mb - found.before.resident_mb,
            "{:.0f}",
        ),
        Bar.at_most(f"files that it left open (from {found.before.files})", LEFT_FILES, files, "{:.0f}"),
    ]


def median_words(found: HungUp) -> str:
    """Return the medians in a sentence."""
    plain, streamed = (statistics.median(times) for times in (found.plain, found.streamed))
    return (
        f"The engine stops {plain:.2f} s after a plain and {streamed:.2f} s after a streamed caller is gone (median)."
    )


def all_bars(hung_up: HungUp, flooded: Flooded, crowded: Crowded) -> Sequence[Bar]:
    """Return all bars of this file."""
    return [*hung_up_bars(hung_up), flooded_bar(flooded), *crowded_bars(crowded)]
