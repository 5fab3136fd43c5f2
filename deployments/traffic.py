"""How a deployment was used: in the last day, hour by hour, and over longer times for its charts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import Aggregate, Count, FloatField, Q, Sum
from django.db.models.functions import TruncDay, TruncHour
from django.utils import timezone

from deployments.models import Deployment, DeploymentVersion, InferenceRecord
from portal.models import Team

HOURS = 24


class Median(Aggregate):
    """PostgreSQL's continuous median."""

    function = "PERCENTILE_CONT"
    template = "%(function)s(0.5) WITHIN GROUP (ORDER BY %(expressions)s)"
    output_field = FloatField()


@dataclass(frozen=True)
class Traffic:
    """Counts and times of the last 24 hours; the lists hold one value an hour, the oldest first."""

    requests: int
    errors: int
    tokens: int
    median_s: float | None
    requests_by_hour: list[int]
    errors_by_hour: list[int]
    median_s_by_hour: list[float | None]

    @property
    def median_s_line(self) -> list[float | None]:
        """The medians as a line to draw; nothing if there are too few for one."""
        known = [value for value in self.median_s_by_hour if value is not None]
        return self.median_s_by_hour if len(known) > 1 else []


@dataclass(frozen=True)
class Totals:
    """What a list shows of a deployment's last 24 hours."""

    requests: int = 0
    errors: int = 0
    median_s: float | None = None


def totals_of_last_day(team: Team, deployments: Sequence[Deployment]) -> dict[UUID, Totals]:
    """Return the last 24 hours of several deployments by their keys, with one query."""
    asked = team.inferencerecords.filter(version__deployment__in=deployments, at__gte=_first_hour())
    grouped = asked.order_by().values("version__deployment").annotate(**_FIGURES)
    rows: list[dict[str, Any]] = [dict(row) for row in grouped]
    known = {
        row["version__deployment"]: Totals(row["requests"], row["errors"], _seconds(row["median_ms"])) for row in rows
    }
    return {deployment.pk: known.get(deployment.pk, Totals()) for deployment in deployments}


def last_day(deployment: Deployment) -> Traffic:
    """Return the traffic of one deployment, all versions together. A caller who hung up is no error."""
    first_hour = _first_hour()
    asked = deployment.team.inferencerecords.filter(version__deployment=deployment, at__gte=first_hour)
    whole: dict[str, Any] = asked.order_by().aggregate(**_FIGURES)
    grouped = asked.annotate(hour=TruncHour("at")).values("hour").order_by().annotate(**_FIGURES)
    by_hour: dict[datetime, dict[str, Any]] = {row["hour"]: dict(row) for row in grouped}
    hours = [by_hour.get(first_hour + timedelta(hours=number), {}) for number in range(HOURS)]
    return Traffic(
        requests=int(whole["requests"] or 0),
        errors=int(whole["errors"] or 0),
        tokens=int(whole["prompt_tokens"] or 0) + int(whole["completion_tokens"] or 0),
        median_s=_seconds(whole["median_ms"]),
        requests_by_hour=[int(hour.get("requests", 0)) for hour in hours],
        errors_by_hour=[int(hour.get("errors", 0)) for hour in hours],
        median_s_by_hour=[_seconds(hour.get("median_ms")) for hour in hours],
    )


class NinetyFifth(Median):
    """The time that 19 of 20 requests stay below."""

    template = "%(function)s(0.95) WITHIN GROUP (ORDER BY %(expressions)s)"


