"""Turn a growing list of token ids into text that can be sent piece by piece."""

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]

REPLACEMENT = "\ufffd"
MAX_PENDING_TOKENS = 8
"""A UTF-8 character has at most 4 bytes, so a longer undecodable tail is broken text, not an unfinished one."""


class IncrementalDetokenizer:
    """Decodes token by token; never emits a part of a character.

    The concatenation of everything returned equals the text of all tokens. A few tokens of context are decoded again
    each time, because tokenizers may write a token differently at the beginning of a text.
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._context = 0
        self._emitted = 0
        self._context_text = ""

    def push(self, token_id: int) -> str:
        """Return the text that became certain with this token."""
        self._ids.append(token_id)
        text = self._decode(self._ids[self._context :])
        unfinished = text.endswith(REPLACEMENT) and len(self._ids) - self._emitted < MAX_PENDING_TOKENS
        if unfinished or len(text) <= len(self._context_text):
            return ""
        return self._advance(text)

    def finish(self) -> str:
        """Return what is still held back; broken bytes become replacement characters."""
        text = self._decode(self._ids[self._context :])
        return self._advance(text) if len(text) > len(self._context_text) else ""

    def _advance(self, text: str) -> str:
        delta = text[len(self._context_text) :]
        self._context, self._emitted = self._emitted, len(self._ids)
        self._context_text = self._decode(self._ids[self._context :])
        return delta


class StopScanner:
    """Cuts a text stream at the first stop string; holds back what may be the beginning of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """Return what may be shown after this piece of text; nothing at or after a stop string ever is."""
        if self.stopped:
            return ""
        if not self._stops:
            return text
        text = self._held + text
        found = [position for stop in self._stops if (position := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        held = self._possible_beginning(text)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def finish(self) -> str:
        """Return the held text: no stop string can complete it any more."""
        held, self._held = self._held, ""
        return held

    def _possible_beginning(self, text: str) -> int:
        """Return the length of the longest end of the text that begins a stop string."""
        longest = max(len(stop) for stop in self._stops) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0


class TextStream:
    """Detokenizer and stop scanner of one sequence."""

    def __init__(self, decode: Decode, stops: Sequence[str] = ()) -> None:
        self._detokenizer = IncrementalDetokenizer(decode)
        self._scanner = StopScanner(stops)

    @property
    def stopped(self) -> bool:
        """Whether a stop string has appeared."""
        return self._scanner.stopped

    def push(self, token_id: int) -> str:
        """Return the text that may be sent after this token."""
        return self._scanner.push(self._detokenizer.push(token_id))

    def finish(self) -> str:
        """Return the rest of the text at the end of the sequence."""
        return self._scanner.push(self._detokenizer.finish()) + self._scanner.finish()
