"""The first tenant wall: rows that belong to a team are reached through the team, never through `Model.objects`."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from django.db import models

if TYPE_CHECKING:
    from portal.models import Team


class UnscopedAccess(RuntimeError):
    """Code asked for a team's rows without saying whose."""


class CrossTeamReference(RuntimeError):
    """A row of one team was about to point at a row of another."""


class _ClosedDoor:
    """Stands where Django puts `objects` and refuses to open."""

    def __get__(self, instance: object, owner: type[models.Model]) -> NoReturn:
        raise UnscopedAccess(f"{owner.__name__}.objects is closed: start from request.team or from a parent row.")


class TeamOwned(models.Model):
    """A row with an owner team; `team.<model>s` is its scoped manager."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    team = models.ForeignKey("portal.Team", on_delete=models.CASCADE, related_name="%(class)ss")

    unscoped = models.Manager()  # first, so that Django's own machinery (unique checks, cascades) uses it
    objects = _ClosedDoor()

    class Meta:
        abstract = True

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save, unless a foreign key leads to another team's row."""
        for field in self._meta.concrete_fields:
            if field.is_relation and field.related_model and issubclass(field.related_model, TeamOwned):
                self._refuse_stranger(field)
        super().save(*args, **kwargs)

    def _refuse_stranger(self, field: models.Field[Any, Any]) -> None:
        if getattr(self, field.attname) is None:
            return
        if getattr(self, field.name).team_id != self.team_id:
            raise CrossTeamReference(f"{self._meta.label}.{field.name}")


def narrow_to_team(fields: Mapping[str, Any], team: Team) -> None:
    """Limit every choice of a team-owned row in a form's or serializer's `fields` to `team`."""
    for field in fields.values():
        queryset = getattr(field, "queryset", None)
        if queryset is not None and issubclass(queryset.model, TeamOwned):
            field.queryset = queryset.filter(team=team)
