"""Bad values fail where they are given, with the fix in the text."""

from typing import Any

import pytest

from catga import ConsistentHash, Mediator, RoundRobin, add_cluster
from catga.errors import ClusterError
from catga.node import token
from catga.routing import Queue


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"node_id": ""}, "node_id must be 1 to 128 printable characters"),
        ({"node_id": " a"}, "without spaces around"),
        ({"node_id": "a\n"}, "printable"),
        ({"node_id": "x" * 129}, "1 to 128"),
        ({"service": ""}, "service must be"),
        ({"prefix": ""}, "prefix must be a word"),
        ({"prefix": "a.*"}, "prefix must be a word"),
        ({"prefix": "a."}, "prefix must be a word"),
        ({"prefix": "a b"}, "prefix must be a word"),
        ({"ttl": 0}, "ttl must be a positive number of seconds"),
        ({"ttl": -1}, "ttl must be a positive"),
        ({"ttl": float("inf")}, "ttl must be a positive, finite|ttl must be a positive"),
        ({"ttl": float("nan")}, "ttl must be a positive"),
        ({"heartbeat_interval": 0}, "heartbeat_interval must be a positive"),
        ({"probe_interval": 0}, "probe_interval must be a positive"),
        ({"request_timeout": 0}, "request_timeout must be a positive"),
        ({"connect_timeout": -1}, "connect_timeout must be a positive"),
        ({"drain_timeout": -1}, "drain_timeout must be 0 or more"),
        ({"ttl": 30.0}, "must be longer than heartbeat_interval .* use at least three times"),
        ({"ttl": 5.0, "heartbeat_interval": 1.0, "probe_interval": 5.0}, "must be longer than probe_interval"),
        ({"max_concurrency": 0}, "max_concurrency must be at least 1"),
        ({"max_queue": -1}, "max_queue must be 0 or more"),
        ({"queues": True, "observe_only": True}, "takes no calls"),
        ({"queues": True, "signing_keys": [b"x" * 16]}, "queues cannot be signed"),
        ({"routing": Queue(), "signing_keys": [b"x" * 16]}, "queues cannot be signed"),
    ],
)
def test_a_value_that_cannot_work_says_the_fix(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        add_cluster(Mediator(), "memory://options", **options)


def test_a_class_is_no_strategy() -> None:
    with pytest.raises(TypeError, match=r"such as RoundRobin\(\)"):
        add_cluster(Mediator(), "memory://options", routing=RoundRobin)  # type: ignore[arg-type]


def test_virtual_nodes_are_positive() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        ConsistentHash(virtual_nodes=0)


def test_an_unknown_option_is_an_error() -> None:
    with pytest.raises((TypeError, ValueError), match="heartbeet_interval"):
        add_cluster(Mediator(), "memory://options", heartbeet_interval=1.0)


def test_an_unknown_scheme_hides_the_password() -> None:
    with pytest.raises(ClusterError, match="memory://") as caught:
        add_cluster(Mediator(), "amqp://ann:s3cret@host")
    assert "s3cret" not in str(caught.value)


def test_ids_never_share_a_token() -> None:
    ids = ["a.b", "a=2Eb", "a b", "a", "A", "ä", "名", "*", ">", "=", "=3D", "a-b", "a_b", "\U0001f600"]
    tokens = [token(i) for i in ids]
    assert len(set(tokens)) == len(ids)
    assert all(c.isascii() and (c.isalnum() or c in "-_=") for t in tokens for c in t)
