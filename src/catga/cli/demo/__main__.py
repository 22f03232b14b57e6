"""Runs the steps: exit status 0 if all of them held, 1 if one did not."""

import asyncio
import sys
import time

from catga import Mediator, add_cluster
from catga.cli.demo.stage import Stage, StepFailedError
from catga.cli.demo.steps import STEPS
from catga.errors import CatgaError
from catga.testing.servers import NatsServer


async def main() -> int:
    start = time.monotonic()
    async with NatsServer() as server, add_cluster(Mediator(), server.url, node_id="caller") as caller:
        print(f"nats-server, a caller and three nodes, a process each, on {server.url}\n")
        stage = Stage(caller, server.url)
        try:
            for number, (title, step) in enumerate(STEPS, 1):
                print(f"{number}. {title}:", flush=True)
                print(f"   {await step(stage)}\n", flush=True)
        except (StepFailedError, CatgaError, TimeoutError) as error:
            print(f"   DID NOT HOLD: {error!r}")
            return 1
        finally:
            await stage.close()
    print(f"All {len(STEPS)} steps held, in {time.monotonic() - start:.1f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
