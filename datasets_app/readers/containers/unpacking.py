"""One door to every container: know it by its content, take one table out of it, name the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from datasets_app.readers.containers import archives, arrays, parquet, workbooks
from datasets_app.readers.containers.lines_out import Unpacked
from datasets_app.readers.faults import FileRefused
from datasets_app.readers.limits import Limits
from datasets_app.readers.magic import ZIP_SIGNATURES

HEAD_BYTES: Final = 4096
PARQUET_MARKS: Final = (b"PAR1", b"PARE")
GZIP_MARK: Final = b"\x1f\x8b"
# Old Office files, and new ones behind a password.
OLE_MARK: Final = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"

Unpacker = Callable[[Path, Path, str, Limits], Unpacked]


def container_of(path: Path) -> str:
    """Return which container a file seems to be: "zip" (also a workbook), "parquet", "gzip", "json", "ole", or "".

    It looks at the first bytes only, never at the name.
    """
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if head.startswith(ZIP_SIGNATURES):
        return "zip"
    if head.startswith(PARQUET_MARKS):
        return "parquet"
    if head.startswith(GZIP_MARK):
        return "gzip"
    if head.startswith(OLE_MARK):
        return "ole"
    return "json" if arrays.is_array(head) else ""


def unpack(say: Callable[[dict[str, Any]], None], *, path: str, out: str, part: str, limits: Mapping[str, int]) -> Any:
    """Write one table of the container at `path` to `out` as text; return `Unpacked` as a dictionary.

    `part` names the sheet or member; "" takes the one for training, else the first with rows. Runs in a capped child.
    Raises: FileRefused.
    """
    unpackers: dict[str, Unpacker] = {
        "zip": _unpack_zip,
        "parquet": parquet.unpack,
        "gzip": archives.unpack_gzip,
        "json": arrays.unpack,
        "ole": _refuse_ole,
    }
    container = container_of(Path(path))
    if container not in unpackers:
        raise FileRefused("container_damaged")
    return unpackers[container](Path(path), Path(out), part, Limits(**limits)).to_dict()


def _unpack_zip(path: Path, out: Path, part: str, limits: Limits) -> Unpacked:
    entries = archives.entries_of(path, limits)
    if workbooks.is_workbook(entries):
        workbooks.refuse_bomb(entries, limits)
        return workbooks.unpack(path, out, part, limits)
    archives.refuse_office(entries)
    return _unpack_member(path, out, part, limits, entries)


def _unpack_member(path: Path, out: Path, part: str, limits: Limits, entries: list[archives.Entry]) -> Unpacked:
    """Unpack one member; if it is a workbook or a Parquet file itself, the table inside."""
    tables = archives.tables_in(entries)
    names = [entry.filename for entry in tables]
    chosen = archives.chosen_of(names, part)
    archives.extract(path, tables[names.index(chosen)], out, limits)
    inner = container_of(out)
    unpacked = Unpacked("zip", chosen, names, is_text=True)
    if not inner:
        return unpacked
    member = out.with_name(out.name + ".member")
    out.replace(member)
    try:
        return unpacked.with_form_of(_unpack_inner(inner, member, out, limits))
    finally:
        member.unlink(missing_ok=True)


def _unpack_inner(container: str, member: Path, out: Path, limits: Limits) -> Unpacked:
    if container == "parquet":
        return parquet.unpack(member, out, "", limits)
    if container == "json":
        return arrays.unpack(member, out, "", limits)
    if container == "zip":
        entries = archives.entries_of(member, limits)
        if workbooks.is_workbook(entries):
            workbooks.refuse_bomb(entries, limits)
            return workbooks.unpack(member, out, "", limits)
    if container == "ole":
        return _refuse_ole(member, out, "", limits)
    raise FileRefused("archive_nested")


def _refuse_ole(path: Path, out: Path, part: str, limits: Limits) -> Unpacked:
    raise FileRefused("workbook_encrypted" if workbooks.is_encrypted(path) else "workbook_old")
