"""When a circuit breaker by a ratio of failures opens."""

from failures import Ask
from places import Table, failure

from catga import Mediator
from catga.mediator.behaviors import CircuitBreaker, Retry

TABLE = Table()
means = TABLE.means


def failing(app: Mediator, *, minimum_throughput: int) -> Ask:
    """Give `app` a handler that always fails, and is called four times."""
    app.behavior(Retry(4, base=0.0, on=ValueError))
    app.behavior(CircuitBreaker(failure_ratio=0.5, minimum_throughput=minimum_throughput))

    @app.handler
    async def ask(ask: Ask) -> int:
        raise ValueError("no")

    return Ask()


@means(failure("circuit_open", "failures.Ask failed 3 of 3 times within 30 s"))
def a_ratio_of_failures_opens_the_circuit(app: Mediator) -> Ask:
    return failing(app, minimum_throughput=3)


@means(failure("handler_error", "ValueError: no"))
def a_ratio_of_few_calls_says_nothing(app: Mediator) -> Ask:
    return failing(app, minimum_throughput=5)
