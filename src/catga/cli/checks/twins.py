"""How many processes have each node's id.

One that lost its id to another is no member, and may have nobody to tell; but the broker still knows it.
"""

from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from catga.cli.options import Where
from catga.node import NodeInfo


async def processes(where: Where, members: Sequence[NodeInfo]) -> Mapping[str, int]:
    """The ids of `members` that more than one process has → how many. None where the broker cannot tell."""
    scheme = urlsplit(where.url).scheme
    if scheme in ("nats", "tls"):
        from catga.cli.checks.twins_nats import count
    elif scheme in ("redis", "rediss"):
        from catga.cli.checks.twins_redis import count
    else:
        return {}
    return {node_id: number for node_id, number in (await count(where, members)).items() if number > 1}
