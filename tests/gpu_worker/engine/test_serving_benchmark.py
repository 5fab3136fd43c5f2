"""The serving benchmark: a fair workload, honest figures, and a table that says what was measured."""

import json
from pathlib import Path

import jsonschema
import pytest
import torch
from safetensors.torch import load_file

from gpu_worker.benchmarks import children, serving, serving_load
from gpu_worker.benchmarks.serving import run
from gpu_worker.benchmarks.serving_adapters import Switching
from gpu_worker.benchmarks.serving_load import Load, Request
from gpu_worker.benchmarks.serving_page import EXACT, Figures, render
from gpu_worker.benchmarks.serving_steps import StepCost, sentence
from gpu_worker.benchmarks.serving_workload import Workload, answer_schema, renamed, vary
from tests.forked import forked_subprocess

ANSWERS = [
    json.dumps({"queue": queue, "user": user})
    for queue, user in [("Access", "anna"), ("Network", None), ("Access", "boris"), ("Network", "c@example.com")]
]


def test_the_schema_closes_what_has_few_values() -> None:
    schema = answer_schema(ANSWERS)
    assert schema["properties"]["queue"] == {"type": "string", "enum": ["Access", "Network"]}
    assert {"type": "null"} in schema["properties"]["user"]["anyOf"]
    for answer in ANSWERS:
        jsonschema.validate(json.loads(answer), schema)


def test_renamed_answers_differ_wherever_values_are_closed_and_keep_to_the_schema() -> None:
    schema = answer_schema([json.dumps({"queue": queue, "user": str(number)}) for number, queue in enumerate("abcabc")])
    told = [json.loads(renamed('{"queue": "b", "user": "anna"}', schema, turn=turn)) for turn in range(3)]
    assert told == [{"queue": queue, "user": "anna"} for queue in "bca"]
    assert renamed(ANSWERS[1], answer_schema(ANSWERS), turn=1) == '{"queue": "Access", "user": null}'
    for entry in told:
        jsonschema.validate(entry, schema)


@pytest.mark.slow
def test_varied_adapters_are_alike_and_not_equal(adapter_dirs: dict[str, Path], tmp_path: Path) -> None:
    folders = [vary(adapter_dirs["north"], tmp_path / str(seed), seed=seed) for seed in range(3)]
    original = load_file(adapter_dirs["north"] / "adapter_model.safetensors")
    varied = [load_file(folder / "adapter_model.safetensors") for folder in folders]
    for name, tensor in original.items():
        assert torch.equal(varied[0][name], tensor)
        assert not torch.equal(varied[1][name], varied[2][name])
        assert torch.allclose(varied[1][name], tensor, rtol=0.2)


def test_rates_and_percentiles() -> None:
    load = Load(latencies_s=[1.0] * 19 + [3.0], answers=[""] * 20, seconds=5.0)
    assert load.per_s == 4.0
    assert 1.0 <= load.p95_s <= 3.0


def test_the_table_has_one_row_for_each_subject() -> None:
    workload = Workload(Path("m"), [], {"a": Path("a"), "b": Path("b")}, {}, 40, 52.4)
    figures = [
        Figures("one", 1.0, 0.1, 2.0, 1.5, 3.0, "is it", 10**9, 5.0),
        Figures("two", 0.5, 0.1, 4.0, 3.5, 1.0, "4/4", 9 * 10**8, 4.0, 0.05),
    ]
    lines = render(figures, workload, source="demo tickets", in_flight=8, crowd=32).splitlines()
    assert lines[-2].startswith("| one | 1.00 | 0.10 | 2.00 | 1.50 | 3.0 | – | – | is it | 1,000 | 5.0 | – | – |")
    assert lines[-1].startswith("| two | 0.50")
    assert "52 prompt tokens" in lines[2]


