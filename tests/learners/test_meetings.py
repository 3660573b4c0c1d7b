"""Learners that wait for one another: nobody waits in vain, and nobody goes on with another round than the others."""

import asyncio
from typing import Any

import pytest

from learners.errors import StaleSnapshot
from learners.meetings import Meetings

ENDS = {0: (5, 0), 1: (6, 0)}


def together(*calls: Any) -> list[Any]:
    async def run() -> list[Any]:
        return await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 5.0)

    return asyncio.run(run())


def test_everybody_gets_the_shares_of_all_by_seat() -> None:
    meetings: Meetings[str] = Meetings()
    found = together(*(meetings.hand_in(1, seat, 3, ENDS, f"s{seat}") for seat in (2, 0, 1)))
    assert found == [["s0", "s1", "s2"]] * 3


def test_who_comes_back_gets_what_the_others_went_on_with() -> None:
    meetings: Meetings[str] = Meetings()
    together(*(meetings.hand_in(1, seat, 2, ENDS, f"s{seat}") for seat in (0, 1)))
    assert meetings.is_complete(1)
    assert together(meetings.hand_in(1, 0, 2, ENDS, "again")) == [["s0", "s1"]]
    meetings.commit(1)
    assert not meetings.is_complete(1)


def test_who_is_lost_and_comes_back_does_not_keep_the_others_waiting() -> None:
    meetings: Meetings[str] = Meetings()

    async def run() -> list[list[str]]:
        lost = asyncio.create_task(meetings.hand_in(1, 0, 2, ENDS, "first"))
        await asyncio.sleep(0)
        lost.cancel()
        return list(await asyncio.gather(*(meetings.hand_in(1, seat, 2, ENDS, f"s{seat}") for seat in (0, 1))))

    assert asyncio.run(run()) == [["first", "s1"]] * 2


def test_a_round_whose_learners_read_different_logs_is_torn_for_all_of_them() -> None:
    meetings: Meetings[str] = Meetings()
    others = {0: (5, 0), 1: (6, 1)}
    found = together(meetings.hand_in(1, 0, 3, ENDS, "a"), meetings.hand_in(1, 1, 3, others, "b"))
    assert all(isinstance(each, StaleSnapshot) for each in found)
    assert together(*(meetings.hand_in(1, seat, 2, ENDS, str(seat)) for seat in (0, 1))) == [["0", "1"]] * 2


def test_later_rounds_are_torn_with_an_earlier_one() -> None:
    """Who is ahead stands on shares that are gone."""
    meetings: Meetings[str] = Meetings()

    async def run() -> list[Any]:
        await asyncio.gather(*(meetings.hand_in(1, seat, 2, ENDS, str(seat)) for seat in (0, 1)))
        ahead = asyncio.create_task(meetings.hand_in(2, 1, 2, {0: (9, 0)}, "ahead"))
        await asyncio.sleep(0)
        back = meetings.hand_in(1, 0, 2, {0: (4, 0)}, "another log")
        return await asyncio.wait_for(asyncio.gather(ahead, back, return_exceptions=True), 5.0)

    with pytest.raises(StaleSnapshot):
        raise asyncio.run(run())[0]
