"""Steps around handlers: ``mediator.behavior(Retry())``. The first that is added is outermost.

Each works for requests and events, and runs where the handler runs. An event's handlers have the steps around
each of them.
"""

from catga.mediator.behaviors.caching import Caching
from catga.mediator.behaviors.circuit_breaker import CircuitBreaker
from catga.mediator.behaviors.concurrency_limit import ConcurrencyLimit
from catga.mediator.behaviors.dead_letters import DeadLetter, DeadLetters, DeadLetterStore, MemoryDeadLetters
from catga.mediator.behaviors.idempotency import Idempotency
from catga.mediator.behaviors.logs import Logging
from catga.mediator.behaviors.rate_limit import RateLimit
from catga.mediator.behaviors.retry import Retry
from catga.mediator.behaviors.store import KeyValueStore, MemoryStore
from catga.mediator.behaviors.timeout import Timeout
from catga.mediator.behaviors.validation import Validation

__all__ = [
    "Caching",
    "CircuitBreaker",
    "ConcurrencyLimit",
    "DeadLetter",
    "DeadLetterStore",
    "DeadLetters",
    "Idempotency",
    "KeyValueStore",
    "Logging",
    "MemoryDeadLetters",
    "MemoryStore",
    "RateLimit",
    "Retry",
    "Timeout",
    "Validation",
]
