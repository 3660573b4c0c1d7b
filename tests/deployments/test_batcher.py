"""Laws of drain-while-busy batching."""

import asyncio
from collections.abc import Callable

import pytest

from deployments.batcher import MicroBatcher
from deployments.errors import OverloadedError, UnavailableError


class Gate:
    """A handler that doubles numbers and holds each batch until it is let go."""

    def __init__(self, *, is_open: bool = False) -> None:
        self.batches: list[list[int]] = []
        self._open = asyncio.Event()
        if is_open:
            self._open.set()

    async def __call__(self, items: list[int]) -> list[int | Exception]:
        self.batches.append(items)
        await self._open.wait()
        if any(item == 666 for item in items):
            raise RuntimeError("the batch is spoilt")
        return [ValueError("odd one") if item < 0 else 2 * item for item in items]

    def let_go(self) -> None:
        """Let the running batch and all later ones pass."""
        self._open.set()


def batcher(
    gate: Gate, *, max_batch: int = 64, max_depth: int = 1024, between: Callable[[], None] | None = None
) -> MicroBatcher[int, int]:
    return MicroBatcher(gate, max_batch=max_batch, max_depth=max_depth, between=between)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


async def test_a_lone_item_starts_at_once() -> None:
    gate = Gate(is_open=True)
    assert await batcher(gate).submit(21) == 42
    assert gate.batches == [[21]]


async def test_what_arrives_while_busy_is_the_next_batch() -> None:
    gate = Gate()
    batching = batcher(gate, max_batch=3)
    first = asyncio.create_task(batching.submit(0))
    await until(lambda: len(gate.batches) == 1)
    others = [asyncio.create_task(batching.submit(item)) for item in range(1, 6)]
    await until(lambda: batching.depth == 5)
    gate.let_go()
    assert await asyncio.gather(first, *others) == [0, 2, 4, 6, 8, 10]
    assert gate.batches == [[0], [1, 2, 3], [4, 5]]
    assert (batching.depth, batching.is_idle) == (0, True)


async def test_clients_that_have_gone_stall_nobody() -> None:
    gate = Gate()
    batching = batcher(gate)
    running = asyncio.create_task(batching.submit(1))
    await until(lambda: len(gate.batches) == 1)
    waiting = asyncio.create_task(batching.submit(2))
    staying = asyncio.create_task(batching.submit(3))
    await until(lambda: batching.depth == 2)
    running.cancel()
    waiting.cancel()
    await asyncio.wait([running, waiting])
    gate.let_go()
    assert await staying == 6
    assert gate.batches == [[1], [3]]
    assert await batching.submit(4) == 8


async def test_a_raising_handler_fails_its_batch_only() -> None:
    gate = Gate(is_open=True)
    batching = batcher(gate)
    with pytest.raises(RuntimeError, match="spoilt"):
        await batching.submit(666)
    assert await batching.submit(1) == 2


async def test_an_exception_among_the_results_fails_its_item_only() -> None:
    batching = batcher(Gate(is_open=True))
    good, bad = await asyncio.gather(batching.submit(1), batching.submit(-1), return_exceptions=True)
    assert good == 2
    assert isinstance(bad, ValueError)


async def test_a_handler_with_too_few_results_fails_its_batch() -> None:
    async def forgetful(_items: list[int]) -> list[int | Exception]:
        return []

    batching = MicroBatcher[int, int](forgetful)
    with pytest.raises(RuntimeError, match="0 results for 1 items"):
        await batching.submit(1)


async def test_a_full_queue_refuses_at_once_and_keeps_the_admitted() -> None:
    gate = Gate()
    batching = batcher(gate, max_depth=1)
    first = asyncio.create_task(batching.submit(1))
    await until(lambda: len(gate.batches) == 1)
    second = asyncio.create_task(batching.submit(2))
    await until(lambda: batching.depth == 1)
    with pytest.raises(OverloadedError):
        await batching.submit(3)
    gate.let_go()
    assert await asyncio.gather(first, second) == [2, 4]


async def test_the_hook_runs_between_batches_and_never_during_one() -> None:
    gate = Gate()
    seen: list[int] = []
    batching = batcher(gate, between=lambda: seen.append(len(gate.batches)))
    assert batching.run_between()
    first = asyncio.create_task(batching.submit(1))
    await until(lambda: len(gate.batches) == 1)
    before = list(seen)
    assert not batching.run_between()
    assert seen == before == [0, 0]
    gate.let_go()
    await first
    await until(lambda: batching.is_idle)
    assert seen[-1] == 1  # what was asked for while busy is done when the batch ends, without a next request


async def test_a_failing_hook_does_not_end_the_draining(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise RuntimeError("no such weights")

    assert await batcher(Gate(is_open=True), between=fail).submit(1) == 2
    assert "no such weights" in caplog.text


async def test_close_fails_the_waiting_and_lets_the_running_finish() -> None:
    gate = Gate()
    batching = batcher(gate)
    running = asyncio.create_task(batching.submit(1))
    await until(lambda: len(gate.batches) == 1)
    waiting = asyncio.create_task(batching.submit(2))
    await until(lambda: batching.depth == 1)
    closing = asyncio.create_task(batching.close())
    with pytest.raises(UnavailableError):
        await waiting
    gate.let_go()
    await closing
    assert await running == 2
    with pytest.raises(UnavailableError):
        await batching.submit(3)


async def test_thousands_of_leaving_clients_leave_an_idle_batcher() -> None:
    async def slow(items: list[int]) -> list[int | Exception]:
        await asyncio.sleep(0.001)
        return list(items)

    batching = MicroBatcher[int, int](slow, max_depth=10_000)
    tasks = [asyncio.create_task(batching.submit(item)) for item in range(3000)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [result for result in results if isinstance(result, int)] == list(range(1, 3000, 2))
    assert batching.is_idle
