"""Whatever rows say, there is a report, it can be stored, and all of it can be put into words."""

import json
import tempfile
from pathlib import Path

import pytest
from django.utils.translation import gettext
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets_app.doctor import sentences
from datasets_app.doctor.examine import examine
from datasets_app.doctor.pii import KINDS, Pseudonyms, mask
from datasets_app.doctor.report import Report, read_ids
from datasets_app.doctor.text import as_markdown
from datasets_app.store import read_rows
from tests.datasets_app.doctor.conftest import write_version

pytestmark = pytest.mark.slow

characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
texts = st.text(characters, min_size=1, max_size=30) | st.sampled_from(
    ["-", "{}", "null", "a@b.co", "+7 916 123-45-67", "%(count)d %s", "{" * 50, "[1", '{"a": 1e999}', "9" * 400]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
answers = texts | st.dictionaries(st.sampled_from(["a", "b", "%(c)s", ""]), values, max_size=4).map(json.dumps)
rows = st.lists(st.tuples(st.sampled_from(["train", "validation", "test"]), texts, answers), max_size=30)


@given(rows=rows)
@settings(max_examples=60)
def test_any_rows_give_a_report(rows):
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        report = examine(folder, paths := write_version(folder, rows))
        assert Report.from_dict(json.loads(json.dumps(report.to_dict()))).to_dict() == report.to_dict()
        assert sum(report.rows.values()) == len(rows)
        for finding in report.findings:
            assert sentences.title(finding, gettext)
            assert sentences.meaning(finding, gettext)
            for example in finding.examples:
                sentences.detail(finding, example, gettext)
                assert 1 <= example.id <= len(rows)
            if finding.examples:
                assert len(read_ids(folder, finding.code)) == finding.count
        assert as_markdown(report, gettext)
        for path in paths.values():
            for row in read_rows(path):
                mask(row, KINDS, Pseudonyms())
