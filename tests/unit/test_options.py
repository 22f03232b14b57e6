"""Bad values fail where they are given, with the fix in the text."""

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio.connection import SSLConnection

from catga import ConsistentHash, Failure, Mediator, Request, RoundRobin, add_cluster
from catga.backends.nats import OPTIONS as NATS_OPTIONS
from catga.backends.redis.connect import OPTIONS as REDIS_OPTIONS
from catga.cluster.add import CommonOptions, NatsOptions, RedisOptions
from catga.errors import ClusterError, NoNodeAvailableError
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
        ({"node_id": 5}, "node_id must be 1 to 128"),
        ({"request_timeout": "3"}, "request_timeout must be a positive number"),
        ({"ttl": None}, "ttl must be a positive number"),
        ({"drain_timeout": None}, "drain_timeout must be 0 or more"),
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


@pytest.mark.parametrize("url", ["memory://options", "nats://localhost", "redis://localhost"])
@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("nodeid", "no option 'nodeid': did you mean 'node_id'"),
        ("request_time_out", "did you mean 'request_timeout'"),
        ("timeout", "did you mean 'request_timeout'"),
        ("outlierz", "no option 'outlierz': did you mean 'outliers'"),
        ("colour", "has no option 'colour': beside those of add_cluster it has "),
        ("closed_cb", "has no option 'closed_cb'"),
    ],
)
def test_an_option_that_nobody_takes_is_refused_by_its_name(url: str, option: str, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        add_cluster(Mediator(), url, **{option: "secret"})


MISSPELT = [("nats", "pasword", "password"), ("redis", "ssl_ca_cert", "ssl_ca_certs")]


@pytest.mark.parametrize(("url", "option", "meant"), MISSPELT)
def test_an_option_of_the_backend_that_is_misspelt_is_named(url: str, option: str, meant: str) -> None:
    with pytest.raises(TypeError, match=f"no option '{option}': did you mean '{meant}'"):
        add_cluster(Mediator(), f"{url}://localhost", **{option: "secret"})


@pytest.mark.parametrize(("options", "known"), [(NatsOptions, NATS_OPTIONS), (RedisOptions, REDIS_OPTIONS)])
def test_every_option_of_a_backend_that_is_documented_is_known_to_it(options: type, known: dict[str, Any]) -> None:
    documented = set(options.__annotations__) - set(CommonOptions.__annotations__)
    if "ssl_password" not in inspect.signature(SSLConnection).parameters:  # before redis-py 7.2
        documented.discard("ssl_password")
    assert documented <= known.keys()


@pytest.mark.parametrize(
    ("url", "listed"),
    [
        ("nats://localhost", "it has allow_reconnect, client, discovered_server_cb, discovery, .*user_credentials"),
        ("redis://localhost", "it has client, .*credential_provider, db, .*ssl_ca_certs.* username"),
        ("memory://options", "it has none"),
    ],
)
def test_who_gives_an_option_that_there_is_not_is_told_which_there_are(url: str, listed: str) -> None:
    with pytest.raises(TypeError, match=listed):
        add_cluster(Mediator(), url, foo=1)


@pytest.mark.parametrize(
    ("url", "option", "text"),
    [
        ("nats://localhost", {"password": 5}, "'password' must be text or .*None, got int"),
        ("nats://localhost", {"tls": True}, "'tls' must be SSLContext or None, got bool"),
        ("nats://localhost", {"ping_interval": "2"}, "'ping_interval' must be a number, got str"),
        ("nats://localhost", {"inbox_prefix": 5}, "'inbox_prefix' must be text or bytes, got int"),
        ("nats://localhost", {"client": "shop"}, "'client' must be Client, got str"),
        ("nats://localhost", {"lame_duck_mode_cb": "shop"}, "'lame_duck_mode_cb' must be a function or None"),
        ("nats://localhost", {"no_echo": True}, "no option 'no_echo'"),
        ("redis://localhost", {"username": 5}, "'username' must be text or bytes or None, got int"),
        ("redis://localhost", {"credential_provider": "x"}, "'credential_provider' must be CredentialProvider or None"),
        ("redis://localhost", {"retry": 3}, "'retry' must be Retry or None, got int"),
        ("rediss://localhost", {"ssl_ca_certs": 5}, "'ssl_ca_certs' must be text or None, got int"),
        ("rediss://localhost", {"ssl_check_hostname": "no"}, "'ssl_check_hostname' must be True or False, got str"),
    ],
)
def test_an_option_of_the_backend_of_another_type_is_refused_at_the_call(
    url: str, option: dict[str, Any], text: str
) -> None:
    with pytest.raises(TypeError, match=text):
        add_cluster(Mediator(), url, **option)


def test_the_value_of_an_option_is_not_told_as_it_may_be_a_secret() -> None:
    with pytest.raises(TypeError, match="got bytes") as caught:
        add_cluster(Mediator(), "nats://localhost", password=b"s3cret")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("ca", ["ca.pem", Path("ca.pem")])
def test_a_path_may_be_a_path(ca: Any) -> None:
    assert add_cluster(Mediator(), "rediss://localhost", ssl_ca_certs=ca).node_id


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"max_concurrency": "x"}, "max_concurrency must be a whole number, got 'x'"),
        ({"max_concurrency": 1.5}, "max_concurrency must be a whole number, got 1.5"),
        ({"max_concurrency": True}, "max_concurrency must be a whole number, got True"),
        ({"max_concurrency": None}, "max_concurrency must be a whole number, got None"),
        ({"max_queue": "x"}, "max_queue must be a whole number, got 'x'"),
        ({"endpoint": 5}, "endpoint must be text, got 5"),
        ({"prefix": 5}, "prefix must be text, got 5"),
        ({"prefix": None}, "prefix must be text, got None"),
        ({"observe_only": "0"}, "observe_only must be True or False, got '0'"),
        ({"queues": "no"}, "queues must be True or False, got 'no'"),
        ({"outliers": 0}, "outliers must be an OutlierEjection"),
        ({"load": 0.5}, "load must be a function that returns a number from 0 to 1, got 0.5"),
        ({"signing_keys": 5}, "signing_keys must be a list of bytes"),
        ({"metadata": ""}, "metadata must be a dictionary"),
        ({"routing": 5}, "routing must be a strategy object"),
    ],
)
def test_a_value_of_another_type_is_refused_at_the_call(options: dict[str, Any], text: str) -> None:
    with pytest.raises(TypeError, match=text):
        add_cluster(Mediator(), "memory://options", **options)


