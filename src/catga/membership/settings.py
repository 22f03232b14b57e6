"""The times by which a member lives."""

import msgspec


class MembershipSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Times, in seconds.

    Attributes:
        ttl: the lease. A node unheard of for so long has left, if nothing found it out before.
        heartbeat_interval: the lease is refreshed this often, ± 20 %.
        probe_interval: one member is probed this often; a silence of three of them is one's own deafness.
        confirm: nobody must have listened on a node's inbox for so long before it counts as crashed.
        settle: after the link came back nobody is declared dead for so long.
        observe_only: this node is no member: it is in nobody's view and tells nothing, it only watches.
    """

    ttl: float = 120.0
    heartbeat_interval: float = 30.0
    probe_interval: float = 1.0
    confirm: float = 1.0
    settle: float = 5.0
    observe_only: bool = False
