"""What every kind of source can do, and what is known about a file before and after it is fetched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from django.utils.translation import gettext as _

from datasets_app.models import Split
from datasets_app.readers.containers.archives import NOT_TABLES, TABLE_NAME, split_of
from portal.errors import InvalidInput
from portal.outbound import Progress
from portal.reachable import OutboundFailed

# A prefix or a data set with more files than that is not meant to be one table.
MOST_FILES = 200
MOST_LISTED = 10_000


@dataclass(frozen=True)
class RemoteFile:
    """One file of a source: `key` finds it, `address` is shown and kept, `revision` pins what it holds."""

    key: str
    name: str
    address: str
    split: Split = Split.TRAIN
    size_bytes: int | None = None
    revision: str = ""
    sha256: str = ""


class Remote(Protocol):
    """A source that can be listed and fetched from."""

    def files(self) -> Sequence[RemoteFile]:
        """Return the files that make up the data set. Raises: PortalError."""

    def fetch(self, file: RemoteFile, path: Path, *, max_bytes: int, max_seconds: float, progress: Progress) -> str:
        """Write one file to a new path and return its revision as the other side names it. Raises: PortalError."""


def tables_among(names: Sequence[str]) -> list[str]:
    """Return the names of files that can be imported, sorted: a folder also holds licences and pictures."""
    return sorted(name for name in names if TABLE_NAME.search(name) and not NOT_TABLES.search(name))


def split_by_name(name: str) -> Split:
    """Return the split that a file's name speaks of; without a word of it the file is for training."""
    return Split(split_of(name) or Split.TRAIN)


def few_enough(files: list[RemoteFile]) -> list[RemoteFile]:
    """Return the files, at least one of them for training. Raises: OutboundFailed if there are none or too many."""
    if not files:
        message = _("No table is there: no file that ends in .csv, .tsv, .jsonl, .json, .parquet, .xlsx or .zip.")
        raise OutboundFailed(message, code="source_empty")
    if len(files) > MOST_FILES:
        message = _("There are %(count)d files, the limit is %(limit)d. Name a folder or file below.")
        raise OutboundFailed(message % {"count": len(files), "limit": MOST_FILES}, code="source_too_many_files")
    if all(file.split != Split.TRAIN for file in files):
        if len({file.split for file in files}) > 1:
            raise OutboundFailed(_("None of the files is for training. Name a single file."), code="source_no_training")
        files = [RemoteFile(**{**vars(file), "split": Split.TRAIN}) for file in files]
    return files


def two_parts(secret: str, what: str) -> tuple[str, str]:
    """Return the two halves of a secret "name:key". Raises: InvalidInput without showing it."""
    name, colon, key = secret.strip().partition(":")
    if not (name and colon and key):
        message = _("The secret must have the form %(what)s. Store it again.") % {"what": what}
        raise InvalidInput(message, param="source.secret", code="secret_malformed")
    return name, key
