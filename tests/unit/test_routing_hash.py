"""Consistent hashing: agreement, balance, few moves, no needless work."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catga import ConsistentHash, NodeInfo, Request, message
from catga.errors import InvalidMessageError
from catga.keys import key_bytes
from catga.routing import Candidates
from catga.routing.ring import Ring, hash64, points_of

KEYS = [f"order-{number}" for number in range(20_000)]
SRC = Path(__file__).parents[2] / "src"

ids = st.sets(st.text(min_size=1, max_size=12), min_size=1, max_size=12)


@message(key="sku")
@dataclass(frozen=True)
class Reserve(Request[None]):
    sku: str


def nodes(names: Sequence[str]) -> Candidates:
    return Candidates(NodeInfo(node_id=name) for name in sorted(names))


def owners(strategy: ConsistentHash, candidates: Candidates) -> dict[str, str]:
    return {key: strategy.select(candidates, Reserve(key)).node_id for key in KEYS}


SENDER = """
import hashlib
from dataclasses import dataclass
from catga import ConsistentHash, NodeInfo, Request, message

@message(key="sku")
@dataclass(frozen=True)
class Reserve(Request[None]):
    sku: str

nodes = [NodeInfo(node_id=f"node-{i}") for i in range(5)]
strategy = ConsistentHash()
chosen = ",".join(strategy.select(nodes, Reserve(f"order-{i}")).node_id for i in range(20_000))
print(hashlib.sha256(chosen.encode()).hexdigest())
"""


def test_five_processes_agree_on_the_node_of_each_of_20000_keys() -> None:
    senders = [
        subprocess.Popen(
            [sys.executable, "-c", SENDER],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(SRC), "PYTHONHASHSEED": str(seed)},
        )
        for seed in range(5)
    ]
    digests = {sender.communicate(timeout=60)[0] for sender in senders}
    assert all(sender.returncode == 0 for sender in senders)
    assert len(digests) == 1


@pytest.mark.parametrize("name", ["node-{}", "10.0.0.{}:7000", "worker-eu-{}", "pod-7f9c-{}", "{}"])
def test_the_busiest_of_five_nodes_has_at_most_1_15_times_the_mean(name: str) -> None:
    shares = Counter(owners(ConsistentHash(), nodes([name.format(i) for i in range(5)])).values())
    assert max(shares.values()) <= 1.15 * len(KEYS) / 5


@pytest.mark.parametrize("count", [2, 5, 10, 30])
def test_a_node_that_joins_takes_its_share_of_the_keys_and_moves_no_other(count: int) -> None:
    strategy = ConsistentHash()
    before = owners(strategy, nodes([f"node-{i}" for i in range(count)]))
    after = owners(strategy, nodes([f"node-{i}" for i in range(count + 1)]))
    moved = [key for key in KEYS if before[key] != after[key]]
    assert {after[key] for key in moved} == {f"node-{count}"}
    assert 0 < len(moved) <= 1.2 * len(KEYS) / (count + 1)


@pytest.mark.parametrize("count", [2, 5, 10, 30])
def test_a_node_that_leaves_moves_its_own_keys_alone(count: int) -> None:
    strategy = ConsistentHash()
    before = owners(strategy, nodes([f"node-{i}" for i in range(count)]))
    after = owners(strategy, nodes([f"node-{i}" for i in range(1, count)]))
    moved = [key for key in KEYS if before[key] != after[key]]
    assert {before[key] for key in moved} == {"node-0"}
    assert 0 < len(moved) <= 1.2 * len(KEYS) / count


@given(before=ids, after=ids)
def test_a_ring_changed_is_the_ring_made_anew(before: set[str], after: set[str]) -> None:
    changed, fresh = Ring(before, 16).changed(after), Ring(after, 16)
    for key in range(200):
        point = hash64(b"%d" % key)
        assert list(changed.walk(point)) == list(fresh.walk(point))
        assert changed.owner(point) == next(changed.walk(point))


@given(names=ids, key=st.text())
def test_a_retry_goes_where_the_keys_of_a_node_that_left_would_go(names: set[str], key: str) -> None:
    strategy = ConsistentHash(virtual_nodes=16)
    everyone = nodes(sorted(names))
    tried: set[str] = set()
    while rest := everyone.without(tried):
        chosen = strategy.select(rest, Reserve(key)).node_id
        assert chosen not in tried
        assert chosen == ConsistentHash(virtual_nodes=16).select(nodes(sorted(names - tried)), Reserve(key)).node_id
        tried.add(chosen)
    assert tried == names
    assert strategy.rebuilds == 1


def test_a_ring_is_made_once_a_set_of_members() -> None:
    strategy = ConsistentHash()
    three, four = nodes(["a", "b", "c"]), nodes(["a", "b", "c", "d"])
    for _ in range(100):
        strategy.select(three, Reserve("x"))
        strategy.select(three.without({"a"}), Reserve("x"))
    assert strategy.rebuilds == 1
    strategy.select(four, Reserve("x"))
    strategy.select(nodes(["a", "b", "c"]), Reserve("x"))  # the same members, another message type
    assert strategy.rebuilds == 2


def test_rings_of_members_long_gone_are_not_kept() -> None:
    strategy = ConsistentHash(virtual_nodes=1)
    for count in range(1, 40):
        strategy.select(nodes([f"node-{i}" for i in range(count)]), Reserve("x"))
    assert strategy.rebuilds == 39
    strategy.select(nodes(["node-0"]), Reserve("x"))
    assert strategy.rebuilds == 40


def test_a_plain_list_of_nodes_will_do() -> None:
    plain = [NodeInfo(node_id=name) for name in "abc"]
    strategy = ConsistentHash()
    assert strategy.select(plain, Reserve("x")) == strategy.select(nodes(["a", "b", "c"]), Reserve("x"))
    assert strategy.select(plain[:1], Reserve("x")) is plain[0]


@given(st.lists(st.integers(0, 199), max_size=300), st.sampled_from([1.0, 1.25, 2.0]))
def test_bounded_loads_keep_every_node_below_the_bound(keys: list[int], max_load: float) -> None:
    strategy = ConsistentHash(max_load=max_load)
    candidates = nodes([f"node-{i}" for i in range(5)])
    for sent, key in enumerate(keys, start=1):
        chosen = strategy.select(candidates, Reserve(str(key % 7)))  # a few hot keys
        candidates.stats[chosen.node_id].started()
        bound = max_load * sent / 5
        assert max(candidates.stats[node.node_id].inflight for node in candidates) < bound + 1


def test_a_key_stays_with_its_owner_while_that_is_not_loaded() -> None:
    candidates = nodes([f"node-{i}" for i in range(5)])
    bounded, plain = ConsistentHash(max_load=1.25), ConsistentHash()
    for key in KEYS[:1000]:
        assert bounded.select(candidates, Reserve(key)) is plain.select(candidates, Reserve(key))


def test_no_key_spills_over_to_a_node_that_fails() -> None:
    """It has nothing in flight, as it fails at once."""
    strategy, candidates = ConsistentHash(max_load=1.25), Candidates(nodes("abcd"))
    for stats in (candidates.stats[node_id] for node_id in "abcd"):
        for _ in range(0 if stats.node_id == "a" else 8):
            stats.started()
    started = candidates.stats["a"].started()
    candidates.stats["a"].failed(started)
    plain = ConsistentHash()
    chosen = [(strategy.select(candidates, Reserve(key)), plain.select(candidates, Reserve(key))) for key in KEYS[:400]]
    assert {owner.node_id for _, owner in chosen} == set("abcd")
    assert all(node is owner for node, owner in chosen)


class Color(Enum):
    RED = "red"


def test_equal_keys_have_equal_bytes_and_keys_of_different_types_do_not() -> None:
    keys = ["1", 1, b"1", ("1",), (1,), ("1", ""), ("", "1"), UUID(int=1), "", ()]
    assert len({key_bytes(key) for key in keys}) == len(keys)
    assert key_bytes(Color.RED) == key_bytes("red")
    assert key_bytes(True) == key_bytes(1)


@pytest.mark.parametrize("key", [None, 1.5, ["a"], {"a": 1}, ("a", [1])])
def test_a_key_without_stable_bytes_is_an_error_at_the_call(key: object) -> None:
    @message(key="value")
    @dataclass(frozen=True)
    class Odd(Request[None]):
        value: object

    with pytest.raises(InvalidMessageError, match="stable bytes"):
        ConsistentHash().select(nodes(["a"]), Odd(key))


def test_a_message_without_a_key_is_an_error_when_it_is_registered() -> None:
    class Keyless(Request[None]):
        pass

    with pytest.raises(InvalidMessageError, match=r"@message\(key=\.\.\.\)"):
        ConsistentHash().check(Keyless)


def test_a_key_field_that_cannot_be_hashed_is_an_error_when_it_is_registered() -> None:
    @message(key="tags")
    @dataclass(frozen=True)
    class Tagged(Request[None]):
        tags: list[str]

    with pytest.raises(InvalidMessageError, match="'tags'"):
        ConsistentHash().check(Tagged)


def test_what_may_be_a_key_is_let_through_when_it_is_registered() -> None:
    @message(key="value")
    @dataclass(frozen=True)
    class Perhaps(Request[None]):
        value: str | float | None

    @message(key=lambda message: message.value)
    @dataclass(frozen=True)
    class Computed(Request[None]):
        value: str

    @message(key="value")
    class Unresolved(Request[None]):
        value: "Undefined"  # type: ignore[name-defined]  # noqa: F821

    for cls in (Reserve, Perhaps, Computed, Unresolved):
        ConsistentHash().check(cls)


@pytest.mark.parametrize("options", [{"virtual_nodes": 0}, {"max_load": 0.5}, {"max_load": float("nan")}])
def test_options_that_cannot_work_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        ConsistentHash(**options)  # type: ignore[arg-type]


def test_points_are_the_same_for_ever() -> None:
    """They are part of the protocol between nodes of different versions."""
    assert points_of("node-1", 2) == (6097426321426604566, 17824100890893663279)
    assert hash64(key_bytes("sku-1")) == 15000455651289224304
