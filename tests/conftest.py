"""What all tests share. The plugin is named here too, for a checkout that is not installed."""

import signal

pytest_plugins = ["catga.testing.plugin"]


def pytest_configure() -> None:
    """Ctrl-C reaches the commands that tests start, also where all this runs in the background of a script: there
    SIGINT is ignored, and children would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
