"""How late a batch is, told from two clocks that do not agree."""

from collections.abc import Iterable

import pytest

from catga.rpc.clock import MAX_SENDERS, STEP, WINDOW, Lateness, boottime

OFFSET = 12_345.0
"""By so much the sender's clock is ahead."""


def lateness(batches: Iterable[tuple[float, float]]) -> list[float]:
    """Of batches that were sent at a time and came at another, both by this node's clock."""
    clock = Lateness()
    return [clock.of("box", sent + OFFSET, came) for sent, came in batches]


def steady(start: float, end: float, took: float) -> list[tuple[float, float]]:
    """A batch each tenth of a second, each of which took so long."""
    return [(start + i / 10, start + i / 10 + took) for i in range(int((end - start) * 10))]


def test_a_quiet_bus_is_no_deafness_where_probes_are_rare() -> None:
    clock = Lateness(deaf=30.0)
    for sent, came in [(0.0, 0.002), (10.0, 10.002), (20.0, 20.002)]:
        clock.of("box", sent, came)
    assert clock.of("new", 20.1, 20.102) == 0.0


def test_the_way_itself_and_the_offset_of_the_clocks_are_no_delay() -> None:
    assert max(lateness(steady(0, 5, took=0.002))) == pytest.approx(0, abs=1e-6)


def test_what_waited_behind_a_stall_is_late_by_what_it_waited() -> None:
    stalled = [(sent, 20.0) for sent in (11.0, 14.0, 19.5)]
    assert lateness(steady(0, 10, took=0.002) + stalled)[-3:] == pytest.approx([8.998, 5.998, 0.498], abs=1e-6)


def test_what_comes_after_a_stall_is_not_late() -> None:
    batches = [*steady(0, 10, took=0.002), (11.0, 20.0), *steady(20, 40, took=0.002)]
    assert max(lateness(batches)[101:]) == pytest.approx(0, abs=1e-6)


def test_a_burst_that_waited_is_late_to_its_end_although_it_comes_in_several_windows() -> None:
    burst = [(sent, 20.0 + i * 1.5 * WINDOW) for i, sent in enumerate((11.0, 11.2, 11.4))]
    assert min(lateness(steady(0, 10, took=0.002) + burst)[-3:]) > 8.0


def test_a_longer_way_that_stays_is_taken_for_the_way() -> None:
    batches = steady(0, 10, took=0.002) + steady(10, 30, took=0.002 + 4 * STEP)
    found = lateness(batches)
    assert found[101] == pytest.approx(4 * STEP, abs=1e-6)
    assert found[-1] == pytest.approx(0, abs=1e-6)


def test_a_shorter_way_counts_at_once() -> None:
    found = lateness(steady(0, 10, took=0.5) + steady(10, 12, took=0.002) + [(12.0, 12.5)])
    assert found[-1] == pytest.approx(0.498, abs=1e-6)


def test_a_forged_clock_makes_its_sender_late_for_some_seconds_only() -> None:
    clock = Lateness()
    for sent, came in steady(0, 5, took=0.002):
        clock.of("box", sent + OFFSET, came)
    clock.of("box", 1e12, 5.0)
    assert [clock.of("box", sent + OFFSET, came) for sent, came in steady(5, 20, took=0.002)][-1] < 0.001


def test_who_is_met_right_after_this_node_was_deaf_may_have_waited_for_as_long() -> None:
    clock = Lateness()
    for sent, came in steady(0, 5, took=0.002):
        clock.of("own", sent + OFFSET, came)
    assert clock.of("own", 40.0 + OFFSET, 40.0) < 0.01
    assert clock.of("new", 10.0, 40.0) == pytest.approx(35.1, abs=0.1)
    assert clock.of("new", 11.0, 40.1) == pytest.approx(35.1, abs=0.1)
    assert clock.of("new", 43.0, 43.0) < 0.01
    assert clock.of("newer", 1.0, 43.1) == 0.0


def test_who_tells_no_clock_is_never_late() -> None:
    clock = Lateness()
    assert [clock.of("box", 0.0, now) for now in (1.0, 100.0)] == [0.0, 0.0]


def test_the_senders_that_are_remembered_are_bounded() -> None:
    clock = Lateness()
    for number in range(MAX_SENDERS + 10):
        clock.of(f"box{number}", 1.0, 1.0)
    assert len(clock._senders) == MAX_SENDERS


def test_the_clock_goes_on_and_never_back() -> None:
    times = [boottime() for _ in range(100)]
    assert times == sorted(times)
