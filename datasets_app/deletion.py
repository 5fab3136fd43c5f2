"""Deleting datasets and versions: hidden at once, kept for 30 days, then gone; nothing that runs stand on is deleted.

Their files still take their place in the team's storage until they are gone. What was never ready has no list to wait
in: a discarded upload is gone at once.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Container, Iterable
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import RestrictedError
from django.utils import timezone
from django.utils.translation import gettext as _

from datasets_app import dependants
from datasets_app.models import Dataset, DatasetVersion
from datasets_app.names import clean_name
from portal import audit
from portal.actors import Actor
from portal.errors import IllegalTransition, InvalidInput
from portal.models import Team
from portal.rls import all_teams

logger = logging.getLogger(__name__)

KEPT_FOR: Final = timedelta(days=30)
NAMED: Final = 3
Status = DatasetVersion.Status


def gone_at(deleted_at: datetime) -> datetime:
    """Return when something that was deleted then goes for good."""
    return deleted_at + KEPT_FOR


@transaction.atomic
def discard_version(*, version: DatasetVersion, actor: Actor, only: Container[str] = tuple(Status)) -> bool:
    """Delete a version, and its dataset if it was the only one; a running import stops. Return whether it was there.

    A ready version waits in the list of deleted things; any other one is gone at once. One whose state is not one of
    `only` by now stays. Raises: IllegalTransition if runs were trained on it, with them in `details`.
    """
    dataset = _locked(version.team, version.dataset_id)
    # The caller may have read it long ago; meanwhile its import may have ended.
    found = version.team.datasetversions.select_for_update(of=("self",)).select_related("team", "dataset")
    current = found.filter(pk=version.pk).first()
    if current is None or current.status not in only:
        return False
    version = current
    _refuse_in_use(
        version.team, [version], _("This version is used by runs (%(users)s). Delete those experiments first.")
    )
    audit.record(version.team, actor, "dataset.version_discarded", version)
    if version.status == Status.READY:
        _hide([version], actor)
    else:
        _remove(version)
    if dataset is not None and not dataset.versions.exists():
        _delete_empty(dataset, actor)
    return True


def _delete_empty(dataset: Dataset, actor: Actor) -> None:
    audit.record(dataset.team, actor, "dataset.deleted", dataset)
    if dataset.versions(manager="with_deleted").exists():
        _hide([dataset], actor)
    else:
        dataset.delete()


@transaction.atomic
def delete_dataset(*, dataset: Dataset, actor: Actor) -> None:
    """Delete a dataset with all versions; if one of them is ready, it waits in the list of deleted things.

    Raises: IllegalTransition if runs were trained on it, with them in `details`.
    """
    if _locked(dataset.team, dataset.pk) is None:
        return
    versions = list(dataset.versions.select_for_update(of=("self",)).select_related("team"))
    _refuse_in_use(
        dataset.team, versions, _("This dataset is used by runs (%(users)s). Delete those experiments first.")
    )
    audit.record(dataset.team, actor, "dataset.deleted", dataset, versions=len(versions))
    if dataset.versions(manager="with_deleted").filter(status=Status.READY).exists():
        # One moment for all of them: so it is known what to bring back together.
        _hide([dataset, *versions], actor)
    else:
        _remove_dataset(dataset)


@transaction.atomic
def restore_dataset(*, dataset: Dataset, actor: Actor, name: str = "") -> Dataset:
    """Bring a deleted dataset back with the versions that went with it, if need be under another name.

    Raises: InvalidInput for a bad name, or if a living dataset has it.
    """
    name = clean_name(name) if name.strip() else ""
    dataset = dataset.team.datasets(manager="with_deleted").select_for_update().get(pk=dataset.pk)
    if dataset.deleted_at is None:
        return dataset
    versions = dataset.versions(manager="with_deleted")
    together = versions.filter(deleted_at=dataset.deleted_at)
    chosen = together if together.exists() else versions.filter(deleted_at__isnull=False)
    chosen.update(deleted_at=None, deleted_by=None)
    dataset.name = name or dataset.name
    dataset.deleted_at = dataset.deleted_by = None
    try:
        with transaction.atomic():
            dataset.save(update_fields=["name", "deleted_at", "deleted_by"])
    except IntegrityError:
        raise InvalidInput(
            _("There is another dataset named “%(name)s” by now. Give this one another name.") % {"name": dataset.name},
            param="name",
            code="name_taken",
        ) from None
    audit.record(dataset.team, actor, "dataset.restored", dataset)
    return dataset


@transaction.atomic
def restore_version(*, version: DatasetVersion, actor: Actor) -> DatasetVersion:
    """Bring a deleted version back. Raises: IllegalTransition if its dataset is deleted, too."""
    version = version.team.datasetversions(manager="with_deleted").select_for_update(of=("self",)).get(pk=version.pk)
    if version.dataset.deleted_at is not None:
        raise IllegalTransition(_("The dataset is deleted, too. Restore the dataset."), code="dataset_deleted")
    if version.deleted_at is not None:
        version.deleted_at = version.deleted_by = None
        version.save(update_fields=["deleted_at", "deleted_by"])
        audit.record(version.team, actor, "dataset.version_restored", version)
    return version


@transaction.atomic
def purge(*, row: Dataset | DatasetVersion, actor: Actor, typed: str) -> None:
    """Delete for good what is deleted already; `typed` has to be its name (of a version: v3).

    Raises: InvalidInput for another text; IllegalTransition if it is not deleted or something still hangs on it.
    """
    name = row.name if isinstance(row, Dataset) else row.short_name
    if typed.strip() != name:
        raise InvalidInput(_("Type %(name)s to delete it for good.") % {"name": name}, param="typed")
    if row.deleted_at is None:
        raise IllegalTransition(_("Delete it first; that can be undone."), code="not_deleted")
    audit.record(row.team, actor, "dataset.purged", row)
    try:
        with transaction.atomic():
            _remove_row(row)
    except RestrictedError:
        raise IllegalTransition(_("Something still hangs on it, so it stays."), code="in_use") from None


def prune(*, now: datetime | None = None) -> int:
    """Delete for good what has waited its time; return how many datasets and versions those were."""
    before = (now or timezone.now()) - KEPT_FOR
    with all_teams("what was deleted in any team goes after its time"):
        old: list[Dataset | DatasetVersion] = [
            *Dataset.with_deleted.filter(deleted_at__lt=before).select_related("team"),
            *DatasetVersion.with_deleted.filter(deleted_at__lt=before, dataset__deleted_at=None).select_related(
                "team", "dataset"
            ),
        ]
        return sum(_pruned(row) for row in old)


def _pruned(row: Dataset | DatasetVersion) -> bool:
    try:
        with transaction.atomic():
            audit.record(row.team, Actor.system("prune"), "dataset.purged", row)
            _remove_row(row)
    except RestrictedError:
        logger.error("%s %s was deleted although something hangs on it", row._meta.model_name, row.pk)
        return False
    return True


def _locked(team: Team, dataset_id: UUID) -> Dataset | None:
    # Restoring, deleting and deriving take turns at one dataset.
    return team.datasets.select_for_update().filter(pk=dataset_id).first()


def _hide(rows: Iterable[Dataset | DatasetVersion], actor: Actor) -> None:
    now = timezone.now()
    for row in rows:
        row.deleted_at, row.deleted_by = now, actor.user
        row.save(update_fields=["deleted_at", "deleted_by"])


def _refuse_in_use(team: Team, versions: list[DatasetVersion], refusal: str) -> None:
    users = dependants.holding(team, [version.pk for version in versions])
    if users:
        named = ", ".join(one.label for one in users[:NAMED]) + (" …" if len(users) > NAMED else "")
        details = [{"kind": one.kind, "id": str(one.pk), "name": one.label} for one in users[:100]]
        raise IllegalTransition(refusal % {"users": named}, code="in_use", details=details)


def _remove_row(row: Dataset | DatasetVersion) -> None:
    if isinstance(row, Dataset):
        _remove_dataset(row)
    else:
        _remove(row)


def _remove_dataset(dataset: Dataset) -> None:
    folders = [version.folder for version in dataset.versions(manager="with_deleted").select_related("team")]
    dataset.delete()
    for folder in folders:
        transaction.on_commit(partial(_remove_folder, folder))


def _remove(version: DatasetVersion) -> None:
    folder = version.folder
    version.delete()
    transaction.on_commit(partial(_remove_folder, folder))


def _remove_folder(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
