"""Laws of drain-while-busy batching."""

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.batcher import MicroBatcher, Pace
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
    await until(lambda: batching.is_idle)
    assert batching.depth == 0


async def test_who_knocked_during_a_batch_comes_in_before_the_next() -> None:
    """A batch that computes lets nobody submit; who is a few turns of the loop away may catch up."""
    batches: list[list[int]] = []

    async def busy(items: list[int]) -> list[int | Exception]:
        batches.append(items)
        if len(batches) == 1:  # two knock while it computes: to be accepted, begun and submitted
            loop = asyncio.get_running_loop()
            loop.call_soon(lambda: later.extend(loop.create_task(batching.submit(item)) for item in (2, 3)))
        return list(items)

    later: list[asyncio.Task[int]] = []
    batching = MicroBatcher[int, int](busy, max_batch=1 + 3)
    assert await asyncio.gather(batching.submit(0), batching.submit(1)) == [0, 1]
    await asyncio.gather(*later)
    assert batches == [[0, 1], [2, 3]]


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
    await until(lambda: batching.is_idle)


class Work:
    """A handler and a clock: a unit of cost takes `s_per_cost`; remembers each batch and when it began."""

    def __init__(self, s_per_cost: float = 0.001) -> None:
        self.s_per_cost = s_per_cost
        self.now_s = 100.0
        self.batches: list[tuple[float, list[int]]] = []

    async def __call__(self, costs: list[int]) -> list[int | Exception]:
        self.batches.append((self.now_s, costs))
        await asyncio.sleep(0)
        self.now_s += self.s_per_cost * sum(costs)
        return list(costs)

    def clock(self) -> float:
        """Seconds."""
        return self.now_s

    def batcher(self, *, max_batch: int = 64, max_cost: float = 1e9) -> MicroBatcher[int, int]:
        """A batcher whose items are their own costs."""
        return MicroBatcher[int, int](self, max_batch=max_batch, max_cost=max_cost, cost=float, clock=self.clock)


async def test_a_batch_is_cut_by_cost_and_an_item_above_the_limit_goes_alone() -> None:
    work = Work()
    batching = work.batcher(max_cost=10)
    costs = [4, 5, 1, 30, 10, 2]
    assert await asyncio.gather(*(batching.submit(cost) for cost in costs)) == costs
    assert [batch for _, batch in work.batches] == [[4, 5], [1], [30], [10], [2]]


async def test_an_item_that_would_be_late_is_refused_at_once_and_one_that_would_not_is_taken() -> None:
    work = Work(s_per_cost=0.001)
    batching = work.batcher(max_cost=50)
    await batching.submit(10)
    ahead = [asyncio.create_task(batching.submit(50)) for _ in range(2)]
    await until(lambda: len(work.batches) == 2)
    assert batching.estimate_s(20) == pytest.approx(0.120)  # one runs, one waits, and its own
    with pytest.raises(OverloadedError, match="would take 120 ms, expected within 119 ms"):
        await batching.submit(20, 0.119)
    assert await batching.submit(20, 0.121) == 20
    assert await asyncio.gather(*ahead) == [50, 50]
    assert batching.n_shed == 1


async def test_an_idle_batcher_takes_what_comes_so_that_a_wrong_estimate_is_corrected() -> None:
    work = Work(s_per_cost=10.0)
    batching = work.batcher()
    await batching.submit(1)
    work.s_per_cost = 0.001
    await until(lambda: batching.is_idle)
    assert await batching.submit(1, 0.05) == 1


async def test_an_item_whose_turn_comes_too_late_is_refused_instead_of_computed() -> None:
    work = Work(s_per_cost=0.0)
    batching = work.batcher(max_batch=1)
    await batching.submit(1)
    work.s_per_cost = 1.0  # nobody could know
    running = asyncio.create_task(batching.submit(2))
    waiting = asyncio.create_task(batching.submit(3, 1.5))
    with pytest.raises(OverloadedError, match="after its deadline"):
        await waiting
    assert await running == 2
    assert [batch for _, batch in work.batches] == [[1], [2]]


def test_the_pace_is_learned_followed_and_not_upset_by_one_stall() -> None:
    pace = Pace()
    assert pace.expect_s(1000) == 0
    for _ in range(20):
        pace.observe(100, 0.1)
    assert pace.expect_s(200) == pytest.approx(0.2)
    pace.observe(100, 5.0)
    assert pace.expect_s(200) < 0.25
    for _ in range(40):
        pace.observe(100, 1.0)
    assert pace.expect_s(200) == pytest.approx(2.0, rel=0.05)
    for _ in range(80):
        pace.observe(100, 0.1)
    assert pace.expect_s(200) == pytest.approx(0.2, rel=0.05)


@given(
    items=st.lists(
        st.tuples(
            st.integers(1, 40),  # cost
            st.none() | st.integers(1, 60),  # deadline, ms
            st.integers(0, 3),  # turns of the loop until the next
            st.booleans(),  # whether its client leaves then
        ),
        max_size=40,
    ),
    paces=st.lists(st.sampled_from([0.0001, 0.0005, 0.002]), min_size=1, max_size=5),
    max_batch=st.integers(1, 5),
    max_cost=st.integers(1, 80),
)
def test_every_item_is_settled_once_within_the_limits_and_never_computed_late(
    items: list[tuple[int, int | None, int, bool]], paces: list[float], max_batch: int, max_cost: int
) -> None:
    asyncio.run(_live_through(items, paces, max_batch, max_cost))


async def _live_through(
    items: list[tuple[int, int | None, int, bool]], paces: list[float], max_batch: int, max_cost: int
) -> None:
    work, computed, due_s = Work(), list[int](), dict[int, float]()

    async def handle(batch: list[int]) -> list[int | Exception]:
        assert len(batch) <= max_batch
        assert len(batch) == 1 or len(batch) * max(items[index][0] for index in batch) <= max_cost
        assert all(work.now_s < due_s[index] for index in batch)
        computed.extend(batch)
        work.s_per_cost = paces[len(computed) % len(paces)]
        await work([items[index][0] for index in batch])
        return list(batch)

    batching = MicroBatcher[int, int](
        handle, max_batch=max_batch, max_cost=max_cost, cost=lambda index: items[index][0], clock=work.clock
    )

    async def ask(index: int) -> int:
        deadline_s = None if items[index][1] is None else items[index][1] / 1000  # type: ignore[operator]
        due_s[index] = work.now_s + (deadline_s or 1e9)
        is_late = deadline_s is not None and batching.estimate_s(items[index][0]) > deadline_s
        try:
            answer = await batching.submit(index, deadline_s)
        except OverloadedError as error:
            assert is_late == ("would take" in error.message)
            raise
        assert not is_late
        return answer

    tasks = []
    for index, (_, _, n_turns, leaves) in enumerate(items):
        tasks.append(asyncio.create_task(ask(index)))
        for _ in range(n_turns):
            await asyncio.sleep(0)
        if leaves:
            tasks[-1].cancel()
    async with asyncio.timeout(5):
        answers = await asyncio.gather(*tasks, return_exceptions=True)
    for index, answer in enumerate(answers):
        assert answer == index or isinstance(answer, OverloadedError | asyncio.CancelledError)
    assert len(set(computed)) == len(computed)
    assert {index for index, answer in enumerate(answers) if answer == index} <= set(computed)
    assert sum(isinstance(answer, OverloadedError) for answer in answers) <= batching.n_shed
    await until(lambda: batching.is_idle)
    assert batching.depth == 0
