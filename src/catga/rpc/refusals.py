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
    """Bounds the refused attempts that are remembered, each with its caller, by the attempt's id."""

    def __init__(self) -> None:
        self._callers: OrderedDict[CallKey, Caller] = OrderedDict()

    def remember(self, caller: Caller, fault: Fault) -> None:
        """An attempt of this caller was refused."""
        caller.refusals[fault.id] = fault
        self._callers[caller.reply_to, fault.id] = caller
        if len(self._callers) > MAX_REFUSALS:
            (_, call_id), owner = self._callers.popitem(last=False)
            del owner.refusals[call_id]
            if call_id >= owner.oldest:  # else nobody asks again
                owner.refused = max(owner.refused, call_id)

    def look_up(self, reply_to: str, call_id: int) -> Fault | None:
        """The refusal of this attempt."""
        caller = self._callers.get((reply_to, call_id))
        return None if caller is None else caller.refusals[call_id]
