"""What usually follows in one adapter's answers: a source of drafts that needs no schema.

A tuned model writes the same keys, quotes and phrases again and again. Where the last few tokens have been followed by
the same token several times in a row, that token is proposed; the step that computes it verifies it, so answers do not
change (Leviathan et al. 2023, arXiv:2211.17192, with a table in place of a small model). One memory serves one adapter:
what one team's answers look like is never guessed from another's.
"""

from collections import OrderedDict
from collections.abc import Sequence

CONTEXT_TOKENS = 3
MAX_CONTEXTS = 8192
CERTAIN = 2
"""Confirmations in a row after which a token is proposed."""
MAX_CONFIRMATIONS = 6

Context = tuple[int, ...]


class AnswerMemory:
    """Context of CONTEXT_TOKENS tokens -> the token that follows, and how often it has been confirmed."""

    def __init__(self) -> None:
        self._follows: OrderedDict[Context, tuple[int, int]] = OrderedDict()

    def learn(self, tokens: Sequence[int]) -> None:
        """Take note of the last token as what follows those before it."""
        context, token = tuple(tokens[-CONTEXT_TOKENS - 1 : -1]), tokens[-1]
        expected, confirmations = self._follows.pop(context, (token, 0))
        if expected == token:
            entry = (token, min(confirmations + 1, MAX_CONFIRMATIONS))
        else:
            # a surprise counts double, so that a choice between values is not taken for a habit
            entry = (expected, confirmations - 2) if confirmations > 2 else (token, 1)
        self._follows[context] = entry
        if len(self._follows) > MAX_CONTEXTS:
            self._follows.popitem(last=False)

    def expect(self, tokens: Sequence[int], limit: int) -> tuple[int, ...]:
        """Return up to `limit` tokens that are expected to follow, as far as there is little doubt."""
        recent = list(tokens[-CONTEXT_TOKENS:])
        found: list[int] = []
        while len(found) < limit:
            token, confirmations = self._follows.get(tuple(recent), (0, 0))
            if confirmations < CERTAIN:
                break
            found.append(token)
            recent = [*recent[1:], token]
        return tuple(found)
