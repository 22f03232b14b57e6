"""One message to one of a pool of nodes, with failover: the reliability story in one loop."""

import asyncio
import random
from collections import Counter
from contextlib import suppress
from typing import Any, cast

from catga.cluster.attempts import Attempt, Job, Route
from catga.cluster.changes import Changes
from catga.cluster.failover import Pace, RetryBudget, Verdict, judge
from catga.cluster.outliers import NO_TRIAL, Kind, Outliers
from catga.codec import Codec, encode
from catga.errors import (
    CatgaError,
    CatgaTimeoutError,
    ClosedError,
    ClusterError,
    Execution,
    HandlerNotFoundError,
    NoNodeAvailableError,
    OverloadedError,
    refused,
)
from catga.mediator.carried import carried
from catga.mediator.nested import HEADER, Holder, holding
from catga.messages import key_of
from catga.node import NodeInfo, NodeState
from catga.result import CatgaResult, Failure, ResultMetadata, Success
from catga.routing import Candidates
from catga.routing.inner import chooses_by_key
from catga.rpc.deadlines import clock_of
from catga.rpc.destinations import Outcome, Silent
from catga.rpc.peer import Peer
from catga.rpc.runner import Endpoint
from catga.rpc.subjects import queue
from catga.rpc.wire import SMALL, Call, Reply

QUEUE_ATTEMPTS = 5
"""Times that a request is put into a queue, if nobody takes it or who takes it refuses: a second or so."""
NOBODY = Candidates()
NONE: frozenset[str] = frozenset()
MAX_WAITING = 1000
"""Messages that wait for a service without a node; more of them fail at once."""
MAX_PAUSE = 0.5
"""Seconds between two rounds through all candidates, at most."""


