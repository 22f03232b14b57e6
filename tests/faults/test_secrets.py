"""No password, token or signing key in any log, repr, error, traceback, or output of a command."""

import asyncio
import logging
import os
import sys
import traceback
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from rich.pretty import pretty_repr

import catga
from catga import Mediator, add_cluster, add_nats_cluster, add_redis_cluster
from catga.abc import BackendSettings
from catga.backends import redact
from catga.cli.options import Where
from catga.cli.settings import WorkerSettings
from catga.errors import ClusterError, InvalidMessageError
from catga.hidden import Hidden
from catga.rpc.signing import Signer
from catga.testing.proxy import Proxy
from catga.testing.servers import NatsServer, RedisServer, Server, Tls, free_port
from catga.testing.waiting import eventually

MARK = "hunter2mark"
PACKAGE = Path(catga.__file__).parent
KEY = f"{MARK} is the signing key".encode()
PARTS = (MARK, MARK[:8])
"""A part of it is as bad: parsers put what is before a "/" into their errors."""


class Hearing(logging.Handler):
    """Everything that is logged: the text, the arguments, the extras, the traceback."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append(f"{record.getMessage()} {record.__dict__!r}")
        if record.exc_info and record.exc_info[1] is not None:
            self.heard += [text_of(record.exc_info[1]), locals_of(record.exc_info[1])]


@pytest.fixture
def hearing() -> Iterator[Hearing]:
    handler, root = Hearing(), logging.getLogger()
    levels = {logger: logger.level for logger in (root, *map(logging.getLogger, ("catga", "nats", "redis", "asyncio")))}
    for logger in levels:
        logger.setLevel(logging.DEBUG)
    root.addHandler(handler)
    yield handler
    root.removeHandler(handler)
    for logger, level in levels.items():
        logger.setLevel(level)


def text_of(error: BaseException) -> str:
    """An error as any reporter may show it: with causes and contexts, its attributes, the lines of the traceback."""
    shown = "".join(line for line in traceback.format_exception(error))
    parts = [shown, str(error), repr(error), repr(vars(error))]
    following = [error.__cause__, error.__context__, *getattr(error, "exceptions", ())]
    return "\n".join([*parts, *(text_of(e) for e in following if e is not None)])


def locals_of(error: BaseException) -> str:
    """The local variables in the tracebacks of an error, its causes and contexts, as a reporter shows them. The
    client libraries' own are theirs."""
    parts: list[str] = []
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if Path(frame.f_code.co_filename).is_relative_to(PACKAGE):
            shown = (f"{name} = {value!r}, {pretty_repr(value)}" for name, value in frame.f_locals.items())
            parts.append(f"{frame.f_code.co_qualname}: {', '.join(shown)}")
    following = [error.__cause__, None if error.__suppress_context__ else error.__context__]
    return "\n".join([*parts, *(locals_of(each) for each in following if each is not None)])


def clean(*texts: str) -> None:
    for text in texts:
        for part in PARTS:
            assert part not in text, text


