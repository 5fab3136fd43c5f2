"""What the usage ledger says of one month: by day, by API token, by model; for one team, or for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, timedelta
from typing import Any
from uuid import UUID

from django.db.models import Max, QuerySet, Sum
from django.utils import timezone
from django.utils.translation import gettext as _

from portal.models import Team, UsageDay
from portal.models.usage import NOBODY
from portal.rls import all_teams

MONTHS_BACK = 24
_SUMS = {
    name: Sum(name, default=0) for name in ("requests", "errors", "prompt_tokens", "completion_tokens", "gpu_seconds")
}


@dataclass(frozen=True)
class Month:
    """A month of UTC."""

    first: date

    @classmethod
    def present(cls) -> Month:
        """Return the month that it is now."""
        return cls(timezone.now().astimezone(UTC).date().replace(day=1))

    @classmethod
    def of(cls, text: str) -> Month:
        """Return the month that an address names as 2027-03; the present one for anything else."""
        present = cls.present()
        try:
            asked = cls(date.fromisoformat(f"{text}-01"))
        except ValueError:
            return present
        earliest = (present.first - timedelta(days=30 * MONTHS_BACK)).replace(day=1)
        return asked if earliest <= asked.first <= present.first else present

    def __str__(self) -> str:
        return f"{self.first:%Y-%m}"

    @property
    def is_present(self) -> bool:
        """Whether it is this month."""
        return self == Month.present()

    @property
    def next(self) -> Month:
        """The month after it."""
        return Month((self.first + timedelta(days=32)).replace(day=1))

    @property
    def previous(self) -> Month:
        """The month before it."""
        return Month((self.first - timedelta(days=1)).replace(day=1))

    def days(self) -> Iterator[date]:
        """Yield its days."""
        day = self.first
        while day < self.next.first:
            yield day
            day += timedelta(days=1)

    def rows(self, usage: QuerySet[UsageDay]) -> QuerySet[UsageDay]:
        """Return the rows of this month, without an order of their own."""
        return usage.filter(day__gte=self.first, day__lt=self.next.first).order_by()


@dataclass(frozen=True)
class Line:
    """One line of a table: what somebody or something used in the month."""

    label: str
    requests: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    gpu_seconds: float = 0.0
    storage_bytes: int = 0
    note: str = ""
    slug: str = ""

    @property
    def tokens(self) -> int:
        """Tokens read and written."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class Report:
    """One team's month."""

    month: Month
    total: Line
    days: list[Line]
    by_token: list[Line]
    by_model: list[Line]
    charts: list[tuple[str, list[dict[str, object]]]] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was used."""
        return not self.total.requests and not self.total.gpu_seconds


def team_report(team: Team, month: Month) -> Report:
    """Return what a team used in a month. Call it in the team's row scope."""
    rows = month.rows(team.usagedays.all())
    used = {row["day"]: row for row in rows.values("day").annotate(**_SUMS)}
    days = [_line(f"{day:%Y-%m-%d}", used.get(day, {})) for day in month.days()]
    requests = rows.filter(requests__gt=0)
    names = _token_names(team)
    by_token = [
        _line(label, row, note=note)
        for row in requests.values("token_id").annotate(**_SUMS).order_by("-requests")
        for label, note in [names.get(row["token_id"], (_("A token that is gone"), ""))]
    ]
    by_model = [
        _line(row["model"], row) for row in requests.values("model").annotate(**_SUMS).order_by("-requests", "model")
    ]
    return Report(month, _line("", rows.aggregate(**_SUMS)), days, by_token, by_model, _charts(days))


def platform_report(month: Month) -> list[Line]:
    """Return what each team used in a month, by name; storage as last measured in it."""
    with all_teams("platform admins see what all teams use"):
        rows = month.rows(UsageDay.unscoped.all())
        used = {row["team_id"]: row for row in rows.values("team_id").annotate(**_SUMS)}
        measured = rows.filter(model="", token_id=NOBODY).values("team_id").annotate(last=Max("day"))
        last = {row["team_id"]: row["last"] for row in measured}
        stored = {
            row.team_id: row.storage_bytes
            for row in UsageDay.unscoped.filter(model="", token_id=NOBODY, day__in=set(last.values()))
            if last.get(row.team_id) == row.day
        }
        return [
            _line(team.name, {**used.get(team.pk, {}), "storage_bytes": stored.get(team.pk, 0)}, slug=team.slug)
            for team in Team.objects.order_by("name")
        ]


def _line(label: str, sums: Mapping[str, Any], *, note: str = "", slug: str = "") -> Line:
    names = (*_SUMS, "storage_bytes")
    return Line(label, note=note, slug=slug, **{name: sums[name] for name in names if name in sums})


def _token_names(team: Team) -> dict[UUID, tuple[str, str]]:
    tokens = team.apitokens.select_related("created_by", "service_account")
    names = {token.pk: (token.name, f"tnp_{token.key_id}_… · {token.belongs_to}") for token in tokens}
    return {**names, NOBODY: (_("People in the playground"), "")}


def _charts(days: list[Line]) -> list[tuple[str, list[dict[str, object]]]]:
    return [
        (_("Requests a day"), [{"label": day.label, "value": day.requests} for day in days]),
        (_("Tokens a day"), [{"label": day.label, "value": day.tokens} for day in days]),
        (_("GPU minutes a day"), [{"label": day.label, "value": round(day.gpu_seconds / 60, 1)} for day in days]),
    ]
