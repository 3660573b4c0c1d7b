"""The application whose people are erased."""

from collections.abc import Iterator
from typing import Final

import pytest

from tests.cluster.conftest import Application

SCHEMA: Final = {"attributes": [{"name": "age", "entity": "user", "kind": "category"}]}


@pytest.fixture(scope="package")
def erasing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    """With an attribute of people, and an archive beside it."""
    folder = tmp_path_factory.mktemp("erased")
    application = Application(folder, schema=SCHEMA, store={"url": "", "archive": str(folder / "archive")})
    yield application
    assert application.close() == []
