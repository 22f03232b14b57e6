"""Requests in a simulated world: what is sent, what becomes of it, and what must hold of each."""

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from catga import Mediator, Request, message
from catga.errors import CatgaTimeoutError, Execution
from catga.result import CatgaResult, Success

if TYPE_CHECKING:
    from histories import Cluster, Process

GRACE = 0.3
"""Seconds after its deadline by which a request has ended, if its caller's process runs."""
LATE = 0.25
"""Seconds after its caller's deadline at which a handler may still start: a message takes up to 0.05 s on this wire,
and a node cannot know how much of that was delay; a deadline is looked at every 0.02 s; the rest is for one handler
that computes before it in the same turn."""
ENOUGH = 8.0
"""Seconds: an idempotent request with so much time must succeed where it is served."""
RESERVE = 100.0
"""Retries that a node has in reserve, if it is not to be short of them."""
SETTLED = 6.0
"""Seconds after the last trouble from which a node counts as well."""


class Job(msgspec.Struct, Request[int], frozen=True):
    """Compute for `burn` seconds, wait for `wait` more, answer `number`."""

    number: int
    burn: float = 0.0
    wait: float = 0.0


@message(idempotent=True, name="Work")
class Work(Job, frozen=True):
    """May run twice."""


@message(name="Order")
class Order(Job, frozen=True):
    """Must not run twice."""


@message(idempotent=True, name="QuickWork")
class QuickWork(Job, frozen=True):
    """May run twice. Its handler is a plain function, which never waits."""


@message(name="QuickOrder")
class QuickOrder(Job, frozen=True):
    """Must not run twice. Its handler is a plain function, which never waits."""


IDEMPOTENT = (Work, QuickWork)


class Start(NamedTuple):
    """A handler that started, where and when."""

    process: "Process"
    at: float


class Sent(msgspec.Struct, eq=False):
    """One request, and what became of it. Times are the world's."""

    request: Job
    caller: "Process"
    at: float
    deadline: float
    starts: list[Start] = msgspec.field(default_factory=list)
    result: CatgaResult[Any] | None = None
    ended: float | None = None

    @property
    def runs(self) -> list[Start]:
        """The starts that really were: a process that is killed while it computes does not get to what comes next."""
        return [s for s in self.starts if s.process.died is None or s.at <= s.process.died]

    def __str__(self) -> str:
        runs = ", ".join(f"{start.process.node_id} at {start.at:.3f}" for start in self.runs) or "nowhere"
        return f"{self.request} of {self.caller.node_id}, {self.at:.3f} to {self.deadline:.3f}, ran {runs}"


