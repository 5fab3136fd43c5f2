"""The bytes that each token of a vocabulary stands for: a token may hold a part of a character only."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from tokenizers import Tokenizer

_BYTE_TOKEN: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>\Z")
_WORD_START: Final = "\u2581"


def _byte_letters() -> dict[str, int]:
    """Return which byte each letter of a byte-level vocabulary stands for.

    Printable bytes stand for themselves, the others are moved behind them. Source: GPT-2's encoder.py.
    """
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    moved = (byte for byte in range(256) if byte not in plain)
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(moved)}


_LETTERS: Final = _byte_letters()


class TokenBytes:
    """Tells the bytes of tokens; those of an answer's tokens, joined, are its text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Read from the tokenizer how its vocabulary is written."""
        self._tokenizer = tokenizer
        self._added = {place: token.content for place, token in tokenizer.get_added_tokens_decoder().items()}
        self._is_byte_level = "ByteLevel" in set(_decoders(json.loads(tokenizer.to_str()).get("decoder")))

    def of(self, token_id: int) -> bytes:
        """Return the bytes of a token, none for an id that the vocabulary does not have."""
        token = self._tokenizer.id_to_token(token_id)
        if token is None:
            return b""
        if token_id in self._added:
            return self._added[token_id].encode()
        if self._is_byte_level and all(letter in _LETTERS for letter in token):
            return bytes(_LETTERS[letter] for letter in token)
        if found := _BYTE_TOKEN.match(token):
            return bytes([int(found[1], 16)])
        return token.replace(_WORD_START, " ").encode()


def _decoders(described: Any) -> list[str]:
    """Return the kinds of decoders of a tokenizer, those inside of a sequence of them included."""
    if not isinstance(described, dict):
        return []
    inner = [kind for one in described.get("decoders", ()) for kind in _decoders(one)]
    return [str(described.get("type")), *inner]
