"""Versions from before rows were kept as Parquet: their JSON lines become Parquet, once."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from django.utils.translation import gettext as _

from datasets_app import store
from datasets_app.models import DatasetVersion, Split
from datasets_app.rows import CanonicalRow
from portal.errors import PortalError
from portal.rls import all_teams, team_scope

logger = logging.getLogger(__name__)


class RowsDiffer(PortalError):
    """The JSON lines of a version do not hold as many rows as were imported."""

    code = "rows_differ"


def convert_old_versions() -> int:
    """Convert every ready version that still has its rows as JSON lines only; return how many were converted.

    A version that cannot be converted stays as it is, and the log names it.
    """
    with all_teams("an upgrade looks after every team's versions"):
        ready = list(DatasetVersion.unscoped.filter(status=DatasetVersion.Status.READY).select_related("team"))
    converted = 0
    for version in ready:
        if any(_old_path(version, split).exists() for split in Split):
            try:
                _convert(version)
                converted += 1
            except (OSError, ValueError, LookupError, PortalError):
                logger.exception("dataset version %s could not be converted", version.pk)
    return converted


def _convert(version: DatasetVersion) -> None:
    """Write the Parquet files, note the new hash and size, and keep the JSON lines as what runs train on."""
    written: dict[str, store.WrittenRows] = {}
    for split in (split for split in Split if version.row_count(split)):
        old, first_id = _old_path(version, split), 1 + sum(part.rows for part in written.values())
        # An attempt that was interrupted may have moved this one away already.
        source = old if old.exists() else version.export_path(split)
        part = store.write_rows(version.rows_path(split), _with_ids(source, first_id))
        if part.rows != version.row_count(split):
            raise RowsDiffer(_("The file of %(split)s rows is damaged.") % {"split": split.label})
        written[split.value] = part
    with team_scope(version.team_id):
        DatasetVersion.unscoped.filter(pk=version.pk).update(
            content_hash=store.content_hash(written), size_bytes=sum(part.size_bytes for part in written.values())
        )
    version.export_path(Split.TRAIN).parent.mkdir(exist_ok=True)
    for split in Split:
        if _old_path(version, split).exists():
            _old_path(version, split).replace(version.export_path(split))


def _with_ids(path: Path, first_id: int) -> Iterator[CanonicalRow]:
    for number, row in enumerate(store.read_jsonl(path), first_id):
        yield replace(row, id=number)


def _old_path(version: DatasetVersion, split: Split) -> Path:
    return version.folder / f"{split.value}.jsonl"
