"""Fetch all files of a source, and make one file of each split."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
from django.utils.translation import gettext as _

from datasets_app.capped import run_capped
from datasets_app.models import Split
from datasets_app.readers import DataError, FileRefused
from datasets_app.remote.azure import AzureBlobs
from datasets_app.remote.base import Remote, RemoteFile
from datasets_app.remote.bucket import Bucket
from datasets_app.remote.hub import HubDataset
from datasets_app.remote.kaggle import KaggleDataset
from datasets_app.remote.web import WebFile
from datasets_app.sources import FetchedFile
from portal import outbound
from portal.errors import InvalidSource
from portal.reachable import OutboundFailed

# Bytes that came so far, and of all files if their sizes are known. May raise to stop.
Beat = Callable[[int, int | None], None]
ADAPTERS: Final[Mapping[str, Callable[[Mapping[str, str], str, httpx.Client], Remote]]] = {
    "url": WebFile,
    "s3": Bucket,
    "azure": AzureBlobs,
    "huggingface": HubDataset,
    "kaggle": KaggleDataset,
}
MAX_SECONDS: Final = 2 * 60 * 60
JOIN_MEMORY_BYTES: Final = 1 << 30
JOIN_CPU_SECONDS: Final = 600
# As many addresses as the origin of one file names.
MOST_NAMED: Final = 20


@dataclass(frozen=True)
class Gathered:
    """The file of one split, and where it came from: kind, address, revision and the files it was made of."""

    file: FetchedFile
    origin: dict[str, object]


def gather(
    source: Mapping[str, str], secret: str, folder: Path, *, max_bytes: int, beat: Beat, room: Callable[[int], None]
) -> dict[Split, Gathered]:
    """Fetch a source into a folder. `room` is told the bytes to come, if they are known, and may refuse them.

    Raises: PortalError with a sentence; what `beat` and `room` raise; OSError.
    """
    with outbound.client() as http:
        remote = ADAPTERS[source["kind"]](source, secret, http)
        files = remote.files()
        sizes = [file.size_bytes for file in files]
        total = sum(size or 0 for size in sizes) if None not in sizes else None
        if total is not None:
            if total > max_bytes:
                raise outbound.too_large(max_bytes)
            room(total)
        paths, revisions = _fetched(remote, files, folder, max_bytes, total, beat)
    return {
        split: _whole(source["kind"], split, [file for file in files if file.split == split], paths, revisions, folder)
        for split in dict.fromkeys(file.split for file in files)
    }


def _fetched(
    remote: Remote, files: Sequence[RemoteFile], folder: Path, max_bytes: int, total: int | None, beat: Beat
) -> tuple[dict[str, Path], dict[str, str]]:
    paths: dict[str, Path] = {}
    revisions: dict[str, str] = {}
    done = 0
    for number, file in enumerate(files):
        paths[file.key] = path = folder / f"{number}.part"
        before = done

        def told(now: int, of_file: int | None, before: int = before) -> None:
            beat(before + now, total if total is not None or len(files) > 1 else of_file)

        revisions[file.key] = remote.fetch(
            file, path, max_bytes=max_bytes - done, max_seconds=MAX_SECONDS, progress=told
        )
        done += path.stat().st_size
        if file.sha256 and _sha256(path) != file.sha256:
            raise OutboundFailed(
                _("“%(file)s” is not what the other side said it would be. Try again.") % {"file": file.name},
                code="source_changed",
            )
    return paths, revisions


def _whole(
    kind: str,
    split: Split,
    files: Sequence[RemoteFile],
    paths: Mapping[str, Path],
    revisions: Mapping[str, str],
    folder: Path,
) -> Gathered:
    first = files[0]
    path = paths[first.key]
    if len(files) > 1:
        path = folder / f"{split.value}.whole"
        _join(files, [paths[file.key] for file in files], path)
    origin: dict[str, object] = {
        "kind": kind,
        "address": first.address if len(files) == 1 else _("%(first)s and %(more)d more files") % {
            "first": first.address, "more": len(files) - 1,
        },
        "revision": revisions[first.key],
        "files": [{"address": file.address, "revision": revisions[file.key]} for file in files[:MOST_NAMED]],
    }  # fmt: skip
    return Gathered(FetchedFile(first.name, path, path.stat().st_size, _sha256(path)), origin)


def _join(files: Sequence[RemoteFile], pieces: Sequence[Path], whole: Path) -> None:
    first = files[0]
    kinds = {Path(file.name).suffix.lower() for file in files}
    try:
        if len(kinds) > 1:
            raise FileRefused("shards_differ")
        run_capped(
            "datasets_app.readers.containers.shards:join",
            {"paths": [str(piece) for piece in pieces], "out": str(whole), "kind": kinds.pop()},
            memory_bytes=JOIN_MEMORY_BYTES,
            cpu_seconds=JOIN_CPU_SECONDS,
        )
    except DataError as error:
        raise InvalidSource(f"“{first.address}”: {error.sentence(_)}", param="source", code=error.code) from None
    for piece in pieces:
        piece.unlink()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
