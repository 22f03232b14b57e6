"""One module a broker, opened by URL scheme."""

import re
from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from catga.abc import Backend, BackendFactory, BackendSettings
from catga.errors import ClusterError, MissingExtraError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "catga.backends"

_EXTRAS = {"nats": "nats", "nats-py": "nats", "redis": "redis", "hiredis": "redis"}


def open_backend(settings: BackendSettings) -> Backend:
    """The backend behind a URL. Imports its client library; does no I/O.

    Raises:
        ClusterError: no backend has this scheme.
        ValueError: it is no URL.
        MissingExtraError: its client library is not installed; the message has the install line.
    """
    check_url(settings.url)
    scheme = urlsplit(settings.url).scheme
    try:
        factory = _factory(scheme)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0], scheme)
        raise MissingExtraError(
            f"{scheme}:// needs {error.name}, which is not installed: pip install 'catga[{extra}]'"
        ) from error
    if factory is None:
        raise ClusterError(f"no backend for {redact(settings.url)!r}: the scheme must be one of {_schemes()}")
    rest = settings.url.partition("://")[2]
    return factory(msgspec.structs.replace(settings, url=f"{scheme}://{rest}"))


def schemes() -> set[str]:
    """The URL schemes that have a backend."""
    return {*_BUILT_IN, *(entry.name for entry in _entries())}


def _schemes() -> str:
    return ", ".join(f"{name}://" for name in sorted(schemes()))


def redact(url: str) -> str:
    """`url` without its password, for logs and errors."""
    if "://" not in url and "@" in url:  # somebody left the scheme out
        url = "***@" + url.rpartition("@")[2]
    return _QUERY.sub(_without_secret, _CREDENTIALS.sub(_without_password, url))


# Up to the last "@" of one URL of a list, whatever is inside: who did not escape it must not find it in the log.
_CREDENTIALS = re.compile(r"(?<=://)(?:(?!,[a-z+]+://).)*@", re.DOTALL)
_QUERY = re.compile(r"([?&][^=&?]*)=[^&]*")  # in a time that grows no faster than the text
_SECRET = re.compile(r"pass|secret|token|auth|cred|key", re.IGNORECASE)


def _without_secret(found: "re.Match[str]") -> str:
    return f"{found[1]}=***" if _SECRET.search(found[1]) else found[0]


def _without_password(found: "re.Match[str]") -> str:
    user, colon, _ = found[0].partition(":")
    return f"{user}:***@" if colon else "***@"


def check_url(url: str) -> None:
    """Raise ValueError, without the secret that a client library would put into its own, unless it is a URL; TypeError
    unless it is text."""
    if not isinstance(url, str):  # pyright: ignore[reportUnnecessaryIsInstance] - of a variable that is not set
        raise TypeError(f"the URL of the cluster must be text such as nats://host:4222, got {url!r}")
    if "://" not in url:
        raise ValueError(f"{redact(url)!r} is no URL: it must begin with one of {_schemes()}")
    if not all(map(_is_url, url.split(","))):  # raised out here: an error's context is shown, too
        rule = "a port is a number from 1 to 65535"
        if "@" in url:
            rule = "write special characters of user and password as %XX (urllib.parse.quote), and " + rule
        raise ValueError(f"{redact(url)!r} is no URL: {rule}")


def _is_url(url: str) -> bool:
    try:
        return urlsplit(url).port != 0
    except ValueError:
        return False


_BUILT_IN = {
    "memory": "catga.backends.memory",
    "nats": "catga.backends.nats",
    "tls": "catga.backends.nats",
    "redis": "catga.backends.redis",
    "rediss": "catga.backends.redis",
}


def _factory(scheme: str) -> BackendFactory | None:
    factory: BackendFactory | None = None
    if (module := _BUILT_IN.get(scheme)) is not None:
        factory = import_module(module).open_backend
    elif entry := next((entry for entry in _entries() if entry.name == scheme), None):
        factory = entry.load()
    return factory


def _entries() -> "Iterable[EntryPoint]":
    from importlib.metadata import entry_points  # a quarter of the import time, for a scheme of somebody else's

    return entry_points(group=GROUP)
