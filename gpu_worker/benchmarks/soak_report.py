"""The soak's section of docs/benchmarks.md: what happened, and whether it was allowed to."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Final

from gpu_worker.benchmarks.soak_ledger import NOT_TOLD, Comparison
from gpu_worker.benchmarks.soak_load import ANSWER, BROKEN, ERROR, HUNG_UP, WRONG, Outcome
from gpu_worker.benchmarks.soak_measure import Soaked, failed_among
from gpu_worker.benchmarks.soak_processes import WARM_UP_S, Kill, Memory

_RESULTS: Final = (ANSWER, ERROR, HUNG_UP, BROKEN, WRONG)
_MOST_LISTED: Final = 10
# A process may take so much more in the last third than in the first, and still be called flat.
_GROWTH_SHARE, _GROWTH_MB = 0.1, 8.0
ROLLBACK_LIMIT_S: Final = 5.0
# A connection to a killed server breaks at once; one that was made while it was away is refused.
_AROUND_A_KILL_S: Final = 1.0


def section(soaked: Soaked, ledger: Comparison, base_model: str) -> str:
    """Return the Markdown section."""
    intro = (
        f"{soaked.minutes:g} minutes on an installation of its own as `manage.py up` starts it (base model"
        f" `{base_model}`, three adapters that were trained there): {soaked.users} users of {soaked.teams} teams with"
        f" {soaked.tokens} tokens ask in every way, one batch of each team runs after the other, and processes are"
        " killed by `kill -9` in a random order all the time but the last tenth, in which everything settles. Memory is"
        f" judged by lives of processes, each from the age of {WARM_UP_S:.0f} s on: by a tenth and 8 MB the biggest one"
        " of a role may take more in the last third of the time than in the first, and so much its longest life may"
        " grow from its own first third to its last. Before that, for a while without kills, two versions of a"
        " deployment take turns."
    )
    parts = [
        ["## Soak: mixed load while processes are killed", "", intro, ""],
        _requests(soaked.outcomes),
        ["", "A request is *broken* if its connection ended without an answer: its server was killed."],
        _ledger(ledger),
        _kills(soaked.kills),
        _memory(soaked.memory),
        [""],
        [f"* {'Reached' if is_reached else 'Missed'}: {text}." for text, is_reached in bars(soaked, ledger)],
    ]
    return "\n".join(line for part in parts for line in part) + "\n"


def _requests(outcomes: list[Outcome]) -> Iterator[str]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for one in outcomes:
        counts[one.kind][one.result] += 1
    yield f"| requests | {' | '.join(_RESULTS)} |"
    yield f"|---|{'---:|' * len(_RESULTS)}"
    for kind, found in counts.items():
        yield f"| {kind} | {' | '.join(str(found[result]) for result in _RESULTS)} |"
    errors = Counter(f"{one.status} `{one.code}`" for one in outcomes if one.result == ERROR)
    yield ""
    yield f"Errors, all of them documented: {_listed(errors)}."


def _ledger(ledger: Comparison) -> Iterator[str]:
    yield ""
    yield "| the ledger | requests | rows | tokens told to clients | tokens counted |"
    yield "|---|---:|---:|---:|---:|"
    for name, part in ledger.parts.items():
        yield f"| {name} | {part.requests or '–'} | {part.rows} | {part.told_tokens} | {part.ledger_tokens} |"
    yield f"| all | | {ledger.ledger_rows} | | {ledger.ledger_tokens} |"
    yield ""
    yield (
        "Who hangs up pays for the prompt as it was estimated and for the pieces that came. A *broken* request is"
        " counted if its server got so far. *"
        + NOT_TOLD.capitalize()
        + "*: lines of batches that are asked again after"
        " their worker was killed, before it had kept the answers. Usage by days sums to"
        f" {ledger.usage_tokens} tokens of {ledger.usage_requests} requests. The teams' windows of the month hold"
        f" {ledger.window_tokens} tokens, {ledger.held_tokens} of them set aside for requests whose server died, which"
        " are given back after 15 minutes."
    )
    for name in ("missing", "differing", "twice"):
        if found := getattr(ledger, name):
            yield f"{name.capitalize()} ({len(found)}): {'; '.join(found[:_MOST_LISTED])}."


def _kills(kills: list[Kill]) -> Iterator[str]:
    yield ""
    yield "| killed | times | the first of its role | working again, median | slowest |"
    yield "|---|---:|---:|---:|---:|"
    for role in sorted({kill.role for kill in kills}):
        mine = [kill for kill in kills if kill.role == role]
        took = [kill.recovered_s for kill in mine if kill.recovered_s is not None]
        never = f", {len(mine) - len(took)} never" if len(took) < len(mine) else ""
        spread = f"{statistics.median(took):.1f} s | {max(took):.1f} s" if took else "– | –"
        yield f"| {role} | {len(mine)}{never} | {sum(kill.was_first for kill in mine)} | {spread} |"


def _memory(memory: list[Memory]) -> Iterator[str]:
    yield ""
    yield (
        "| memory | lives | biggest, first third | biggest, last third | longest life, judged for | its first third"
        " | its last third | slope |"
    )
    yield "|---|---:|---:|---:|---:|---:|---:|---:|"
    for one in memory:
        yield (
            f"| {one.role} | {one.lives} | {one.first_mb:.0f} MB | {one.last_mb:.0f} MB | {one.longest_minutes:.1f} min"
            f" | {one.begun_mb:.0f} MB | {one.ended_mb:.0f} MB | {one.slope_mb_per_minute:+.2f} MB/min |"
        )


def bars(soaked: Soaked, ledger: Comparison) -> list[tuple[str, bool]]:
    """Return what was promised, in words, and whether it was kept."""
    wrong = [one for one in soaked.outcomes + soaked.quiet if one.result == WRONG]
    broken = [one for one in soaked.outcomes + soaked.quiet if one.result == BROKEN]
    unexplained = [one for one in broken if not _was_killed(one, soaked.kills)]
    growing = [one.role for one in soaked.memory if not is_flat(one)]
    failed = failed_among(soaked.quiet)
    slowest = max(soaked.switches_s, default=float("inf"))
    ended = Counter(soaked.batches)
    return [
        (
            f"every request ends in an answer or a documented error; otherwise {len(wrong)} did" + _examples(wrong),
            not wrong,
        ),
        (
            f"{len(broken)} connections broke, {len(unexplained)} of them without a server killed"
            + _examples(unexplained),
            not unexplained,
        ),
        (
            f"each answer is counted once, as its client was told: {len(ledger.missing)} missing,"
            f" {len(ledger.differing)} differ, {len(ledger.twice)} twice, and days sum to the same",
            ledger.is_right,
        ),
        (
            f"the teams' windows hold what the ledger has and what is set aside, and {ledger.unexplained_tokens} tokens"
            " besides",
            not ledger.unexplained_tokens,
        ),
        (f"every batch is completed ({_listed(ended)})", set(ended) <= {"completed"}),
        (
            f"everything that was killed works again ({len(soaked.kills)} kills)",
            bool(soaked.kills) and all(kill.recovered_s is not None for kill in soaked.kills),
        ),
        (f"memory is flat{_growing(soaked.memory, growing)}", bool(soaked.memory) and not growing),
        (
            f"{len(soaked.switches_s)} times another version took over under load, seen by a caller after"
            f" {statistics.median(soaked.switches_s or [0]):.2f} s (median), {slowest:.2f} s (slowest; at most"
            f" {ROLLBACK_LIMIT_S:g}), with {len(failed)} of {len(soaked.quiet)} requests failed" + _examples(failed),
            slowest <= ROLLBACK_LIMIT_S and not failed,
        ),
    ]


def is_flat(memory: Memory) -> bool:
    """Whether a role's processes take no more than they may, over all lives and in the longest of them."""
    spans = ((memory.first_mb, memory.last_mb), (memory.begun_mb, memory.ended_mb))
    return all(last <= first * (1 + _GROWTH_SHARE) + _GROWTH_MB for first, last in spans)


def _growing(memory: list[Memory], growing: list[str]) -> str:
    if not memory:
        return ": no process lived long enough to tell"
    return f": not of {', '.join(growing)}" if growing else ""


def _was_killed(outcome: Outcome, kills: Iterable[Kill]) -> bool:
    """Whether a server of /v1 was killed while the request was on its way, or was not back yet."""
    return any(
        kill.role == "api"
        and outcome.started <= kill.at + (kill.recovered_s or 120) + _AROUND_A_KILL_S
        and outcome.ended >= kill.at - _AROUND_A_KILL_S
        for kill in kills
    )


def _examples(outcomes: list[Outcome]) -> str:
    if not outcomes:
        return ""
    found = Counter(f"{one.kind}: {one.result} {one.status or ''} {one.code}".replace("  ", " ") for one in outcomes)
    return f" ({_listed(found)})"


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count} × {name}" for name, count in counts.most_common(_MOST_LISTED)) or "none"
