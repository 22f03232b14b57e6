"""What the tests of whole clusters share."""

import pytest


@pytest.fixture
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis links of this process are looked at once a second, not every other one."""
    monkeypatch.setattr("catga.backends.redis.session.LOOK_INTERVAL", 1.0)