class Calls:
    """All requests of one history, and the rules that they must keep."""

    def __init__(self, cluster: "Cluster") -> None:
        self.cluster = cluster
        self.world = cluster.world
        self.sent: dict[int, Sent] = {}
        self._numbers = 0

    # -- what happens ---------------------------------------------------------------------------------

    def handlers(self, process: "Process") -> Mediator:
        """The handlers of one process."""
        app = Mediator()

        async def run(request: Job) -> int:
            self._start(process, request)
            if request.wait:
                await asyncio.sleep(request.wait)
            return request.number

        def run_at_once(request: Job) -> int:
            self._start(process, request)
            return request.number

        for kind in (Work, Order):
            app.handles(kind)(run)
        for quick in (QuickWork, QuickOrder):
            app.handles(quick)(run_at_once)
        return app

    def send(self, kind: type[Job], timeout: float, *, burn: float = 0.0, wait: float = 0.0) -> None:
        """Let some process send a request now."""
        callers = [p for p in self.cluster.alive() if p.mediator is not None and not p.leaving]
        if callers:
            self.send_from(self.world.random.choice(callers), kind, timeout, burn=burn, wait=wait)

    def send_from(
        self, caller: "Process", kind: type[Job], timeout: float, *, burn: float = 0.0, wait: float = 0.0
    ) -> None:
        """Let `caller` send a request, as soon as it runs."""
        self._numbers += 1
        request = kind(self._numbers, burn, wait)
        loop = caller.loop
        loop.call_soon(lambda: loop.create_task(self._send(caller, request, timeout)))

    async def _send(self, caller: "Process", request: Job, timeout: float) -> None:
        assert caller.mediator is not None
        now = caller.loop.now
        sent = self.sent[request.number] = Sent(request, caller, now, now + timeout)
        self.world.at(sent.deadline + GRACE, self._must_have_ended, sent)
        node = caller.mediator._node
        if node is None:  # it has left since
            return
        # The verbs take a message class's timeout only, and each of these is to have its own.
        route = node.dispatch._route(request)
        node.dispatch.routes[type(request)] = msgspec.structs.replace(route, timeout=timeout)
        sent.result = await node.dispatch.to_one(request)
        sent.ended = caller.loop.now
        self.world.at(sent.ended, self._judge_end, sent)

    def _start(self, process: "Process", request: Job) -> None:
        sent = self.sent[request.number]
        start = Start(process, process.loop.now)
        sent.starts.append(start)
        process.loop.burn(request.burn)
        self.world.at(start.at, self._judge_start, sent, start)

    # -- what must hold -------------------------------------------------------------------------------

    def _judge_start(self, sent: Sent, start: Start) -> None:
        if start.process.died is not None and start.at > start.process.died:
            return
        check, is_order = self.cluster.check, not isinstance(sent.request, IDEMPOTENT)
        check(not is_order or len(sent.runs) <= 1, "ran twice", str(sent))
        check(start.at <= sent.deadline + LATE, "ran late", str(sent))
        if sent.ended is not None and sent.ended <= start.at:
            check(not _never_ran(sent.result), "a no that ran", f"{sent}: {sent.result}")

    def _judge_end(self, sent: Sent) -> None:
        if not sent.caller.alive:
            return
        check, result = self.cluster.check, sent.result
        if type(result) is Success:
            check(result.value == sent.request.number and bool(sent.runs), "wrong answer", f"{sent}: {result}")
        elif _never_ran(result):
            check(not sent.runs, "a no that ran", f"{sent}: {result}")
        if self._had_to_succeed(sent):
            check(False, "failed though served", f"{sent}: {sent.ended:.3f} {result}")

    def _must_have_ended(self, sent: Sent) -> None:
        """Or soon, if its process did not run lately."""
        loop = sent.caller.loop
        if sent.ended is not None or not sent.caller.alive or sent.caller.leaving:
            return
        if loop.is_held_up or self.world.now - loop.resumed_at < GRACE:
            self.world.after(GRACE, self._must_have_ended, sent)
        else:
            self.cluster.check(False, "no end", str(sent))

    def _had_to_succeed(self, sent: Sent) -> bool:
        """Whether it is idempotent, had time, is lost or in doubt, and was served: by two nodes that were well all the
        while, or for the last seconds before its deadline passed."""
        result, ended = sent.result, sent.ended
        if type(result) is Success or not isinstance(sent.request, IDEMPOTENT) or result is None or ended is None:
            return False
        cluster, error = self.cluster, result.error  # type: ignore[union-attr]
        is_lost = isinstance(error, CatgaTimeoutError) or error.execution is Execution.MAYBE
        if not is_lost or sent.deadline - sent.at < ENOUGH or cluster.is_lossy or cluster.has_queues:
            return False
        if cluster.reserve < RESERVE and cluster.struck_at > sent.at - SETTLED:  # retries may have been spent on that
            return False
        is_over = ended >= sent.deadline - 0.1
        return cluster.serves(sent.caller, sent.at - SETTLED) or (
            is_over and cluster.serves(sent.caller, sent.deadline - SETTLED)
        )


def _never_ran(result: CatgaResult[Any] | None) -> bool:
    return result is not None and type(result) is not Success and result.error.execution is Execution.NO  # type: ignore[union-attr]
