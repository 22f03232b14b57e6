"""The only node of the service `billing`: python subscriber.py URL PREFIX NODE_ID LOG. Prints ``ready``.

Every run appends a line to LOG.
"""

import asyncio
import os
import sys
from dataclasses import dataclass

from catga import Event, Mediator, add_cluster, message


@message(name="e2e.Paid", timeout=60.0)
@dataclass(frozen=True)
class Paid(Event):
    """Billed once."""

    order: int


async def main(url: str, prefix: str, node_id: str, log_path: str) -> None:
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    app = Mediator()

    @app.handler
    async def bill(event: Paid) -> None:
        os.write(log, b"%d\n" % event.order)

    async with add_cluster(app, url, prefix=prefix, node_id=node_id, service="billing"):
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
