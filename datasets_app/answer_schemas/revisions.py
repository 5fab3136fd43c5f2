"""The revisions of a version's schema: what the doctor inferred, and what people made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from django.db import transaction
from django.db.models import Max
from django.utils.translation import gettext as _

from datasets_app.answer_schemas.words import checked_schema
from datasets_app.derive import derive_version
from datasets_app.doctor_reports import lifecycle as reports
from datasets_app.doctor_reports.services import cancel_report
from datasets_app.models import AnswerSchema, DatasetVersion, DoctorReport
from portal import audit
from portal.actors import Actor
from portal.errors import IllegalTransition, InvalidInput

Origin = AnswerSchema.Origin


@transaction.atomic
def edit_schema(*, version: DatasetVersion, actor: Actor, schema: object, based_on: int) -> AnswerSchema:
    """Add a revision of a ready version's schema, and let the doctor check the rows against it.

    `based_on` is the number of the revision that was edited. No row changes.
    Raises: IllegalTransition if somebody else has edited it by now, or the version is not ready; InvalidInput.
    """
    if version.status != DatasetVersion.Status.READY:
        raise IllegalTransition(_("Only a version that is ready has a schema."), code="not_ready")
    checked = checked_schema(schema)
    # The lock makes two edits take turns.
    locked = version.team.datasetversions.select_for_update().get(pk=version.pk)
    last = locked.schemas.aggregate(last=Max("number"))["last"] or 0
    if last != based_on:
        raise IllegalTransition(
            _("Somebody has changed the schema by now: it is at revision %(number)d. Look at it and edit it again.")
            % {"number": last},
            code="schema_changed",
        )
    revision = version.team.answerschemas.create(
        version=version, number=last + 1, origin=Origin.EDITED, schema=checked, created_by=actor.user
    )
    audit.record(version.team, actor, "schema.edited", version, revision=revision.number)
    # One that is open checks the rows against the schema before.
    for outdated in version.doctor_reports.select_for_update().filter(status__in=DoctorReport.OPEN):
        cancel_report(report=outdated, actor=actor)
    reports.examine_again(version, actor)
    return revision


@transaction.atomic
def rename_labels(
    *, version: DatasetVersion, actor: Actor, renames: Sequence[Mapping[str, str]], note: str = ""
) -> DatasetVersion:
    """Return a new version in which labels are called otherwise; two that get the same name are merged.

    `renames`: mappings with field, from and to. Raises: InvalidInput; as derive_version.
    """
    changes = [{"op": "rename_value", **one} for one in renames if one["from"] != one["to"]]
    if not changes:
        raise InvalidInput(_("Write a new name beside at least one label."), param="renames", code="no_rename")
    return derive_version(version=version, actor=actor, changes=changes, note=note or _("Labels renamed"))
