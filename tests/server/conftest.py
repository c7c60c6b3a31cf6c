from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="needs the extra serve")
pytest.importorskip("prometheus_client", reason="needs the extra serve")

from helpers.server import Running, running

from ese_deploy.bundle.reader import Bundle
from ese_deploy.server.settings import ServeSettings


def settings_of(bundle: Bundle, **changes: object) -> ServeSettings:
    return ServeSettings({"tiny": Path(bundle.path)}, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def server(tiny_bundle: Bundle) -> Iterator[Running]:
    """The tiny bundle with an alias, without keys."""
    with running(settings_of(tiny_bundle, aliases={"text-embedding-3-small": "tiny:2x16"})) as found:
        yield found
