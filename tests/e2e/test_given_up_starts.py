"""A start that is cancelled at any of its steps, or that fails, leaves nothing open; neither does a stop."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from given_up import Count, give_up, nats_connections, redis_connections, steps_of

from catga.testing.servers import NatsServer, RedisServer, free_port


@contextmanager
def _place(broker: str, secret: str = "") -> Iterator[tuple[str, Count]]:
    """A URL, with a wrong password if there is a secret, and how to count the connections there."""
    if broker == "nats":
        monitor = free_port()
        with NatsServer(password=secret, args=["-m", str(monitor)]) as server:
            url = f"nats://wrong@127.0.0.1:{server.port}" if secret else server.url
            yield url, lambda: nats_connections(monitor)
    elif broker == "redis":
        with RedisServer(password=secret) as server:
            url = f"redis://:wrong@127.0.0.1:{server.port}" if secret else server.url
            yield url, lambda: redis_connections(server.url)
    else:
        yield "memory://given-up", lambda: 0


@pytest.mark.parametrize("broker", ["memory", "nats", "redis"])
def test_a_start_that_is_cancelled_leaves_nothing(broker: str) -> None:
    with _place(broker) as (url, count):
        for at in range(1, steps_of(url, "start") + 1, 2):
            give_up(url, "start", at, bool(at % 4 == 1), count)


@pytest.mark.parametrize("broker", ["nats", "redis"])
def test_a_start_that_is_refused_and_cancelled_leaves_nothing(broker: str) -> None:
    with _place(broker, secret="right") as (url, count):
        for at in range(1, steps_of(url, "start") + 1, 2):
            give_up(url, "start", at, bool(at % 4 == 1), count)


@pytest.mark.parametrize("scheme", ["nats", "redis"])
def test_a_start_where_nobody_listens_leaves_nothing(scheme: str) -> None:
    url = f"{scheme}://127.0.0.1:{free_port()}"
    for at in range(1, min(steps_of(url, "start", 0.1), 20) + 1, 2):
        give_up(url, "start", at, bool(at % 4 == 1), lambda: 0, 0.1)


@pytest.mark.parametrize("broker", ["memory", "nats", "redis"])
def test_a_stop_that_is_cancelled_goes_to_its_end(broker: str) -> None:
    with _place(broker) as (url, count):
        for at in range(1, steps_of(url, "stop") + 1, 3):
            give_up(url, "stop", at, bool(at % 4 == 1), count)
