"""Keys of `Idempotency` and `Caching`: one for equal messages in every process, never one for two messages."""

import asyncio
import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr

from catga import Event, Mediator, Request, message
from catga.codec import digest
from catga.errors import MESSAGE, InvalidMessageError, StoreError, what_is_refused
from catga.mediator.behaviors import Caching, Idempotency, MemoryStore
from catga.mediator.behaviors.store import key_text
from catga.testing import ManualClock, eventually


@dataclass(frozen=True)
class Pay(Request[str]):
    key: Any
    amount: int = 0


@dataclass(frozen=True)
class Paid(Event):
    key: str
    amount: int = 0


class Account(BaseModel, Request[str]):
    owner: SecretStr


@dataclass(frozen=True)
class Tagged(Request[str]):
    tags: frozenset[str]
    prices: dict[str, int] = field(default_factory=dict[str, int])


class Colour(Enum):
    RED = "red"


def counting(behavior: Any, *classes: type) -> tuple[Mediator, list[Any]]:
    """An app whose handlers note what they get, and answer with how many there were."""
    app, ran = Mediator(), list[Any]()
    app.behavior(behavior)

    async def handle(request: Any) -> str:
        ran.append(request)
        return str(len(ran))

    for cls in classes:
        app.handles(cls)(handle)
    return app, ran


async def refusal(app: Mediator, request: Request[Any]) -> str:
    result = await app.send(request)
    error: Any = result.error  # type: ignore[union-attr]
    assert type(error) is InvalidMessageError
    assert what_is_refused(error) == MESSAGE
    return str(error)


BEHAVIORS: list[Callable[[Callable[[Any], object]], Any]] = [
    lambda key: Idempotency(key=key),
    lambda key: Caching(ttl=60.0, key=key),
]
both = pytest.mark.parametrize("behavior", BEHAVIORS, ids=["Idempotency", "Caching"])


@both
async def test_keys_of_different_types_are_different(behavior: Any) -> None:
    app, ran = counting(behavior(lambda m: m.key), Pay)
    for key in (1, "1", b"1", "b'1'", ("1",), (1,), "('1',)", UUID(int=1), str(UUID(int=1)), "i1", "s1"):
        assert (await app.send(Pay(key))).is_success
    assert len(ran) == 11


@both
@pytest.mark.parametrize(
    "key",
    [
        SecretStr("alice"),
        (SecretStr("alice"), 1),
        Account(owner=SecretStr("alice")),
        Pay(1),
        frozenset("ab"),
        {"a": 1},
        ["a"],
        1.0,
        None,
        (None,),
        object(),
    ],
    ids=lambda key: type(key).__name__,
)
async def test_what_has_no_stable_bytes_is_no_key(behavior: Any, key: Any) -> None:
    app, ran = counting(behavior(lambda _: key), Pay)
    text = await refusal(app, Pay(1))
    assert "alice" not in text
    assert ran == []


def test_keys_that_routing_takes_for_one_are_one() -> None:
    assert key_text(Colour.RED) == key_text("red")
    assert key_text(("a", "b")) != key_text(("ab", ""))


def test_a_key_in_a_store_tells_nothing_of_what_it_was_made_of() -> None:
    assert "alice" not in key_text("alice")


@dataclass(frozen=True)
class Hidden(Request[str]):
    owner: str = field(repr=False)


@pytest.mark.parametrize("of", [lambda owner: Account(owner=SecretStr(owner)), Hidden], ids=["SecretStr", "repr=False"])
async def test_nobody_gets_the_answer_to_another_whose_repr_is_the_same(of: Any) -> None:
    app, ran = counting(Caching(ttl=60.0), type(of("")))
    answers = [(await app.send(of(owner))).unwrap() for owner in ("alice", "bob", "alice")]
    assert answers == ["1", "2", "1"]
    assert len(ran) == 2


# -- one key, another content -----------------------------------------------------------------------------


async def test_a_key_with_another_content_is_refused() -> None:
    app, ran = counting(Idempotency(key=lambda m: m.key), Pay, Paid)
    assert (await app.send(Pay("k", 5))).unwrap() == "1"
    assert "the same key" in await refusal(app, Pay("k", 500))
    assert (await app.send(Pay("k", 5))).unwrap() == "1"
    assert (await app.publish(Paid("k", 5))).is_success  # the keys of another class are others
    assert not (await app.publish(Paid("k", 500))).is_success
    assert ran == [Pay("k", 5), Paid("k", 5)]


async def test_so_it_is_while_the_first_runs_still() -> None:
    app, gate, began = Mediator(), asyncio.Event(), list[object]()
    app.behavior(Idempotency(key=lambda m: m.key))

    @app.handler
    async def pay(request: Pay) -> str:
        began.append(request)
        await gate.wait()
        return "paid"

    first = asyncio.ensure_future(app.send(Pay("k", 5)))
    await eventually(lambda: began)
    same = asyncio.ensure_future(app.send(Pay("k", 5)))
    assert "the same key" in await refusal(app, Pay("k", 500))
    gate.set()
    assert [(await first).unwrap(), (await same).unwrap()] == ["paid", "paid"]
    assert len(began) == 1


