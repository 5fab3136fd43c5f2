"""Token figures are those of the very rows that training makes."""

from datasets_app.doctor.lengths import LIMITS
from datasets_app.rendering import ChatRenderer
from datasets_app.store import read_rows
from tests.datasets_app.doctor.conftest import good_rows
from tests.tiny_model import make_tiny_model


def test_figures_equal_a_recount(diagnose, tmp_path):
    model = make_tiny_model(tmp_path / "tiny")
    rows = good_rows(300) + [("train", "word " * n, "Да, конечно. " * n) for n in (30, 60, 200, 900, 3000)]
    report = diagnose(rows, tokenizer_folder=model, max_length=100)
    renderer = ChatRenderer.load(model)
    whole = [
        renderer.row(row.messages)
        for split in ("train", "validation")
        for row in read_rows(tmp_path / f"{split}.parquet")
    ]
    lengths = [len(row.token_ids) for row in whole]
    tokens = report.tokens
    assert tokens is not None
    for one in tokens["truncated"]:
        assert one["rows"] == sum(length > one["limit"] for length in lengths)
        assert one["percent"] == round(100 * one["rows"] / len(lengths), 2)
    assert [one["limit"] for one in tokens["truncated"]] == list(LIMITS)
    assert tokens["truncated"][-1]["rows"] > 0
    assert tokens["row"]["sum"] == sum(lengths)
    assert tokens["answer"]["max"] == max(len(row.token_ids) - row.prompt_length for row in whole)
    assert tokens["row"]["percentiles"]["90"] == sorted(lengths)[-(-90 * len(lengths) // 100) - 1]
    assert sum(tokens["histogram"]["counts"]) == len(lengths)
    edges = tokens["histogram"]["edges"]
    assert tokens["histogram"]["counts"][0] == sum(length <= edges[0] for length in lengths)
    too_long = report.finding("too_long")
    assert too_long is not None
    assert too_long.count == sum(length > 100 for length in lengths)


def test_no_tokenizer_no_figures(diagnose):
    assert diagnose(good_rows(60)).tokens is None
