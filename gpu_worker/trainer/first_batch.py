"""What the model learns from, token by token: the rows of the first batch as people can check them."""

from collections.abc import Sequence

from datasets_app.learned_rows import EncodedRow
from datasets_app.rendering import ChatRenderer

MOST_ROWS = 8
# For the page, not for training: the beginning and the end of longer stretches tell enough.
SHOWN_TOKENS = 240
MOST_TURNS = 8  # behind the first one
_HALF_A_CHARACTER = "\ufffd"


def describe_rows(rows: Sequence[EncodedRow], renderer: ChatRenderer) -> list[dict[str, object]]:
    """Return the first rows of a batch as `given` and `learned` pieces, [text, tokens] each, with their full counts.

    `more` holds the same for what follows the first answer, where several answers of a conversation are learned.

    `learned_tokens` counts exactly the labels that loss is taken on, `given_tokens` all other tokens; where a stretch
    is too long for a page its middle is one piece "…", and `is_cut` says so.
    """
    return [_describe(row, renderer) for row in rows[:MOST_ROWS]]


def _describe(row: EncodedRow, renderer: ChatRenderer) -> dict[str, object]:
    turns: list[dict[str, object]] = []
    longest = before = 0
    for start, end in row.learned:
        given, learned = row.token_ids[before:start], row.token_ids[start:end]
        turns.append({"given": _pieces(given, renderer), "learned": _pieces(learned, renderer)})
        longest, before = max(longest, len(given), len(learned)), end
    return {
        **turns[0],
        "more": turns[1 : 1 + MOST_TURNS],
        "given_tokens": len(row.token_ids) - row.answer_tokens,
        "learned_tokens": row.label_tokens,
        "is_cut": longest > SHOWN_TOKENS or len(turns) > 1 + MOST_TURNS,
    }


def _pieces(ids: Sequence[int], renderer: ChatRenderer) -> list[list[str | int]]:
    if len(ids) <= SHOWN_TOKENS:
        return _texts(ids, renderer)
    half = SHOWN_TOKENS // 2
    return [*_texts(ids[:half], renderer), ["…", len(ids) - 2 * half], *_texts(ids[-half:], renderer)]


def _texts(ids: Sequence[int], renderer: ChatRenderer) -> list[list[str | int]]:
    """Return what each token stands for; tokens that make up one character together are one piece."""
    pieces: list[list[str | int]] = []
    start = 0
    for end in range(1, len(ids) + 1):
        # Some tokenizers drop the space in front of what they decode first, so each piece is read behind another one.
        before = renderer.decode(ids[max(0, start - 1) : start], skip_special=False)
        text = renderer.decode(ids[max(0, start - 1) : end], skip_special=False)[len(before) :]
        if text.endswith(_HALF_A_CHARACTER) and end < len(ids):
            continue
        pieces.append([text, end - start])
        start = end
    return pieces
