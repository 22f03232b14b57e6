"""What a node refused lately: a NO is final.

A caller repeats an attempt under the same id when a link broke in mid-call. If the first was refused, the repeat gets
the same refusal, although there may be room by now: the refusal may be on its way, and will send the caller to another
node. A new attempt of the same request has another id, and is judged anew.
"""

from collections import OrderedDict

from catga.rpc.answers import Caller, CallKey
from catga.rpc.wire import Fault

MAX_REFUSALS = 16_384


class Refusals:
    """The refused attempts, by reply box and the attempt's id."""

    def __init__(self) -> None:
        self._faults: OrderedDict[CallKey, tuple[Fault, Caller]] = OrderedDict()

    def remember(self, caller: Caller, fault: Fault) -> None:
        """An attempt of this caller was refused."""
        self._faults[caller.reply_to, fault.id] = fault, caller
        if len(self._faults) > MAX_REFUSALS:
            (_, call_id), (_, owner) = self._faults.popitem(last=False)
            if call_id >= owner.oldest:  # else nobody asks again
                owner.refused = max(owner.refused, call_id)

    def look_up(self, reply_to: str, call_id: int) -> Fault | None:
        """The refusal of this attempt."""
        found = self._faults.get((reply_to, call_id))
        return None if found is None else found[0]
