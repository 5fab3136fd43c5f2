"""The recipes' benchmark: trials never see a test row, measured things are kept, interrupted ones go on."""

import csv
import json
from pathlib import Path

import pytest

from gpu_worker.benchmarks import preflight, recipes, recipes_confidence
from gpu_worker.benchmarks.recipes import Subject
from gpu_worker.benchmarks.recipes_page import render
from tests.forked import forked_subprocess
from tests.gpu_worker.trainer.jobs import ticket_rows
from tests.tiny_model import make_tiny_model


@pytest.mark.parametrize("text", ["balanced@2000", "best@all", "best@all,learning_rate=0.002,lora_r=32", "fast@10"])
def test_subjects_are_read_as_they_are_named(text):
    assert Subject.parse(text).name == text


@pytest.mark.parametrize("text", ["", "best", "slow@200", "best@-1", "best@200,speed=3", "best@200,epochs"])
def test_other_words_are_refused_with_a_sentence(text):
    with pytest.raises(ValueError, match=r"\.$"):
        Subject.parse(text)


@pytest.fixture
def tables(tmp_path: Path) -> tuple[Path, Path]:
    paths = tmp_path / "train.csv", tmp_path / "test.csv"
    for path, rows in zip(paths, (ticket_rows(60), ticket_rows(80)[60:]), strict=True):
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("prompt", "response"))
            writer.writerows((row["messages"][-2]["content"], row["messages"][-1]["content"]) for row in rows)
    return paths


@pytest.mark.slow
def test_a_recipe_answers_test_rows_and_a_trial_validation_rows(tables, tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, "subprocess", forked_subprocess)
    monkeypatch.setattr(recipes, "UNTUNED_ROWS", 4)
    train, test = tables
    model = make_tiny_model(tmp_path / "data" / "models" / "tiny")
    subjects = ["fast@40,epochs=0.2,evaluation_rows=4", "fast@40"]
    page = recipes.run(rows=train, test=test, model_dir=model, quick=True, subjects=subjects, progress=str)
    folder = tmp_path / "data" / "benchmarks" / "recipes-quick"
    asked = {name: prompts(folder / name / "data" / "heldout.jsonl") for name in subjects}
    with test.open(newline="") as file:
        tests = {row["prompt"] for row in csv.DictReader(file)}
    assert asked["fast@40"] <= tests
    trial = asked[subjects[0]]
    assert trial
    assert not trial & tests
    assert trial == prompts(folder / subjects[0] / "data" / "validation.jsonl")
    for name in subjects:
        assert not prompts(folder / name / "data" / "train.jsonl") & asked[name]
    found = {name: json.loads((folder / name / "result.json").read_text()) for name in subjects}
    assert found["fast@40"]["untuned"]["rows"] == 4
    assert found["fast@40"]["training"]["step"] > found[subjects[0]]["training"]["step"]
    assert 0 <= found["fast@40"]["stolen_share"] <= 1
    calibration = found["fast@40"]["calibration"]
    assert calibration
    assert {(field["rows"], field["fitted_rows"]) for field in calibration} == {(8, 8)}
    assert "calibration" not in found[subjects[0]]
    assert "calibration error after scaling" in page
    older = [{name: value for name, value in one.items() if name != "stolen_share"} for one in found.values()]
    assert "| – |" in render(older, source="results of a release that did not note the share")
    assert "| fast | 32 |" in page
    assert "**fast**, within the schema" in page
    assert "| fast, evaluation_rows 4 | 32 |" in page


