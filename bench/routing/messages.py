"""The messages of this benchmark."""

from dataclasses import dataclass

from catga import Request, message


@message(name="bench.Work", key="number")
@dataclass(frozen=True, slots=True)
class Work(Request[int]):
    number: int


@message(name="bench.SafeWork", idempotent=True)
@dataclass(frozen=True, slots=True)
class SafeWork(Request[int]):
    number: int


@message(name="bench.Keyed", key="sku")
@dataclass(frozen=True, slots=True)
class Keyed(Request[int]):
    sku: str
