"""Figures of free text: how far answers share words and letters with the expected ones, and how likely those were."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from experiments.scoring.against import is_free_text
from experiments.scoring.answers import row_score

Nats = Mapping[str, tuple[float, int]]
"""Per model the log probability of an expected answer, and how many tokens it has."""


@dataclass(frozen=True)
class Overlap:
    """BLEU (Papineni et al. 2002, ACL) and chrF2 (Popović 2015, WMT) of one subject's answers, 0 to 100."""

    bleu: float
    chrf: float


@dataclass(frozen=True)
class TextReport:
    """`signatures` say how sacrebleu counted, so that others can repeat it.

    `perplexity` is that of the expected answers under each model, over the `perplexity_rows` where it was measured.
    """

    rows: int
    overlaps: dict[str, Overlap]
    signatures: dict[str, str]
    perplexity: dict[str, float]
    perplexity_rows: int


def score_texts(
    expected: Sequence[str], answers: Mapping[str, Sequence[str]], nats: Sequence[Nats | None]
) -> TextReport | None:
    """Return the figures of every subject over the rows that expect text, None unless that is free text.

    `nats`: for each row what was measured of its expected answer, None where nothing was.
    """
    if not is_free_text(expected):
        return None
    places = [place for place, text in enumerate(expected) if row_score(text, text).valid_json is None]
    overlaps, signatures = _overlaps(
        [expected[place] for place in places],
        {name: [texts[place] for place in places] for name, texts in answers.items()},
    )
    measured = [one for place in places if (one := nats[place])]
    return TextReport(len(places), overlaps, signatures, _perplexity(measured), len(measured))


def _overlaps(
    expected: Sequence[str], answers: Mapping[str, Sequence[str]]
) -> tuple[dict[str, Overlap], dict[str, str]]:
    from sacrebleu.metrics.bleu import BLEU  # late: only reports of free text need it
    from sacrebleu.metrics.chrf import CHRF

    bleu, chrf = BLEU(), CHRF()
    overlaps = {
        name: Overlap(bleu.corpus_score(texts, [expected]).score, chrf.corpus_score(texts, [expected]).score)
        for name, texts in answers.items()
    }
    return overlaps, {"bleu": str(bleu.get_signature()), "chrf": str(chrf.get_signature())}


def _perplexity(measured: Sequence[Nats]) -> dict[str, float]:
    """Return exp of the mean loss per token of each model."""
    found = {}
    for name in measured[0] if measured else ():
        loss = -sum(one[name][0] for one in measured) / sum(one[name][1] for one in measured)
        found[name] = math.exp(min(loss, 700.0))
    return found
