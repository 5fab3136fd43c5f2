"""What is learned of a conversation: which answers, and behind which tokens. The one rule for all who need to know.

Training learns these rows; the doctor, the recipes and the preview count them. Pure, like `rendering`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from datasets_app.rendering import ChatRenderer, Message, RenderedRow

UNLIMITED: Final = 2**62


@dataclass(frozen=True)
class EncodedRow:
    """One conversation for learning: loss is taken on `token_ids[prompt_length:]` only, and not on what is `given`.

    Where prompts are learned too, they are taken for a part of the answer.
    """

    token_ids: tuple[int, ...]
    prompt_length: int
    rejected_ids: tuple[int, ...] = ()
    """A worse answer to the same prompt, where preferences are learned."""
    given: tuple[tuple[int, int], ...] = ()
    """Where several answers are learned: from where to where something else stands between them."""

    @property
    def learned(self) -> Iterator[tuple[int, int]]:
        """From where to where the answers stand, in order."""
        start = self.prompt_length
        for end, following in self.given:
            yield start, end
            start = following
        yield start, len(self.token_ids)

    @property
    def labels(self) -> list[int]:
        """The tokens that are learned, in order."""
        return [token for start, end in self.learned for token in self.token_ids[start:end]]

    @property
    def label_places(self) -> list[int]:
        """The places of `labels` in the row; the token before each predicts it."""
        return [place for start, end in self.learned for place in range(start, end)]

    @property
    def tokens(self) -> int:
        """How many tokens a step computes."""
        return len(self.token_ids) + (self.prompt_length + len(self.rejected_ids) if self.rejected_ids else 0)

    @property
    def answer_tokens(self) -> int:
        """How many tokens the answers have."""
        return len(self.token_ids) - self.prompt_length - sum(end - start for start, end in self.given)

    @property
    def label_tokens(self) -> int:
        """How many tokens are learned, those of a worse answer included."""
        return self.answer_tokens + len(self.rejected_ids)

    @property
    def weight(self) -> int:
        """What the row counts in a batch: its label tokens, or one where answers are compared as wholes."""
        return 1 if self.rejected_ids else self.answer_tokens


def learned_turns(renderer: ChatRenderer, messages: Sequence[Message], *, every: bool = True) -> list[RenderedRow]:
    """Return the answers of a conversation that are learned, each with all that comes before it.

    `every`: all answers but those with weight 0, as chats are learned; else the last one alone. Problems of other
    types learn that, and preferences compare it. Raises: RenderingError.
    """
    return renderer.learned_turns(messages) if every else [renderer.row(messages)]


def joined(turns: Sequence[RenderedRow], max_length: int = UNLIMITED) -> list[EncodedRow]:
    """Return the answers of a conversation as one row, as far as it is the same and fits.

    An answer stays a row of its own where its prompt is not what was computed before, token by token: templates may
    tell earlier turns otherwise, and tokens may join across a border. So what is learned is what will be asked.
    """
    rows: list[EncodedRow] = []
    for turn in turns:
        longer = _continued(rows[-1], turn) if rows and len(turn.token_ids) <= max_length else None
        if longer:
            rows[-1] = longer
        else:
            rows.append(EncodedRow(turn.token_ids, turn.prompt_length))
    return rows


def _continued(row: EncodedRow, turn: RenderedRow) -> EncodedRow | None:
    """Return a row with a further answer behind it, None if that one's prompt does not begin with the row."""
    length = len(row.token_ids)
    if length > turn.prompt_length or turn.token_ids[:length] != row.token_ids:
        return None
    return EncodedRow(turn.token_ids, row.prompt_length, given=(*row.given, (length, turn.prompt_length)))
