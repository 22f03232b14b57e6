"""Task groups of Python before 3.13 leave the task that waited in them cancelled, in its own books, if a child failed.

They cancel it, so that it stops what it does, and take that back only if it was still in the body. `Retry` must not
take that for a cancellation of the try.
"""

import asyncio
import sys
from collections.abc import Iterator
from types import TracebackType
from typing import Any

_AFFECTED = sys.version_info < (3, 13)
_EXIT = asyncio.TaskGroup.__aexit__.__code__


def left_behind(error: BaseException) -> int:
    """Return how many cancellations of this task are of task groups whose failure led to `error`."""
    return len({id(group) for each in _chain(error) for group in _left_in(each.__traceback__)}) if _AFFECTED else 0


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield `error`, what it holds if it is a group, and what led to these."""
    seen, todo = set[int](), [error]
    while todo:
        each = todo.pop()
        if id(each) not in seen:
            seen.add(id(each))
            yield each
            held: tuple[Any, ...] = getattr(each, "exceptions", ()) if _is_group(each) else ()
            todo += [part for part in (each.__cause__, each.__context__, *held) if part is not None]


def _is_group(error: BaseException) -> bool:
    return isinstance(error, BaseExceptionGroup)


def _left_in(traceback: TracebackType | None) -> Iterator[object]:
    """Yield the task groups of this task that `traceback` passes, and that cancelled it while it waited in them."""
    me = asyncio.current_task()
    while traceback is not None:
        frame = traceback.tb_frame
        if frame.f_code is _EXIT:
            group, was_in_body = frame.f_locals.get("self"), frame.f_locals.get("et") is not None
            is_own = getattr(group, "_parent_task", None) is me
            if is_own and getattr(group, "_parent_cancel_requested", False) and not was_in_body:
                yield group
        traceback = traceback.tb_next
