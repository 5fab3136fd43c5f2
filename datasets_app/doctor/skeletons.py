"""Renders many rows quickly: where a chat template only puts texts between fixed words, the words are learned once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from datasets_app.rendering import ChatRenderer, Message

QUESTION: Final = "Qx7questionx7Q"
ANSWER: Final = "Qx7answerx7Q"
# Rows that are rendered both ways, from time to time, to see that the learned words are right.
CHECKED_AT_FIRST: Final = 16
CHECK_EVERY: Final = 256
MAX_SKELETONS: Final = 64


@dataclass
class _Skeleton:
    """What stands before and after question and answer; `used` counts its rows."""

    prompt: tuple[str, str]
    answer: tuple[str, str]
    used: int = 0


class QuickRenderer:
    """Gives the texts of training rows that `ChatRenderer.row` would give."""

    def __init__(self, renderer: ChatRenderer) -> None:
        self._renderer = renderer
        self._skeletons: dict[str | None, _Skeleton | None] = {}

    def texts(self, messages: Sequence[Message]) -> tuple[str, str]:
        """Return prompt text and answer text of a row."""
        skeleton = self._skeleton(messages)
        question, answer = messages[-2]["content"], messages[-1]["content"]
        # Templates look into texts for blanks around them and for tags such as </think>.
        if skeleton is None or _is_special(question) or _is_special(answer):
            return self._renderer.row_texts(messages)
        before, after = skeleton.prompt
        begin, end = skeleton.answer
        texts = f"{before}{question}{after}", f"{begin}{answer}{end}"
        skeleton.used += 1
        if skeleton.used <= CHECKED_AT_FIRST or skeleton.used % CHECK_EVERY == 0:
            right = self._renderer.row_texts(messages)
            if right != texts:
                self._skeletons[_system(messages)] = None
                return right
        return texts

    def _skeleton(self, messages: Sequence[Message]) -> _Skeleton | None:
        """Return what is known about rows with these messages before the question, learning it if need be."""
        if (len(messages) > 2 and messages[0]["role"] != "system") or len(messages) > 3:
            return None
        system = _system(messages)
        if system not in self._skeletons and len(self._skeletons) < MAX_SKELETONS:
            self._skeletons[system] = self._learn(messages[:-2])
        return self._skeletons.get(system)

    def _learn(self, before: Sequence[Message]) -> _Skeleton | None:
        asked, answered = {"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}
        prompt, answer = self._renderer.row_texts([*before, asked, answered])
        if prompt.count(QUESTION) != 1 or answer.count(ANSWER) != 1 or QUESTION in answer or ANSWER in prompt:
            return None
        first, _question, last = prompt.partition(QUESTION)
        begin, _answer, end = answer.partition(ANSWER)
        return _Skeleton((first, last), (begin, end))


def _system(messages: Sequence[Message]) -> str | None:
    return messages[0]["content"] if len(messages) == 3 else None


def _is_special(text: str) -> bool:
    return "<" in text or text != text.strip()
