"""Which node fails when the others do not: the answers to one message type, compared between its nodes.

A node is judged by what the others make of the same traffic, as in the success-rate outlier detection of Envoy and
gRPC: where all fail alike the message is to blame, or what all of them need, and nobody is an outlier.
"""

from collections.abc import Iterable
from math import log

MARGIN = 0.5
"""By how much the failing share of an outlier is greater than that of the others."""
DOUBT = log(10_000.0)
"""So unlikely it must be (one in ten thousand) that a node as good as the others fails so often."""


class Answers:
    """How the latest calls of one message type went at each node, counted while some fail.

    Args:
        failures: least failures of an outlier. A node's latest calls are four times as many, or twenty.
    """

    def __init__(self, failures: int) -> None:
        self._failures = failures
        self._kept = max(4 * failures, 20)
        self._counts: dict[str, tuple[float, float]] = {}  # calls, and failures among them

    def count(self, node_id: str, *, failed: bool) -> bool:
        """Count a call that ended at a node. Returns whether those before it begin to be forgotten."""
        calls, failures = self._counts.get(node_id, (0.0, 0.0))
        is_full = calls >= self._kept
        if is_full:
            calls, failures = calls / 2, failures / 2
        self._counts[node_id] = (calls + 1, failures + 1 if failed else failures)
        return is_full

    def forget(self, node_id: str) -> None:
        """A node begins anew."""
        self._counts.pop(node_id, None)

    def is_outlier(self, node_id: str, nodes: Iterable[str]) -> bool:
        """Whether a node fails, and others among `nodes` do not: much more often, and hardly by chance."""
        calls, failures = self._counts.get(node_id, (0.0, 0.0))
        if failures < self._failures:
            return False
        among, failed = self._others(node_id, nodes)
        if not among or failures / calls < failed / among + MARGIN:
            return False
        usual = (failed + 1) / (among + 2)  # of few calls little is known
        return calls * _divergence(failures / calls, usual) >= DOUBT

    def do_others_fail(self, node_id: str, nodes: Iterable[str]) -> bool:
        """Whether the others among `nodes` fail most of their calls as well."""
        among, failed = self._others(node_id, nodes)
        return failed > among / 2

    def _others(self, node_id: str, nodes: Iterable[str]) -> tuple[float, float]:
        """The calls and the failures of the better half of the other nodes: up to half of them may be as bad."""
        counts = [self._counts[other] for other in nodes if other != node_id and other in self._counts]
        counts.sort(key=lambda count: count[1] / count[0])
        better = counts[: (len(counts) + 1) // 2]
        return sum(calls for calls, _ in better), sum(failures for _, failures in better)


def _divergence(share: float, usual: float) -> float:
    """The Kullback-Leibler divergence of two shares. Times a number of calls it is, by Chernoff's bound, minus the
    logarithm of the chance of `share` or more among them where `usual` is to be expected."""
    rest = 1.0 - share
    return share * log(share / usual) + (rest * log(rest / (1.0 - usual)) if rest else 0.0)
