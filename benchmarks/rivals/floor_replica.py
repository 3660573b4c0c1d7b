"""The replica of the floor. Imports Ray Serve, so it is imported after the cluster has been started."""

from ray import serve

from benchmarks.rivals.work import fixed_app
from deployments.http import App


@serve.deployment(name="Floor")
@serve.ingress()
class Floor:
    """One replica."""

    def __serve_build_asgi_app__(self) -> App:
        """Hand Serve the application."""
        return fixed_app()
