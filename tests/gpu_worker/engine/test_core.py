"""Ends, cancellation, bounds, and adapters that come and go while others run."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from datasets_app.rendering import ChatRenderer
from gpu_worker.engine import adapter_folder
from gpu_worker.engine.errors import AdapterParked, BadAdapter, ContextTooLong, ModelNotFound, Overloaded
from gpu_worker.engine.sequence import FinishReason
from tests.gpu_worker.engine.driver import Driver, make_driver
from tests.gpu_worker.engine.reference import Reference

# The first of them waits for PEFT and transformers to be imported.
pytestmark = pytest.mark.slow
PROMPT = [3, 40, 41, 42, 43]


def test_max_tokens_ends_with_length(driver: Driver) -> None:
    answer = driver.answer(PROMPT, max_tokens=5, ignore_eos=True)
    assert len(answer.token_ids) == 5
    assert answer.finish_reason is FinishReason.LENGTH


def test_a_stop_string_ends_the_answer_before_it(driver: Driver) -> None:
    whole = driver.answer(PROMPT, max_tokens=30)
    stop = whole.text[4:9]
    answer = driver.answer(PROMPT, max_tokens=30, stop=(stop,))
    assert answer.finish_reason is FinishReason.STOP
    assert answer.text == whole.text[: whole.text.find(stop)]
    assert len(answer.token_ids) < len(whole.token_ids)


def test_an_end_of_turn_token_ends_with_stop_and_is_not_shown(
    model_dir: Path, renderer: ChatRenderer, driver: Driver
) -> None:
    free = driver.answer(PROMPT, max_tokens=12, ignore_eos=True).token_ids
    end = next(index for index in range(2, 12) if free[index] not in free[:index])
    ending = make_driver(model_dir, renderer, {}, eos_ids={free[end]})
    answer = ending.answer(PROMPT, max_tokens=12)
    assert answer.token_ids == free[: end + 1]
    assert answer.finish_reason is FinishReason.STOP
    assert answer.text == renderer.decode(free[:end])


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_cancel_at_any_step_frees_everything(
    model_dir: Path, renderer: ChatRenderer, adapter_dirs: dict[str, Path], steps: int
) -> None:
    driver = make_driver(model_dir, renderer, adapter_dirs, prefill_tokens=16)
    driver.submit("gone", list(range(3, 50)), "north", max_tokens=100, ignore_eos=True)
    driver.submit("stays", PROMPT, "south", max_tokens=8, ignore_eos=True)
    for _ in range(steps):
        driver.step()
    driver.core.cancel("gone")
    driver.core.cancel("gone")
    answers = driver.run()
    assert len(answers["gone"].token_ids) <= steps
    assert len(answers["stays"].token_ids) == 8
    stats = driver.core.stats()
    assert (stats.running, stats.waiting, stats.cache_used_share) == (0, 0, 0.0)
    assert stats.finished == {"cancelled": 1, "length": 1}


def test_the_waiting_line_is_bounded(model_dir: Path, renderer: ChatRenderer) -> None:
    """Two places to run are free and three to wait, whether a step came between the requests or not."""
    driver = make_driver(model_dir, renderer, {}, max_running=2, max_waiting=3)
    for number in range(5):
        driver.submit(str(number), PROMPT)
    with pytest.raises(Overloaded) as refusal:
        driver.submit("too many", PROMPT)
    assert refusal.value.retry_after_s >= 1
    assert all(answer.token_ids for answer in driver.run().values())


@pytest.mark.slow
def test_more_requests_than_cache_wait_and_all_finish(
    model_dir: Path, renderer: ChatRenderer, reference: Reference
) -> None:
    driver = make_driver(model_dir, renderer, {}, kv_cache_bytes=16 * 1024 * 8)
    expected = {}
    for number in range(12):
        ids = [3 + number] * (5 + 3 * number)
        driver.submit(str(number), ids)
        expected[str(number)] = reference.generate(ids, None, 12)
    driver.step()
    assert driver.core.stats().waiting > 0
    assert {name: answer.token_ids for name, answer in driver.run().items()} == expected


def test_too_long_is_refused_with_the_numbers(driver: Driver) -> None:
    with pytest.raises(ContextTooLong, match="512 tokens"):
        driver.submit("long", PROMPT, max_tokens=600)
    assert not driver.core.busy


def test_unknown_adapter(driver: Driver) -> None:
    with pytest.raises(ModelNotFound):
        driver.submit("x", PROMPT, "nobody")


def test_adapters_come_and_go_while_others_run(
    model_dir: Path,
    renderer: ChatRenderer,
    adapter_dirs: dict[str, Path],
    reference: Reference,
    prompt_ids: Callable[[str], list[int]],
) -> None:
    driver = make_driver(model_dir, renderer, {"north": adapter_dirs["north"]})
    ids = prompt_ids("Hello there")
    driver.submit("first", ids, "north", max_tokens=20)
    driver.submit("bare", ids, None, max_tokens=20)
    driver.step()
    driver.core.add_adapter("south", driver.core.read_adapter(adapter_dirs["south"]))
    driver.submit("second", ids, "south", max_tokens=20)
    driver.step()
    driver.core.remove_adapter("north")
    with pytest.raises(ModelNotFound):
        driver.core.find_adapter("north")
    driver.core.add_adapter("west", driver.core.read_adapter(adapter_dirs["west"]))
    driver.submit("third", ids, "west", max_tokens=20)
    answers = driver.run()
    who = {"first": "north", "bare": None, "second": "south", "third": "west"}
    for name, adapter in who.items():
        assert answers[name].token_ids == reference.generate(ids, adapter, 20)


def test_a_reused_name_never_meets_the_old_cache(
    driver: Driver, adapter_dirs: dict[str, Path], reference: Reference, prompt_ids: Callable[[str], list[int]]
) -> None:
    ids = prompt_ids("The printer does not print. " * 3)
    driver.answer(ids, "north")
    driver.core.remove_adapter("north")
    driver.core.add_adapter("north", driver.core.read_adapter(adapter_dirs["west"]))
    answer = driver.answer(ids, "north")
    assert answer.cached_tokens == 0
    assert answer.token_ids == reference.generate(ids, "west", 12)


def test_adapter_names_and_room_are_bounded(
    model_dir: Path, renderer: ChatRenderer, adapter_dirs: dict[str, Path]
) -> None:
    limits = {"lora_rank_budget": 10, "max_known_adapters": 2}
    driver = make_driver(model_dir, renderer, {"north": adapter_dirs["north"]}, **limits)
    loaded = driver.core.read_adapter(adapter_dirs["south"])
    with pytest.raises(BadAdapter, match="loaded already"):
        driver.core.add_adapter("north", loaded)
    driver.submit("busy", PROMPT, "north")
    with pytest.raises(Overloaded, match="in use"):
        driver.core.add_adapter("south", loaded)
    driver.run()
    driver.core.add_adapter("south", loaded)
    with pytest.raises(BadAdapter, match="loaded already"):
        driver.core.add_adapter("north", loaded)
    with pytest.raises(BadAdapter, match="Too many"):
        driver.core.add_adapter("west", loaded)
    narrow = make_driver(model_dir, renderer, {}, lora_rank_budget=7)
    with pytest.raises(BadAdapter, match="rank 8 is above 7"):
        narrow.core.add_adapter("south", loaded)


@pytest.mark.parametrize("limits", [{"lora_rank_budget": 12}, {"max_adapters": 2}])
def test_the_least_recently_used_idle_adapter_makes_room_and_comes_back(
    model_dir: Path,
    renderer: ChatRenderer,
    adapter_dirs: dict[str, Path],
    reference: Reference,
    prompt_ids: Callable[[str], list[int]],
    limits: dict[str, object],
) -> None:
    driver = make_driver(model_dir, renderer, {name: adapter_dirs[name] for name in ("north", "south")}, **limits)
    core, ids = driver.core, prompt_ids("Hello there")
    driver.answer(ids, "south")
    driver.answer(ids, "north")
    core.add_adapter("west", core.read_adapter(adapter_dirs["west"]))
    with pytest.raises(AdapterParked) as parked:
        core.find_adapter("south")
    assert parked.value.path == adapter_dirs["south"]
    assert sorted(core.adapter_names()) == ["north", "south", "west"]
    driver.submit("runs", ids, "north")
    core.restore_adapter("south", core.read_adapter(parked.value.path))
    assert core.restore_adapter("south", core.read_adapter(parked.value.path)) == core.find_adapter("south")
    driver.submit("is back", ids, "south")
    answers = driver.run()
    assert answers["is back"].token_ids == reference.generate(ids, "south", 12)
    assert answers["runs"].token_ids == reference.generate(ids, "north", 12)
    core.remove_adapter("west")
    with pytest.raises(ModelNotFound):
        core.restore_adapter("west", core.read_adapter(adapter_dirs["west"]))
    assert sorted(core.adapter_names()) == ["north", "south"]
    assert core.stats().evictions == 2


def test_a_damaged_adapter_fails_alone(
    model_dir: Path,
    renderer: ChatRenderer,
    adapter_dirs: dict[str, Path],
    reference: Reference,
    tmp_path: Path,
    prompt_ids: Callable[[str], list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its numbers overflow inside a step that others share, and in cache blocks that others get next.

    Such an adapter is refused at the door; this is the wall behind the door.
    """
    monkeypatch.setattr(adapter_folder, "MAX_WEIGHT", 1e38)
    wild = tmp_path / "wild"
    shutil.copytree(adapter_dirs["north"], wild)
    tensors = load_file(wild / "adapter_model.safetensors")
    save_file({name: torch.full_like(t, 9e3) for name, t in tensors.items()}, wild / "adapter_model.safetensors")
    config = json.loads((wild / "adapter_config.json").read_text())
    (wild / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 1e30}))
    driver = make_driver(model_dir, renderer, {"north": adapter_dirs["north"], "wild": wild})
    ids = prompt_ids("Hello there")
    for round_ in range(3):
        driver.submit(f"wild {round_}", ids, "wild")
        driver.submit(f"good {round_}", ids, "north")
        driver.submit(f"bare {round_}", ids)
        driver.run()
    for round_ in range(3):
        assert driver.answers[f"wild {round_}"].finish_reason is FinishReason.ERROR
        assert driver.answers[f"good {round_}"].token_ids == reference.generate(ids, "north", 12)
        assert driver.answers[f"bare {round_}"].token_ids == reference.generate(ids, None, 12)
