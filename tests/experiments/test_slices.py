"""Figures by part of the rows, and of free text: they equal what the libraries of the field count."""

from __future__ import annotations

import json
import math
import random
from types import SimpleNamespace

import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from datasets_app.models import SourceFile, Split
from datasets_app.row_origins import ADDED, origins
from datasets_app.rows import CanonicalRow
from datasets_app.store import write_rows
from experiments.results import judge
from experiments.scoring.intervals import share_difference, share_interval
from experiments.scoring.slices import MOST_SLICES, OTHER, length_bands, slice_by
from experiments.scoring.texts import score_texts
from portal.rls import all_teams
from tests.experiments.runs import make_version

RIGHT, WRONG = '{"queue": "VPN", "urgency": "low"}', '{"queue": "Mail", "urgency": "low"}'


@given(st.integers(1, 300).flatmap(lambda count: st.tuples(st.integers(0, count), st.just(count))))
def test_intervals_of_shares_are_those_of_scipy(counts):
    hits, count = counts
    right = binomtest(hits, count).proportion_ci(method="wilson")
    found = share_interval(hits, count)
    assert (found.low, found.high) == (pytest.approx(right.low, abs=1e-9), pytest.approx(right.high, abs=1e-9))
    assert found.low <= found.mean <= found.high


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [
        ((56, 70, 48, 80), 0.0524, 0.3339),
        ((9, 10, 3, 10), 0.1705, 0.8090),
        ((6, 7, 2, 7), 0.0582, 0.8062),
        ((5, 56, 0, 29), -0.0381, 0.1926),
        ((0, 10, 0, 20), -0.1611, 0.2775),
        ((0, 10, 0, 10), -0.2775, 0.2775),
        ((10, 10, 0, 20), 0.6791, 1.0),
        ((10, 10, 0, 10), 0.6075, 1.0),
    ],
)
def test_intervals_of_differences_are_those_that_newcombe_published(counts, low, high):
    found = share_difference(*counts)
    assert (found.low, found.high) == (pytest.approx(low, abs=6e-5), pytest.approx(high, abs=6e-5))
    assert found.mean == pytest.approx(counts[0] / counts[1] - counts[2] / counts[3])


def test_each_part_has_its_own_figures_per_field():
    labels = ["a"] * 30 + ["b"] * 5
    answers = [RIGHT] * 20 + [WRONG] * 15
    first, second = slice_by("language", labels, [RIGHT] * 35, answers).slices
    assert (first.label, first.rows, first.reached, first.few) == ("a", 30, pytest.approx(2 / 3), False)
    assert (second.label, second.rows, second.reached, second.few) == ("b", 5, 0, True)
    assert {field.name: field.accuracy for field in second.fields} == {"queue": 0, "urgency": 1}
    assert second.high > 0.3


def test_others_are_measured_on_the_same_parts():
    labels, half = ["a"] * 4 + ["b"] * 2, json.dumps({**json.loads(RIGHT), "queue": "elsewhere"})
    others = {"tfidf": [RIGHT, RIGHT, RIGHT, WRONG, WRONG, WRONG], "untuned": [half] * 6}
    first, second = slice_by("source", labels, [RIGHT] * 6, [RIGHT] * 6, others=others).slices
    assert (first.others, second.others) == ({"tfidf": 0.75, "untuned": 0.0}, {"tfidf": 0.0, "untuned": 0.0})
    scored = slice_by("source", labels, [RIGHT] * 6, [RIGHT] * 6, others=others, measure="score").slices[1]
    assert scored.others["untuned"] == pytest.approx(0.5)


def test_rare_parts_stand_together():
    labels = [str(number) for number in range(MOST_SLICES)] + ["rare"]
    parts = slice_by("source", labels * 2, [RIGHT] * 18, [RIGHT] * 18).slices
    assert len(parts) == MOST_SLICES
    assert parts[-1].label == OTHER
    assert sum(part.rows for part in parts) == 18


