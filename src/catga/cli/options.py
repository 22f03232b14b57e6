"""Options that many commands share."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import click

from catga.backends import redact
from catga.cli.keys import signing_keys

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_URL = "nats://127.0.0.1:4222"


class Where(NamedTuple):
    """The cluster that is meant."""

    url: str
    prefix: str
    connect_timeout: float
    signing_keys: tuple[bytes, ...] = ()

    def __repr__(self) -> str:  # the URL may have a password
        return f"Where({redact(self.url)!r}, {self.prefix!r})"


def env_option(*names: str, **settings: Any) -> Callable[[F], F]:
    """An option that is also taken from ``CATGA_<NAME>``."""
    name = max(names, key=len).split("/")[0].lstrip("-").replace("-", "_").upper()
    return click.option(*names, envvar=f"CATGA_{name}", show_envvar=True, **settings)


def cluster_options(command: F) -> F:
    """``--url``, ``--prefix`` and ``--connect-timeout``; see `where`."""
    for option in (
        env_option(
            "--connect-timeout", type=float, default=5.0, show_default=True, help="Seconds to reach the broker."
        ),
        env_option(
            "--prefix", default="catga", show_default=True, help="Prefix of the cluster's subjects, channels and keys."
        ),
        env_option("--url", default=DEFAULT_URL, show_default=True, help="The broker: nats://…, tls://…, redis://…"),
    ):
        command = option(command)
    return command


def where(options: dict[str, Any]) -> Where:
    """The cluster that `cluster_options` and the environment describe; takes them out of `options`."""
    url, prefix, connect_timeout = (options.pop(name) for name in ("url", "prefix", "connect_timeout"))
    return Where(url, prefix, connect_timeout, signing_keys())


app_dir_option = env_option(
    "--app-dir",
    type=click.Path(exists=True, file_okay=False),
    default=".",
    show_default=True,
    help="The folder to import your module from.",
)

json_option = click.option("--json", "as_json", is_flag=True, help="JSON on stdout, for scripts.")