@pytest.mark.slow
def test_confidence_is_measured_of_results_that_were_kept_without_it(tables, tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, "subprocess", forked_subprocess)
    monkeypatch.setattr(recipes, "UNTUNED_ROWS", 4)
    train, test = (recipes.read_pairs(path) for path in tables)
    bench = recipes.Bench(train, test, make_tiny_model(tmp_path / "data" / "models" / "tiny"), str, quick=True)
    bench.measure_all(["fast@40"])
    kept = bench.folder / "fast@40" / "result.json"
    whole = json.loads(kept.read_text())
    answers = (bench.folder / "fast@40" / "evaluation" / "predictions.jsonl").read_text()
    kept.write_text(json.dumps({name: value for name, value in whole.items() if name != "calibration"}))
    bench.measure_all(["fast@40"])
    assert json.loads(kept.read_text()) == whole
    monkeypatch.setattr(bench, "_child", None)  # what was scored is kept: its figures follow today's rules unasked
    kept.write_text(json.dumps(whole | {"calibration": []}))
    bench.measure_all(["fast@40"])
    assert json.loads(kept.read_text()) == whole
    assert (bench.folder / "fast@40" / "evaluation" / "predictions.jsonl").read_text() == answers


def test_confidence_is_read_from_what_an_evaluator_writes(tmp_path):
    sure = [(0.9, True)] * 18 + [(0.6, True), (0.5, False)]
    learned = {"queue": {"temperature": 2.0, "labels": ["IT", "HR"], "rows": sure}}
    (tmp_path / "ways.json").write_text(json.dumps({"schema": {}, "calibration": learned, "ranking": []}))
    lines = []
    for row, (confidence, is_right) in enumerate(sure):
        expected, scored = (json.dumps({"queue": queue}) for queue in ("IT", "IT" if is_right else "HR"))
        found = {
            "row": row,
            "expected": expected,
            "constrained": expected,
            "scored": scored,
            "confidence": {"queue": [0.99, confidence]},
        }
        lines.append(json.dumps(found) + "\n")
    (tmp_path / "predictions.jsonl").write_text("".join(lines))
    [field] = recipes_confidence.calibration_of(tmp_path)
    assert (field["rows"], field["fitted_rows"], field["temperature"]) == (20, 20, 2.0)
    assert field["ece_before"] == pytest.approx(0.04)  # told 0.99, 19 of 20 right
    assert field["ece_after"] == pytest.approx((18 * 0.1 + 0.4 + 0.5) / 20)
    # for 90, 95 and 98%: of all 95% are right, but only 86.5% were expected to be
    assert field["fitted_shares"] == [0.9, 0.0, 0.0]
    assert field["as_written"] == 0.95
    (tmp_path / "ways.json").write_text(json.dumps({"schema": {}, "calibration": None}))
    assert recipes_confidence.calibration_of(tmp_path) == []


def prompts(path: Path) -> set[str]:
    return {json.loads(line)["messages"][1]["content"] for line in path.read_text().splitlines()}


def test_without_results_there_is_a_page_all_the_same():
    assert render([], source="nothing").startswith("## Recipes")


@pytest.mark.slow
def test_a_trial_is_held_against_the_whole_run(tables, tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, "subprocess", forked_subprocess)
    train, _test = tables
    model, subjects = tmp_path / "data" / "models" / "any", ["fast@40,epochs=6,sample_rows=4,compile_kernels=false"]
    page = preflight.run(rows=train, model_dir=model, quick=True, subjects=subjects, progress=str)
    (folder,) = (tmp_path / "data" / "benchmarks" / "preflight-quick").iterdir()
    found = json.loads((folder / "result.json").read_text())
    measured, predicted, finished = found["measured"], found["predicted"], found["finished"]
    assert (found["rows"], found["asked_rows"], found["steps"]) == (32, 8, predicted["total_steps"])
    assert found["steps"] > 20  # else a trial would be the longer one
    # all eight validation rows are asked, so that none is left to calibrate by
    assert (measured["evaluated_rows"], measured["sampled_rows"], measured["calibration_rows"]) == (8, 4, 0)
    assert not (folder / "trial" / "adapter").exists()
    seconds = found["training_s"] + found["evaluation_s"]
    assert 0.2 < predicted["seconds"] / seconds < 5  # of a tiny model on a busy machine; the bar is for quiet ones
    assert 0.5 < predicted["peak_memory_bytes"] / finished["peak_memory_bytes"] < 2
    assert f"| fast | 32 | {found['steps']} |" in page


def test_errors_tell_which_way_they_go():
    assert (preflight._error(90.0, 100.0), preflight._error(125.0, 100.0)) == ("-10%", "+25%")
