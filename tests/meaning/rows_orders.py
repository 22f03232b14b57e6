"""A base class that names its answer as text."""

from dataclasses import dataclass

from catga import Request


@dataclass(frozen=True)
class Row:
    number: int
    price: float


@dataclass(frozen=True)
class Find(Request["Row"]):
    number: int


@dataclass(frozen=True)
class FindAll(Request[list["Row"]]):
    number: int