async def test_what_an_older_version_kept_answers_without_a_content_to_compare() -> None:
    store = MemoryStore()
    app, ran = counting(Idempotency(store, key=lambda m: m.key), Pay)
    kept = b"\1" + msgspec.msgpack.encode((msgspec.msgpack.encode("paid"), "", "", ""))
    await store.put(f"idempotency:{Pay.__module__}.Pay:{key_text('k')}", kept, 60.0)
    assert (await app.send(Pay("k", 1))).unwrap() == "paid"
    assert ran == []


# -- equal contents, in every process ---------------------------------------------------------------------


async def test_the_order_of_a_set_or_a_dict_makes_no_other_message() -> None:
    for behavior in (Caching(ttl=60.0), Idempotency(key=lambda m: 1)):
        app, ran = counting(behavior, Tagged)
        assert (await app.send(Tagged(frozenset("ab"), {"a": 1, "b": 2}))).unwrap() == "1"
        assert (await app.send(Tagged(frozenset("ba"), {"b": 2, "a": 1}))).unwrap() == "1"
        assert len(ran) == 1


TEXTS = """
import sys
sys.path.insert(0, sys.argv[1])
from test_behavior_keys import Tagged
from catga.codec import digest
words = [f"word{n}" for n in range(50)]
print(digest(Tagged(frozenset(words), dict.fromkeys(words, 1))).hex())
"""


def test_equal_messages_have_one_digest_in_every_process() -> None:
    def run(seed: str) -> str:
        command = [sys.executable, "-c", TEXTS, str(Path(__file__).parent)]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    assert len({run(seed) for seed in ("1", "2", "3")}) == 1


class Point(msgspec.Struct, frozen=True, tag=True):
    x: int


class Spot(msgspec.Struct, frozen=True, tag=True):
    x: int


@dataclass(frozen=True)
class At(Request[str]):
    place: Point | Spot


class Shelf(BaseModel, Request[str]):
    kind: Literal["shelf"] = "shelf"
    tags: set[str]
    root: Path = Path("/")


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(PLAIN, PLAIN)
def test_two_contents_have_one_digest_exactly_if_they_are_one(one: Any, other: Any) -> None:
    def wire(value: Any) -> bytes:
        return msgspec.json.encode(_marked(value), order="deterministic")

    assert (digest(Pay(one)) == digest(Pay(other))) == (wire(one) == wire(other))


def _marked(value: Any) -> Any:
    """`value` with the kinds of its parts, which JSON would not tell apart."""
    if isinstance(value, dict):
        return {"dict": {key: _marked(item) for key, item in value.items()}}
    if isinstance(value, list):
        return {"list": [_marked(item) for item in value]}
    return {type(value).__name__: value}


def test_tags_models_and_what_is_in_them_count() -> None:
    assert digest(At(Point(1))) != digest(At(Spot(1)))
    assert digest(Shelf(tags={"a", "b"})) == digest(Shelf(tags={"b", "a"}))
    assert digest(Shelf(tags=set())) != digest(Shelf(tags=set(), root=Path("/x")))


class Search(msgspec.Struct, Request[str]):
    text: str
    limit: int | msgspec.UnsetType = msgspec.UNSET


async def test_a_field_that_is_not_set_makes_another_message_than_one_that_is() -> None:
    app, ran = counting(Caching(ttl=60.0), Search)
    assert (await app.send(Search("a"))).unwrap() == (await app.send(Search("a"))).unwrap()
    assert len(ran) == 1
    assert digest(Search("a")) != digest(Search("a", 0))


def test_one_content_has_one_digest_whatever_the_kind_of_its_parts() -> None:
    class Name(str):
        __slots__ = ()

    for length in (1, 15, 16, 70_000):  # their headers differ in MessagePack
        items: list[Any] = [*map(str, range(length))]
        one = digest(Pay(items))
        assert one == digest(Pay(tuple(items))) == digest(Pay(deque(items)))
        assert one == digest(Pay([*items[:-1], Name(items[-1])]))
        assert one != digest(Pay([*items[:-1], "x"]))


WITHOUT_PYDANTIC = """
from catga.codec import digest
try:
    digest(object())
except Exception as error:
    print(error)
"""


def test_what_cannot_be_encoded_is_told_without_pydantic_as_well() -> None:
    command = [sys.executable, "-c", WITHOUT_PYDANTIC]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert told == "object cannot be encoded: objects of <class 'object'> cannot be encoded\n"


async def test_what_cannot_be_encoded_is_refused_before_it_runs() -> None:
    app, ran = counting(Idempotency(key=lambda m: 1), Pay)
    await refusal(app, Pay(object()))
    assert ran == []


# -- a full store -------------------------------------------------------------------------------------------


