"""What is wrong with a text that is no JSON, in plain words instead of a parser's."""

import json

from datasets_app.readers.sentences import gettext_noop

NO_OBJECT = gettext_noop("it is a value of another kind")
ENDS_EARLY = gettext_noop("it ends before it is complete: a closing quote or bracket is missing")
NO_VALUE = gettext_noop("a value is missing, or a comma is too many")
NOT_QUOTED = gettext_noop("a text stands without double quotes; only numbers, true, false and null need none")
# Beginnings of what Python's parser says, which tells no codes.
REASONS = {
    "Expecting property name": gettext_noop("a name in double quotes is missing, or a comma is too many"),
    "Expecting ':'": gettext_noop("a colon is missing after a name"),
    "Expecting ','": gettext_noop("a comma or a closing bracket is missing"),
    "Extra data": gettext_noop("it goes on after its end"),
    "Invalid control": gettext_noop("a text holds a line break or a tab; write \\n or \\t"),
    "Invalid \\": gettext_noop("a backslash stands where none belongs; write two for one"),
}
UNKNOWN = gettext_noop("something stands there that does not belong there")


def reason_of(error: json.JSONDecodeError) -> str:
    """Return what is wrong at the position of a parser's error."""
    rest = error.doc[error.pos :].lstrip()
    if not rest or error.msg.startswith("Unterminated"):
        return ENDS_EARLY
    if error.msg == "Expecting value":
        return NO_VALUE if rest[0] in ",:]}" else NOT_QUOTED
    return next((words for start, words in REASONS.items() if error.msg.startswith(start)), UNKNOWN)
