"""mosec: a front and a batcher in Rust, the work in one Python process.

As its documentation has it: `deserialize`, `forward` on a batch, `serialize`. In its favour: the shortest wait it
accepts (1 ms, and it waits that long also for a lone request), its log at warnings.
"""

import os
from collections.abc import Sequence
from typing import Any

from mosec import Server, Worker
from mosec.errors import DecodingError, ValidationError

from benchmarks.rivals import options as options_of
from benchmarks.rivals.options import Options
from benchmarks.rivals.work import MAX_BATCH, BlockingWork
from deployments.errors import ApiError, MalformedError

WAIT_MS = 1


class RankWorker(Worker):  # type: ignore[misc]
    """The one scoring process."""

    def __init__(self) -> None:
        super().__init__()
        self._work = BlockingWork(options_of.inherited())

    def deserialize(self, data: bytes) -> Any:
        """Decode a body."""
        try:
            return self._work.decode(data)
        except MalformedError as error:
            raise DecodingError(error.message) from error
        except ApiError as error:
            raise ValidationError(error.message) from error

    def forward(self, data: Sequence[Any]) -> list[Any]:
        """Rank a batch."""
        return self._work.answer_now(data)

    def serialize(self, data: Any) -> bytes:
        """Encode an answer."""
        return self._work.encode(data)


def run(options: Options) -> None:
    """Serve until told to stop."""
    os.environ |= {"MOSEC_ADDRESS": "127.0.0.1", "MOSEC_PORT": str(options.port), "MOSEC_LOG_LEVEL": "warning"}
    server = Server()
    server.append_worker(RankWorker, num=1, max_batch_size=MAX_BATCH, max_wait_time=WAIT_MS, route="/v1/rank")
    server.run()
