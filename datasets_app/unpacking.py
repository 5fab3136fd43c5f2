"""Containers of the portal's own files: unpacked beside the upload, by a child that may be sacrificed."""

from __future__ import annotations

import secrets
from collections.abc import Container
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

from django.conf import settings

from datasets_app.capped import run_capped
from datasets_app.models import SourceFile
from datasets_app.readers import DEFAULT_LIMITS, Limits

# Text is a few times as large as the Parquet file or archive that it came in.
UNPACKED_PER_BYTE: Final = 4
# A sheet is held whole while it is read; Parquet and archives need a fraction of this.
UNPACK_MEMORY_BYTES: Final = 1 << 30
UNPACK_CPU_SECONDS: Final = 180


def limits() -> Limits:
    """Return the bounds of an import; how large a file may be as it is uploaded, `store` knows."""
    unpacked = UNPACKED_PER_BYTE * settings.MAX_DATASET_BYTES
    return replace(DEFAULT_LIMITS, max_bytes=unpacked, max_unpacked_bytes=unpacked)


def unpacked_path(source: SourceFile, part: str = "") -> Path:
    """Return where a part of a container lies as text, unpacking it if nobody has asked for it yet.

    Raises: FileRefused, WorkRefused.
    """
    path = source.path_of(part or source.part)
    if not path.exists():
        look = SourceFile(pk=source.pk, version=source.version, within=source.within, name=source.name)
        look.parts, look.part = source.parts, part or source.part
        unpack(look)
        keep_only(source, {source.part, look.part})
    return path


def keep_only(source: SourceFile, kept: Container[str]) -> None:
    """Take away the text of other parts: it is not counted, and unpacked again when somebody asks for it."""
    for part in source.parts:
        if part not in kept:
            source.path_of(part).unlink(missing_ok=True)


def unpack(source: SourceFile) -> None:
    """Unpack the wanted part of a container in a capped child, and note what there is.

    Raises: FileRefused, WorkRefused.
    """
    # Two may look at the same sheet at once.
    aside = source.version.folder / f"source-{source.pk}.{secrets.token_hex(4)}.unpacking"
    arguments = {"path": str(source.upload_path), "out": str(aside), "part": source.part, "limits": asdict(limits())}
    try:
        found = run_capped(
            "datasets_app.readers.containers.unpacking:unpack",
            arguments,
            memory_bytes=UNPACK_MEMORY_BYTES,
            cpu_seconds=UNPACK_CPU_SECONDS,
            file_bytes=limits().max_unpacked_bytes,
        )
        source.container, source.is_text = found["container"], found["is_text"]
        source.part, source.parts = found["part"], found["parts"]
        source.unpacked_bytes = aside.stat().st_size
        aside.replace(source.path_of(source.part))
    finally:
        aside.unlink(missing_ok=True)
