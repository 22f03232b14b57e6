"""Classes that derive from those of another module, which means another `Row`."""

from dataclasses import dataclass

import rows_orders


@dataclass(frozen=True)
class Row:
    number: int


@dataclass(frozen=True)
class FindOld(rows_orders.Find):
    """Answered with a row of the orders."""


@dataclass(frozen=True)
class FindAllOld(rows_orders.FindAll):
    """Answered with rows of the orders."""