def test_agreement_with_exact_answers_in_the_same_form_stands_beside_each_figure() -> None:
    def row(subject: str, **answers: list[str]) -> Figures:
        rounds = {name.replace("_", ", "): found for name, found in answers.items()}
        return Figures(subject, 1.0, 0.1, 2.0, 1.5, 3.0, "", 10**9, 5.0, 0.1, 2.5, 2.4, answers=rounds)

    exact = {key: ["a", "b", "c", "d"] for key in ("alone", "first", "one", "mixed", "one_crowd", "mixed_crowd")}
    held = {key: ["1", "2"] for key in exact}
    figures = [
        row(EXACT, **exact),
        row(EXACT + ", JSON schema", **held),
        row("int8", **exact | {"mixed": ["a", "x", "c", "y"], "first": ["b", "b"]}),
        row("int8, JSON schema", **held | {"one_crowd": ["1", "3"]}),
        row("transformers", alone=["a", "b", "c"]),
    ]
    workload = Workload(Path("m"), [], {"a": Path("a")}, {}, 40, 52.4)
    lines = render(figures, workload, source="demo tickets", in_flight=8, crowd=32).splitlines()[-5:]
    assert all("(" not in line for line in lines[:2])
    assert "| 1.00 (4/4) | 0.10 (1/2) | 2.00 (4/4) | 1.50 (2/4) | 3.0 (2/4) | 2.50 (4/4) | 2.40 (4/4) |" in lines[2]
    assert "| 1.00 (2/2) | 0.10 (2/2) | 2.00 (2/2) | 1.50 (2/2) | 3.0 (2/2) | 2.50 (1/2) | 2.40 (2/2) |" in lines[3]
    assert "| 1.00 (3/3) | 0.10 | 2.00 |" in lines[4]


@pytest.mark.slow
@pytest.mark.usefixtures("compiled_kernels")
def test_a_quick_run_measures_everything(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (serving, children):
        monkeypatch.setattr(module, "subprocess", forked_subprocess)
    told: list[str] = []
    section = run(rows=None, model_dir=model_dir, quick=True, progress=told.append)
    assert section.count("\n|") == 5 + 14  # the figures, and the bars
    assert "Tuneport engine, fp32, JSON schema" in section
    assert len(told) == 6
    assert all(remark in section for remark in told[-2:])
    assert "8 rows under 3 adapters" in told[-2]
    assert "to 10 adapters in turn" in told[-1]


def test_both_kinds_are_asked_twice_in_turn_and_nothing_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def ask(client: object, requests: list[Request], in_flight: int) -> Load:
        asked.extend((request.model, request.messages[-1]["content"]) for request in requests)
        return Load([1.0], [requests[0].model], 2.0)

    monkeypatch.setattr(serving_load, "ask_in_flight", ask)
    kinds = [[Request(model, [{"role": "user", "content": "Hi"}], 8)] for model in "ab"]
    first, second = serving_load.ask_in_turn(None, *kinds, 8)  # type: ignore[arg-type]
    assert [model for model, _text in asked] == ["a", "b", "b", "a"]
    assert len(set(asked)) == 4
    assert (first.answers, first.seconds, second.per_s) == (["a", "a"], 4.0, 0.5)


def test_the_price_of_switching_is_told_as_a_share() -> None:
    exact = Switching("engine, fp32", 8, {1: (10.0, 10.5), 8: (4.0, 3.8)}, ["a", "b"])
    assert exact.sentence(exact).endswith("+5.0% time one after the other, -5.0% time with 8 in flight.")
    coarse = Switching("engine, int8", 8, exact.seconds, ["a", "c"])
    assert coarse.sentence(exact).endswith(" 1/2 answers are those of engine, fp32.")


def test_what_a_step_takes_beyond_its_products_is_told_as_a_share_of_them() -> None:
    said = sentence([StepCost(1, 0, 0.03, 0.02), StepCost(8, 1, 0.03, 0.025)], arithmetic="int8")
    assert "1 row without adapter 30.0 ms (+50%); 8 rows under one adapter 30.0 ms (+20%)." in said
