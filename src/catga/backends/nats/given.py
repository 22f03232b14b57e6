"""A client that was handed in: its callbacks are its owner's, so its state is looked at instead."""

import asyncio
from collections.abc import Callable

from nats.aio.client import Client

INTERVAL = 0.1
"""Seconds between two looks."""


async def closed(client: Client, on_link: Callable[[bool], None], on_error: Callable[[str], None]) -> str:
    """Return why `client` has closed, which it does for good, once it has.

    Args:
        on_link: told at each look whether it is connected.
        on_error: told of its last error, if that is a new one. Of several between two looks that is the newest.
    """
    reconnects, error = client.stats["reconnects"], client.last_error
    while not client.is_closed:
        if client.stats["reconnects"] != reconnects:  # between two looks
            reconnects = client.stats["reconnects"]
            on_link(False)
        on_link(client.is_connected)
        if client.last_error is not error:
            error = client.last_error
            if error is not None:
                on_error(str(error) or type(error).__name__)
        await asyncio.sleep(INTERVAL)
    return f"the NATS client that was handed in has closed: {client.last_error or 'by its owner'}"
