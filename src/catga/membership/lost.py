"""Lives that were lost and may only have been cut off: they are asked again, one after the other.

After a split of the bus each side has buried the other, and nobody speaks to the buried. So their addresses are kept
for a day and pinged in turn (Serf does the same: "reconnect", https://github.com/hashicorp/serf). Pure: no I/O.
"""

import random
from collections.abc import Callable

MAX_LOST = 1024
KEPT = 86_400.0
"""Seconds of the clock for which a lost life is asked."""


class Lost:
    """The last `MAX_LOST` lives that ended without having said so.

    Args:
        clock: seconds, monotonic.
        random: shuffles the rounds, so that the nodes of one side do not all ask the same one first.
    """

    def __init__(self, clock: Callable[[], float], random: random.Random) -> None:
        self._clock = clock
        self._random = random
        self._lives: dict[str, tuple[int, float]] = {}  # id → (incarnation, when it was lost), oldest first
        self._round: list[str] = []

    def __len__(self) -> int:
        return len(self._lives)

    def __contains__(self, life: tuple[str, int]) -> bool:
        node_id, incarnation = life
        return self._lives.get(node_id, (None,))[0] == incarnation

    def add(self, node_id: str, incarnation: int) -> None:
        """This life was lost. The oldest one makes room."""
        known, _ = self._lives.get(node_id, (-1, 0.0))
        if incarnation < known:
            return
        self._lives.pop(node_id, None)
        self._lives[node_id] = (incarnation, self._clock())
        if len(self._lives) > MAX_LOST:
            del self._lives[next(iter(self._lives))]

    def found(self, node_id: str, incarnation: int) -> None:
        """The node is there again in this incarnation, or has left by itself: its lives up to it are lost no more."""
        if self._lives.get(node_id, (incarnation + 1,))[0] <= incarnation:
            del self._lives[node_id]

    def next(self) -> tuple[str, int] | None:
        """The life to ask now: each once a round, the rounds shuffled. None if there is none."""
        horizon = self._clock() - KEPT
        while self._lives:
            if not self._round:
                self._round = list(self._lives)
                self._random.shuffle(self._round)
            node_id = self._round.pop()
            life = self._lives.get(node_id)
            if life is not None and life[1] >= horizon:
                return node_id, life[0]
            self._lives.pop(node_id, None)
        return None
