"""The broker lives, and refuses."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from harness import FaultCluster, Report
from messages import Order, Prompt
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from catga.errors import Execution
from catga.testing.servers import RedisServer
from scenarios.base import Run, nobody_left, scenario, under_load

SECONDS = 5.0
PROMPT = 1.0
"""The timeout of `Prompt`, in seconds."""

Step = Callable[[Redis], Awaitable[object]]


def _either(number: int) -> Order | Prompt:
    """Half of them outlast the refusal, half do not."""
    return Order(number) if number % 2 else Prompt(number)


async def _refused(run: Run, refuse: Step, allow: Step, url: str = "") -> tuple[Report, float, float]:
    """Refuse for 5 s, under load. Returns the report, and when the refusal began and ended."""
    admin = Redis.from_url(run.server.url)
    async with admin, FaultCluster(run.server, url=url) as cluster:
        await cluster.start()
        returned = 0.0

        async def fault() -> None:
            nonlocal returned
            await refuse(admin)
            await asyncio.sleep(SECONDS)
            await allow(admin)
            returned = time.monotonic()

        report, began = await under_load(run, cluster, _either, fault, SECONDS + 4.0)
        run.must(run.twice == 0, f"{run.twice} requests ran twice")
        nobody_left(run, cluster, began)
        after = [a.ended for a in report.attempts if a.sent > returned and a.error is None]
        run.recovery = min(after) - returned if after else None
        run.within(run.recovery, 2.0, "full service")
        return report, began, returned


def _told_as_no(run: Run, report: Report, began: float, returned: float) -> None:
    """What was refused is known not to have run, and is tried again while there is time.

    A round of three attempts, some milliseconds each, follows each pause of 20 to 500 ms. So the deadline of a few
    requests comes while an attempt has left and is not refused yet, and then nobody can know.
    """
    patient = [a for a in report.failed if a.id % 2]
    run.must(not patient, f"requests that outlast the refusal succeed, {len(patient)} did not")
    refused = [a for a in report.failed if began + 0.3 < a.sent < returned - PROMPT - 0.1]
    told = [a for a in refused if a.error is not None and a.error.code != "timeout"]
    doubtful = [a for a in told if a.error is not None and a.error.execution != Execution.NO]
    run.must(2 * len(told) > len(refused), f"most are told, {len(told)} of {len(refused)} were")
    run.must(not doubtful, f"refused requests are known not to have run, {len(doubtful)} are not")


def _nobody_minds(run: Run, report: Report) -> None:
    run.must(not report.failed, f"no request failed, as the server takes PUBLISH; {len(report.failed)} did")


@scenario(on=("redis",))
async def noperm_publish(run: Run) -> None:
    """The Redis user may not PUBLISH for 5 s"""
    async with Redis.from_url(run.server.url) as admin:
        await admin.execute_command("ACL", "SETUSER", "orders", "on", ">secret", "~*", "&*", "+@all")

    async def refuse(admin: Redis) -> None:
        await admin.execute_command("ACL", "SETUSER", "orders", "-publish")

    async def allow(admin: Redis) -> None:
        await admin.execute_command("ACL", "SETUSER", "orders", "+publish")

    report, began, returned = await _refused(run, refuse, allow, f"redis://orders:secret@127.0.0.1:{run.server.port}")
    _told_as_no(run, report, began, returned)


BLOCK = """
local function now() local t = redis.call('TIME') return t[1] * 1000 + t[2] / 1000 end
local stop = now() + ARGV[1] while now() < stop do end
"""


@scenario(on=("redis",), long=("redis",), bed=lambda _: RedisServer(args=["--busy-reply-threshold", "200"]))
async def busy_script(run: Run) -> None:
    """A script keeps Redis BUSY for 5 s"""
    blocking = set[asyncio.Task[None]]()

    async def block() -> None:
        async with Redis(port=run.server.port, socket_timeout=60) as client:
            await client.eval(BLOCK, 0, int(SECONDS * 1000))

    async def refuse(admin: Redis) -> None:
        blocking.add(asyncio.create_task(block()))

    async def allow(admin: Redis) -> None:
        await asyncio.gather(*blocking)

    report, began, returned = await _refused(run, refuse, allow)
    _told_as_no(run, report, began, returned)


@scenario(on=("redis",), long=("redis",), bed=lambda _: RedisServer(args=["--enable-protected-configs", "yes"]))
async def misconf(run: Run) -> None:
    """Redis cannot save (MISCONF) for 5 s, so it refuses writes and PING"""

    async def refuse(admin: Redis) -> None:
        await admin.config_set("save", "3600 1")
        await admin.set("unrelated", "1")
        await admin.config_set("dir", "/proc")
        with suppress(ResponseError):
            await admin.bgsave()

    async def allow(admin: Redis) -> None:
        with suppress(ResponseError):
            await admin.ping()
            run.problems.append("the server refused nothing: this shows nothing")
        await admin.config_set("save", "")

    report, *_ = await _refused(run, refuse, allow)
    _nobody_minds(run, report)


@scenario(on=("redis",), long=("redis",))
async def out_of_memory(run: Run) -> None:
    """Redis is out of memory (OOM) for 5 s, so it refuses writes"""

    async def refuse(admin: Redis) -> None:
        await admin.config_set("maxmemory", 1)

    async def allow(admin: Redis) -> None:
        with suppress(ResponseError):
            await admin.set("unrelated", "1")
            run.problems.append("the server refused nothing: this shows nothing")
        await admin.config_set("maxmemory", 0)

    report, *_ = await _refused(run, refuse, allow)
    _nobody_minds(run, report)
