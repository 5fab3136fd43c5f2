"""OpenAI's JSON shapes of chat and plain completions, whole and streamed."""

import codecs
import secrets
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from datasets_app.rendering import ChatRenderer
from gpu_worker.engine.sampling import TokenLogprob
from gpu_worker.engine.sequence import FinishReason

Json = dict[str, Any]


@dataclass
class ChoiceText:
    """One finished choice of an answer that is sent whole."""

    text: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason | None = None


class Shape(Protocol):
    """How the pieces of an answer are written for one route."""

    def head(self) -> Json:
        """Return the fields of the whole answer, without choices."""
        ...

    def chunk_head(self) -> Json:
        """Return the fields of one streamed chunk, without choices."""
        ...

    def choice(self, index: int, choice: ChoiceText) -> Json:
        """Return one choice of the whole answer."""
        ...

    def opening(self, index: int) -> Json | None:
        """Return the first streamed piece of a choice, if the route has one before any text."""
        ...

    def piece(self, index: int, piece: ChoiceText) -> Json:
        """Return a streamed piece of a choice."""
        ...


@dataclass(frozen=True)
class _Names:
    """What every part of one answer repeats."""

    id: str
    model: str
    created: int
    fingerprint: str

    def fields(self, kind: str) -> Json:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }


def _names(prefix: str, model: str, fingerprint: str) -> _Names:
    return _Names(f"{prefix}-{secrets.token_hex(12)}", model, int(time.time()), fingerprint)


class ChatShape:
    """Shapes of /v1/chat/completions."""

    def __init__(self, model: str, fingerprint: str, renderer: ChatRenderer) -> None:
        self._names = _names("chatcmpl", model, fingerprint)
        self._renderer = renderer

    def head(self) -> Json:
        """Return the fields of a chat.completion, without choices."""
        return self._names.fields("chat.completion")

    def chunk_head(self) -> Json:
        """Return the fields of a chat.completion.chunk, without choices."""
        return self._names.fields("chat.completion.chunk")

    def choice(self, index: int, choice: ChoiceText) -> Json:
        """Return a choice with its message."""
        return {
            "index": index,
            "message": {"role": "assistant", "content": choice.text, "refusal": None},
            "logprobs": self._logprobs(choice.logprobs),
            "finish_reason": choice.finish_reason,
        }

    def opening(self, index: int) -> Json | None:
        """Return the delta that carries the role."""
        delta = {"role": "assistant", "content": "", "refusal": None}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def piece(self, index: int, piece: ChoiceText) -> Json:
        """Return a delta with text; the last one of a choice has the finish reason."""
        delta = {"content": piece.text} if piece.text or piece.finish_reason is None else {}
        return {
            "index": index,
            "delta": delta,
            "logprobs": self._logprobs(piece.logprobs),
            "finish_reason": piece.finish_reason,
        }

    def _logprobs(self, logprobs: Sequence[TokenLogprob]) -> Json | None:
        if not logprobs:
            return None
        content = [
            {**self._token(entry.token_id, entry.logprob), "top_logprobs": [self._token(*top) for top in entry.top]}
            for entry in logprobs
        ]
        return {"content": content, "refusal": None}

    def _token(self, token_id: int, logprob: float) -> Json:
        text = self._renderer.decode([token_id], skip_special=False)
        # Not the text's: a token may be a part of a character, which alone is no text.
        return {"token": text, "logprob": logprob, "bytes": list(self._renderer.token_bytes(token_id))}


class CompletionShape:
    """Shapes of /v1/completions."""

    def __init__(self, model: str, fingerprint: str, renderer: ChatRenderer) -> None:
        self._names = _names("cmpl", model, fingerprint)
        self._renderer = renderer
        self._read: dict[int, codecs.IncrementalDecoder] = {}
        self._offsets: Counter[int] = Counter()

    def head(self) -> Json:
        """Return the fields of a text_completion, without choices."""
        return self._names.fields("text_completion")

    def chunk_head(self) -> Json:
        """Return the fields of a streamed text_completion, which are the same."""
        return self.head()

    def choice(self, index: int, choice: ChoiceText) -> Json:
        """Return a choice with its text."""
        return {
            "index": index,
            "text": choice.text,
            "logprobs": self._logprobs(index, choice.logprobs),
            "finish_reason": choice.finish_reason,
        }

    def opening(self, index: int) -> Json | None:
        """Return nothing: the first piece of a plain completion is its text."""
        return None

    def piece(self, index: int, piece: ChoiceText) -> Json:
        """Return a piece of text."""
        return self.choice(index, piece)

    def _logprobs(self, index: int, logprobs: Sequence[TokenLogprob]) -> Json | None:
        if not logprobs:
            return None
        return {
            "tokens": [self._text(entry.token_id) for entry in logprobs],
            "token_logprobs": [entry.logprob for entry in logprobs],
            "top_logprobs": [{self._text(token): value for token, value in entry.top} for entry in logprobs],
            "text_offset": [self._offset(index, entry.token_id) for entry in logprobs],
        }

    def _offset(self, index: int, token_id: int) -> int:
        """Return where a choice's next token begins; the parts of a character all begin where it does."""
        begins = self._offsets[index]
        decoder = self._read.setdefault(index, codecs.getincrementaldecoder("utf-8")("replace"))
        self._offsets[index] += len(decoder.decode(self._renderer.token_bytes(token_id)))
        return begins

    def _text(self, token_id: int) -> str:
        return self._renderer.decode([token_id], skip_special=False)
