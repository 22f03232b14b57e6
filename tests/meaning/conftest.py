"""The places of the table of meanings, as a fixture."""

import pytest
from places import PLACES


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Its name, and the URL of its broker."""
    broker = f"{request.param}_url"
    return request.param, request.getfixturevalue(broker) if request.param in ("nats", "redis") else ""
