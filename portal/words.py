"""Short texts that people type for others to read: names, reasons, messages."""

from __future__ import annotations

from django.utils.translation import gettext as _

from portal.errors import InvalidInput


def checked_words(text: str, *, param: str, longest: int, may_be_empty: bool = False) -> str:
    """Return a text without blanks around it. Raises: InvalidInput if it is empty, too long or not one line."""
    text = text.strip()
    if not text and not may_be_empty:
        raise InvalidInput(_("Write at least a word here."), param=param)
    if len(text) > longest:
        raise InvalidInput(_("This may have at most %(longest)d characters.") % {"longest": longest}, param=param)
    if not all(character.isprintable() for character in text):
        raise InvalidInput(_("This has to be one line, without control characters."), param=param)
    return text