def course(deployment: Deployment, *, days: int) -> list[dict[str, float | int | None]]:
    """Return figures by hour, or by day over more than a week, the oldest first; `step` is the Unix time in seconds.

    Times without a request count 0 of everything and have no times of answers.
    """
    width, trunc = (timedelta(hours=1), TruncHour) if days <= 7 else (timedelta(days=1), TruncDay)
    now = timezone.now().replace(minute=0, second=0, microsecond=0)
    last = now if days <= 7 else timezone.localtime(now).replace(hour=0)
    first = last - timedelta(days=days) + width
    asked = deployment.team.inferencerecords.filter(version__deployment=deployment, at__gte=first)
    slow = NinetyFifth("duration_ms", filter=Q(status=200))
    grouped = asked.annotate(begin=trunc("at")).values("begin").order_by().annotate(**_FIGURES, slow_ms=slow)
    known: dict[datetime, dict[str, Any]] = {row["begin"]: dict(row) for row in grouped}
    begins = [first + width * place for place in range(round((last - first) / width) + 1)]
    return [_point(begin, known.get(begin, {})) for begin in begins]


@dataclass(frozen=True)
class Side:
    """What a version did with requests to the plain name since a canary began; times in seconds, of answers.

    Each is judged by the requests that were drawn for it: `replaced` are those of the canary that it could not answer,
    and what the live version made of these counts for neither.
    """

    version: DeploymentVersion
    share: int
    requests: int
    errors: int
    replaced: int
    median_s: float | None
    slow_s: float | None
    corrections: int


def side_by_side(deployment: Deployment) -> list[Side]:
    """Return the live version and the canary beside each other, with one query; nothing without a canary."""
    live, canary, share = deployment.live_version, deployment.canary_version, deployment.canary_share
    if live is None or canary is None or share is None:
        return []
    asked = deployment.team.inferencerecords.filter(
        version__in=[live, canary], model=deployment.name, at__gte=deployment.canary_since
    ).exclude(attempt=InferenceRecord.Attempt.INSTEAD)
    slow = NinetyFifth("duration_ms", filter=Q(status=200))
    corrected = Count("pk", filter=Q(text__correction__gt=""))
    drawn = {"requests": Count("pk"), "errors": Count("pk", filter=_IS_ERROR), "replaced": Count("pk", filter=~_COUNTS)}
    figures = {**_FIGURES, **drawn, "slow_ms": slow, "corrections": corrected}
    grouped = asked.order_by().values("version").annotate(**figures)
    known: dict[UUID, dict[str, Any]] = {row["version"]: dict(row) for row in grouped}
    return [_side(version, part, known.get(version.pk, {})) for version, part in ((live, 100 - share), (canary, share))]


def _side(version: DeploymentVersion, share: int, row: dict[str, Any]) -> Side:
    return Side(
        version=version,
        share=share,
        requests=int(row.get("requests") or 0),
        errors=int(row.get("errors") or 0),
        replaced=int(row.get("replaced") or 0),
        median_s=_seconds(row.get("median_ms")),
        slow_s=_seconds(row.get("slow_ms")),
        corrections=int(row.get("corrections") or 0),
    )


def _point(begin: datetime, row: dict[str, Any]) -> dict[str, float | int | None]:
    return {
        "step": int(begin.timestamp()),
        "requests": int(row.get("requests") or 0),
        "errors": int(row.get("errors") or 0),
        "median_s": _seconds(row.get("median_ms")),
        "slow_s": _seconds(row.get("slow_ms")),
        "prompt_tokens": int(row.get("prompt_tokens") or 0),
        "completion_tokens": int(row.get("completion_tokens") or 0),
    }


def _first_hour() -> datetime:
    return timezone.now().replace(minute=0, second=0, microsecond=0) - timedelta(hours=HOURS - 1)


_IS_ERROR = Q(status__gte=400) & ~Q(status=499)
# Callers asked once where the live version replaced what the canary could not answer.
_COUNTS = ~Q(attempt=InferenceRecord.Attempt.REPLACED)
_FIGURES = {
    "requests": Count("pk", filter=_COUNTS),
    "errors": Count("pk", filter=_IS_ERROR & _COUNTS),
    "median_ms": Median("duration_ms", filter=Q(status=200)),
    "prompt_tokens": Sum("prompt_tokens"),
    "completion_tokens": Sum("completion_tokens"),
}


def _seconds(milliseconds: float | None) -> float | None:
    return milliseconds / 1000 if milliseconds is not None else None
