"""What a strategy that contains another asks of it, beyond `select`: all of it is optional."""

from collections.abc import Callable, Iterable, Iterator

from catga.abc import RoutingStrategy
from catga.routing.candidates import Candidates


def check_inner(strategy: RoutingStrategy, message_type: type) -> None:
    """Let `strategy` refuse a message type when it is registered. Raises InvalidMessageError."""
    check: Callable[[type], None] | None = getattr(strategy, "check", None)
    if check is not None:
        check(message_type)


def reasons_of(strategy: RoutingStrategy, nodes: Candidates) -> Iterator[tuple[str, str]]:
    """(node_id, reason) of the nodes that `strategy` filters out, for people to read."""
    reasons: Callable[[Candidates], Iterable[tuple[str, str]]] | None = getattr(strategy, "reasons", None)
    return iter(()) if reasons is None else iter(reasons(nodes))


def chooses_by_key(strategy: RoutingStrategy) -> bool:
    """Whether messages with one key go to one node: then a key that fails everywhere fails there alone."""
    return getattr(strategy, "chooses_by_key", False) is True
