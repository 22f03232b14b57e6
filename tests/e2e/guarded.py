"""A NATS server that forbids things."""

import json
import os
import signal
from pathlib import Path

from catga.testing.servers import NatsServer, free_port


class Guarded(NatsServer):
    """A server whose only user may be forbidden something at any time."""

    def __init__(self, folder: Path) -> None:
        self._conf = folder / "nats.conf"
        super().__init__(port=free_port(), args=["-c", str(self._conf)])
        self.forbid()

    @property
    def url(self) -> str:
        return f"nats://u:s@127.0.0.1:{self.port}"

    def forbid(self, *, subscribe: str = "", publish: str = "", more: str = "") -> None:
        """Forbid one subject below the prefix, and nothing else."""
        rights = {
            "publish": {"allow": [">"], "deny": [f"catga.{publish}"] if publish else []},
            "subscribe": {"allow": [">"], "deny": [f"catga.{subscribe}"] if subscribe else []},
        }
        self._give(rights, more)

    def allow_in_group(self, queue: str) -> None:
        """Allow to subscribe to the group's subject in this queue group alone, and all else."""
        subjects = ["catga.sync.*", "catga.nodes.*", "catga.*.>", "_INBOX.>", f"catga.sync {queue}"]
        self._give({"publish": {"allow": [">"]}, "subscribe": {"allow": subjects}})

    def _give(self, rights: dict[str, dict[str, list[str]]], more: str = "") -> None:
        user = json.dumps({"user": "u", "password": "s", "permissions": rights})
        self._conf.write_text(f"authorization {{ users = [ {user} ] }}\n{more}\n")
        if self.pid:
            os.kill(self.pid, signal.SIGHUP)
