"""Which mediator runs the handler that asks: what a handler of a Router or a class sends by.

Nothing of this is on the path of a call. Where caller and handler are one process the frames of the call tell; what
came over the bus runs in a context that a node has marked.
"""

import gc
import inspect
import weakref
from collections.abc import Callable, Iterator
from contextvars import Context, ContextVar, copy_context
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

from catga.errors import ClosedError

if TYPE_CHECKING:
    from catga.mediator.mediator import Mediator

running: "ContextVar[Mediator | None]" = ContextVar("catga_running_mediator", default=None)
"""Who runs the handler that this context belongs to, where the frames do not tell: a call from another node, a task or
a thread."""
runs_handlers: "dict[CodeType, Callable[[Any], Mediator | None]]" = {}
"""The code of the methods that await handlers in their caller's task → what finds the mediator of their ``self``."""
_mediators: "weakref.WeakValueDictionary[int, Mediator]" = weakref.WeakValueDictionary()
"""By their `id`. No set, as whoever iterates over a weak one fails when another thread makes a mediator."""


def current() -> "Mediator":
    """Return the mediator that runs this handler: the node under a node, the `Mediator` in one process.

    Outside of a handler it is the only one in this process.

    Raises:
        ClosedError: this is no handler, and there are none or several.
    """
    found = _found()
    if found is None:  # those that nobody refers to any more may still be there
        gc.collect()
        found = _only()
    if found is None:
        count = len(_reachable())
        what = f"{count} mediators are in this process" if count else "no Mediator is in this process"
        raise ClosedError(f"{what}, and this is no handler of one: send by the one that you mean")
    return found


def marked_context() -> "tuple[Mediator | None, Context]":
    """Return the mediator that runs this handler, if one does, and a copy of this context for a task or thread that
    works for the handler: `current` finds the same there."""
    found, context = _found(), copy_context()
    context.run(running.set, found)
    return found, context


def awaiting() -> "Iterator[Mediator]":
    """Yield the mediators that await this, the innermost first, and then the node that runs this for another one."""
    frame: FrameType | None = inspect.currentframe()
    while frame is not None:
        owner = runs_handlers.get(frame.f_code)
        if owner is not None and (found := owner(frame.f_locals["self"])) is not None:
            yield found
        frame = frame.f_back
    if (node := running.get()) is not None:
        yield node


def made(mediator: "Mediator") -> None:
    """A mediator was made."""
    _mediators[id(mediator)] = mediator


def gone(mediator: "Mediator") -> None:
    """A node has left, or could not join."""
    _mediators.pop(id(mediator), None)


def _found() -> "Mediator | None":
    return next((mediator for mediator in awaiting() if not mediator.has_node), None) or _only()


def _only() -> "Mediator | None":
    found = _reachable()
    return found[0] if len(found) == 1 else None


def _reachable() -> "list[Mediator]":
    """Nodes, and the mediators that have none."""
    found = [mediator for reference in _mediators.valuerefs() if (mediator := reference()) is not None]
    return [mediator for mediator in found if not mediator.has_node and mediator._lives()]  # pyright: ignore[reportPrivateUsage]
