"""The promises that every backend keeps, as coroutine functions that anybody can run.

Each function of `CONTRACT` takes a `Bed` (a backend's URL and what is needed to try it) and raises an
AssertionError if the promise in its docstring does not hold. With pytest:

    @pytest.mark.parametrize("promise", CONTRACT, ids=lambda promise: promise.__name__)
    async def test_contract(promise):
        async with Bed("mybus://127.0.0.1:1234") as bed:
            await promise(bed)

A promise that a backend cannot be asked about raises `unittest.SkipTest`.
"""

from collections.abc import Awaitable, Callable

from catga.testing.contract import discovery, failures, membership, sending, transport
from catga.testing.contract.bed import Bed

__all__ = ["CONTRACT", "Bed", "Promise"]

Promise = Callable[[Bed], Awaitable[None]]

CONTRACT: tuple[Promise, ...] = (
    *transport.PROMISES,
    *discovery.PROMISES,
    *membership.PROMISES,
    *sending.PROMISES,
    *failures.PROMISES,
)
"""Every promise, from the primitives up to whole clusters."""
