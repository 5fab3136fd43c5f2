"""The simple baselines: as scikit-learn answers, whole answers, and in seconds."""

from __future__ import annotations

import json
import random
import time
from collections import Counter

import pytest

from gpu_worker.evaluator import baselines
from gpu_worker.evaluator.baselines import answer_simply, most_frequent
from gpu_worker.trainer.heldout import question_of

QUEUES = {"VPN": "tunnel remote connect", "Mail": "inbox letter sender", "Disk": "storage quota folder"}
NOISE = ["please", "help", "with", "this", "today", "since", "monday", "again", "thanks", "nothing", "works"]


def rows(count: int, *, seed: int = 1, urgent: float = 0.3) -> list[list[dict[str, str]]]:
    """Tickets whose queue shows in their words, and whose urgency is drawn on its own."""
    draw, made = random.Random(seed), []
    for _ in range(count):
        queue = draw.choices(list(QUEUES), (5, 3, 2))[0]
        is_urgent = draw.random() < urgent
        words = [*draw.sample(NOISE, 5), draw.choice(QUEUES[queue].split()), *(["now"] * is_urgent)]
        draw.shuffle(words)
        answer = {"queue": queue, "urgent": is_urgent, "note": f"n{draw.random()}"}
        made.append(conversation(" ".join(words), json.dumps(answer)))
    return made


def conversation(question: str, answer: str) -> list[dict[str, str]]:
    return [
        {"role": "system", "content": "Sort tickets."},
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
    ]


@pytest.mark.slow
def test_closed_fields_are_answered_as_scikit_learn_answers_them():
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    train, asked = rows(200), rows(60, seed=2)
    questions = [question_of(row) for row in asked]
    found = [json.loads(answer) for answer in answer_simply(train, questions).tfidf]
    for name in ("queue", "urgent"):
        words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b")
        letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True)
        model = LogisticRegression(C=20, solver="saga", max_iter=2000, tol=1e-5)
        reference = make_pipeline(make_union(words, letters), model)
        reference.fit([question_of(row) for row in train], [str(json.loads(row[-1]["content"])[name]) for row in train])
        same = sum(str(mine[name]) == theirs for mine, theirs in zip(found, reference.predict(questions), strict=True))
        assert same >= 59  # twenty passes are not the very end of the descent
    right = [json.loads(row[-1]["content"])["queue"] for row in asked]
    assert sum(mine["queue"] == queue for mine, queue in zip(found, right, strict=True)) >= 55
    assert all(isinstance(mine["urgent"], bool) for mine in found)


def test_the_majority_is_that_of_each_field():
    train = rows(200)
    answer = json.loads(answer_simply(train, ["anything"]).majority[0])
    for name in ("queue", "urgent"):
        counts = Counter(json.loads(row[-1]["content"])[name] for row in train)
        assert answer[name] == counts.most_common(1)[0][0]
    assert most_frequent(["yes", "no", "no"]) == "no"
    assert json.loads(most_frequent(['{"a": 1, "b": 2}', '{"a": 1}', '{"a": 2}'])) == {"a": 1}


def test_fields_that_follow_from_one_another_are_one_decision():
    train = [conversation(text, json.dumps({"queue": q, "desk": q + "-desk"})) for q, text in QUEUES.items()] * 4
    found = [json.loads(answer) for answer in answer_simply(train, ["tunnel", "sender"]).tfidf]
    assert found == [{"queue": "VPN", "desk": "VPN-desk"}, {"queue": "Mail", "desk": "Mail-desk"}]


@pytest.mark.parametrize(
    ("answers", "asked", "expected"),
    [
        (["yes", "no"] * 4, "is tunnel up", "yes"),
        (
            ["Restart the tunnel client.", "Empty the inbox and sign in."] * 1,
            "tunnel is down",
            "Restart the tunnel client.",
        ),
        (["only"] * 3, "what", "only"),
        (['{"a": null}', '{"a": null}'], "what", '{"a": null}'),
    ],
)
def test_other_answers(answers, asked, expected):
    texts = ["tunnel up", "inbox full"]
    train = [conversation(texts[number % 2], answer) for number, answer in enumerate(answers)]
    assert answer_simply(train, [asked]).tfidf == [expected]


def test_nothing_readable_is_answered_by_the_majority():
    train = [conversation("", answer) for answer in ("b", "a", "a", "b", "a")]
    assert answer_simply(train, ["", "?"]).tfidf == ["a", "a"]
    with pytest.raises(ValueError, match="training rows"):
        answer_simply([], ["x"])


def test_work_is_bounded_and_can_be_broken_off(monkeypatch):
    monkeypatch.setattr(baselines, "MOST_WORK", 30_000)
    monkeypatch.setattr(baselines, "MOST_ROWS", 150)
    found = answer_simply(rows(200), ["tunnel remote"])
    assert found.fitted_rows == 150
    assert json.loads(found.tfidf[0])["queue"] == "VPN"

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answer_simply(rows(20), ["x"], check=stop)


@pytest.mark.slow
def test_ten_thousand_rows_take_seconds():
    train = rows(10_000)
    started = time.process_time()
    answer_simply(train, [question_of(row) for row in rows(500, seed=3)])
    assert time.process_time() - started < 30
