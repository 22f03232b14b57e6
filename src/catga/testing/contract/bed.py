"""`Bed`: what a promise is tried on. Opens backends and nodes under a prefix of its own, and closes them."""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any
from unittest import SkipTest

from catga import DistributedMediator, Mediator, add_cluster
from catga.abc import Backend, BackendSettings, Observation, Outgoing, TransportListener
from catga.backends import open_backend
from catga.node import NodeInfo
from catga.rpc.subjects import inbox
from catga.testing.waiting import eventually

Inject = Callable[[str, bytes], Awaitable[None]]
"""``await inject(prefix, data)`` puts foreign bytes where the discovery of that prefix finds announcements."""


class Bed:
    """One test's share of a backend.

    Args:
        url: of the backend; the broker behind it may serve other tests at the same time.
        options: the backend's own options, given to every `add_cluster`.
        inject: see `Inject`; without it the promise about foreign announcements is skipped.
    """

    def __init__(self, url: str, *, options: dict[str, Any] | None = None, inject: Inject | None = None) -> None:
        self.url = url
        self.options = options or {}
        self.prefix = f"t-{secrets.token_hex(6)}"
        self.log: list[logging.LogRecord] = []
        """What catga logged since the start."""
        self._inject = inject
        self._stack = AsyncExitStack()

    # -- the whole cluster ---------------------------------------------------------------------------

    async def node(self, node_id: str, app: Mediator | None = None, **settings: Any) -> DistributedMediator:
        """A started node, stopped at the end. Its times are short, and `settings` go before them."""
        node = self.unstarted(node_id, app, **settings)
        await node.start()
        self._stack.push_async_callback(node.stop)
        return node

    def unstarted(self, node_id: str, app: Mediator | None = None, **settings: Any) -> DistributedMediator:
        """The same, not started."""
        merged: dict[str, Any] = {
            "prefix": self.prefix,
            "probe_interval": 0.2,
            "heartbeat_interval": 1.0,
            "request_timeout": 10.0,
            "drain_timeout": 2.0,
            **self.options,
            **settings,
        }
        return add_cluster(app or Mediator(), self.url, node_id=node_id, **merged)

    async def crash(self, node: DistributedMediator) -> None:
        """Let a node vanish without a word, as by SIGKILL: it says nothing and hears nothing any more."""
        for task in asyncio.all_tasks():
            if task.get_name().startswith("catga-") and task.get_name().endswith(f"-{node.node_id}"):
                task.cancel()
        # It says no farewell: stopped at the end, it would wait for a link that is closed for good.
        node._joined().membership.own.joined = False  # pyright: ignore[reportPrivateUsage]
        backend = node._backend  # pyright: ignore[reportPrivateUsage]
        await backend.transport.aclose()
        await backend.discovery.aclose()

    async def inject(self, data: bytes) -> None:
        """Put foreign bytes among the announcements."""
        if self._inject is None:
            raise SkipTest("this backend's announcements cannot be reached from outside")
        await self._inject(self.prefix, data)

    def logged(self, text: str) -> list[str]:
        """Messages logged that contain `text`."""
        return [record.getMessage() for record in self.log if text in record.getMessage()]

    # -- the two halves of a backend -----------------------------------------------------------------

    async def transport(self) -> "Ear":
        """A started transport and its listener."""
        ear = Ear(self._open())
        await ear.transport.start(ear)
        self._stack.push_async_callback(ear.transport.aclose)
        return ear

    async def discovery(self) -> "Eye":
        """A discovery that watches, and what it has seen."""
        eye = Eye(self._open(ttl=5.0))
        await eye.discovery.watch(eye.seen.append, eye.recall)
        self._stack.push_async_callback(eye.discovery.aclose)
        eye.found = list(await eye.discovery.get_nodes())  # as every node does: who has asked may answer others
        return eye

    def inbox(self, node: NodeInfo) -> str:
        """The subject on which a node takes calls."""
        return inbox(self.prefix, node.node_id, node.incarnation)

    def subject(self, name: str) -> str:
        """A subject of this bed."""
        return f"{self.prefix}.{name}"

    def _open(self, ttl: float = 120.0) -> Backend:
        return open_backend(BackendSettings(url=self.url, prefix=self.prefix, ttl=ttl, options=dict(self.options)))

    # -- life ----------------------------------------------------------------------------------------

    async def __aenter__(self) -> "Bed":
        handler = _Recorder(self.log)
        logger = logging.getLogger("catga")
        logger.addHandler(handler)
        self._stack.callback(logger.removeHandler, handler)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()


class Ear(TransportListener):
    """A `TransportListener` that remembers."""

    def __init__(self, backend: Backend) -> None:
        self.transport = backend.transport
        self.messages: list[bytes] = []
        self.undeliverable: list[tuple[str, int]] = []
        self.refused: list[tuple[str, int, str]] = []
        self.doubts: list[str] = []
        self.links: list[bool] = []

    def on_message(self, payload: bytes, /) -> None:
        self.messages.append(payload)

    def on_undeliverable(self, subject: str, token: int, /) -> None:
        self.undeliverable.append((subject, token))

    def on_refused(self, subject: str, token: int, reason: str, /) -> None:
        self.refused.append((subject, token, reason))

    def on_doubt(self, subject: str, /) -> None:
        self.doubts.append(subject)

    def on_link(self, up: bool, /) -> None:
        self.links.append(up)

    def on_closed(self, reason: str, /) -> None: ...

    async def publish(self, subject: str, *payloads: bytes) -> None:
        """Publish with the tokens 1, 2, 3 …"""
        self.transport.publish([Outgoing(subject, data, index + 1) for index, data in enumerate(payloads)])

    async def hears(self, *messages: bytes) -> None:
        """Wait until exactly these messages came, in this order."""
        await eventually(lambda: len(self.messages) >= len(messages))
        assert self.messages == list(messages)


class Eye:
    """What one discovery has seen."""

    def __init__(self, backend: Backend) -> None:
        self.discovery = backend.discovery
        self.seen: list[Observation] = []
        self.found: list[Observation] = []
        """What its first `get_nodes` told."""
        self.mine: list[Observation] = []
        """What it answers others with, if it has no store."""

    def recall(self) -> list[Observation]:
        """For `NodeDiscovery.watch`."""
        return self.mine


class _Recorder(logging.Handler):
    def __init__(self, records: list[logging.LogRecord]) -> None:
        super().__init__()
        self._records = records

    def emit(self, record: logging.LogRecord) -> None:
        self._records.append(record)