@pytest.fixture(params=["nats", "redis"])
async def guarded(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    """A broker whose password is not the marked one."""
    server = NatsServer(user="it", password="right") if request.param == "nats" else RedisServer(password="right")
    with server:
        yield server


def urls(scheme: str, port: int) -> dict[str, tuple[str, dict[str, Any]]]:
    """Ways to give a secret, right and wrong ones."""
    host = f"127.0.0.1:{port}"
    options = {"user" if scheme == "nats" else "username": "it", "password": MARK}
    found: dict[str, tuple[str, dict[str, Any]]] = {
        "user and password": (f"{scheme}://it:{MARK}@{host}", {}),
        "password": (f"{scheme}://:{MARK}@{host}", {}),
        "token": (f"{scheme}://{MARK}@{host}", {}),
        "options": (f"{scheme}://{host}", options),
        "a slash": (f"{scheme}://it:{MARK}/more@{host}", {}),
        "a slash in the port": (f"{scheme}://:{MARK}/{MARK}@{host}", {}),
        "a hash": (f"{scheme}://it:1{MARK}#x@{host}", {}),
        "a question mark": (f"{scheme}://it:{MARK}?x@{host}", {}),
        "an at": (f"{scheme}://it:{MARK}@{MARK}@{host}", {}),
        "a bracket": (f"{scheme}://it:{MARK}[@{host}", {}),
        "not NFKC": (f"{scheme}://it:{MARK}\u2100@{host}", {}),
        "an unknown option": (f"{scheme}://it:{MARK}@{host}", {"no_such_option": MARK}),
    }
    if scheme == "redis":
        found["query"] = (f"redis://{host}?password={MARK}", {})
        found["a wrong query"] = (f"redis://{host}?username=it&password={MARK}&db=x", {})
    else:
        found["token option"] = (f"nats://{host}", {"token": MARK})
    return found


async def fail(url: str, options: dict[str, Any]) -> str:
    """What an attempt to join says; it must be an error of ours or a ValueError, never another's."""
    try:
        node = add_cluster(Mediator(), url, node_id="n", connect_timeout=0.5, signing_keys=[KEY], **options)
        shown = f"{node!r} {node._options!r} {node._backend!r} {vars(node._backend.discovery)!r}"
    except (ClusterError, ValueError, TypeError) as error:
        return text_of(error) + locals_of(error)
    try:
        async with node:
            return f"{shown} joined"
    except ClusterError as error:
        shown = locals_of(error)
        assert "DistributedMediator.start" in shown
        return text_of(error) + shown


async def test_no_secret_when_the_broker_refuses(guarded: Server, hearing: Hearing, capfd: Any) -> None:
    scheme = guarded.url.partition(":")[0]
    said = {way: await fail(*given) for way, given in urls(scheme, guarded.port).items()}
    clean(*said.values(), *hearing.heard, *capfd.readouterr())
    assert "refused the credentials" in said["user and password"]
    assert "joined" not in "".join(said.values())


@pytest.mark.parametrize("scheme", ["nats", "redis", "tls", "rediss", "amqp"])
async def test_no_secret_when_there_is_no_broker(scheme: str, hearing: Hearing, capfd: Any) -> None:
    given = urls("nats" if scheme in ("nats", "tls") else "redis", free_port())
    ways = [(url.replace(url.partition(":")[0], scheme, 1), options) for url, options in given.values()]
    clean(*await asyncio.gather(*(fail(*way) for way in ways)))
    clean(*hearing.heard, *capfd.readouterr())


@pytest.mark.parametrize("kind", [NatsServer, RedisServer])
async def test_no_secret_while_a_link_breaks_and_comes_back(kind: Any, hearing: Hearing, capfd: Any) -> None:
    server = kind(user="it", password=MARK) if kind is NatsServer else kind(password=MARK)
    with server:
        async with Proxy(server.url) as proxy:
            options: dict[str, Any] = {"signing_keys": [KEY], "drain_timeout": 1.0, "probe_interval": 0.2}
            options["connect_timeout"] = 2.0  # the farewell is tried again for so long
            async with add_cluster(Mediator(), proxy.url, node_id="n", **options) as node:
                for step in (proxy.drop, proxy.cut, proxy.half_open):
                    step()
                    await eventually(lambda: node.health == "degraded", 30)
                    clean(*(repr(task) for task in asyncio.all_tasks()))
                    proxy.heal()
                    await eventually(lambda: node.health == "healthy", 30)
                server.terminate()
                await eventually(lambda: node.health == "degraded", 30)
                clean(repr(node), repr(vars(node)), repr(node._options), str(node.counters))
    clean(*hearing.heard, *capfd.readouterr())


@pytest.mark.parametrize("kind", ["nats", "redis"])
async def test_no_secret_when_tls_fails(kind: str, hearing: Hearing, capfd: Any, tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    files = Tls(tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "ca.pem")
    authority.cert_pem.write_to_path(str(files.ca))
    issued.private_key_pem.write_to_path(str(files.key))
    issued.cert_chain_pems[0].write_to_path(str(files.cert))
    if kind == "nats":
        with NatsServer(user="it", password=MARK, tls=files) as server:
            said = await fail(server.url, {})
            assert "certificate that cannot be verified" in said
    else:
        with RedisServer(password=MARK) as plain:  # no TLS there at all
            said = await fail(plain.url.replace("redis://", "rediss://"), {})
    clean(said, *hearing.heard, *capfd.readouterr())


COMMANDS = [("doctor",), ("nodes",), ("ping",), ("watch",), ("send", "a.B", "{}")]


@pytest.mark.parametrize("scheme", ["nats", "redis"])
async def test_no_secret_in_what_commands_print(scheme: str, tmp_path: Path) -> None:
    server = NatsServer(user="it", password="right") if scheme == "nats" else RedisServer(password="right")
    with server:
        given = urls(scheme, server.port)
        running = [
            command_output(url, command)
            for url in (given[way][0] for way in ("user and password", "a slash", "a slash in the port"))
            for command in COMMANDS[: 2 if "/more" in url else 3]
        ]
        running.append(command_output(urls(scheme, free_port())["user and password"][0], COMMANDS[0]))
        for output in await asyncio.gather(*running):
            assert output.strip()
            clean(output)


async def command_output(url: str, command: tuple[str, ...]) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "catga.cli", *command,
        env={**os.environ, "CATGA_URL": url, "PYTHONASYNCIODEBUG": "1"},
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        output, _ = await asyncio.wait_for(process.communicate(), 60)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return output.decode()


def test_reprs_have_no_secret() -> None:
    settings = BackendSettings(url=f"nats://{MARK}@x", options={"password": MARK}, signer=Signer([KEY]))
    cluster = add_cluster(Mediator(), f"nats://it:{MARK}@x", signing_keys=[KEY], token=MARK)
    worker = WorkerSettings(target="app", url=f"nats://it:{MARK}@x")
    where = Where(f"nats://it:{MARK}@x", "catga", 1.0, (KEY,))
    for each in (settings, Signer([KEY]), cluster, cluster._options, cluster._backend, worker, where, Hidden(MARK)):
        clean(repr(each), pretty_repr(each))
    with pytest.raises(InvalidMessageError) as refused:
        Signer([KEY]).open(["a"], Signer([KEY]).seal("b", b"batch"))
    clean(locals_of(refused.value))
    with pytest.raises(ValueError, match="signing_keys") as caught:
        Signer([MARK.encode()])
    clean(str(caught.value))


REFUSED: list[tuple[str, dict[str, Any]]] = [
    (f"nats://it:{MARK}@h:4222", {"ttl": -1.0}),
    (f"nats://it:{MARK}@h:4222", {"outlierz": 1, "password": MARK}),
    (f"nats://it:{MARK}@h:4222", {"pasword": MARK}),
    (f"nats://it:{MARK}@h:4222", {"discovery": MARK[:0], "token": MARK}),
    ("nats://h:4222", {"signing_keys": [MARK.encode()]}),
    (f"it:{MARK}@h:4222", {}),
    (f"nats://it:{MARK}@h:99999999", {}),
    (f"redis://it:{MARK}@h:6379", {"ssl_cert_reqs": "none", "password": MARK}),
    (f"redis://it:{MARK}@h:6379?no=1", {}),
]


@pytest.mark.parametrize("add", [add_cluster, add_nats_cluster, add_redis_cluster])
@pytest.mark.parametrize(("url", "options"), REFUSED)
def test_no_local_shows_a_secret_where_an_argument_is_refused(add: Any, url: str, options: dict[str, Any]) -> None:
    given = {"signing_keys": [KEY], **options}
    with pytest.raises((ClusterError, ValueError, TypeError)) as refused:
        add(Mediator(), url, **given)
    assert add.__qualname__ in locals_of(refused.value)
    clean(text_of(refused.value), locals_of(refused.value))


def test_only_the_frames_of_what_failed_are_cleared() -> None:
    def fail() -> None:
        kept = "kept"
        raise KeyError(kept)

    try:
        fail()
    except KeyError as earlier:
        with pytest.raises(ValueError, match="ttl"):
            add_cluster(Mediator(), ttl=-1.0)
        frames = [frame for frame, _ in traceback.walk_tb(earlier.__traceback__)]
        assert frames[-1].f_locals["kept"] == "kept"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("nats://h:1", "nats://h:1"),
        ("nats://u:p@h:1", "nats://u:***@h:1"),
        ("nats://t@h:1", "nats://***@h:1"),
        ("redis://:p@h:1/3?db=2", "redis://:***@h:1/3?db=2"),
        ("redis://u:a/b@c@h:1", "redis://u:***@h:1"),
        ("redis://u:a://b@h:1", "redis://u:***@h:1"),
        ("u:p@h:1", "***@h:1"),
        ("redis:/u:p@h:1", "***@h:1"),
        ("nats://u:p@h:1,nats://v:q@i:2", "nats://u:***@h:1,nats://v:***@i:2"),
        ("redis://h?db=1&password=x&ssl_password=y", "redis://h?db=1&password=***&ssl_password=***"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert redact(url) == shown


def test_a_text_of_somebody_else_is_shown_in_a_time_that_grows_with_its_length_only() -> None:
    text = "nats://host/" + "?" * 200_000
    assert redact(text) == text