@given(st.lists(st.integers(0, 50), min_size=1, max_size=60))
def test_bands_are_in_order_and_equal_lengths_stay_together(lengths):
    bands, bounds = length_bands(lengths)
    order = {"short": 0, "middle": 1, "long": 2}
    placed = sorted(zip(lengths, (order[band] for band in bands), strict=True))
    assert [band for _length, band in placed] == sorted(order[band] for band in bands)
    assert len({length for length, band in set(placed)}) == len(set(placed))
    assert bounds[0] <= bounds[1]


def test_texts_are_counted_by_sacrebleu_and_perplexity_by_tokens():
    expected = ["The printer is on the third floor.", "Please restart the router.", "No, thanks."]
    answers = {
        "tuned": ["The printer is on the second floor.", "Restart the router please.", "No."],
        "untuned": ["", "x", "y"],
    }
    nats = [{"tuned": (-4.0, 8), "untuned": (-40.0, 8)}, None, {"tuned": (-2.0, 4), "untuned": (-20.0, 4)}]
    found = score_texts(expected, answers, nats)
    for name, texts in answers.items():
        assert found.overlaps[name].bleu == pytest.approx(sacrebleu.corpus_bleu(texts, [expected]).score)
        assert found.overlaps[name].chrf == pytest.approx(sacrebleu.corpus_chrf(texts, [expected]).score)
    assert found.perplexity == {"tuned": pytest.approx(math.exp(0.5)), "untuned": pytest.approx(math.exp(5))}
    assert (found.rows, found.perplexity_rows) == (3, 2)
    assert "version:" in found.signatures["bleu"]
    assert score_texts([RIGHT] * 3, {"tuned": [RIGHT] * 3}, [None] * 3) is None
    assert score_texts(["VPN"] * 3, {"tuned": ["VPN"] * 3}, [None] * 3) is None, "labels are no free text"


def test_the_report_cuts_by_length_language_and_source(tmp_path):
    english = "My laptop does not connect to the company network since this morning, please help me."
    german = (
        "Mein Rechner verbindet sich seit heute Morgen nicht mehr mit dem Netzwerk der Firma, bitte helfen Sie mir."
    )
    path = tmp_path / "predictions.jsonl"
    chance = random.Random(1)
    with path.open("w") as file:
        for row in range(60):
            prompt = (english if row % 3 else german) + " x" * chance.randrange(40)
            item = {"row": row, "place": row, "prompt": prompt, "expected": RIGHT, "untuned": WRONG}
            file.write(json.dumps(item | {"tuned": RIGHT if row % 3 else WRONG}) + "\n")
    origins = ["old.csv"] * 40 + ["added"] * 20
    slices = judge(path, Split.TEST, SimpleNamespace(report={}), origins).report["slices"]
    by = {one["by"]: {part["label"]: part for part in one["slices"]} for one in slices}
    assert {name: part["rows"] for name, part in by["language"].items()} == {"en": 40, "de": 20}
    assert (by["language"]["en"]["reached"], by["language"]["de"]["reached"]) == (1, 0)
    assert {name: part["rows"] for name, part in by["source"].items()} == {"old.csv": 40, "added": 20}
    assert by["language"]["en"]["others"] == {"untuned": 0}
    assert list(by["length"]) == ["short", "middle", "long"]
    assert "source" not in {one["by"] for one in judge(path, Split.TEST, SimpleNamespace(report={})).report["slices"]}


def test_rows_are_traced_to_their_file_through_versions(team):
    first = make_version(team, train=3, validation=2, test=1)
    with all_teams("test"):
        for split in ("train", "validation", "test"):
            source = SourceFile(team=team, version=first, split=split, name=f"{split}.csv", kind="csv", size_bytes=1)
            source.save()
        assert origins(first, Split.VALIDATION) == ["validation.csv"] * 2
        later = make_version(team, train=1, validation=1)
        later.parent, later.changes = first, [{"op": "move"}]
        written = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
        rows = [CanonicalRow(2, written, id=6), CanonicalRow(0, written, id=7), CanonicalRow(2, written, id=1)]
        write_rows(later.rows_path(Split.VALIDATION), rows)
        assert origins(later, Split.VALIDATION) == ["test.csv", ADDED, "train.csv"]
