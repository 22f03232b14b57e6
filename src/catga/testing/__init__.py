"""For the tests of programs and backends that use catga: real brokers, a virtual clock, the contract suite.

Install it with ``pip install 'catga[testing]'``. Its pytest plugin (`catga.testing.plugin`) is found by
itself and costs nothing until one of its fixtures is used.
"""

from catga.testing.clock import ManualClock
from catga.testing.waiting import eventually

__all__ = ["ManualClock", "eventually"]
