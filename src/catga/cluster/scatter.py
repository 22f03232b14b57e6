"""One message to many nodes."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from catga.errors import CatgaError, Execution, HandlerNotFoundError
from catga.node import NodeInfo
from catga.result import CatgaResult, Failure, Success, joint_failure, told

R = TypeVar("R")


class Broadcast(NamedTuple):
    """What became of a broadcast: who acknowledged it, and why the others did not."""

    acknowledged: tuple[str, ...]
    failed: dict[str, CatgaError]


class Gathered(msgspec.Struct, Generic[R], frozen=True):
    """What became of a request to all nodes that handle it. Both by ``node_id``, in its order.

    Attributes:
        answers: of the nodes whose handler ran: its value, or its failure.
        silent: why the others gave no answer: lost, too late, refused.
    """

    answers: dict[str, CatgaResult[R]]
    silent: dict[str, CatgaError]

    @property
    def is_complete(self) -> bool:
        """Whether every node answered with a value."""
        return not self.silent and all(result.is_success for result in self.answers.values())

    @property
    def values(self) -> dict[str, R]:
        """The values of the nodes that succeeded."""
        return {i: result.value for i, result in self.answers.items() if isinstance(result, Success)}


Send = Callable[[NodeInfo], Awaitable[CatgaResult[Any]]]


async def broadcast(nodes: Iterable[NodeInfo], send: Send) -> Broadcast:
    """`send` to each of `nodes` at once; who acknowledged, those without a handler included."""
    results = await _each(nodes, send)
    failed = {
        i: result.error for i, result in results.items() if isinstance(result, Failure) and not is_unknown(result.error)
    }
    return Broadcast(tuple(i for i in results if i not in failed), failed)


async def gather(nodes: Iterable[NodeInfo], send: Send) -> Gathered[Any]:
    """`send` to each of `nodes` at once; what they answered."""
    answers: dict[str, CatgaResult[Any]] = {}
    silent: dict[str, CatgaError] = {}
    for node_id, result in (await _each(nodes, send)).items():
        if isinstance(result, Failure) and result.error.execution is not Execution.ANSWERED:
            silent[node_id] = result.error
        else:
            answers[node_id] = result
    return Gathered(answers, silent)


def together(results: Mapping[str, CatgaResult[None]]) -> CatgaResult[None]:
    """What a publication to several services came to, from the result of each."""
    failures = {service: result for service, result in results.items() if isinstance(result, Failure)}
    if not failures:
        return Success(None)
    texts = "; ".join(f"{service}: {failure.error.message}" for service, failure in failures.items())
    text = f"{len(failures)} of {len(results)} services failed: {texts}"
    return joint_failure(results.values(), text, {"services": {s: told(result) for s, result in results.items()}})


def is_unknown(error: CatgaError) -> bool:
    """Whether the node has no handler; not that a handler of its own found none for what it sent."""
    return isinstance(error, HandlerNotFoundError) and error.execution is Execution.NO


async def _each(nodes: Iterable[NodeInfo], send: Send) -> dict[str, CatgaResult[Any]]:
    targets = list(nodes)
    results = await asyncio.gather(*(send(node) for node in targets))
    return {node.node_id: result for node, result in zip(targets, results, strict=True)}
