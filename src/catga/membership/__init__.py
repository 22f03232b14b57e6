"""Who is there: the view (pure rules), liveness probes, watchers, and the service that runs them."""

from catga.membership.membership import Host, Membership
from catga.membership.settings import MembershipSettings
from catga.membership.view import View
from catga.membership.watchers import Watcher

__all__ = ["Host", "Membership", "MembershipSettings", "View", "Watcher"]
