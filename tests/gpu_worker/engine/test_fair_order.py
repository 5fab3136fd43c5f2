"""Whose turn it is: teams share the places to run, choices share their prompt, and nobody waits for ever."""

from collections.abc import Callable
from pathlib import Path

import pytest

from datasets_app.rendering import ChatRenderer
from gpu_worker.engine.core import EngineCore
from gpu_worker.engine.errors import Overloaded
from gpu_worker.engine.sampling import SamplingParams
from gpu_worker.engine.sequence import FinishReason, Sequence
from tests.gpu_worker.engine.driver import Answer, Driver, make_driver

PROMPT = [3, 40, 41, 42, 43]
FOREVER = 1e12


@pytest.fixture
def narrow(model_dir: Path, renderer: ChatRenderer) -> Driver:
    """One place to run, eight to wait."""
    return make_driver(model_dir, renderer, {}, max_running=1, max_waiting=8)


def sequence(driver: Driver, name: str, **more: object) -> Sequence:
    params = SamplingParams(max_tokens=2, ignore_eos=True)
    return Sequence.create(name, PROMPT, params, adapter=None, decode=driver.renderer.decode, **more)  # type: ignore[arg-type]


def submit(driver: Driver, name: str, **more: object) -> Sequence:
    one = sequence(driver, name, **more)
    driver.core.submit([one])
    driver.answers[name] = Answer()
    return one


def ends(core: EngineCore) -> list[str]:
    """Return the names in the order in which they end."""
    order = []
    while core.busy:
        order += [output.sequence_id for output in core.step() if output.finish_reason]
    return order


def test_a_burst_of_one_team_does_not_delay_another(narrow: Driver) -> None:
    for number in range(4):
        submit(narrow, f"burst {number}", owner="first")
    submit(narrow, "single", owner="second")
    submit(narrow, "again", owner="second")
    assert ends(narrow.core) == ["burst 0", "single", "burst 1", "again", "burst 2", "burst 3"]


def test_places_are_shared_evenly(model_dir: Path, renderer: ChatRenderer) -> None:
    driver = make_driver(model_dir, renderer, {}, max_running=4)
    submitted = [submit(driver, f"{owner} {number}", owner=owner) for owner in ("a", "b") for number in range(6)]
    driver.step()
    running = [one.owner for one in submitted if one.started_at is not None]
    assert sorted(running) == ["a", "a", "b", "b"]


def test_one_team_fills_no_more_than_its_share_of_the_line(narrow: Driver) -> None:
    for number in range(4):
        submit(narrow, f"burst {number}", owner="first")
    with pytest.raises(Overloaded, match="your requests"):
        submit(narrow, "one more", owner="first")
    for number in range(4):
        submit(narrow, f"other {number}", owner="second")
    for number in range(1):
        submit(narrow, f"third {number}", owner="third")
    with pytest.raises(Overloaded) as refusal:
        submit(narrow, "too many", owner="fourth")
    assert 1 <= refusal.value.retry_after_s <= 60


def test_who_waits_too_long_is_told_to_come_back(narrow: Driver) -> None:
    submit(narrow, "runs", start_by=FOREVER)
    narrow.step()
    submit(narrow, "late", start_by=0.0)
    submit(narrow, "patient", start_by=FOREVER)
    found = {output.sequence_id: output for output in narrow.core.step()}
    assert found["late"].finish_reason is FinishReason.EXPIRED
    assert found["late"].retry_after_s == 1
    assert "busy" in (found["late"].error or "")
    assert ends(narrow.core)[-1] == "patient"
    assert narrow.core.stats().finished == {"length": 2, "expired": 1}


def test_choices_compute_their_prompt_once(
    model_dir: Path, renderer: ChatRenderer, prompt_ids: Callable[[str], list[int]]
) -> None:
    driver = make_driver(model_dir, renderer, {})
    ids = prompt_ids("The printer does not print. " * 4)
    params = SamplingParams(max_tokens=3, ignore_eos=True)
    options = {"adapter": None, "decode": renderer.decode, "cache_salt": "choices of one request"}
    leader = Sequence.create("0", ids, params, **options)  # type: ignore[arg-type]
    followers = [Sequence.create(str(n), ids, params, leader=leader, **options) for n in (1, 2)]  # type: ignore[arg-type]
    driver.core.submit([leader, *followers])
    driver.answers = {str(number): Answer() for number in range(3)}
    answers = driver.run()
    assert answers["0"].cached_tokens == 0
    assert answers["1"].cached_tokens == answers["2"].cached_tokens == (len(ids) - 1) // 16 * 16
    assert answers["0"].token_ids == answers["1"].token_ids == answers["2"].token_ids


def test_choices_whose_leader_is_gone_go_on_alone(narrow: Driver) -> None:
    leader = sequence(narrow, "leader")
    follower = sequence(narrow, "follower", leader=leader)
    narrow.core.submit([leader, follower])
    narrow.core.cancel("leader")
    assert ends(narrow.core) == ["follower"]