async def test_a_full_store_of_claims_refuses_and_forgets_nothing() -> None:
    clock = ManualClock()
    app, ran = counting(Idempotency(MemoryStore(max_entries=3, clock=clock), key=lambda m: m.key, ttl=10.0), Pay)
    assert [(await app.send(Pay(n))).unwrap() for n in range(3)] == ["1", "2", "3"]
    full = await app.send(Pay(3))
    assert isinstance(full.error, StoreError)  # type: ignore[union-attr]
    assert full.error.is_retryable  # type: ignore[union-attr]
    assert [(await app.send(Pay(n))).unwrap() for n in range(3)] == ["1", "2", "3"]
    clock.advance(11)
    assert (await app.send(Pay(3))).unwrap() == "4"
    assert len(ran) == 4


async def test_a_full_cache_goes_on_with_the_newest() -> None:
    app, ran = counting(Caching(MemoryStore(max_entries=2), ttl=60.0), Pay)
    for key in (0, 1, 2, 3, 2, 3):
        await app.send(Pay(key))
    assert [each.key for each in ran] == [0, 1, 2, 3]


async def test_a_store_in_which_keys_come_and_go_stays_small() -> None:
    store = MemoryStore(max_entries=10)
    for n in range(10_000):
        await store.add(str(n), b"", 60.0)
        await store.discard(str(n), b"")
    assert len(store._ends) < 1100


# -- equal requests at once -----------------------------------------------------------------------------------


class Slow:
    """An app with a cache, whose handler waits until it is told how to end."""

    def __init__(self, **options: Any) -> None:
        self.app = Mediator()
        self.app.behavior(Caching(ttl=60.0, **options))
        self.running: list[asyncio.Future[Any]] = []
        self.app.handles(Listed)(self._handle)

    async def _handle(self, request: Any) -> list[int]:
        self.running.append(asyncio.get_running_loop().create_future())
        return await self.running[-1]

    def ask(self, count: int) -> list["asyncio.Task[Any]"]:
        return [asyncio.ensure_future(self.app.send(Listed())) for _ in range(count)]


@message(name="keys.Listed")
@dataclass(frozen=True)
class Listed(Request[list[int]]):
    pass


async def test_equal_requests_at_once_run_once_and_get_values_of_their_own() -> None:
    slow = Slow()
    calls = slow.ask(50)
    await eventually(lambda: slow.running)
    slow.running[0].set_result([1])
    values = [(await call).unwrap() for call in calls]
    assert len(slow.running) == 1
    values[0].append(2)
    assert values[1:] == [[1]] * 49
    assert (await slow.app.send(Listed())).unwrap() == [1]


async def test_they_share_a_failure_and_the_next_one_tries_again() -> None:
    slow = Slow()
    calls = slow.ask(3)
    await eventually(lambda: slow.running)
    slow.running[0].set_exception(InvalidMessageError("no such list"))
    errors = [(await call).error for call in calls]
    assert [(type(error), str(error)) for error in errors] == [(InvalidMessageError, "no such list")] * 3
    assert len({id(error) for error in errors}) == 3
    (again,) = slow.ask(1)
    await eventually(lambda: len(slow.running) == 2)
    slow.running[1].set_result([1])
    assert (await again).unwrap() == [1]


async def test_if_the_first_is_cancelled_another_one_runs() -> None:
    slow = Slow()
    first, *others = slow.ask(3)
    await eventually(lambda: slow.running)
    first.cancel()
    await eventually(lambda: len(slow.running) == 2)
    slow.running[1].set_result([1])
    assert [(await other).unwrap() for other in others] == [[1], [1]]
    assert first.cancelled()


async def test_one_of_those_who_wait_may_leave() -> None:
    slow = Slow()
    calls = slow.ask(3)
    await eventually(lambda: slow.running)
    calls[1].cancel()
    slow.running[0].set_result([1])
    assert [(await calls[n]).unwrap() for n in (0, 2)] == [[1], [1]]


async def test_they_share_a_value_that_could_not_be_stored() -> None:
    class Deaf(MemoryStore):
        async def put(self, key: str, value: bytes, ttl: float) -> None:
            raise StoreError("no")

    slow = Slow(store=Deaf())
    calls = slow.ask(3)
    await eventually(lambda: slow.running)
    slow.running[0].set_result([1])
    assert [(await call).unwrap() for call in calls] == [[1]] * 3
    assert len(slow.running) == 1


async def test_a_value_that_is_being_stored_is_given_to_others_and_no_cancellation_takes_it_back() -> None:
    class Far(MemoryStore):
        async def put(self, key: str, value: bytes, ttl: float) -> None:
            await gate.wait()
            await super().put(key, value, ttl)

    gate, store = asyncio.Event(), Far()
    app, ran = counting(Caching(store, ttl=60.0), Pay)
    assert (await app.send(Pay(1))).unwrap() == "1"
    assert (await app.send(Pay(1))).unwrap() == "1"
    gate.set()
    await eventually(lambda: store._put)
    assert (await app.send(Pay(1))).unwrap() == "1"
    assert len(ran) == 1
