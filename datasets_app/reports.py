"""The stored report of an import, put into words in the reader's language."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from datasets_app.capped import WorkRefused
from datasets_app.findings import WARNINGS
from datasets_app.importing import ImportRefused
from datasets_app.mapping import MappingError
from datasets_app.readers import DataError, FileRefused, RowFault
from datasets_app.readers.sentences import (
    FILE_SENTENCES,
    MAPPING_SENTENCES,
    ROW_SENTENCES,
    SPLIT_SENTENCES,
    WORK_SENTENCES,
)
from datasets_app.splits import SplitRefused

OWN_SENTENCES: Final[Mapping[str, str]] = {
    "faulty_rows": gettext_noop("Some rows are faulty, so nothing was imported."),
    "gave_up": gettext_noop(
        "The import stopped %(attempts)d times without an end. Split the file into smaller ones and try again."
    ),
    "importer_lost_access": gettext_noop(
        "The person who started this import may no longer change datasets of the team. Import the file again."
    ),
    "row_missing": gettext_noop(
        "There is no row %(row)d in the version that was to be changed (%(count)d rows are missing in all). "
        "Look at its rows and change it again."
    ),
    "answer_must_be_json": gettext_noop(
        "The new answer of row %(row)d is no JSON object, as the answers of this dataset have to be. Correct it."
    ),
    "no_training_rows": gettext_noop("No training row is left after these changes. Keep at least one."),
    "parent_missing": gettext_noop(
        "The rows of the version that was to be changed are missing on this server. Ask a platform admin to bring "
        "them back."
    ),
    "no_dates": gettext_noop(SPLIT_SENTENCES["no_dates"]),
    "disk_full": gettext_noop("The disk is full. Ask an admin to make room, then try again."),
    "finding_missing": gettext_noop(
        "The doctor's report no longer has the finding “%(finding)s”. Examine the version again and apply the fix anew."
    ),
}


@dataclass(frozen=True)
class FaultLine:
    """A faulty row, for the table of faults."""

    file: str
    line: int
    column: str
    problem: str
    advice: str


def fault_in_words(fault: Mapping[str, Any]) -> dict[str, object]:
    """Return a stored fault as {file, split, line, column, code, message}."""
    row = RowFault(fault["line"], fault["column"], fault["code"], fault["params"])
    shown = {name: fault[name] for name in ("file", "split", "line", "column", "code")}
    return shown | {"message": row.sentence(_, counts_rows=fault.get("unit") == "row")}


def fault_line(fault: Mapping[str, Any]) -> FaultLine:
    """Return a stored fault, its sentence cut into what is wrong and what to do."""
    # Cut before the parameters are filled in: they may hold full stops themselves.
    problem, stop, advice = _(ROW_SENTENCES[fault["code"]]).partition(". ")
    params = fault["params"]
    return FaultLine(
        file=fault["file"],
        line=fault["line"],
        column=fault["column"] or "",
        problem=_upper_first(problem % params) + stop.strip(),
        advice=advice % params,
    )


def error_in_words(report: Mapping[str, Any]) -> str:
    """Return why an import failed, or "" if it did not."""
    error = report.get("error")
    if not error:
        return ""
    code = error["code"]
    if code in OWN_SENTENCES:
        return _(OWN_SENTENCES[code]) % dict(error)
    sentence = _kind_of(code)(code, **error.get("params", {})).sentence(_)
    return _("“%(file)s”: %(sentence)s") % {"file": error["file"], "sentence": sentence}


def _kind_of(code: str) -> type[DataError]:
    if code in FILE_SENTENCES:
        return FileRefused
    if code in WORK_SENTENCES:
        return WorkRefused
    if code in SPLIT_SENTENCES:
        return SplitRefused
    return MappingError if code in MAPPING_SENTENCES else ImportRefused


def warnings_in_words(report: Mapping[str, Any]) -> list[str]:
    """Return the warnings about a version's rows."""
    return [_(WARNINGS[str(warning["code"])]) % warning for warning in report.get("warnings", [])]


def _upper_first(text: str) -> str:
    return text[:1].upper() + text[1:]
