"""What all tests share. The plugin is named here too, for a checkout that is not installed."""

import functools
import signal

import pytest
from hypothesis import settings

from catga.membership import MembershipSettings

pytest_plugins = ["catga.testing.plugin"]

# Whatever profile is named: a deadline would make a slow machine's test fail.
for name in ("default", "ci"):
    settings.register_profile(name, settings.get_profile(name), deadline=None)
settings.register_profile("few", deadline=None, max_examples=25)
settings.register_profile("many", deadline=None, max_examples=400)
settings.load_profile("few")  # `make test-long` has --hypothesis-profile=many


def pytest_configure() -> None:
    """Ctrl-C reaches the commands that tests start, also where all this runs in the background of a script: there
    SIGINT is ignored, and children would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def settled_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The nodes of this process may declare deaths one second after their link came up, not five: where no link breaks,
    those are only waited for."""
    quick = functools.partial(MembershipSettings, settle=1.0)
    monkeypatch.setattr("catga.cluster.options.MembershipSettings", quick)
