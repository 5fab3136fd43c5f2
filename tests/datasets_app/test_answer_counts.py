"""Counting the values of answers takes a bounded amount of memory, whatever the keys are."""

import json

from datasets_app.answer_counts import MAX_COLUMNS, WHOLE_ANSWER, AnswerCounts
from datasets_app.rows import JsonAnswers


def test_answers_that_are_keyed_by_a_number_take_little_memory():
    counts = AnswerCounts(JsonAnswers(max_depth=64))
    for number in range(20_000):
        counts.add(json.dumps({"service": ("VPN", "Mail")[number % 2], f"T-{number}": 1}))
    counts.add("plain text")
    assert counts._codes.nbytes < 100_000_000
    fields = {field.name: field for field in counts.fields()}
    assert fields["service"].closed
    assert (fields["service"].counts, fields["service"].share) == ((10_000, 10_000), 1.0)
    assert fields[WHOLE_ANSWER].share == 1.0
    assert len(fields) == MAX_COLUMNS + 1
