"""Bring chat messages into the one shape that the renderer reads: a role and a text."""

from collections.abc import Mapping, Sequence
from typing import Any

from gpu_worker.engine.errors import BadRequest

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
"""Roles as clients write them, and as base models know them."""


def plain_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return messages of role and text. Raises: BadRequest naming the message and its offending part."""
    return [_plain(f"messages[{index}]", message) for index, message in enumerate(messages)]


def _plain(where: str, message: Mapping[str, Any]) -> dict[str, str]:
    for name, value in message.items():
        if name not in ("role", "content") and value not in (None, [], ""):
            raise BadRequest(
                f"A message's {name!r} is not supported.", param=f"{where}.{name}"[:100], code="unsupported_parameter"
            )
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise BadRequest(f"A message's role must be one of {', '.join(ROLES)}.", param=f"{where}.role")
    return {"role": ROLES[role], "content": _text(f"{where}.content", message.get("content"))}


def _text(where: str, content: object) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise BadRequest("A message's content must be a text or a list of text parts.", param=where)
    texts = []
    for part in content:
        text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
        if not isinstance(text, str):
            raise BadRequest("Only text parts are supported in a message's content.", param=where)
        texts.append(text)
    return "".join(texts)
