"""Changes of single rows that wait to be saved together as one new version: what editors do in the browser.

Several people may work on one version; each row has one waiting change, and nobody overwrites what they have not seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from django.db import transaction
from django.db.models import Count, Max, Q
from django.utils.translation import gettext as _

from datasets_app.derive import derive_version
from datasets_app.models import DatasetVersion, RowChange, Split
from datasets_app.operations import MAX_CHANGES
from datasets_app.operations.base import MAX_ID, Door
from datasets_app.operations.replace import Replace, rewritten
from datasets_app.operations.texts import is_json_answer, read_text
from datasets_app.row_search import Query, find
from datasets_app.rows import CanonicalRow
from datasets_app.stored_rows import present_paths
from portal import audit
from portal.actors import Actor
from portal.errors import IllegalTransition, InvalidInput, NotFound

# One more is for the excluded rows, and one for each split to which rows move.
MAX_WAITING: Final = MAX_CHANGES - 1 - len(Split)
MAX_AT_ONCE: Final = 1_000
TEXTS: Final = ("prompt", "answer", "system")


@dataclass(frozen=True)
class Waiting:
    """How many changes of a version wait, by what they do, and when the last one was made."""

    total: int
    edited: int
    excluded: int
    moved: int
    last_at: datetime | None


def waiting(version: DatasetVersion) -> Waiting:
    """Count the changes of a version that wait."""
    is_edited = ~Q(texts={}) & Q(is_excluded=False)
    counted = version.row_changes.aggregate(
        total=Count("pk"),
        edited=Count("pk", filter=is_edited),
        excluded=Count("pk", filter=Q(is_excluded=True)),
        moved=Count("pk", filter=~Q(moved_to="") & Q(is_excluded=False)),
        last_at=Max("changed_at"),
    )
    return Waiting(**counted)


def rows_by_id(version: DatasetVersion, ids: Iterable[int]) -> dict[int, tuple[Split, CanonicalRow]]:
    """Return the rows of a ready version with these numbers, as far as there are such rows, with their splits."""
    wanted = frozenset(one for one in ids if 0 < one < MAX_ID)
    found = find(present_paths(version), Query(ids=wanted), count=len(wanted), seconds=60)
    return {row.id: (split, row) for split, row in found.rows}


def row_of(version: DatasetVersion, row_id: int) -> tuple[Split, CanonicalRow]:
    """Return one row. Raises: NotFound."""
    found = rows_by_id(version, [row_id]) if version.status == DatasetVersion.Status.READY else {}
    if row_id not in found:
        raise NotFound(_("This version has no row %(row)d.") % {"row": row_id}, code="row_missing")
    return found[row_id]


def as_changed(row: CanonicalRow, change: RowChange | None) -> CanonicalRow:
    """Return a row with the new texts that wait for it."""
    return rewritten(row, Replace(row.id, **change.texts)) if change and change.texts else row


@transaction.atomic
def change_rows(
    *, version: DatasetVersion, actor: Actor, changes: Mapping[int, Mapping[str, Any]], seen: str | None = None
) -> int:
    """Note changes of rows, by their numbers, and return how many rows of the version have one now.

    A change may hold prompt, answer, system (new texts; None takes the old one), is_excluded and split; what it does
    not hold stays as it waits. With `seen` (see `mark_of`) a change that somebody made meanwhile is not overwritten.
    Raises: IllegalTransition, NotFound for rows that are not there, InvalidInput.
    """
    _lock(version)
    if not changes or len(changes) > MAX_AT_ONCE:
        raise InvalidInput(
            _("Change 1 to %(limit)d rows at once.") % {"limit": MAX_AT_ONCE}, param="changes", code="too_many"
        )
    rows = rows_by_id(version, changes)
    known = {change.row_id: change for change in version.row_changes.filter(row_id__in=changes)}
    for row_id, change in changes.items():
        if row_id not in rows:
            raise NotFound(
                _("This version has no row %(row)d.") % {"row": row_id}, param=f"changes.{row_id}", code="row_missing"
            )
        if seen is not None and seen != mark_of(known.get(row_id)):
            raise IllegalTransition(
                _("Somebody else changed this row meanwhile. Look at it again, then save."), code="changed_meanwhile"
            )
        _note(version, actor, known.get(row_id), *rows[row_id], change)
    audit.record(version.team, actor, "dataset.rows_changed", version, rows=len(changes))
    total = version.row_changes.count()
    if total > MAX_WAITING:
        raise InvalidInput(
            _("More than %(limit)d rows would wait. Save them as a new version first.") % {"limit": MAX_WAITING},
            code="too_many",
        )
    return total


def mark_of(change: RowChange | None) -> str:
    """Return what tells one state of a row's waiting change from another."""
    return change.changed_at.isoformat() if change else "none"


