"""Reading the audit trail: filters, search, pages by keyset, and export."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any
from uuid import UUID

from django import forms
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db.models import Q, QuerySet
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.translation import gettext_lazy as _

from portal.audit_actions import ACTIONS, action_label
from portal.errors import InvalidInput
from portal.models import AuditEvent, Team

PER_PAGE = 50
_BATCH = 1000
# Days of which the day before and after can be reckoned with, in any time zone.
_SENSIBLE_DAYS = [MinValueValidator(date(1900, 1, 1)), MaxValueValidator(date(9000, 1, 1))]
COLUMNS = (
    "at", "team", "actor", "action", "outcome", "object_type", "object_id", "object_name", "ip", "request_id", "detail",
)  # fmt: skip


class FilterForm(forms.Form):
    """What to look for. Everything is optional; all of it has to fit."""

    q = forms.CharField(
        label=_("Search"),
        required=False,
        max_length=120,
        widget=forms.TextInput({"placeholder": _("Name, id, address, request")}),
    )
    person = forms.CharField(label=_("Who"), required=False, max_length=120)
    action = forms.ChoiceField(
        label=_("Action"),
        required=False,
        choices=lambda: [("", _("All")), *sorted(ACTIONS.items(), key=lambda item: str(item[1]))],
    )
    object = forms.CharField(label=_("Object"), required=False, max_length=120)
    outcome = forms.ChoiceField(
        label=_("Outcome"), required=False, choices=[("", _("All")), *AuditEvent.Outcome.choices]
    )
    since = forms.DateField(
        label=_("From"), required=False, validators=_SENSIBLE_DAYS, widget=forms.DateInput({"type": "date"})
    )
    until = forms.DateField(
        label=_("Until"), required=False, validators=_SENSIBLE_DAYS, widget=forms.DateInput({"type": "date"})
    )


class PlatformFilterForm(FilterForm):
    """The same over all teams."""

    team = forms.SlugField(label=_("Team's address"), required=False, max_length=60)

    def clean_team(self) -> Team | None:
        """Return the team of this address."""
        slug = self.cleaned_data["team"]
        team = Team.objects.filter(slug=slug).first() if slug else None
        if slug and team is None:
            raise forms.ValidationError(_("There is no team at this address."))
        return team


def matching(events: QuerySet[AuditEvent], wanted: dict[str, Any]) -> QuerySet[AuditEvent]:
    """Return the events that fit a filter form's cleaned values."""
    if text := wanted.get("q"):
        within = Q(actor__icontains=text) | Q(object_name__icontains=text)
        events = events.filter(within | Q(object_id=text) | Q(request_id=text) | _of_address(text))
    if text := wanted.get("person"):
        events = events.filter(actor__icontains=text)
    if text := wanted.get("object"):
        events = events.filter(Q(object_name__icontains=text) | Q(object_id=text) | Q(object_type=text))
    for name in ("action", "outcome"):
        if wanted.get(name):
            events = events.filter(**{name: wanted[name]})
    if wanted.get("team"):
        events = events.filter(team_id=wanted["team"].pk)
    if wanted.get("since"):
        events = events.filter(at__gte=_midnight(wanted["since"]))
    if wanted.get("until"):
        events = events.filter(at__lt=_midnight(wanted["until"] + timedelta(days=1)))
    return events


def _of_address(text: str) -> Q:
    try:
        return Q(ip=forms.GenericIPAddressField().clean(text))
    except forms.ValidationError:
        return Q()


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), tzinfo=timezone.get_default_timezone())


@dataclass(frozen=True)
class Page:
    """Some events, newest first, and where the older ones begin ('' if there are none)."""

    events: Sequence[AuditEvent]
    older: str


def page_of(events: QuerySet[AuditEvent], before: str = "") -> Page:
    """Return the events before a place in the trail, which costs the same however far back it lies.

    Raises: InvalidInput if `before` is not a place that an earlier page named.
    """
    if before:
        at, pk = _place(before)
        events = events.filter(Q(at__lt=at) | Q(at=at, id__lt=pk), at__lte=at)
    found = list(events.order_by("-at", "-id")[: PER_PAGE + 1])
    last = found[PER_PAGE - 1] if len(found) > PER_PAGE else None
    return Page(found[:PER_PAGE], f"{last.at.isoformat()}_{last.pk}" if last else "")


def _place(text: str) -> tuple[datetime, UUID]:
    at_text, _underscore, pk = text[:80].partition("_")
    try:
        at = parse_datetime(at_text.replace(" ", "+"))
        if at is None or at.tzinfo is None:
            raise ValueError
        return at, UUID(pk)
    except ValueError:
        raise InvalidInput(
            str(_("This page of the trail does not exist. Start from the newest.")), param="before"
        ) from None


def rows_for_export(events: QuerySet[AuditEvent]) -> Iterator[list[object]]:
    """Yield the cells of each event, newest first, some at a time, so that any length can be sent."""
    names: dict[UUID, str] = {}
    before: AuditEvent | None = None
    while True:
        batch = events
        if before is not None:
            batch = events.filter(Q(at__lt=before.at) | Q(at=before.at, id__lt=before.pk), at__lte=before.at)
        found = list(batch.order_by("-at", "-id")[:_BATCH])
        names |= team_names(event for event in found if event.team_id not in names)
        yield from (_cells(event, names) for event in found)
        if len(found) < _BATCH:
            return
        before = found[-1]


def _cells(event: AuditEvent, names: dict[UUID, str]) -> list[object]:
    detail = " ".join(f"{name}={value}" for name, value in event.detail.items())
    team = names.get(event.team_id, str(event.team_id)) if event.team_id else ""
    return [
        event.at.isoformat(), team, event.actor, event.action, event.outcome, event.object_type, event.object_id,
        event.object_name, event.ip or "", event.request_id, detail,
    ]  # fmt: skip


def team_names(events: Iterable[AuditEvent]) -> dict[UUID, str]:
    """Return the addresses of the teams that events speak of; deleted teams have none."""
    ids = {event.team_id for event in events if event.team_id}
    return dict(Team.objects.filter(pk__in=ids).values_list("pk", "slug")) if ids else {}


def shown(events: Iterable[AuditEvent], *, with_teams: bool) -> list[dict[str, Any]]:
    """Return events as the page's table shows them."""
    events = list(events)
    names = team_names(events) if with_teams else {}
    return [
        {
            "event": event,
            "label": action_label(event.action),
            "team": names.get(event.team_id, "") if event.team_id else "",
            "detail": ", ".join(
                f"{name}: {value}"
                for name, value in event.detail.items()
                if name != "route" and value not in ("", None)
            ),
            "route": event.detail.get("route", ""),
        }
        for event in events
    ]
