"""So many a second: a token bucket."""

import math
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Hashable
from contextlib import asynccontextmanager
from typing import Any

from catga.abc import CallNext
from catga.errors import RateLimitedError
from catga.mediator.behaviors.matching import expect_key
from catga.messages import wire_name


class RateLimit:
    """Lets `rate` messages per second in, and up to `burst` at once; the rest get `RateLimitedError`.

    An event counts once, whatever the number of its handlers.

    The limit is this process's: a cluster of ``n`` nodes lets ``n * rate`` in.

    Args:
        key: messages of one key share a bucket, e.g. ``lambda m: m.customer``; by default all share one.
        max_keys: buckets that are kept; the one unused for the longest goes first, and is full when it comes back.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        rate: float,
        *,
        burst: int | None = None,
        key: Callable[[Any], Hashable] | None = None,
        max_keys: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 0 < rate < math.inf or (burst is not None and burst < 1) or max_keys < 1:
            text = "rate must be positive and finite, burst and max_keys at least 1"
            raise ValueError(f"{text}: got {rate}, {burst}, {max_keys}")
        expect_key(key)
        self._rate = rate
        self._burst = float(burst if burst is not None else max(1, round(rate)))
        self._key = key
        self._max_keys = max_keys
        self._clock = clock
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()  # tokens, and when that was

    async def __call__(self, message: object, call_next: CallNext[Any, Any]) -> Any:
        self._admit(message)
        return await call_next(message)

    @asynccontextmanager
    async def admission(self, event: object) -> AsyncGenerator[None]:
        """Take one token for all handlers of an event."""
        self._admit(event)
        yield

    def _admit(self, message: object) -> None:
        missing = self._take(None if self._key is None else self._key(message))
        if missing > 0:
            after = missing / self._rate
            text = f"{wire_name(type(message))} comes more often than {self._rate:g} times per second"
            raise RateLimitedError(text, details={"retry_after": after})

    def _take(self, key: Hashable) -> float:
        """Take a token. Returns how much of one was missing; then none was taken."""
        now = self._clock()
        tokens, since = self._buckets.pop(key, (self._burst, now))
        tokens = min(self._burst, tokens + (now - since) * self._rate)
        allowed = tokens >= 1 - 1e-9
        self._buckets[key] = (tokens - 1 if allowed else tokens, now)
        if len(self._buckets) > self._max_keys:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else 1 - tokens
