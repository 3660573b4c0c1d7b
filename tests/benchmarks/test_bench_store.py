"""The store's bench asks for everything it reports, of a real server."""

import psutil
import pytest

from benchmarks.bench_store import Bench, Meter
from features.embedded import EmbeddedServer
from features.redis_store import RedisStore
from features.schema import Schema


def test_processor_time_is_divided_among_what_was_done():
    meter = Meter(psutil.Process())  # here the server is this process
    assert sum(range(3_000_000)) > 0
    one, many = meter.cost("one", 1), meter.cost("many", 100)
    assert one.client_us > 10_000  # three million additions take longer than 10 ms on any machine
    assert many.client_us == pytest.approx(one.client_us / 100, rel=0.5)


@pytest.mark.slow
async def test_every_operation_is_measured():
    with EmbeddedServer() as server:
        store = RedisStore(server.url, Schema())
        await store.open()
        found = {cost.what: cost for cost in await Bench(server, store, 0.05).costs()}
        await store.close()
    assert all(cost.n > 0 and cost.client_us > 0 for what, cost in found.items() if what != "hear of item row")
    assert found["read person"].client_us > 2 * found["read item row"].client_us  # of which a hundred are one question
