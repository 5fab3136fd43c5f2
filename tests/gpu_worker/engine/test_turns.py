"""Whose turn it is to be scored, and adapters that leave memory between a request and its turn."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from datasets_app.rendering import ChatRenderer
from gpu_worker.engine.config import EngineConfig
from gpu_worker.engine.errors import ModelNotFound, Overloaded
from gpu_worker.engine.grammar import GrammarCompiler
from gpu_worker.engine.loop import EngineLoop
from gpu_worker.engine.sampling import SamplingParams
from gpu_worker.engine.server.generation import Generator
from gpu_worker.engine.server.requests import GenerationOrder
from gpu_worker.engine.server.scoring import ValueScorer, ValuesInText
from gpu_worker.engine.server.turns import Turns
from tests.gpu_worker.engine.driver import Driver, make_driver

CONFIG = EngineConfig(max_context=512)
ORDER = GenerationOrder("", SamplingParams(max_tokens=12), 1, stream=False, include_usage=False)
SCHEMA = {"type": "object", "properties": {"urgent": {"type": "boolean"}}, "required": ["urgent"]}


def turns(**more: Any) -> Turns:
    """One place, eight to wait."""
    return Turns(**{"places": 1, "waiting": 8, "share": 0.5, "wait_s": 60.0, **more})


async def ends(line: Turns, owners: list[str]) -> list[str]:
    """Return the order in which requests that came in this order are done."""
    done: list[str] = []

    async def one(owner: str, number: int) -> None:
        async with line.place(owner):
            await asyncio.sleep(0)
            done.append(f"{owner} {number}")

    await asyncio.gather(*(one(owner, owners[:place].count(owner)) for place, owner in enumerate(owners)))
    return done


def test_a_burst_of_one_team_does_not_delay_another() -> None:
    order = asyncio.run(ends(turns(), ["a", "a", "a", "a", "b", "b"]))
    assert order == ["a 0", "b 0", "a 1", "b 1", "a 2", "a 3"]


def test_places_are_shared_evenly() -> None:
    order = asyncio.run(ends(turns(places=2), ["a", "a", "a", "a", "b", "b"]))
    assert set(order[:2]) == {"a 0", "a 1"}
    assert "b 0" in order[2:4]


def test_one_team_fills_no_more_than_its_share_of_the_line() -> None:
    async def scene() -> None:
        line = turns()
        async with line.place("first"):
            waiting = [asyncio.create_task(ends(line, ["first"])) for _ in range(4)]
            await asyncio.sleep(0)
            with pytest.raises(Overloaded, match="your requests"):
                await ends(line, ["first"])
            waiting += [asyncio.create_task(ends(line, ["second"])) for _ in range(4)]
            await asyncio.sleep(0)
            with pytest.raises(Overloaded, match="Too many requests") as refusal:
                await ends(line, ["third"])
            assert 1 <= refusal.value.retry_after_s <= 60
        await asyncio.gather(*waiting)

    asyncio.run(scene())


def test_who_waits_too_long_is_told_to_come_back_and_who_leaves_makes_room() -> None:
    async def scene() -> None:
        line = turns(wait_s=0.01)
        async with line.place("first"):
            with pytest.raises(Overloaded, match="too busy") as refusal:
                await ends(line, ["second"])
            assert refusal.value.retry_after_s >= 1
        line = turns()
        async with line.place("first"):
            leaves = asyncio.create_task(ends(line, ["second"]))
            stays = asyncio.create_task(ends(line, ["second"]))
            await asyncio.sleep(0)
            leaves.cancel()
            await asyncio.sleep(0)
        assert await stays == ["second 0"]
        # one that is called to its place in the moment in which it leaves gives the place on
        await line._enter("first")
        called = asyncio.create_task(ends(line, ["second"]))
        last = asyncio.create_task(ends(line, ["third"]))
        await asyncio.sleep(0)
        line._leave("first")
        called.cancel()
        assert await last == ["third 0"]
        assert await ends(line, ["fourth"]) == ["fourth 0"]

    asyncio.run(scene())


# --- on an engine ---------------------------------------------------------------------------------------------------


@dataclass
class Served:
    driver: Driver
    loop: EngineLoop
    generator: Generator
    scorer: ValueScorer

    async def crowd_out(self, path: object) -> None:
        """Let another request bring its adapter into the only place."""
        loaded = await asyncio.to_thread(self.loop.read_adapter, path)  # type: ignore[arg-type]
        await asyncio.wrap_future(self.loop.call(lambda core: core.restore_adapter("south", loaded)))

    async def text(self, generation: Any) -> list[int]:
        return [token async for added in generation.outputs() for token in added.output.token_ids]


@pytest.fixture
def served(model_dir, adapter_dirs, renderer: ChatRenderer) -> Iterator[Served]:
    """Two adapters and room for one."""
    adapters = {name: adapter_dirs[name] for name in ("south", "north")}
    driver = make_driver(model_dir, renderer, adapters, max_adapters=1)
    loop = EngineLoop(driver.core)
    grammars = GrammarCompiler(model_dir, vocabulary=driver.core.vocabulary, eos_ids=renderer.eos_ids)
    generator = Generator(loop, renderer, CONFIG, grammars, max_context=512)
    loop.start()
    yield Served(driver, loop, generator, ValueScorer(generator, loop, renderer, CONFIG))
    loop.stop()


@pytest.mark.slow
def test_an_adapter_that_is_put_out_while_a_schema_is_compiled_comes_back(
    served: Served, adapter_dirs, prompt_ids, monkeypatch
) -> None:
    compiled, grammar_of = [], served.generator._grammar

    async def slow_grammar(*asked: Any) -> Any:
        compiled.append(True)
        if len(compiled) == 1:
            await served.crowd_out(adapter_dirs["south"])
        return await grammar_of(*asked)

    async def scene() -> list[int]:
        order = replace(ORDER, schema=SCHEMA, params=SamplingParams(max_tokens=40))
        return await served.text(await served.generator.start(order, [prompt_ids("Hello")], "north"))

    right = asyncio.run(scene())
    monkeypatch.setattr(served.generator, "_grammar", slow_grammar)
    assert asyncio.run(scene()) == right
    assert len(compiled) == 2


@pytest.mark.slow
def test_adapters_that_are_always_put_out_end_in_a_refusal(served: Served, adapter_dirs, prompt_ids, monkeypatch):
    async def slow_grammar(*_asked: Any) -> None:
        await served.crowd_out(adapter_dirs["south"])

    monkeypatch.setattr(served.generator, "_grammar", slow_grammar)
    with pytest.raises(Overloaded, match="change faster"):
        asyncio.run(served.generator.start(ORDER, [prompt_ids("Hello")], "north"))
    with pytest.raises(ModelNotFound):
        asyncio.run(served.generator.start(ORDER, [prompt_ids("Hello")], "nobody"))


@pytest.mark.slow
def test_values_are_scored_under_an_adapter_that_was_put_out_meanwhile(served: Served, adapter_dirs, prompt_ids):
    asked = ValuesInText(prompt_ids("Hello"), "", ["yes", "no"], "")
    right = asyncio.run(served.scorer.score(asked, "north", cache_salt="team"))
    tries = []

    class PutOutOnce(ValuesInText):
        def token_ids(self, renderer: ChatRenderer) -> list[list[int]]:
            tries.append(True)
            if len(tries) == 1:
                asyncio.run(served.crowd_out(adapter_dirs["south"]))
            return super().token_ids(renderer)

    asked = PutOutOnce(asked.prompt, "", asked.values, "")
    assert asyncio.run(served.scorer.score(asked, "north", cache_salt="team")).logprobs == right.logprobs
    assert len(tries) == 2


@pytest.mark.slow
def test_an_adapter_stays_while_values_are_scored_under_it(served: Served, adapter_dirs) -> None:
    core = served.driver.core
    with core.holding(core.find_adapter("north")):
        with pytest.raises(Overloaded, match="in use"):
            core.restore_adapter("south", core.read_adapter(adapter_dirs["south"]))
        core.remove_adapter("north")
        assert core._leaving
    assert not core._leaving
    core.restore_adapter("south", core.read_adapter(adapter_dirs["south"]))


@pytest.mark.slow
def test_decisions_of_one_team_do_not_lock_out_another(served: Served, prompt_ids) -> None:
    """Twenty of the first team are there before the only one of the second, which is done long before they are."""
    done: list[str] = []
    asked = ValuesInText(prompt_ids("Hello"), "", ["yes", "no"], "")

    async def decide(team: str) -> None:
        await served.scorer.score(asked, "north", cache_salt=team)
        done.append(team)

    async def scene() -> None:
        await asyncio.gather(*(decide("first") for _ in range(20)), decide("second"))

    asyncio.run(scene())
    assert done.index("second") <= 4
