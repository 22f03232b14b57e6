"""A node whose handler ends the program: `leaver.py URL LOOP`."""

import asyncio
import signal
import sys
from dataclasses import dataclass

from catga import Mediator, Request, add_cluster, message


@message(name="leaver.Leave")
@dataclass(frozen=True)
class Leave(Request[int]):
    how: str


@message(name="leaver.Slow")
@dataclass(frozen=True)
class Slow(Request[str]):
    seconds: float


@message(name="leaver.Quit")
@dataclass(frozen=True)
class Quit(Request[int]):
    status: int


app = Mediator()
asked = asyncio.Event()


@app.handler
async def leave(leave: Leave) -> int:
    if "moment" in leave.how:
        await asyncio.sleep(0.3)
    if leave.how.startswith("exit"):
        sys.exit(3)
    raise KeyboardInterrupt


@app.handler(in_thread=True)
def quit_in_thread(quit: Quit) -> int:
    sys.exit(quit.status)


@app.handler
async def slow(slow: Slow) -> str:
    await asyncio.sleep(slow.seconds)
    return "done"


async def main(url: str, how: str) -> None:
    async with add_cluster(app, url, node_id="leaver") as node:
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, asked.set)
        print("ready", flush=True)
        if how:
            result = await node.send(Leave(how))
            print(result, flush=True)
        await asked.wait()
        await node.stop()
        await asyncio.Event().wait()


if __name__ == "__main__":
    if sys.argv[2] == "uvloop":
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main(sys.argv[1], sys.argv[3]))
    else:
        asyncio.run(main(sys.argv[1], sys.argv[3]))
