"""Answers that follow a JSON schema: which tokens may come next, and which text must.

The schema is compiled by llguidance. What it forces (keys, quotes, the rest of a value that can only be one) is
proposed as a draft and verified in the same step as everything else, so the answer is the one that would have come
token by token, in fewer steps.
"""

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy
import torch
from llguidance import LLMatcher, LLTokenizer
from torch import Tensor

from gpu_worker.engine.errors import BadRequest

MAX_SCHEMA_BYTES = 64 * 1024
MAX_CACHED = 64
_LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""JSON as json.dumps writes it: free white space would leave nothing forced, and training answers have none."""


class GrammarBroken(Exception):
    """The grammar engine gave up on an answer: a limit was passed, or a token was not allowed."""


class GrammarState:
    """How far one answer has come in its grammar. Used by the engine's thread only."""

    def __init__(self, matcher: LLMatcher, vocabulary: int) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._bits = numpy.zeros((vocabulary + 31) // 32, dtype=numpy.int32)

    @property
    def finished(self) -> bool:
        """Whether the answer is complete, so that only its end can follow."""
        return bool(self._matcher.is_stopped())

    def mask(self, logits: Tensor) -> Tensor:
        """Return the logits with every token that must not come next at minus infinity. Shapes: (vocabulary,)."""
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        if self._matcher.is_error():
            raise GrammarBroken
        allowed = numpy.unpackbits(self._bits.view(numpy.uint8), bitorder="little")[: self._vocabulary]
        return logits.masked_fill(torch.from_numpy(allowed) == 0, float("-inf"))

    def accept(self, token_id: int) -> None:
        """Go on by one token. Raises: GrammarBroken if it is not allowed."""
        if not self._matcher.consume_token(token_id):
            raise GrammarBroken

    def forced(self, limit: int) -> tuple[int, ...]:
        """Return up to `limit` tokens of the text that must come next, as the tokenizer writes it."""
        return tuple(self._matcher.compute_ff_tokens()[:limit])


class Grammar:
    """A compiled schema; every answer starts it anew."""

    def __init__(self, matcher: LLMatcher, vocabulary: int) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary

    def start(self) -> GrammarState:
        """Return the state of an empty answer."""
        return GrammarState(self._matcher.deep_copy(), self._vocabulary)

    def is_complete(self, token_ids: Iterable[int]) -> bool:
        """Tell whether the tokens, with or without the end after them, are one whole answer."""
        matcher = self._matcher.deep_copy()
        return all(matcher.consume_token(token) for token in token_ids) and bool(matcher.is_accepting())


class GrammarCompiler:
    """Compiles schemas for one tokenizer and keeps the last ones. Any thread may use it."""

    def __init__(self, model_dir: Path, *, vocabulary: int, eos_ids: Iterable[int]) -> None:
        self._tokenizer_file = model_dir / "tokenizer.json"
        self._vocabulary = vocabulary
        self._eos_ids = sorted(eos_ids)
        self._tokenizer: LLTokenizer | None = None
        self._known: OrderedDict[str, Grammar] = OrderedDict()
        self._lock = threading.Lock()

    def compile(self, schema: Mapping[str, Any]) -> Grammar:
        """Return the grammar of a JSON schema. Raises: BadRequest (unsupported_schema) with the reason."""
        text = json.dumps(schema)
        if len(text) > MAX_SCHEMA_BYTES:
            raise _unsupported(f"it is larger than {MAX_SCHEMA_BYTES} bytes")
        if "x-guidance" in schema:
            raise _unsupported("the key x-guidance is not part of JSON Schema")
        return self._kept(text, self._from_schema)

    def compile_lark(self, grammar: str) -> Grammar:
        """Return the grammar of a text in Lark's notation; only our own programs write those."""
        return self._kept(grammar, LLMatcher.grammar_from_lark)

    def _kept(self, source: str, translate: Callable[[str], str]) -> Grammar:
        key = hashlib.sha256(source.encode()).hexdigest()
        with self._lock:
            grammar = self._known.pop(key, None) or self._compile(translate(source))
            self._known[key] = grammar
            if len(self._known) > MAX_CACHED:
                self._known.popitem(last=False)
        return grammar

    def _from_schema(self, schema: str) -> str:
        try:
            return LLMatcher.grammar_from_json_schema(schema, overrides=_LAYOUT)  # type: ignore[arg-type]
        except ValueError as error:
            raise _unsupported(str(error)) from error

    def _compile(self, text: str) -> Grammar:
        matcher = LLMatcher(self._loaded_tokenizer(), text, log_level=0)
        if matcher.is_error():
            raise _unsupported(matcher.get_error())
        return Grammar(matcher, self._vocabulary)

    def _loaded_tokenizer(self) -> LLTokenizer:
        # half a second and 30 MB: only an engine that is asked for schemas pays it, once
        if self._tokenizer is None:
            text = self._tokenizer_file.read_text(encoding="utf-8")
            self._tokenizer = LLTokenizer(text, n_vocab=self._vocabulary, eos_token=self._eos_ids)
        return self._tokenizer


def _unsupported(reason: str) -> BadRequest:
    message = f"The JSON schema is not supported: {reason.strip()[:400]}"
    return BadRequest(message, param="response_format", code="unsupported_schema")
