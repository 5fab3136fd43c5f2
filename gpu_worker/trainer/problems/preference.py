"""Preference tuning: a better and a worse answer to the same prompt, and losses that part them.

The reference that most losses measure against is the same model with its adapter switched off, so no second model is
held in memory; what it says about a row never changes and is computed once. Every loss is one number per row.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from datasets_app.learned_rows import EncodedRow
from datasets_app.rendering import ChatRenderer, RenderingError
from experiments.hyperparameters import Hyperparameters
from experiments.problem_file import Problem
from gpu_worker.trainer.errors import TrainingError
from gpu_worker.trainer.rows import Cutter, EncodedRows, read_rows

# Losses that look at the tuned model alone.
REFERENCE_FREE: Final = frozenset({"simpo", "orpo", "cpo"})


@dataclass(frozen=True)
class Pairs:
    """Summed log probabilities of the better and the worse answers, and their lengths in tokens. Shapes: (rows,)."""

    better: Tensor
    worse: Tensor
    better_tokens: Tensor
    worse_tokens: Tensor


def describe(chosen: Hyperparameters) -> Problem:
    """Return how the preferences were learned."""
    return Problem("preference", loss=chosen.preference_loss, beta=chosen.preference_beta)


def losses(tuned: Pairs, reference: Pairs | None, chosen: Hyperparameters) -> Tensor:
    """Return the loss of each row. Shapes: result (rows,). `reference` may be None for losses that need none.

    Sources: sigmoid (DPO) Rafailov et al. 2023, arXiv:2305.18290, equation 7; IPO Azar et al. 2023, arXiv:2310.12036,
    equation 17; hinge (SLiC on the same rewards) Liu et al. 2023, arXiv:2309.06657, equation 10; SimPO Meng et al.
    2024, arXiv:2405.14734, equation 6; ORPO Hong et al. 2024, arXiv:2403.07691, equations 6 and 7; CPO Xu et al. 2024,
    arXiv:2401.08417, equations 4 to 6, where the likelihood of the better answer counts per token, as in TRL. Smoothing
    of sigmoid: Mitchell 2023, "A note on DPO with noisy preferences and relationship to IPO", equation 3.
    """
    beta, kind = chosen.preference_beta, chosen.preference_loss
    if kind == "simpo":
        means = tuned.better / tuned.better_tokens - tuned.worse / tuned.worse_tokens
        return -functional.logsigmoid(beta * means - chosen.preference_margin)
    if kind == "orpo":
        better, worse = tuned.better / tuned.better_tokens, tuned.worse / tuned.worse_tokens
        odds = (better - worse) - (_log_of_rest(better) - _log_of_rest(worse))
        return -better - beta * functional.logsigmoid(odds)
    if kind == "cpo":
        return -tuned.better / tuned.better_tokens - functional.logsigmoid(beta * (tuned.better - tuned.worse))
    assert reference is not None
    margin = (tuned.better - reference.better) - (tuned.worse - reference.worse)
    if kind == "ipo":
        return (margin - 1 / (2 * beta)).square()
    if kind == "hinge":
        return torch.relu(1 - beta * margin)
    swapped = chosen.preference_label_smoothing
    return -(1 - swapped) * functional.logsigmoid(beta * margin) - swapped * functional.logsigmoid(-beta * margin)


def _log_of_rest(mean_logprob: Tensor) -> Tensor:
    """Return log(1 - p) of a mean log probability, which may come close to 0."""
    return torch.log1p(-torch.exp(mean_logprob.clamp(max=-1e-6)))


class PreferenceLoss:
    """The summed loss of rows, given a function that scores sequences; remembers what the reference said."""

    def __init__(self, chosen: Hyperparameters) -> None:
        self._chosen = chosen
        self._known: dict[int, tuple[EncodedRow, float, float]] = {}

    def summed(
        self,
        rows: Sequence[EncodedRow],
        score: Callable[[Sequence[EncodedRow]], Tensor],
        reference_score: Callable[[Sequence[EncodedRow]], Tensor],
    ) -> Tensor:
        """Return the summed loss of the rows.

        `score` returns the summed log probability of each sequence's answer under the tuned model, with gradient;
        `reference_score` the same under the model without its adapter, without gradient.
        """
        reference = None
        if self._chosen.preference_loss not in REFERENCE_FREE:
            reference = self._reference(rows, reference_score)
        return losses(_pairs(rows, score(_sequences(rows))), reference, self._chosen).sum()

    def _reference(self, rows: Sequence[EncodedRow], score: Callable[[Sequence[EncodedRow]], Tensor]) -> Pairs:
        # By identity: rows live as long as the run, and hashing thousands of tokens each time would cost more.
        new = [row for row in rows if id(row) not in self._known]
        if new:
            found = score(_sequences(new)).tolist()
            for number, row in enumerate(new):
                self._known[id(row)] = (row, found[number], found[len(new) + number])
        known = [self._known[id(row)] for row in rows]
        flat = [better for _, better, _ in known] + [worse for _, _, worse in known]
        return _pairs(rows, torch.tensor(flat))


def _sequences(rows: Sequence[EncodedRow]) -> list[EncodedRow]:
    """Return the better answers of all rows with their prompts, then the worse ones."""
    worse = [EncodedRow(row.token_ids[: row.prompt_length] + row.rejected_ids, row.prompt_length) for row in rows]
    return [*rows, *worse]


def _pairs(rows: Sequence[EncodedRow], logprobs: Tensor) -> Pairs:
    better, worse = logprobs.split_with_sizes([len(rows), len(rows)])
    better_tokens = torch.tensor([float(row.answer_tokens) for row in rows], device=logprobs.device)
    worse_tokens = torch.tensor([float(len(row.rejected_ids)) for row in rows], device=logprobs.device)
    return Pairs(better, worse, better_tokens, worse_tokens)


# --- rows --------------------------------------------------------------------------------------------------------


def encode(path: Path, renderer: ChatRenderer, chosen: Hyperparameters, *, at_most: int | None = None) -> EncodedRows:
    """Return the rows of a file with both answers behind one prompt. Raises: TrainingError (bad_data)."""
    cutter = Cutter(renderer, chosen)
    found: list[EncodedRow] = []
    truncated = skipped = 0
    for number, content in _contents(path):
        if at_most is not None and len(found) == at_most:
            break
        whole = _encoded(renderer, number, content)
        row = _fitted(cutter, whole, number, chosen.max_length)
        skipped += row is None
        if row is not None:
            truncated += row != whole
            found.append(row)
    return EncodedRows(tuple(found), truncated, skipped)


def _contents(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, content in read_rows(path):
        if not content.get("rejected"):
            raise TrainingError(
                "bad_data",
                f"Row {number} has no worse answer. Preferences need one in each row: import it as a column.",
            )
        yield number, content


def _encoded(renderer: ChatRenderer, number: int, content: Mapping[str, Any]) -> EncodedRow:
    messages = content["messages"]
    try:
        better = renderer.row(messages)
        worse = renderer.row([*messages[:-1], {"role": "assistant", "content": content["rejected"]}])
    except (RenderingError, KeyError, TypeError, AttributeError) as error:
        raise TrainingError("bad_data", f"Row {number} cannot be used: {error}") from error
    return EncodedRow(better.token_ids, better.prompt_length, worse.token_ids[worse.prompt_length :])


def _fitted(cutter: Cutter, row: EncodedRow, number: int, max_length: int) -> EncodedRow | None:
    """Return the row with a prompt that leaves room for its longer answer: both answers must follow the same prompt."""
    prompt, better = row.token_ids[: row.prompt_length], row.token_ids[row.prompt_length :]
    longer = max(better, row.rejected_ids, key=len)
    fitted = cutter.fit(EncodedRow(prompt + longer, len(prompt)), number)
    if fitted is None:
        return None
    kept = fitted.token_ids[: fitted.prompt_length]
    room = max_length - len(kept)
    return EncodedRow(kept + better[:room], len(kept), row.rejected_ids[:room])
