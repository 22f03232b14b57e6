"""The canary: whether the broker's word that nobody listens is still given."""

import asyncio
import logging
from collections import Counter

import pytest

from catga.rpc import canary as canary_module
from catga.rpc.canary import Canary
from catga.testing.waiting import eventually


class Sky:
    """Where it flies: whether messages bounce, and whether this node hears itself."""

    max_payload = 0

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(canary_module, "PATIENCE", 0.001)
        monkeypatch.setattr(canary_module, "INTERVAL", 0.001)
        self.bounces, self.hears, self.flights = True, True, 0
        self.counters: Counter[str] = Counter()
        self.exactly = self.refuses = False
        self.canary = Canary(self, "p", send=self.send, echo=self.echo, counters=self.counters)  # type: ignore[arg-type]

    def send(self, subject: str) -> None:
        assert subject.startswith("p.inbox.")
        self.flights += 1
        if self.refuses:
            asyncio.get_running_loop().call_soon(self.canary.refused, subject)
        elif self.bounces:
            asyncio.get_running_loop().call_soon(self.canary.bounced, subject)

    def echo(self) -> None:
        if self.hears:
            asyncio.get_running_loop().call_soon(self.canary.echoed)

    def count_exactly(self) -> None:
        self.exactly = True


async def test_bounces_that_stop_are_told_once_and_their_return_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "catga.rpc")
    sky = Sky(monkeypatch)
    sky.canary.fly()
    await eventually(lambda: sky.flights > 3)
    assert sky.canary.bounces_work
    sky.bounces = False
    await eventually(lambda: not sky.canary.bounces_work)
    await eventually(lambda: sky.counters["missing_bounces"] > 2)
    assert sky.exactly
    sky.bounces = True
    await eventually(lambda: sky.canary.bounces_work)
    sky.canary.close()
    told = [record.getMessage() for record in caplog.records]
    assert [("does not tell" in text, "tells again" in text) for text in told] == [(True, False), (False, True)]
    assert "'p.>'" in told[0]


async def test_a_flight_of_which_nothing_is_heard_is_made_again_until_something_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who waits for its outcome need not wait for the next interval."""
    sky = Sky(monkeypatch)
    monkeypatch.setattr(canary_module, "INTERVAL", 3600.0)
    sky.bounces = sky.hears = False
    sky.canary.fly()
    await eventually(lambda: sky.flights > 3)
    sky.bounces = True
    await eventually(lambda: sky.canary.bounces == 1)
    sky.canary.close()


async def test_a_flight_that_the_broker_refused_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may forbid this node to publish there, and tell when nobody listens all the same."""
    sky = Sky(monkeypatch)
    sky.refuses = True
    sky.canary.fly()
    await eventually(lambda: sky.flights > 5)
    assert sky.canary.bounces_work
    assert sky.canary.bounces == sky.counters["missing_bounces"] == 0
    sky.canary.close()


async def test_a_node_that_does_not_hear_itself_does_not_judge_the_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    sky = Sky(monkeypatch)
    sky.bounces = sky.hears = False
    sky.canary.fly()
    await eventually(lambda: sky.flights > 5)
    assert sky.canary.bounces_work
    sky.canary.close()
