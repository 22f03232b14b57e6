"""Why a message would go where it goes."""

import copy
from collections.abc import Iterable, Iterator

import msgspec

from catga.abc import RoutingStrategy
from catga.cluster.outliers import Outliers
from catga.errors import CatgaError
from catga.node import NodeInfo, NodeState
from catga.routing import Candidates, Queue
from catga.routing.inner import reasons_of


class LeftOut(msgspec.Struct, frozen=True):
    """A member that is not chosen, whatever the strategy."""

    node_id: str
    reason: str


class Explanation(msgspec.Struct, frozen=True):
    """Why a message would go where it goes, as of now. ``str()`` is for people.

    Attributes:
        name: the message's wire name.
        strategy: how the node is chosen.
        candidates: ids of those that it is chosen from.
        left_out: the other members, and why.
        choice: the node that the message would go to; None if it would go nowhere, or if the broker picks.
        error: why nowhere.
        notes: what this node has seen of each candidate.
    """

    name: str
    strategy: str
    candidates: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    choice: str | None
    error: str = ""
    notes: dict[str, str] = {}

    def __str__(self) -> str:
        if self.choice is None and not self.error:
            return f"{self.name} goes to one of the nodes that take it from the broker's queue\n  by {self.strategy}"
        goal = f"goes to {self.choice}" if self.choice is not None else f"goes nowhere: {self.error}"
        lines = [f"{self.name} {goal}", f"  by {self.strategy}"]
        lines += [f"  {'>' if i == self.choice else '+'} {i}: {self.notes.get(i, '')}" for i in self.candidates]
        lines += [f"  - {out.node_id}: {out.reason}" for out in self.left_out]
        return "\n".join(lines)


def explain(
    message: object,
    name: str,
    members: Iterable[NodeInfo],
    candidates: Candidates,
    strategy: RoutingStrategy,
    outliers: Outliers,
) -> Explanation:
    """Explain one choice without making it: a strategy's turns and draws stay as they are."""
    if isinstance(strategy, Queue):
        return Explanation(name, repr(strategy), (), (), None)
    nodes = outliers.admit(candidates, frozenset(), name)
    out = {node.node_id: _why_no_candidate(node, name) for node in members if candidates.by_id(node.node_id) is None}
    ejected = outliers.left_out(candidates, name)
    out.update({i: _ejected(left) for i, left in ejected.items() if nodes.by_id(i) is None})
    scratch = Candidates(nodes, nodes.stats, nodes.local_id)
    for node_id, reason in _filtered(strategy, scratch):
        out.setdefault(node_id, reason)
    choice, error = _choose(strategy, scratch, message)
    left = tuple(node.node_id for node in nodes if node.node_id not in out)
    return Explanation(
        name,
        repr(strategy),
        left,
        tuple(LeftOut(node_id, reason) for node_id, reason in sorted(out.items())),
        choice,
        error,
        {node_id: _note(nodes, node_id) for node_id in left},
    )


def _choose(strategy: RoutingStrategy, nodes: Candidates, message: object) -> tuple[str | None, str]:
    if not nodes:
        return None, "there is no candidate"
    try:
        return copy.deepcopy(strategy).select(nodes, message).node_id, ""
    except CatgaError as error:
        return None, str(error)
    except (TypeError, AttributeError, copy.Error) as error:
        return None, f"{type(strategy).__qualname__} cannot be copied to ask it: {error}"


def _filtered(strategy: RoutingStrategy, nodes: Candidates) -> Iterator[tuple[str, str]]:
    return reasons_of(strategy, nodes) if nodes else iter(())


def _why_no_candidate(node: NodeInfo, name: str) -> str:
    if name not in node.handles:
        return "does not handle it"
    if node.state is NodeState.SUSPECT:
        return "is suspect: it does not answer"
    return f"is {node.state.value}"


def _ejected(seconds: float) -> str:
    return f"is an outlier: left out for {seconds:.1f} s" if seconds else "is an outlier: its trial call is under way"


def _note(nodes: Candidates, node_id: str) -> str:
    stats = nodes.stats[node_id]
    latency = f"{stats.latency * 1000:.1f} ms" if stats.latency else "unknown"
    fails = f", fails {stats.failing:.0%}" if stats.failing >= 0.005 else ""
    return f"{stats.inflight} in flight, latency {latency}, load {stats.load:.2f}{fails}"
