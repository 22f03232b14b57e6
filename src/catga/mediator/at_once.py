"""Events whose handlers run at the same time: `@message(concurrent=True)`."""

import asyncio
from collections.abc import Sequence
from typing import Any

from catga.mediator.ambient import marked_context
from catga.mediator.pipeline import ENDS, Call, Run, answered, combined, failed
from catga.result import CatgaResult, Failure, ResultMetadata, Success


def at_once(calls: Sequence[Call], metadata: ResultMetadata) -> Run:
    """Return what runs all of `calls`, each in a task of its own, and puts together how they failed.

    All of them begin, in their order, before a cancellation can come: so none is not reached.
    """
    done: Success[None] = Success(None, metadata)

    async def run(event: Any) -> CatgaResult[None]:
        _, context = marked_context()
        tasks = [asyncio.create_task(_outcome(call, event), context=context.copy()) for call in calls]
        await _ended(tasks)
        raised = [error for error in (task.result() for task in tasks) if error is not None]
        errors = [failed(error, event) for error in raised]
        return Failure(combined(errors), metadata) if errors else done

    return run


async def _outcome(call: Call, event: object) -> BaseException | None:
    """What `call` raised. A bug is logged when it happens; what ends the program is raised once all have ended."""
    try:
        await call(event)
    except BaseException as error:  # noqa: BLE001 - the border around a user's handler
        return error if isinstance(error, (*ENDS, asyncio.CancelledError)) else answered(error, event)
    return None


async def _ended(tasks: Sequence[asyncio.Task[BaseException | None]]) -> None:
    """Return when all have ended. A cancellation is theirs, and is raised then."""
    cancelled: asyncio.CancelledError | None = None
    while pending := [task for task in tasks if not task.done()]:
        try:
            await asyncio.wait(pending)
        except asyncio.CancelledError as error:
            cancelled = error
            for task in pending:
                task.cancel()
    if cancelled is not None:
        raise cancelled
