"""From an uploaded training file to the rows of a dataset version: which columns it has, and how they are read.

Three shapes are known: `messages`, `prompt` with `completion`, and preferences (`input`, `preferred_output`,
`non_preferred_output`), which are written anew with `messages` and `rejected`, as the import reads them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from django.utils.translation import gettext as _

from datasets_app.mapping import Mapping
from deployments.openai_api.files import lines_of
from portal.errors import InvalidInput

PREFERENCE_KEYS: Final = {"input", "preferred_output", "non_preferred_output"}


def mapping_for(path: Path, *, method: str, param: str) -> Mapping:
    """Return how the columns of a file become rows, by its first line. Raises: InvalidInput naming `param`."""
    first = _first_entry(path, param)
    if method == "dpo":
        if not set(first) >= PREFERENCE_KEYS:
            raise _refused(
                _("Preferences need 'input', 'preferred_output' and 'non_preferred_output' on each line."), param
            )
        return Mapping(messages="messages", rejected="rejected")
    if "messages" in first:
        return Mapping(messages="messages")
    if {"prompt", "completion"} <= set(first):
        return Mapping(prompt="prompt", response="completion")
    raise _refused(_("Each line needs 'messages', or 'prompt' and 'completion'."), param)


def _first_entry(path: Path, param: str) -> dict[str, Any]:
    line = next(lines_of(path), b"")
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        entry = None
    if not isinstance(entry, dict):
        raise _refused(_("Line 1 is not a JSON object."), param)
    return entry


def preference_lines(path: Path, *, param: str) -> Iterator[bytes]:
    """Yield the lines of a preference file as the import reads them. Raises: InvalidInput naming `param` and line."""
    for number, line in enumerate(lines_of(path), start=1):
        try:
            entry = json.loads(line)
            asked = entry["input"]["messages"]
            better, worse = (_only_text(entry[name]) for name in ("preferred_output", "non_preferred_output"))
        except (ValueError, RecursionError, KeyError, TypeError):
            raise _refused(
                _("Line %(number)d is no preference: it needs 'input' with 'messages', and two outputs of one message.")
                % {"number": number},
                param,
            ) from None
        messages = [*asked, {"role": "assistant", "content": better}]
        yield json.dumps({"messages": messages, "rejected": worse}).encode() + b"\n"


def _only_text(output: Any) -> str:
    (message,) = output
    content = message["content"]
    if not isinstance(content, str) or not content:
        raise TypeError
    return content


def _refused(message: str, param: str) -> InvalidInput:
    return InvalidInput(message, param=param, code="invalid_file_format")
