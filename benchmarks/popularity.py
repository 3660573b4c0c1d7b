"""The rival that any ranking must beat: what was most popular lately.

A candidate's score is its decayed count of everything strictly before the query; log(1 + count) would order the same.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

F64 = npt.NDArray[np.float64]


def popularity_scores(events: pa.Table, queries: pa.Table, half_life_s: float) -> F64:
    """Decayed counts [Q, K] of each query's candidates; 0 for what nobody has touched.

    Args:
        events: `ts_ms, item`, in time order.
        queries: `ts_ms, candidates`, in time order.
    """
    rate_per_ms = np.log(2.0) / (1000.0 * half_life_s)
    count: dict[object, float] = {}
    seen_ms: dict[object, int] = {}
    found: list[list[float]] = []
    at = 0
    times, items = events["ts_ms"].to_pylist(), events["item"].to_pylist()
    for now_ms, candidates in zip(queries["ts_ms"].to_pylist(), queries["candidates"].to_pylist(), strict=True):
        while at < len(times) and times[at] < now_ms:
            item = items[at]
            faded = np.exp(rate_per_ms * (seen_ms.get(item, 0) - times[at])) if item in count else 0.0
            count[item] = count.get(item, 0.0) * faded + 1.0
            seen_ms[item] = times[at]
            at += 1
        last_ms = np.array([seen_ms.get(item, now_ms) for item in candidates], dtype=np.float64)
        counts = np.array([count.get(item, 0.0) for item in candidates])
        found.append(list(counts * np.exp(rate_per_ms * (last_ms - now_ms))))
    return np.array(found)
