"""The engine's thread: orders between steps, and a step that breaks off ends its answers and nothing else."""

import queue
from collections.abc import Iterator
from pathlib import Path

import pytest

from datasets_app.rendering import ChatRenderer
from gpu_worker.engine.errors import ModelNotFound, Overloaded
from gpu_worker.engine.loop import EngineLoop
from gpu_worker.engine.sampling import SamplingParams
from gpu_worker.engine.sequence import AdapterRef, FinishReason, Sequence, SequenceOutput
from tests.gpu_worker.engine.driver import Driver

PROMPT = [3, 40, 41, 42]
WAIT_S = 20


@pytest.fixture
def loop(driver: Driver) -> Iterator[EngineLoop]:
    loop = EngineLoop(driver.core)
    loop.start()
    yield loop
    loop.stop()


def sequence(renderer: ChatRenderer, name: str, adapter: AdapterRef | None = None, max_tokens: int = 6) -> Sequence:
    params = SamplingParams(max_tokens=max_tokens, ignore_eos=True)
    return Sequence.create(name, PROMPT, params, adapter=adapter, decode=renderer.decode)


def last_output(outputs: "queue.Queue[SequenceOutput]") -> SequenceOutput:
    while (output := outputs.get(timeout=WAIT_S)).finish_reason is None:
        pass
    return output


def test_outputs_arrive_and_orders_are_answered(loop: EngineLoop, renderer: ChatRenderer) -> None:
    outputs: queue.Queue[SequenceOutput] = queue.Queue()
    loop.submit([sequence(renderer, "a")], outputs.put).result(WAIT_S)
    assert last_output(outputs).finish_reason is FinishReason.LENGTH
    assert loop.call(lambda core: core.adapter_names()).result(WAIT_S) == ["north", "south", "west"]
    with pytest.raises(ModelNotFound):
        loop.call(lambda core: core.find_adapter("nobody")).result(WAIT_S)


def test_a_step_that_breaks_off_fails_its_answers_and_the_next_ones_succeed(
    loop: EngineLoop, driver: Driver, renderer: ChatRenderer
) -> None:
    forward, broken = driver.core._runner.forward, []

    def break_once(rows: object) -> object:
        if not broken:
            broken.append(True)
            raise RuntimeError("out of memory")
        return forward(rows)  # type: ignore[arg-type]

    driver.core._runner.forward = break_once  # type: ignore[assignment,method-assign]
    outputs: queue.Queue[SequenceOutput] = queue.Queue()
    pair = [sequence(renderer, "a"), sequence(renderer, "b")]
    loop.submit(pair, outputs.put).result(WAIT_S)
    failed = [last_output(outputs), last_output(outputs)]
    assert {output.sequence_id for output in failed} == {"a", "b"}
    assert all(output.finish_reason is FinishReason.ERROR and output.error for output in failed)
    loop.submit([sequence(renderer, "c")], outputs.put).result(WAIT_S)
    assert last_output(outputs).finish_reason is FinishReason.LENGTH
    assert loop.healthy
    assert loop.call(lambda core: core.stats().cache_used_share).result(WAIT_S) == 0


def test_an_answer_whose_last_output_was_lost_is_told_so(
    loop: EngineLoop, driver: Driver, renderer: ChatRenderer
) -> None:
    """One sequence ends in a step, the next one breaks the step: nobody may wait for ever."""
    extend = driver.core._extend

    def break_on_second(ended: Sequence, *rest: object) -> SequenceOutput:
        if ended.id == "second":
            raise RuntimeError("broken")
        return extend(ended, *rest)  # type: ignore[arg-type]

    driver.core._extend = break_on_second  # type: ignore[method-assign]
    outputs: queue.Queue[SequenceOutput] = queue.Queue()
    pair = [sequence(renderer, "first", max_tokens=1), sequence(renderer, "second")]
    loop.submit(pair, outputs.put).result(WAIT_S)
    failed = {last_output(outputs).sequence_id, last_output(outputs).sequence_id}
    assert failed == {"first", "second"}


def test_an_adapter_unloaded_between_look_up_and_submission(loop: EngineLoop, renderer: ChatRenderer) -> None:
    adapter = loop.call(lambda core: core.find_adapter("north")).result(WAIT_S)
    loop.call(lambda core: core.remove_adapter("north")).result(WAIT_S)
    with pytest.raises(ModelNotFound):
        loop.submit([sequence(renderer, "late", adapter)], lambda _: None).result(WAIT_S)


def test_a_stopped_loop_takes_no_orders(driver: Driver) -> None:
    loop = EngineLoop(driver.core)
    loop.start()
    loop.stop()
    with pytest.raises(Overloaded):
        loop.call(lambda core: core.stats())
    loop.cancel(["whatever"])


def test_reading_an_adapter_does_not_wait_for_the_thread(driver: Driver, adapter_dirs: dict[str, Path]) -> None:
    never_started = EngineLoop(driver.core)
    assert never_started.read_adapter(adapter_dirs["north"]).weights
