"""Bare uvicorn, uvloop and httptools around our raw ASGI endpoint and micro-batcher: it tells what Serve costs.

Decisions are logged as by a replica, from the same loop. In its favour: no health checks, no metrics, no weights that
are followed, nothing in front of it.
"""

import asyncio

import uvicorn
import uvloop

from benchmarks.rivals.options import Options
from benchmarks.rivals.work import Work, fixed_app
from deployments.http import App


def run(options: Options) -> None:
    """Serve until told to stop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(options))


async def _serve(options: Options) -> None:
    work = Work(options, log_decisions=options.log_decisions)
    logging = asyncio.create_task(work.decisions.run()) if work.decisions else None
    await _server(work.endpoint(), options.port).serve()
    if logging is not None:
        logging.cancel()


def run_floor(options: Options) -> None:
    """Serve an answer that never changes, until told to stop."""
    _server(fixed_app(), options.port).run()


def _server(app: App, port: int) -> uvicorn.Server:
    return uvicorn.Server(
        uvicorn.Config(
            app, host="127.0.0.1", port=port, loop="uvloop", http="httptools", access_log=False, log_level="warning"
        )
    )
