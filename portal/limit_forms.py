"""Forms for limits, in the units in which people think of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from django import forms
from django.core.validators import MaxValueValidator, MinValueValidator
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from portal.models import Quota
from portal.quotas import written

# How much of what is stored makes one of what is typed, and its name.
_UNITS: Mapping[Quota, tuple[int, Any]] = {
    Quota.GPU_SECONDS: (3600, gettext_lazy("hours")),
    Quota.STORAGE_BYTES: (10**9, gettext_lazy("GB")),
}
_MOST = 10**15


class DefaultLimitsForm(forms.Form):
    """The limits of all teams that have none of their own; an empty one is no limit."""

    def __init__(self, *args: Any, present: Mapping[Quota, int | None], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.present = present
        for kind in Quota:
            self.fields[kind.value] = _amount_field(kind, present[kind])
            self.fields[kind.value].help_text = _("Empty: no limit.")

    def changes(self) -> Iterator[tuple[Quota, int | None]]:
        """Yield the limits that differ from those that hold."""
        for kind in Quota:
            value = _stored(kind, self.cleaned_data[kind.value])
            if value != self.present[kind]:
                yield kind, value


class TeamLimitsForm(forms.Form):
    """One team's limits: the platform's, one of its own, or none."""

    PLATFORM, OWN, NONE = "platform", "own", "none"

    def __init__(
        self,
        *args: Any,
        present: Mapping[Quota, int | None],
        defaults: Mapping[Quota, int | None],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.present = present
        for kind in Quota:
            mode = self.PLATFORM if kind not in present else self.NONE if present[kind] is None else self.OWN
            shared = _("As all teams: %(limit)s") % {"limit": written(kind, defaults[kind])}
            choices = [(self.PLATFORM, shared), (self.OWN, _("Its own limit")), (self.NONE, _("No limit"))]
            self.fields[f"{kind.value}_mode"] = forms.ChoiceField(label=kind.label, choices=choices, initial=mode)
            amount = _amount_field(kind, present.get(kind))
            amount.label = _("Its own limit")
            amount.shown_if = (f"{kind.value}_mode", (self.OWN,))  # type: ignore[attr-defined]
            self.fields[kind.value] = amount

    def pairs(self) -> list[tuple[forms.BoundField, forms.BoundField]]:
        """Return the choice and the amount of each limit, for the page."""
        return [(self[f"{kind.value}_mode"], self[kind.value]) for kind in Quota]

    def clean(self) -> dict[str, Any]:
        """Want an amount for each limit of its own."""
        cleaned: dict[str, Any] = super().clean() or {}
        for kind in Quota:
            is_own = cleaned.get(f"{kind.value}_mode") == self.OWN
            if is_own and cleaned.get(kind.value) is None and kind.value not in self.errors:
                self.add_error(kind.value, _("Write the limit, or choose another entry."))
        return cleaned

    def changes(self) -> Iterator[tuple[Quota, bool, int | None]]:
        """Yield what differs from what holds: the limit, whether it is the team's own, and its amount."""
        for kind in Quota:
            mode = self.cleaned_data[f"{kind.value}_mode"]
            value = _stored(kind, self.cleaned_data[kind.value]) if mode == self.OWN else None
            is_own = mode != self.PLATFORM
            if is_own != (kind in self.present) or (is_own and value != self.present[kind]):
                yield kind, is_own, value


def _amount_field(kind: Quota, present: int | None) -> forms.Field:
    size, unit = _UNITS.get(kind, (1, ""))
    # As validators and not as min_value and max_value, which the page would write beside each amount.
    within = [MinValueValidator(0), MaxValueValidator(_MOST)]
    options: dict[str, Any] = {"label": kind.label, "required": False, "validators": within}
    if size == 1:
        field: forms.Field = forms.IntegerField(initial=present, **options)
    else:
        initial = None if present is None else f"{round(Decimal(present) / size, 2).normalize():f}"
        field = forms.DecimalField(max_digits=12, decimal_places=2, initial=initial, **options)
    field.unit = unit  # type: ignore[attr-defined]
    return field


def _stored(kind: Quota, typed: Decimal | int | None) -> int | None:
    return None if typed is None else int(typed * _UNITS.get(kind, (1, ""))[0])
