"""What clients were told against what the ledger has, request by request."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from gpu_worker.benchmarks.soak_load import ANSWER, BATCH_LINE, Outcome

NOT_TOLD: Final = "never told to anybody"


@dataclass
class Part:
    """Requests that ended in one way: how many there were, and what the ledger has of them."""

    requests: int = 0
    rows: int = 0
    told_tokens: int = 0
    ledger_tokens: int = 0


@dataclass
class Comparison:
    """The ledger beside what clients know; every row is in exactly one part.

    `missing`: answered requests without a row; `differing`: with one of other counts; `twice`: requests, answered or
    not, with more than one.
    """

    parts: dict[str, Part] = field(default_factory=lambda: defaultdict(Part))
    missing: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    ledger_rows: int = 0
    ledger_tokens: int = 0
    usage_tokens: int = 0
    usage_requests: int = 0
    window_tokens: int = 0
    held_tokens: int = 0

    @property
    def is_right(self) -> bool:
        """Whether each answer was counted once, as its client was told, and all sums agree."""
        faults = self.missing or self.differing or self.twice
        return not faults and (self.usage_tokens, self.usage_requests) == (self.ledger_tokens, self.ledger_rows)

    @property
    def unexplained_tokens(self) -> int:
        """What the teams' windows hold beyond the ledger and what is set aside; negative if they lack some."""
        return self.window_tokens - self.held_tokens - self.ledger_tokens


Row = tuple[str, int, int]


def compare(outcomes: Iterable[Outcome], rows: Sequence[Row]) -> Comparison:
    """Return the comparison; `rows` are (request id, prompt tokens, completion tokens) of the ledger."""
    found = Comparison(ledger_rows=len(rows), ledger_tokens=sum(prompt + made for _id, prompt, made in rows))
    by_id: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_id[row[0]].append(row)
    for outcome in outcomes:
        mine = by_id.pop(outcome.request_id, [])
        part = found.parts[outcome.result]
        part.requests += 1
        part.rows += len(mine)
        part.told_tokens += sum(outcome.usage or ())
        part.ledger_tokens += sum(prompt + made for _id, prompt, made in mine)
        if outcome.kind == BATCH_LINE:
            # It is asked again under its id while its engine is away; the tries that failed took no tokens.
            mine = [row for row in mine if row[1] or row[2]]
        if outcome.result == ANSWER:
            _check(found, outcome, mine)
        elif len(mine) > 1:
            found.twice.append(f"{outcome.kind} {outcome.request_id}")
    for left in by_id.values():
        part = found.parts[NOT_TOLD]
        part.rows += len(left)
        part.ledger_tokens += sum(prompt + made for _id, prompt, made in left)
    return found


def _check(found: Comparison, outcome: Outcome, mine: list[Row]) -> None:
    name = f"{outcome.kind} {outcome.request_id}"
    if not mine:
        found.missing.append(name)
    elif len(mine) > 1:
        found.twice.append(name)
    elif mine[0][1:] != outcome.usage:
        found.differing.append(f"{name}: told {outcome.usage}, counted {mine[0][1:]}")


def compare_with_database(outcomes: Sequence[Outcome]) -> Comparison:
    """Compare with the ledger of the database that Django is set up with, its days and its windows."""
    from django.db.models import Sum

    from deployments.models import InferenceRecord
    from portal.models import Quota, QuotaReservation, QuotaWindow, UsageDay
    from portal.rls import all_teams

    with all_teams("the soak compares all teams' ledgers with what clients were told"):
        records = InferenceRecord.unscoped.order_by()
        found = compare(outcomes, list(records.values_list("request_id", "prompt_tokens", "completion_tokens")))
        days = UsageDay.unscoped.aggregate(
            asked=Sum("requests"), prompt=Sum("prompt_tokens"), completion=Sum("completion_tokens")
        )
        found.usage_requests = days["asked"] or 0
        found.usage_tokens = (days["prompt"] or 0) + (days["completion"] or 0)
        month = QuotaWindow.unscoped.filter(kind=Quota.TOKENS_PER_MONTH).aggregate(sum=Sum("used"))
        found.window_tokens = int(month["sum"] or 0)
        held = Counter[str]()
        for reservation in QuotaReservation.unscoped.all():
            held.update(dict(zip(reservation.kinds, reservation.amounts, strict=True)))
        found.held_tokens = held[Quota.TOKENS_PER_MONTH.value]
    return found
