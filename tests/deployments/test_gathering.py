"""Threads that ask the same at the same time are answered together, each with its own answer."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

from deployments import admission
from deployments.gathering import MOST, Gathering
from portal import quotas
from portal.models import Quota
from portal.rls import fetch_in_all_teams, team_scope

WAIT_S = 20.0
MOMENT = datetime(2027, 3, 5, 10, 0, 58, tzinfo=UTC)


class Desk:
    """Doubles numbers, and waits before the first answer until it is told to go on."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.is_asked, self.may_go_on = threading.Event(), threading.Event()

    def ask(self, _key: object, wishes: Sequence[int]) -> list[int | None]:
        self.asked.append(list(wishes))
        self.is_asked.set()
        assert self.may_go_on.wait(WAIT_S)
        if 13 in wishes:
            raise ValueError("thirteen")
        return [None if wish == 7 and len(wishes) > 1 else 2 * wish for wish in wishes]


def gathered(desk: Desk, wishes: Sequence[int]) -> list[object]:
    """Let the first thread ask, and the others come while it waits; return all answers or errors."""
    gathering = Gathering(desk.ask)

    def answer(wish: int) -> object:
        try:
            return gathering.answer("key", wish)
        except ValueError as error:
            return error

    with ThreadPoolExecutor(len(wishes)) as pool:
        first = pool.submit(answer, wishes[0])
        assert desk.is_asked.wait(WAIT_S)
        others = [pool.submit(answer, wish) for wish in wishes[1:]]
        while len(gathering._waiting["key"]) < len(others):
            pass
        desk.may_go_on.set()
        found = [future.result(WAIT_S) for future in [first, *others]]
    assert not gathering._waiting
    return found


def test_those_who_come_while_one_asks_are_asked_for_together():
    desk = Desk()
    assert gathered(desk, [1, 2, 3, 4]) == [2, 4, 6, 8]
    assert [sorted(wishes) for wishes in desk.asked] == [[1], [2, 3, 4]]


def test_many_are_asked_for_in_parts():
    desk = Desk()
    count = MOST + 5
    assert gathered(desk, list(range(100, 101 + count))) == [2 * wish for wish in range(100, 101 + count)]
    assert [len(wishes) for wishes in desk.asked] == [1, MOST, 5]


def test_who_has_no_answer_among_others_is_asked_for_alone():
    desk = Desk()
    assert gathered(desk, [1, 7, 3]) == [2, 14, 6]
    assert desk.asked[2:] == [[7]]


def test_an_error_is_the_error_of_those_whom_it_concerns():
    desk = Desk()
    first, bad, good = gathered(desk, [1, 13, 3])
    assert (first, good) == (2, 6)
    assert isinstance(bad, ValueError)


def test_an_error_of_the_first_keeps_nobody_waiting():
    desk = Desk()
    first, *others = gathered(desk, [13, 2, 3])
    assert isinstance(first, ValueError)
    assert others == [4, 6]


def test_different_keys_do_not_wait_for_each_other():
    desk = Desk()
    gathering = Gathering(lambda key, wishes: desk.ask(key, wishes) if key == "slow" else [0 for _wish in wishes])
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(gathering.answer, "slow", 5)
        assert desk.is_asked.wait(WAIT_S)
        assert gathering.answer("quick", 1) == 0
        desk.may_go_on.set()
        assert slow.result(WAIT_S) == 10


# --- with the database ---------------------------------------------------------------------------------------------


def asked(team, token: str) -> admission._Asked:
    """Return what requests to the base model have in common, with the stamps of this moment."""
    key_id = token.split("_")[1]
    [[stamp]] = fetch_in_all_teams("test", "SELECT portal_token_stamp(%s)", [key_id])
    [[target]] = fetch_in_all_teams(
        "test", "SELECT format('b%%s%%s', ctid, xmin) FROM portal_basemodel WHERE slug = %s", ["tiny"]
    )
    kinds = (Quota.REQUESTS_PER_MINUTE.value, Quota.TOKENS_PER_MINUTE.value)
    return admission._Asked(key_id, stamp, "tiny", target, team.pk, kinds, MOMENT, timedelta(minutes=15))


def wishes(*tokens: int) -> list[admission._Wish]:
    return [admission._Wish(uuid.uuid4(), (1, amount)) for amount in tokens]


def used(team) -> dict[str, int]:
    with team_scope(team.pk):
        return dict(team.quotawindows.values_list("kind", "used"))


def test_requests_let_in_together_stand_as_if_they_came_in_turn(team, token, engine):
    common, three = asked(team, token), wishes(10, 20, 40)
    found = admission._let_in(common, three)
    assert [[row[3] for row in rows] for rows in found] == [[1, 10], [2, 30], [3, 70]]
    with team_scope(team.pk):
        kept = dict(team.quotareservations.values_list("pk", "amounts"))
    assert kept == {wish.reservation_id: list(wish.amounts) for wish in three}
    starts = {Quota(row[0]): row[1] for row in found[0]}
    amounts = dict(zip(starts, three[1].amounts, strict=True))
    quotas.release(quotas.Reservation(three[1].reservation_id, team.pk, amounts, starts, {}))
    assert used(team) == {Quota.REQUESTS_PER_MINUTE: 2, Quota.TOKENS_PER_MINUTE: 50}


def test_if_not_all_fit_nothing_is_taken_until_each_is_asked_for_alone(team, token, engine):
    with team_scope(team.pk):
        team.teamlimits.create(kind=Quota.TOKENS_PER_MINUTE, value=50)
    common, three = asked(team, token), wishes(10, 20, 40)
    assert admission._let_in(common, three) == [None, None, None]
    assert used(team) == {}
    with team_scope(team.pk):
        assert not team.quotareservations.exists()
    last = [admission._let_in(common, [wish])[0][1] for wish in three]
    assert [(row[3], row[5]) for row in last] == [(10, False), (30, False), (30, True)]
    with team_scope(team.pk):
        assert set(team.quotareservations.values_list("pk", flat=True)) == {one.reservation_id for one in three[:2]}


def test_nobody_of_them_is_let_in_on_what_has_changed(team, token, engine):
    common = asked(team, token)
    for changed in (common._replace(token_stamp="other"), common._replace(target_stamp="other")):
        assert admission._let_in(changed, wishes(1, 2)) == [[], []]
    assert used(team) == {}
