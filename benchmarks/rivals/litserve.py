"""LitServe: a FastAPI process in front, the work in one process behind a ZeroMQ queue.

As its documentation has it: `decode_request`, `predict` on a batch, `encode_response`. In its favour: the fast queue it
recommends beyond a hundred requests a second, 1 ms of batch wait (with none its worker spins on a core), encoding by
msgspec, no access log.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import litserve
from starlette.responses import Response

from benchmarks.rivals import options as options_of
from benchmarks.rivals.options import Options
from benchmarks.rivals.work import MAX_BATCH, BlockingWork

WAIT_S = 0.001


class RankAPI(litserve.LitAPI):  # type: ignore[misc]
    """The one scoring process."""

    def setup(self, device: str) -> None:
        """Load weights."""
        del device
        self._work = BlockingWork(options_of.inherited())

    def decode_request(self, request: Mapping[str, Any]) -> Any:
        """Convert decoded JSON."""
        return self._work.convert(request)

    def batch(self, inputs: Sequence[Any]) -> Sequence[Any]:
        """A batch is a list."""
        return inputs

    def predict(self, x: Sequence[Any]) -> list[Any]:
        """Rank a batch."""
        return self._work.answer_now(x)

    def unbatch(self, output: list[Any]) -> list[Any]:
        """A batch is a list."""
        return output

    def encode_response(self, output: Any) -> Response:
        """Encode an answer."""
        return Response(self._work.encode(output), media_type="application/json")


def run(options: Options) -> None:
    """Serve until told to stop."""
    api = RankAPI(max_batch_size=MAX_BATCH, batch_timeout=WAIT_S, api_path="/v1/rank")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=True, timeout=30)
    server.run(host="127.0.0.1", port=options.port, num_api_servers=1, log_level="warning", generate_client_file=False)
