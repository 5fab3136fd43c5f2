"""Continued pre-training: the language of documents, every token a label, no chat template around them.

A row's messages are one text, a blank line between them; a text that is longer than the longest row is learned in
pieces, so that nothing is cut away. The end of a text is learned, too.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from datasets_app.learned_rows import EncodedRow
from datasets_app.rendering import ChatRenderer
from experiments.hyperparameters import Hyperparameters
from gpu_worker.trainer.errors import TrainingError
from gpu_worker.trainer.rows import FIRST, EncodedRows, read_messages


def text_of(messages: Sequence[Mapping[str, str]]) -> str:
    """Return the text that a row is made of."""
    return "\n\n".join(message["content"] for message in messages if message["content"])


def pieces(text: str, renderer: ChatRenderer, max_length: int) -> list[tuple[int, ...]]:
    """Return a text's token ids with the end of the text, cut into pieces of at most `max_length`, each 2 or more.

    A piece begins with the last token of the one before, so that every token is predicted once.
    """
    ids = (*renderer.encode(text), renderer.eos_id)
    starts = range(0, max(1, len(ids) - 1), max_length - 1)
    return [ids[start : start + max_length] for start in starts if len(ids) - start > FIRST]


def encode(path: Path, renderer: ChatRenderer, chosen: Hyperparameters, *, at_most: int | None = None) -> EncodedRows:
    """Return the pieces of all texts of a file, at most the first `at_most`. Raises: TrainingError (bad_data)."""
    found: list[EncodedRow] = []
    for ids in _pieces_of(path, renderer, chosen.max_length):
        if at_most is not None and len(found) == at_most:
            break
        found.append(EncodedRow(ids, FIRST))
    if not found:
        raise TrainingError("bad_data", "There is no text to learn from. Import a dataset whose rows have texts.")
    return EncodedRows(tuple(found), truncated=0, skipped=0)


def _pieces_of(path: Path, renderer: ChatRenderer, max_length: int) -> Iterator[tuple[int, ...]]:
    for _, messages in read_messages(path):
        yield from pieces(text_of(messages), renderer, max_length)