class Delivery:
    """Carries messages to nodes on behalf of one node.

    Args:
        link: set while the link to the bus is up.
        members, links: told whenever a message that waits for nodes, or for the link, may go on.
        outliers: told of each call's end; leaves out the nodes that fail.
        failovers: counts, by wire name, the attempts that are made again elsewhere.
    """

    def __init__(
        self,
        peer: Peer,
        prefix: str,
        link: asyncio.Event,
        members: Changes,
        links: Changes,
        outliers: Outliers,
        failovers: Counter[str],
    ) -> None:
        self._peer = peer
        self._client = peer.client
        self._server = peer.server
        self._local = peer.server.local
        self._endpoints = peer.server.endpoints
        self.node_id = peer.node_id
        """The node whose calls run in this process."""
        self._prefix = prefix
        self._link = link
        self._members = members
        self._links = links
        self._outliers = outliers
        self._failovers = failovers
        self._budget = RetryBudget()
        self._pace = Pace()
        self._waiting = 0  # messages for a service that has no node now
        self._loop = asyncio.get_running_loop()
        self._clock = clock_of(self._loop)

    async def deliver(self, message: Any, route: Route, headers: dict[str, str] | None) -> CatgaResult[Any]:
        """Carry a message to a node of its route's pool that the strategy picks, and to another where that is safe.

        The first attempt is written out here, as it is on the path of every request. What is not settled by it is left
        to `_carry`.

        Args:
            headers: travel with it.

        Returns the handler's result, or the failure that ended the attempts; raises only CancelledError.
        """
        if (holder := holding.get()) is not None and (headers is None or HEADER not in headers):
            return await self._deliver_nested(message, route, headers, holder)
        outliers, codec = self._outliers, route.codec
        nodes = NOBODY if route.is_queued else route.pool()
        clock = self._clock  # apart from its call: the interpreter would look for a method, each time
        now = clock()
        deadline = now + route.timeout
        self._budget.deposits += 1
        if not nodes or (outliers.ejected and outliers.concern(codec.name)) or not self._link.is_set():
            return await self._carry(Job(message, route, headers, deadline))
        try:
            node = route.strategy.select(nodes, message)
            node_id, call, to = node.node_id, None, None
            stats = outliers.stats[node_id]
            endpoint = self._endpoints.get(codec.name) if node_id == self.node_id else None
            if endpoint is not None and endpoint.direct is not None:
                clock = stats.clock
                started = clock()
                result: CatgaResult[Any] = self._local.call(endpoint, endpoint.direct, message, stats, started)
                if type(result) is Success:
                    return outliers.cleared(stats, result, codec.name) if outliers.suspected else result
                stats.started()
                attempt = Attempt(self._known(result), node_id, stats=stats, started=started)
                return await self._carry(Job(message, route, headers, deadline), attempt)
            started = stats.started()
            try:
                outcome: Outcome | CatgaResult[Any]
                if node_id == self.node_id and (endpoint := self._server.endpoint(codec.name, headers)) is not None:
                    outcome = await self._local.run(endpoint, message, route.timeout, headers)
                else:
                    call = self._call(message, codec, headers, route.timeout, None)
                    to = self._client.destinations[node_id, node.incarnation]
                    outcome = await self._client.begin(to, call, now, deadline, codec.idempotent)
                    if type(outcome) is Reply:
                        outcome = Success(codec.decode_response(outcome.body), to.metadata)
            except BaseException:
                outliers.ended(stats, started, None)
                self._give_up(call)
                raise
        except CatgaError as error:  # the key function, the encoder, or the decoder of the value
            return Failure(error, ResultMetadata("", 1))
        if type(outcome) is Success:
            stats.ended(started)
            return outliers.cleared(stats, outcome, codec.name) if outliers.suspected else outcome
        attempt = Attempt(self._known(outcome), node_id, to, call.id if call else 0, stats, started)
        return await self._carry(Job(message, route, headers, deadline, call=call), attempt)

    async def _deliver_nested(
        self, message: Any, route: Route, headers: dict[str, str] | None, holder: Holder
    ) -> CatgaResult[Any]:
        """`deliver` for a handler that lends its place meanwhile."""
        if holder.has_ended:  # this is a task that it left behind
            holding.set(None)
            return await self.deliver(message, route, headers)
        holder.waits()
        try:
            return await self.deliver(message, route, {**(headers or {}), HEADER: str(holder.depth)})
        finally:
            holder.goes_on()

    async def _carry(self, job: Job, attempt: Attempt | None = None) -> CatgaResult[Any]:
        """Make attempts until one settles it. The first may be under way."""
        if attempt is not None:
            job.open.append(attempt)
        elif (unknown := job.route.unknown()) is not None:
            return Failure(unknown)
        try:
            while True:
                begun = attempt or await self._begin(job)
                if isinstance(begun, Failure):
                    return job.final(begun)
                result = await self._settle(job, begun)
                if type(result) is Success:
                    return result
                failure = cast(Failure, result)
                if not await self._may_go_on(job, failure):
                    return job.final(failure)
                self._count(job, begun)
                attempt = None
        except CatgaError as error:  # as in `deliver`
            return Failure(error, ResultMetadata("", job.attempts))
        finally:
            self._withdraw(job)

    # -- one attempt ----------------------------------------------------------------------------------

    async def _begin(self, job: Job) -> Attempt | Failure:
        """The next attempt, under way; or why there is none."""
        if job.route.is_queued:
            if not await self._linked(job.deadline):
                return self._nobody(job)
            return self._begin_queued(job)
        while True:
            linked = self._link.is_set()
            nodes = job.route.pool() if linked else await self._without_link(job.route, job.headers, job.deadline)
            node = self._choose(job, nodes)
            if node is not None:
                return self._begin_at(job, node)
            if not await (self._pause(job) if nodes else self._wait_for_nodes(job)):
                return self._nobody(job)
            job.tried = NONE

    async def _wait_for_nodes(self, job: Job) -> bool:
        """Nobody is there: whether it makes sense to look again, after the next change."""
        if not job.route.waits or self._server.refusing is not None or self._client.closed:
            return False
        if self._waiting >= MAX_WAITING or _is_an_answer(job):
            return False
        job.has_waited = True
        self._waiting += 1
        try:
            return await self._members.next(job.deadline)
        finally:
            self._waiting -= 1

    def _choose(self, job: Job, nodes: Candidates) -> NodeInfo | None:
        outliers = self._outliers
        able = outliers.admit(nodes, job.tried, job.route.codec.name) if job.tried or outliers.ejected else nodes
        try:
            return job.route.strategy.select(able, job.message) if able else None
        except NoNodeAvailableError:  # in a later attempt: its filters let nobody through that is left
            if job.attempts == 1:
                raise
            return None

    def _begin_at(self, job: Job, node: NodeInfo) -> Attempt:
        codec, now = job.route.codec, self._loop.time()
        to, call_id, end = None, 0, self._known(_expired())
        if job.deadline > now:
            if node.node_id == self.node_id and (endpoint := self._endpoint(codec, job.headers)) is not None:
                end = self._loop.create_task(self._run_here(endpoint, job))
            else:
                call = job.call = self._call(job.message, codec, job.headers, job.deadline - now, job.call)
                to, call_id = self._client.destinations[node.node_id, node.incarnation], call.id
                end = self._client.begin(to, call, now, job.deadline, codec.idempotent)
        stats = self._outliers.stats[node.node_id]
        trials = self._outliers.trials(node.node_id, codec.name) if self._outliers.ejected else NO_TRIAL
        attempt = Attempt(end, node.node_id, to, call_id, stats, stats.started(), trials)
        job.open.append(attempt)
        return attempt

    async def _run_here(self, endpoint: Endpoint, job: Job) -> Outcome | CatgaResult[Any]:
        left = job.deadline - self._loop.time()  # the task may have had to wait for its first step
        if left <= 0:
            return _expired()
        return await self._local.run(endpoint, job.message, left, job.headers)

    def _begin_queued(self, job: Job) -> Attempt:
        """The broker picks the node."""
        codec, now = job.route.codec, self._loop.time()
        call = job.call = self._call(job.message, codec, job.headers, job.deadline - now, job.call)
        to, taker = self._client.queue(queue(self._prefix, codec.name)), list[str]()
        end = self._known(_expired())
        if now < job.deadline:
            end = self._client.begin(to, call, now, job.deadline, codec.idempotent, taker)
        attempt = Attempt(end, "", to, call.id, taker=taker)
        job.open.append(attempt)
        return attempt

    async def _settle(self, job: Job, first: Attempt) -> CatgaResult[Any]:
        """The end of an attempt. If its node is silent meanwhile, the message goes to another as well: the first of the
        two that has an answer ends it. If one of them fails for good, the other is the attempt."""
        while job.open:
            if len(job.open) == 1:
                await job.open[0].end
            else:
                await asyncio.wait([attempt.end for attempt in job.open], return_when=asyncio.FIRST_COMPLETED)
            for attempt in [attempt for attempt in job.open if attempt.end.done()]:
                outcome = attempt.end.result()
                if type(outcome) is Silent:
                    attempt.end = outcome.future
                    self._hedge(job, attempt)
                    continue
                result = self._ended(job, attempt, outcome)
                if _is_last_word(result):
                    job.in_doubt = job.in_doubt or bool(job.open)  # the other attempt may have been executed
                    return result
                if attempt.is_hedge and cast(Failure, result).error.execution is Execution.NO:
                    self._budget.refund()
                    if job.open:
                        self._hedge_again(job, first)
        return cast(Failure, job.failure)

    def _ended(self, job: Job, attempt: Attempt, outcome: Outcome | CatgaResult[Any]) -> CatgaResult[Any]:
        job.open.remove(attempt)
        try:
            result = job.ended(attempt, outcome)
        except CatgaError:
            self._tell(job, attempt, None)
            raise
        self._tell(job, attempt, result)
        if isinstance(result, Failure):
            return job.failed(result, at_lost_node=attempt.is_lost)
        return result

    def _hedge(self, job: Job, attempt: Attempt) -> None:
        """Begin a second attempt beside `attempt`, whose node is silent, if there is another node, and budget."""
        if len(job.open) > 1 or job.route.is_queued:
            return
        job.tried |= {attempt.node_id}
        node = self._next_alive(job)
        if node is None or not self._budget.withdraw():
            return
        job.attempts += 1
        self._client.double(attempt.call_id)
        self._failovers[job.route.codec.name] += 1
        self._begin_at(job, node).is_hedge = True
        job.tried |= {node.node_id}

    def _hedge_again(self, job: Job, first: Attempt) -> None:
        """Begin another second attempt. If nobody is left, all may be asked again at the next news of the silence."""
        self._hedge(job, first)
        if len(job.open) == 1:
            job.tried = frozenset({first.node_id})
            self._client.double(first.call_id, is_doubled=False)

    def _next_alive(self, job: Job) -> NodeInfo | None:
        alive = job.route.pool().only("alive", lambda node: node.state is NodeState.ALIVE)
        with suppress(CatgaError):  # its filters let nobody through that is left
            return self._choose(job, alive)
        return None

    def _withdraw(self, job: Job) -> None:
        """Nobody waits for the attempts that are still under way."""
        for attempt in job.open:
            if attempt.to is None:
                attempt.end.cancel()
            else:
                self._client.give_up(attempt.call_id)
            self._tell(job, attempt, None)
        job.open.clear()

    def _tell(self, job: Job, attempt: Attempt, result: CatgaResult[Any] | None) -> None:
        if attempt.stats is not None:
            route = job.route
            by_key = type(result) is Failure and chooses_by_key(route.strategy)
            key = key_of(job.message) if by_key else None
            self._outliers.ended(
                attempt.stats,
                attempt.started,
                result,
                trials=attempt.trials,
                of=Kind(route.codec.name, route.pool, key),
            )

    # -- between two attempts -------------------------------------------------------------------------

    async def _may_go_on(self, job: Job, failure: Failure) -> bool:
        """Whether another attempt may follow the one that failed; waits for its turn."""
        verdict = judge(failure.error, idempotent=job.route.codec.idempotent)
        if verdict is Verdict.FINAL or self._loop.time() >= job.deadline:
            return False
        if job.route.is_queued and (
            job.attempts >= QUEUE_ATTEMPTS
            or (failure.error.code == ClusterError.code and not await self._pause(job, 0.2))
        ):
            return False
        if verdict is Verdict.ELSEWHERE:
            return True
        if job.at_lost_node and not job.has_moved:
            return await self._may_move(job)
        return self._budget.withdraw()

    async def _may_move(self, job: Job) -> bool:
        """Whether the turn of this job to go on from a lost node comes before its deadline; waits for it."""
        job.has_moved = True
        wait = self._pace.wait(self._loop.time(), job.deadline)
        if wait:
            await asyncio.sleep(wait)
        return wait is not None

    def _count(self, job: Job, attempt: Attempt) -> None:
        """Another attempt follows this one."""
        job.attempts += 1
        job.tried |= {attempt.node_id}
        self._failovers[job.route.codec.name] += 1

    def _call(self, message: Any, codec: Codec, headers: dict[str, str] | None, ttl: float, last: Call | None) -> Call:
        """The frame of the next attempt, after `last`."""
        if last is None:
            body, key = encode(message), 0
            if beside := carried.get():
                headers = {**(headers or {}), **beside}
            if len(body) > SMALL:
                self._check_size(message, len(body))
            if headers:
                _check_headers(headers)
        else:
            body, key, headers = last.body, last.key or last.id, last.headers
        return Call(next(self._client.ids), codec.name, ttl, body, key, headers)

    def _known(self, outcome: Outcome | CatgaResult[Any]) -> "asyncio.Future[Any]":
        """An end that has come already."""
        end = self._loop.create_future()
        end.set_result(outcome)
        return end

    def _give_up(self, call: Call | None) -> None:
        if call is not None:
            self._client.give_up(call.id)

    def _endpoint(self, codec: Codec, headers: dict[str, str] | None) -> Endpoint | None:
        """What runs such a message here."""
        return self._server.endpoint(codec.name, headers)

    async def _pause(self, job: Job, least: float = 0.02) -> bool:
        """All candidates were tried: whether another round makes sense, after a pause of `least` seconds or more."""
        if (job.failure is None and not job.has_waited) or _is_an_answer(job) or self._client.closed:
            return False
        left = job.deadline - self._loop.time()
        if left <= 0:
            return False
        await asyncio.sleep(min(left, random.uniform(least, MAX_PAUSE)))
        return self._loop.time() < job.deadline  # if not, the last failure says more than that

    async def _without_link(self, route: "Route", headers: dict[str, str] | None, deadline: float) -> Candidates:
        """The link is down: this node itself, if it is a candidate; else wait for the link."""
        me = self.node_id
        here = route.pool().only(me, lambda node: node.node_id == me)
        if here and self._endpoint(route.codec, headers) is not None:
            return here
        return route.pool() if await self._linked(deadline) else Candidates()

    async def _linked(self, deadline: float) -> bool:
        """Wait for the link; whether it came up in time."""
        while not self._link.is_set() and not self._client.closed:
            if not await self._links.next(deadline):
                break
        return self._link.is_set()

    def _nobody(self, job: Job) -> Failure:
        """Why there is no other attempt."""
        if self._client.closed:
            return Failure(ClosedError(self._client.closed), ResultMetadata("", job.attempts))
        if job.failure is not None:
            return job.failure
        error = ClusterError("no node can take this message") if self._link.is_set() else _no_link()
        return Failure(error, ResultMetadata("", job.attempts))

    def _check_size(self, message: object, size: int) -> None:
        limit = self._peer.max_body
        if size > limit:
            text = f"{type(message).__qualname__} has {size} bytes, the broker's limit is {limit}"
            raise refused(text, bytes=size, limit=limit)


def _is_an_answer(job: Job) -> bool:
    """Whether a refusal is what the sender should get, as the last candidate was full, or does not handle it. Events
    that waited for the same node fill it: they take turns."""
    error = None if job.failure is None else job.failure.error
    return isinstance(error, HandlerNotFoundError) or (isinstance(error, OverloadedError) and not job.has_waited)


def _is_last_word(result: CatgaResult[Any]) -> bool:
    """Whether nothing better can come of another attempt beside this one."""
    if type(result) is Success:
        return True
    error = cast(Failure, result).error
    return error.execution is Execution.ANSWERED or isinstance(error, CatgaTimeoutError)


def _check_headers(headers: dict[str, str]) -> None:
    """An interceptor filled them in. Raises `InvalidMessageError` for what nobody could read."""
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise refused(f"the header {name!r} is {value!r}: headers are text, both name and value")


def _expired() -> CatgaError:
    error = CatgaTimeoutError("the deadline passed before the request could be sent")
    error.execution = Execution.NO
    return error


def _no_link() -> CatgaError:
    error = CatgaTimeoutError("the link to the broker was down until the deadline")
    error.execution = Execution.NO
    return error