def test_every_option_of_a_cluster_has_its_type_for_each_backend() -> None:
    parameters = inspect.signature(add_cluster, eval_str=True).parameters.values()
    taken = {each.name: each.annotation for each in parameters if each.kind is each.KEYWORD_ONLY}
    assert taken == CommonOptions.__annotations__


@pytest.mark.parametrize("metadata", [{"weight": 1}, {1: "a"}, "zone=eu", {"zone": None}])
async def test_metadata_is_text(metadata: Any) -> None:
    with pytest.raises(TypeError, match="metadata must be"):
        add_cluster(Mediator(), "memory://options", metadata=metadata)
    async with add_cluster(Mediator(), "memory://options") as node:
        with pytest.raises(TypeError, match="metadata must be"):
            await node.update(metadata=metadata)


@pytest.mark.parametrize("keys", ["0123456789abcdef", b"0123456789abcdef", ["0123456789abcdef"]])
def test_signing_keys_are_bytes(keys: Any) -> None:
    with pytest.raises(TypeError, match=r"list of bytes"):
        add_cluster(Mediator(), "memory://options", signing_keys=keys)


@pytest.mark.parametrize("mediator", ["shop:app", Mediator])
def test_a_cluster_is_made_of_a_mediator(mediator: Any) -> None:
    with pytest.raises(TypeError, match="takes a Mediator"):
        add_cluster(mediator, "memory://options")


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("nats://localhost:99999", "a port is a number from 1 to 65535"),
        ("redis://localhost:abc", "a port is a number"),
        ("nats://localhost:0", "a port is a number"),
        ("nats:/localhost", "must begin with one of .*nats://"),
        ("localhost:4222", "must begin with one of .*nats://"),
        ("nats://u:p/w@localhost", "write special characters"),
        ("nats://localhost?user=ann", "more than hosts and credentials: give options to add_cluster"),
        ("nats://a:4222,b:4222/x", "more than hosts and credentials"),
        ("nats://localhost#x", "more than hosts and credentials"),
        ("redis://localhost?foo=1", r"has an option 'foo', but redis:// has .*client_name"),
        ("redis://localhost?socket_type=1", "'socket_type' is a number: give it to add_cluster"),
        ("redis://localhost?db=x", "db"),
        ("redis://localhost?db=-1", "db must be the number of a database, got -1"),
        ("redis://localhost/x", "must be the number of a database, such as /0"),
        ("redis://localhost/1/2", "must be the number of a database, such as /0"),
        ("memory://options?foo=1", "memory:// takes no options in its URL"),
    ],
)
def test_what_is_no_url_is_told_why(url: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        add_cluster(Mediator(), url)


def test_a_url_that_is_not_set_is_told() -> None:
    with pytest.raises(TypeError, match="such as nats://host:4222, got None"):
        add_cluster(Mediator(), None)  # type: ignore[arg-type]


async def test_a_scheme_may_have_capitals() -> None:
    async with add_cluster(Mediator(), "MEMORY://capitals") as node:
        assert node.health == "healthy"


async def test_nobody_at_all_is_no_missing_handler() -> None:
    async with add_cluster(Mediator(), "memory://empty", observe_only=True) as node:
        result = await node.send(Nobodys())
    assert isinstance(result, Failure)
    assert isinstance(result.error, NoNodeAvailableError)
    assert "no node is in the cluster" in result.error.message


@dataclass(frozen=True)
class Nobodys(Request[None]):
    """A request that nobody handles."""


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
