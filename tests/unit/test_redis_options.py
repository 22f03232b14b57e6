"""What is known about a Redis backend before anything is connected."""

import pytest
import redis
from redis.asyncio.connection import Connection

from catga import Mediator, add_redis_cluster
from catga.abc import BackendSettings
from catga.backends.redis import open_backend
from catga.backends.redis.connect import Connector
from catga.backends.redis.session import pack_publish


@pytest.mark.parametrize("payload", [b"", b"x", b"\r\n$3\r\n", bytes(range(256)) * 100])
def test_a_publish_is_packed_as_redis_py_packs_it(payload: bytes) -> None:
    """The packing by hand is the protocol's."""
    expected = b"".join(Connection().pack_command("PUBLISH", "catga.inbox.=C3=A4.1", payload))
    assert pack_publish(b"catga.inbox.=C3=A4.1", payload) == expected


def test_tls_options_on_a_plain_url_fail_at_the_call_and_name_the_fix() -> None:
    with pytest.raises(ValueError, match=r"TLS options need a rediss:// URL, got 'redis://:\*\*\*@h:1'"):
        add_redis_cluster(Mediator(), "redis://:secret@h:1", ssl_ca_certs="ca.pem")


def test_an_unknown_option_fails_at_the_call_without_showing_the_password() -> None:
    with pytest.raises(TypeError, match="colour") as caught:
        add_redis_cluster(Mediator(), "redis://:secret@h:1", colour="red")  # type: ignore[call-arg]
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("client", [object(), redis.Redis()])
def test_a_client_of_another_kind_is_refused(client: object) -> None:
    with pytest.raises(ValueError, match=r"client must be a redis\.asyncio\.Redis"):
        add_redis_cluster(Mediator(), client=client)  # type: ignore[typeddict-item]


def test_a_prefix_whose_keys_could_be_another_clusters_is_refused() -> None:
    with pytest.raises(ValueError, match="':nodes'"):
        open_backend(BackendSettings(url="redis://h", prefix="catga:nodes"))


@pytest.mark.parametrize(
    ("url", "options", "db"),
    [
        ("redis://h", {}, 0),
        ("redis://h/3", {}, 3),
        ("redis://h?db=4", {}, 4),
        ("redis://h/3", {"db": 5}, 5),
        ("rediss://h:1/2?ssl_cert_reqs=none&max_connections=3", {}, 2),
    ],
)
def test_the_database_comes_from_the_options_or_the_url(url: str, options: dict[str, int], db: int) -> None:
    assert Connector(url, dict(options)).db == db
