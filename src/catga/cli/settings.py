"""What a worker is told by its supervisor: one JSON value in the environment, as a URL may hold a password."""

from typing import Any

import msgspec


class WorkerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """See ``catga run --help``. ``node_id`` None: the library's default."""

    target: str
    app_dir: str = "."
    factory: bool = False
    url: str | None = None
    prefix: str | None = None
    node_id: str | None = None
    service: str | None = None
    endpoint: str | None = None
    metadata: dict[str, str] = {}
    max_concurrency: int | None = None
    request_timeout: float | None = None
    connect_timeout: float | None = None
    drain_timeout: float = 30.0
    loop: str = "auto"
    log_level: str = "info"
    ambient: frozenset[str] = frozenset()
    """Names of those that come from the environment: perhaps meant for other commands."""
    supervised: bool = False
    """Standard input is a pipe from the supervisor; its end is the supervisor's."""

    def __repr__(self) -> str:  # the URL may have a password
        return f"WorkerSettings({self.target!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:  # rich does not ask for the repr
        return [("target", self.target)]


VARIABLE = "CATGA_WORKER_SETTINGS"
