"""A new version made from another one: what people and programs ask for, and every one-click fix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow.compute as compute
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from datasets_app import operations as known
from datasets_app import store
from datasets_app.lifecycle import IMPORTS
from datasets_app.models import Dataset, DatasetVersion, Split
from datasets_app.operations.add import Add
from datasets_app.operations.resplit import Resplit
from portal import audit, quotas, usage
from portal.actors import Actor
from portal.errors import IllegalTransition, InvalidInput
from portal.models import Quota

MAX_NOTE = 300


@transaction.atomic
def derive_version(
    *, version: DatasetVersion, actor: Actor, changes: Sequence[dict[str, Any]], note: str = ""
) -> DatasetVersion:
    """Return a new version that is `version` after `changes`: IMPORTING, worked on by the queue.

    `changes` are operations in their JSON form (see `datasets_app.operations`). `version` itself never changes.
    Raises: IllegalTransition if `version` is not ready; InvalidInput naming the change; QuotaExceeded for storage.
    """
    if version.status != DatasetVersion.Status.READY:
        raise IllegalTransition(_("Only a version that is ready can be changed."), code="not_ready")
    operations = known.read_changes(list(changes))
    dataset = version.team.datasets.select_for_update().get(pk=version.dataset_id)
    operations = _numbered(operations, dataset, version)
    quotas.require_room(
        version.team, Quota.STORAGE_BYTES, lambda: usage.storage_bytes(version.team), adding=version.size_bytes
    )
    derived = version.team.datasetversions.create(
        dataset=dataset,
        number=next_number(dataset),
        parent=version,
        changes=known.to_json(operations),
        note=clean_note(note),
        mapping=version.mapping,
        options=_options(version, operations),
        size_bytes=version.size_bytes,  # counted while it waits
        status=DatasetVersion.Status.IMPORTING,
        heartbeat_at=timezone.now(),
        created_by=actor.user,
    )
    audit.record(version.team, actor, "dataset.version_derived", derived, parent=str(version.pk), changes=len(changes))
    IMPORTS.enqueue(derived.pk)
    return derived


def _options(version: DatasetVersion, operations: Sequence[known.Operation]) -> dict[str, Any]:
    """Return how the rows of the new version are divided: as those of its parent, unless they are divided anew."""
    options = dict(version.options)
    for operation in operations:
        if isinstance(operation, Resplit):
            options |= {name: value for name, value in operation.options.to_dict().items() if name != "skip_faulty"}
    return options


def next_number(dataset: Dataset) -> int:
    """Return the number of the dataset's next version; the caller has locked the dataset's row."""
    last = dataset.versions(manager="with_deleted").order_by("-number").values_list("number", flat=True).first()
    return (last or 0) + 1


def clean_note(note: str) -> str:
    """Return a note as it is kept. Raises: InvalidInput."""
    cleaned = " ".join(note.split())
    if len(cleaned) > MAX_NOTE or "\0" in cleaned:
        raise InvalidInput(_("A note may have up to %(limit)d characters.") % {"limit": MAX_NOTE}, param="note")
    return cleaned


def _numbered(operations: list[known.Operation], dataset: Dataset, version: DatasetVersion) -> list[known.Operation]:
    """Give each added row a number that no row of the dataset has had; the caller has locked the dataset."""
    numbered: list[known.Operation] = []
    for operation in operations:
        if isinstance(operation, Add):
            last = max(dataset.last_row_id, _highest_id(version))
            operation = operation.numbered(last + 1)
            dataset.last_row_id = last + len(operation.rows)
            dataset.save(update_fields=["last_row_id"])
        numbered.append(operation)
    return numbered


def _highest_id(version: DatasetVersion) -> int:
    paths = [version.rows_path(split) for split in Split if version.row_count(split)]
    batches = (batch for path in paths for batch in store.read_batches(path, ["id"], rows=100_000))
    return max((compute.max(batch.column("id")).as_py() for batch in batches), default=0)
