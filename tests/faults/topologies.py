"""Several servers that are one bus, and what takes them apart.

`leaf`, `gateway` and `routes` start nats-servers whose connections to each other pass through proxies; each gives a
`Split`. `sentinels` starts a Valkey primary, a replica and three sentinels; it gives a `Failover`. All are async
context managers, and return when the servers have found each other.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import nats
from redis.asyncio import Redis
from redis.exceptions import RedisError

from catga.testing.proxy import Proxy
from catga.testing.servers import NatsServer, RedisServer, Server, free_port, redis_server_path
from catga.testing.waiting import eventually


@dataclass
class Split:
    """Two halves of a bus.

    Attributes:
        near, far: URLs of the servers of each half.
        links: what joins the halves; all connections between them pass through these.
    """

    near: list[str]
    far: list[str]
    links: list[Proxy]

    def cut(self) -> None:
        """Reset the connections between the halves, and refuse new ones."""
        for link in self.links:
            link.cut()

    def heal(self) -> None:
        """Let the servers connect again; they do so within about a second."""
        for link in self.links:
            link.heal()

    async def joined(self) -> None:
        """Return once a message passes from each server to each other, whichever half they are in."""
        async with AsyncExitStack() as stack:
            clients = [await nats.connect(url) for url in self.near + self.far]
            for client in clients:
                stack.push_async_callback(client.close)
            ears = [await client.subscribe("joined.>") for client in clients]

            async def all_hear() -> bool:
                for number, client in enumerate(clients):
                    await client.publish(f"joined.{number}", b"")
                    await client.flush()
                heard = [{ear._pending_queue.get_nowait().subject for _ in range(ear.pending_msgs)} for ear in ears]
                return all(len(subjects) == len(clients) for subjects in heard)

            await eventually(all_hear, 30.0, every=0.05)


@asynccontextmanager
async def leaf() -> AsyncGenerator[Split]:
    """A hub (near) and its leaf node (far), which is told the address of the proxy by the hub, too."""
    port = free_port()
    async with AsyncExitStack() as stack:
        link = await stack.enter_async_context(Proxy(f"nats-leaf://127.0.0.1:{port}"))
        own = f'leafnodes {{ listen: "127.0.0.1:{port}", advertise: "127.0.0.1:{link.port}" }}'
        hub = await stack.enter_async_context(NatsServer(config=own))
        remote = f'leafnodes {{ reconnect: 1, remotes: [ {{ url: "{link.url}" }} ] }}'
        beyond = await stack.enter_async_context(NatsServer(config=remote))
        split = Split([hub.url], [beyond.url], [link])
        await split.joined()
        yield split


@asynccontextmanager
async def gateway() -> AsyncGenerator[Split]:
    """Two clusters of one server each, joined by gateways: each dials the other, and tells the address of the proxy."""
    ports = {"a": free_port(), "b": free_port()}
    async with AsyncExitStack() as stack:
        to = {name: await stack.enter_async_context(Proxy(f"nats://127.0.0.1:{port}")) for name, port in ports.items()}
        servers = list[Server]()
        for name, other in (("a", "b"), ("b", "a")):
            remotes = f'gateways: [ {{ name: {other}, url: "{to[other].url}" }} ]'
            own = f'name: {name}, listen: "127.0.0.1:{ports[name]}", advertise: "127.0.0.1:{to[name].port}"'
            config = f"gateway {{ {own}, {remotes} }}"
            servers.append(await stack.enter_async_context(NatsServer(config=config)))
        split = Split([servers[0].url], [servers[1].url], list(to.values()))
        await split.joined()
        yield split


@asynccontextmanager
async def routes() -> AsyncGenerator[Split]:
    """A cluster of three servers: two (near) stay together, the third (far) is cut off.

    Each dials those before it. The servers also tell each other whom they know, and would connect around the proxies;
    so the addresses that they tell lead nowhere.
    """
    ports = [free_port() for _ in range(3)]
    async with AsyncExitStack() as stack:
        links = [await stack.enter_async_context(Proxy(f"nats-route://127.0.0.1:{port}")) for port in ports[:2]]
        direct = [f"nats-route://127.0.0.1:{ports[0]}"]
        servers = list[Server]()
        for port, dialled in zip(ports, ([], direct, [link.url for link in links]), strict=True):
            listed = ", ".join(f'"{url}"' for url in dialled)
            own = f'name: c, listen: "127.0.0.1:{port}", advertise: "127.0.0.1:1", no_advertise: true'
            config = f"cluster {{ {own}, routes: [ {listed} ] }}"
            servers.append(await stack.enter_async_context(NatsServer(config=config)))
        split = Split([server.url for server in servers[:2]], [servers[2].url], links)
        await split.joined()
        yield split


@dataclass
class Failover:
    """A primary and its replica, sentinels, and an address that follows the primary that the sentinels name.

    Attributes:
        first, second: the primary and its replica, as they started.
        name: leads to the primary; clients use its URL.
        promoted: ``time.monotonic()`` when the name was led elsewhere; 0 until then.
    """

    first: RedisServer
    second: RedisServer
    name: Proxy
    sentinels: list["Sentinel"] = field(default_factory=list)
    promoted: float = 0.0

    @property
    def url(self) -> str:
        return self.name.url

    async def command(self) -> None:
        """Ask for a failover without a fault."""
        async with Redis(port=self.sentinels[0].port) as client:
            await client.execute_command("SENTINEL", "FAILOVER", "main")

    async def _primary(self) -> int:
        """The port that the sentinels name."""
        async with Redis(port=self.sentinels[0].port) as client:
            _, port = await client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main")
            return int(port)

    async def follow(self) -> None:
        """Lead the name to the primary, whenever it changes, for ever."""
        current = self.first.port
        while True:
            await asyncio.sleep(0.05)
            with suppress(RedisError, OSError):
                found = await self._primary()
                if found != current:
                    current = found
                    self.name.lead_to(f"redis://127.0.0.1:{found}")
                    self.promoted = time.monotonic()

    async def ready(self) -> bool:
        """Whether the sentinels know each other and the replica, and the replica is in step."""
        async with Redis(port=self.first.port) as client:
            if (await client.info("replication"))["connected_slaves"] != 1:
                return False
        for sentinel in self.sentinels:
            async with Redis(port=sentinel.port, decode_responses=True) as client:
                flat = await client.execute_command("SENTINEL", "MASTER", "main")
                known = flat if isinstance(flat, dict) else dict(zip(flat[::2], flat[1::2], strict=True))
                if int(known["num-slaves"]) != 1 or int(known["num-other-sentinels"]) != len(self.sentinels) - 1:
                    return False
        return True


class Sentinel(RedisServer):
    """A sentinel that watches `primary` under the name ``main`` and calls it down after `down_after` seconds."""

    def __init__(self, primary: int, quorum: int, down_after: float) -> None:
        super().__init__()
        self._lines = [
            "bind 127.0.0.1",
            f"sentinel monitor main 127.0.0.1 {primary} {quorum}",
            f"sentinel down-after-milliseconds main {int(down_after * 1000)}",
            "sentinel failover-timeout main 10000",
        ]

    def command(self) -> list[str]:
        config: Path = self.folder / "sentinel.conf"  # the sentinel writes to it
        config.write_text("\n".join([f"port {self.port}", *self._lines, ""]))
        return [str(redis_server_path()), str(config), "--sentinel"]


@asynccontextmanager
async def sentinels(down_after: float = 1.0) -> AsyncGenerator[Failover]:
    """A primary, a replica, and three sentinels of which two must agree."""
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(RedisServer())
        second = await stack.enter_async_context(RedisServer(args=["--replicaof", "127.0.0.1", str(first.port)]))
        name = await stack.enter_async_context(Proxy(first.url))
        bed = Failover(first, second, name)
        for _ in range(3):
            bed.sentinels.append(await stack.enter_async_context(Sentinel(first.port, 2, down_after)))
        await eventually(bed.ready, 30.0, every=0.1)
        following = asyncio.create_task(bed.follow())
        try:
            yield bed
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
