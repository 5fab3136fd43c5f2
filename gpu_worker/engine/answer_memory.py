"""What usually follows in one adapter's answers: a source of drafts that needs no schema.

A tuned model writes the same keys, quotes, values and phrases again and again. Where the last few tokens have been
followed by the same token before, that token is proposed; the step that computes it verifies it, so answers do not
change (Leviathan et al. 2023, arXiv:2211.17192, with a table in place of a small model). How doubtful a proposal may be
depends on what it costs: a step for one answer reads the whole model for one token, and a few more are nearly free. So
a value that was seen once is guessed as soon as its first letters stand there, and an adapter that answers seldom
learns its habits from a few answers. One memory serves one adapter: what one team's answers look like is never guessed
from another's.
"""

from collections import OrderedDict
from collections.abc import Sequence

CONTEXT_TOKENS = 3
MAX_CONTEXTS = 8192
DOUBT = 0.3
"""What is added to the times that something else followed: seen once is likely, not certain."""
SURPRISE = 2.0
"""A surprise counts double, so that a choice between values is not taken for a habit."""
MOST_TIMES = 6.0
"""So many times weigh in all: what followed long ago is forgotten by and by."""
STEP_TOKENS = 12
"""What a step costs besides its tokens, in tokens."""

Context = tuple[int, ...]


def least_likely(running: int) -> float:
    """Return how likely a token must be to be worth computing ahead, if so many sequences share a step.

    Foreseen, it saves its sequence a share of a step and a token; not foreseen, it costs a token.
    """
    return running / (STEP_TOKENS + running)


class AnswerMemory:
    """Context of CONTEXT_TOKENS tokens -> the token that follows, how often it did, and how often it did not."""

    def __init__(self) -> None:
        self._follows: OrderedDict[Context, tuple[int, float, float]] = OrderedDict()

    def learn(self, tokens: Sequence[int]) -> None:
        """Take note of the last token as what follows those before it."""
        context, token = tuple(tokens[-CONTEXT_TOKENS - 1 : -1]), tokens[-1]
        expected, right, wrong = self._follows.pop(context, (token, 0.0, 0.0))
        if expected == token:
            right += 1
        else:
            wrong += SURPRISE
        if wrong > right:
            expected, right, wrong = token, 1.0, wrong / 2
        known = min(1.0, MOST_TIMES / (right + wrong))
        self._follows[context] = (expected, right * known, wrong * known)
        if len(self._follows) > MAX_CONTEXTS:
            self._follows.popitem(last=False)

    def expect(self, tokens: Sequence[int], limit: int, least: float) -> tuple[int, ...]:
        """Return up to `limit` tokens that are expected to follow, as long as all of them are as likely as `least`."""
        recent = tuple(tokens[-CONTEXT_TOKENS:])
        found: list[int] = []
        likely = 1.0
        while len(found) < limit and recent in self._follows:
            token, right, wrong = self._follows[recent]
            likely *= right / (right + wrong + DOUBT)
            if likely < least:
                break
            found.append(token)
            recent = (*recent[1:], token)
        return tuple(found)
