"""The files of a batch: what a line of the input has to be, and the lines that come of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from django.utils.translation import gettext as _

from deployments.openai_api.files import lines_of
from portal.errors import PortalError, error_body

MOST_REQUESTS: Final = 50_000
MOST_ERRORS_TOLD: Final = 100


@dataclass(frozen=True)
class Entry:
    """One line of the input file."""

    custom_id: str
    body: Any


@dataclass(frozen=True)
class Result:
    """What came of one line."""

    line: dict[str, Any]
    is_good: bool


def check(path: Path, endpoint: str) -> tuple[int, list[dict[str, Any]]]:
    """Return how many requests a file holds, and what is wrong with it."""
    seen: set[str] = set()
    problems: list[dict[str, Any]] = []
    count = 0
    for number, line in enumerate(lines_of(path), start=1):
        count += 1
        if count > MOST_REQUESTS:
            return count, [problem("too_many_requests", None, _("A batch has up to 50,000 requests."))]
        said = _problem_of(line, endpoint, seen)
        if said:
            problems.append(problem(said[0], number, said[1]))
            if len(problems) >= MOST_ERRORS_TOLD:
                break
    return count, problems


def _problem_of(line: bytes, endpoint: str, seen: set[str]) -> tuple[str, str] | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        entry = None
    if not isinstance(entry, dict):
        return "invalid_json_line", _("This line is not a JSON object.")
    custom_id = entry.get("custom_id")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= 512:
        return "missing_required_parameter", _("'custom_id' has to be a text of 1 to 512 characters.")
    if custom_id in seen:
        return "duplicate_custom_id", _("This 'custom_id' stands in the file twice.")
    seen.add(custom_id)
    if entry.get("method") != "POST":
        return "invalid_method", _("'method' has to be POST.")
    if entry.get("url") != endpoint:
        return "mismatched_endpoint", _("'url' has to be %(endpoint)s, as the batch says.") % {"endpoint": endpoint}
    if not isinstance(entry.get("body"), dict):
        return "missing_required_parameter", _("'body' has to be an object.")
    return None


def entries_of(path: Path) -> Iterator[Entry]:
    """Yield the requests of a file that was checked."""
    for line in lines_of(path):
        entry = json.loads(line)
        yield Entry(entry["custom_id"], entry["body"])


def problem(code: str, line: int | None, message: str) -> dict[str, Any]:
    """Return one entry of a batch's list of errors."""
    return {"code": code, "line": line, "message": message, "param": None}


def answer_line(entry: Entry, request_id: str, status: int, body: Mapping[str, Any]) -> Result:
    """Return the line of an answer."""
    response = {"status_code": status, "request_id": request_id, "body": body}
    line = {"id": f"batch_{request_id}", "custom_id": entry.custom_id, "response": response, "error": None}
    return Result(line, status == 200)


def refusal_line(entry: Entry, request_id: str, error: PortalError) -> Result:
    """Return the line of a request that was refused."""
    body = error_body(error.message, kind=error.kind, code=error.code, param=error.param, details=error.details)
    return answer_line(entry, request_id, error.status, body)


def append(path: Path, lines: list[dict[str, Any]]) -> int:
    """Append lines and return the length of the file, once it is on disk."""
    with path.open("ab") as file:
        for line in lines:
            file.write(json.dumps(line, ensure_ascii=False).encode(errors="replace") + b"\n")
        file.flush()
        if lines:
            os.fsync(file.fileno())
        return file.tell()


def cut(path: Path, length: int) -> None:
    """Forget what a worker wrote that died before it could say so."""
    if path.exists() and path.stat().st_size > length:
        os.truncate(path, length)
