"""What people and programs may ask of the dataset doctor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from django.db import IntegrityError, transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from datasets_app.derive import derive_version
from datasets_app.doctor.options import Options
from datasets_app.doctor.report import Report
from datasets_app.doctor_reports import fixes, lifecycle
from datasets_app.models import DatasetVersion, DoctorReport
from portal import audit
from portal.actors import Actor
from portal.errors import IllegalTransition, InvalidInput
from portal.models import BaseModel

LABEL_ERRORS: Final = "label_error"
MIN_LENGTH: Final = 16
MAX_LENGTH: Final = 131_072
MAX_RARE: Final = 1_000


@transaction.atomic
def start_report(
    *,
    version: DatasetVersion,
    actor: Actor,
    base_model: str = "",
    options: Mapping[str, Any] | None = None,
) -> DoctorReport:
    """Queue an examination of a ready version; `base_model` is the slug of the one whose tokens are counted.

    Raises: IllegalTransition if the version is not ready or is being examined; InvalidInput for model and options.
    """
    if version.status != DatasetVersion.Status.READY:
        raise IllegalTransition(_("Only a version that is ready can be examined."), code="not_ready")
    checked = checked_options(options or {})
    model = _base_model(base_model)
    try:
        with transaction.atomic():
            return lifecycle.open_report(version=version, base_model=model, options=checked, actor=actor)
    except IntegrityError:
        raise IllegalTransition(
            _("This version is being examined already. Wait for the report, or cancel it first."), code="report_open"
        ) from None


def _base_model(slug: str) -> BaseModel | None:
    if not slug:
        return lifecycle.smallest_base_model()
    model = BaseModel.objects.filter(slug=slug.replace("\0", ""), is_allowed=True).first()
    if model is None:
        raise InvalidInput(
            _("There is no allowed base model '%(slug)s'. Choose one of the list.") % {"slug": slug[:80]},
            param="base_model",
            code="unknown_base_model",
        )
    return model


def checked_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that were given, in range. Raises: InvalidInput, naming the option."""
    ranges = {"max_length": (MIN_LENGTH, MAX_LENGTH), "rare_below": (0, MAX_RARE)}
    checked: dict[str, Any] = {}
    for name, value in given.items():
        if name not in ranges:
            raise InvalidInput(
                _("There is no option '%(name)s'. The options are: %(known)s.")
                % {"name": str(name)[:40], "known": ", ".join(ranges)},
                param="options",
            )
        lowest, highest = ranges[name]
        if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
            raise InvalidInput(
                _("'%(name)s' must be a whole number from %(lowest)d to %(highest)d.")
                % {"name": name, "lowest": lowest, "highest": highest},
                param=f"options.{name}",
            )
        checked[name] = value
    return checked


def default_options() -> dict[str, Any]:
    """Return the options of an examination of which nothing was said."""
    return Options().to_dict()


@transaction.atomic
def cancel_report(*, report: DoctorReport, actor: Actor) -> None:
    """Stop an examination that waits or runs; its worker notices with its next word. Raises: IllegalTransition."""
    open_ones = report.team.doctorreports.filter(pk=report.pk, status__in=DoctorReport.OPEN)
    if not open_ones.update(status=DoctorReport.Status.CANCELLED, claim=None, ended_at=timezone.now()):
        raise IllegalTransition(_("This examination is over already."), code="report_over")
    audit.record(report.team, actor, "doctor.cancelled", report.version)


@transaction.atomic
def apply_fixes(
    *,
    report: DoctorReport,
    actor: Actor,
    chosen: Mapping[str, str],
    verdicts: Mapping[int, str] | None = None,
    note: str = "",
) -> DatasetVersion | None:
    """Return a new version with the chosen fixes of a ready report: IMPORTING, and examined when it is ready.

    What was decided about personal data is noted; None is returned if nothing else was chosen than to keep them.

    `chosen` names a fix for each finding; `verdicts` what becomes of rows with a suspected label, by id.
    Raises: InvalidInput if nothing or what is not offered was chosen; IllegalTransition; QuotaExceeded.
    """
    if report.status != DoctorReport.Status.READY:
        raise IllegalTransition(_("Only a report that is ready offers fixes."), code="not_ready")
    found = Report.from_dict(report.report)
    changes = fixes.changes_for(found, report.pk, chosen, options=report.version.options)
    suspects = found.finding(LABEL_ERRORS)
    if suspects is not None and verdicts:
        changes = fixes.verdict_changes(suspects, verdicts) + changes
    decided = {kind: name for code, name in chosen.items() if (kind := fixes.kind_of(code))}
    if not changes and not decided:
        raise InvalidInput(_("Choose at least one fix."), param="fixes", code="no_fix")
    made = None
    if changes:
        made = derive_version(version=report.version, actor=actor, changes=changes, note=note or _("Doctor's fixes"))
        audit.record(report.team, actor, "doctor.fixed", report.version, new=str(made.pk), fixes=len(changes))
    for kind, choice in decided.items():
        _decide(report, actor, kind, choice, made)
    return made


def _decide(report: DoctorReport, actor: Actor, kind: str, choice: str, made: DatasetVersion | None) -> None:
    """Note what is to become of one kind of personal data; a new version knows it only from its rows."""
    report.team.personaldatadecisions.update_or_create(
        version=report.version,
        kind=kind,
        defaults={"choice": choice, "made": made if choice != "keep" else None, "decided_by": actor.user},
    )
    audit.record(report.team, actor, "doctor.personal_data_decided", report.version, kind=kind, choice=choice)
