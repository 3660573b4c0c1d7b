"""Two applications for `cluster_program`: one at /v1/rank, one that answers everything else.

Both echo what they saw. Headers steer them: `x-sleep` waits that many seconds, `x-fail` raises that status.
"""

import asyncio
import os
from typing import Any

from ray import serve

from deployments import errors
from deployments.gate import PUBLIC
from deployments.http import App, Request, Response, Scope, json_response

OPTIONS: dict[str, Any] = {
    "max_ongoing_requests": 10_000,
    "graceful_shutdown_timeout_s": 1.0,
    "health_check_period_s": 1.0,
    "health_check_timeout_s": 5.0,
    "logging_config": {"enable_access_log": False, "log_level": "WARNING"},
    "ray_actor_options": {"num_cpus": 0.1},
}

FAILURES: dict[bytes, errors.ApiError] = {
    b"400": errors.MalformedError("bad"),
    b"413": errors.TooLargeError("big"),
    b"422": errors.InvalidError("wrong", path="$.x"),
    b"429": errors.OverloadedError("full", retry_after_s=7),
    b"503": errors.UnavailableError("away", retry_after_s=9),
}


class EchoApp(App):
    """An `App` whose handlers also see the scope's paths, as Serve hands them over."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.n_started = 0
        self.scope: Scope = {}

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Remember the scope, then answer."""
        self.scope = scope
        await super().__call__(scope, receive, send)

    async def echo(self, request: Request) -> Response:
        """Say what arrived, after the time and with the failure the headers ask for."""
        scope = self.scope  # no await since the call when there is no body; good enough for a test
        self.n_started += 1
        await asyncio.sleep(float(request.headers.get(b"x-sleep", b"0")))
        if (failure := request.headers.get(b"x-fail")) is not None:
            raise FAILURES[failure]
        return json_response(
            {
                "app": self.name,
                "pid": os.getpid(),
                "path": request.path,
                "root_path": scope.get("root_path"),
                "raw_path": scope.get("raw_path", b"").decode(),
                "params": request.params,
                "n_bytes": len(request.body),
                "n_started": self.n_started,
            }
        )


@serve.deployment(name="Ranker", num_replicas=2, **OPTIONS)
@serve.ingress()
class Ranker:
    """Answers /v1/rank and nothing below it."""

    def __init__(self) -> None:
        self.app_ = EchoApp("rank")
        self.app_.add("POST", "/v1/rank", self.app_.echo, PUBLIC)
        self.app_.add("GET", "/v1/rank", self.app_.echo, PUBLIC)

    def __serve_build_asgi_app__(self) -> App:
        """Hand Serve the application; it must be an instance with an async `__call__`."""
        return self.app_


@serve.deployment(name="Rest", num_replicas=1, **OPTIONS)
@serve.ingress()
class Rest:
    """Answers everything else, unknown paths with 404."""

    def __init__(self) -> None:
        self.app_ = EchoApp("rest")
        self.app_.add("GET", "/v1/health", self.app_.echo, PUBLIC)
        self.app_.add("POST", "/v1/events", self.app_.echo, PUBLIC)
        self.app_.add("GET", "/v1/users/{id}", self.app_.echo, PUBLIC)

    def __serve_build_asgi_app__(self) -> App:
        """Hand Serve the application."""
        return self.app_


def deploy() -> None:
    """Run both applications and wait until their replicas answer."""
    serve.run_many(
        [
            serve.RunTarget(Ranker.bind(), name="rank", route_prefix="/v1/rank"),  # type: ignore[attr-defined]
            serve.RunTarget(Rest.bind(), name="rest", route_prefix="/"),  # type: ignore[attr-defined]
        ]
    )