def _note(
    version: DatasetVersion,
    actor: Actor,
    known: RowChange | None,
    split: Split,
    row: CanonicalRow,
    change: Mapping[str, Any],
) -> None:
    noted = known or RowChange(team=version.team, version=version, row_id=row.id, split=split)
    door = Door(f"changes.{row.id}", change)
    texts = dict(noted.texts)
    for name in TEXTS:
        if name in change:
            texts.pop(name, None)
            new = read_text(door, name, may_be_empty=name == "system") if door.has(name) else None
            if new is not None and new != text_of(row, name):
                texts[name] = new
    if "answer" in texts and version.mapping.get("json_answers") and not is_json_answer(texts["answer"]):
        raise door.refusal("answer", _("The answers of this dataset are JSON objects; this is none."), "not_json")
    noted.texts = texts
    if door.has("is_excluded"):
        noted.is_excluded = door.value("is_excluded") is True
    if door.has("split"):
        to = door.split()
        noted.moved_to = "" if to == split else to.value
    door.refuse_unknown()
    if texts or noted.is_excluded or noted.moved_to:
        noted.changed_by = actor.user
        noted.save()
    elif known:
        known.delete()


def text_of(row: CanonicalRow, name: str) -> str:
    """Return the prompt, answer or system prompt of a row."""
    if name == "system":
        return row.messages[0]["content"] if row.messages[0]["role"] == "system" else ""
    return row.prompt if name == "prompt" else row.answer


@transaction.atomic
def undo_changes(*, version: DatasetVersion, actor: Actor, ids: Iterable[int] | None = None) -> int:
    """Forget the waiting changes of these rows, or of all; return how many those were."""
    _lock(version)
    chosen = version.row_changes.all() if ids is None else version.row_changes.filter(row_id__in=list(ids))
    count, _by_model = chosen.delete()
    if count:
        audit.record(version.team, actor, "dataset.row_changes_discarded", version, rows=count)
    return count


@transaction.atomic
def save_changes(*, version: DatasetVersion, actor: Actor, note: str = "") -> DatasetVersion:
    """Make one new version of all changes that wait; they wait no more.

    Raises: InvalidInput if none wait; and as `derive_version`.
    """
    _lock(version)
    changes = list(version.row_changes.order_by("row_id"))
    if not changes:
        raise InvalidInput(_("No changes wait to be saved."), code="nothing_to_save")
    derived = derive_version(version=version, actor=actor, changes=_operations(changes), note=note)
    version.row_changes.all().delete()
    return derived


def _operations(changes: list[RowChange]) -> list[dict[str, Any]]:
    kept = [change for change in changes if not change.is_excluded]
    excluded = [change.row_id for change in changes if change.is_excluded]
    operations: list[dict[str, Any]] = [{"op": "exclude", "ids": excluded}] if excluded else []
    operations += [{"op": "replace", "id": change.row_id, **change.texts} for change in kept if change.texts]
    for split in Split:
        moved = [change.row_id for change in kept if change.moved_to == split.value]
        operations += [{"op": "move", "ids": moved, "split": split.value}] if moved else []
    return operations


def _lock(version: DatasetVersion) -> None:
    """Make people take turns at one version. Raises: IllegalTransition if it is not ready."""
    locked = version.team.datasetversions.select_for_update(of=("self",)).filter(pk=version.pk).first()
    if locked is None or locked.status != DatasetVersion.Status.READY:
        raise IllegalTransition(_("Only the rows of a version that is ready can be changed."), code="not_ready")
