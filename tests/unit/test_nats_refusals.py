"""Which messages a NATS server refused, by its errors and the answers to pings; and what is sent again."""

import asyncio

import pytest

from catga.abc import Outgoing
from catga.backends.nats.refusals import MAX_SENT, Refusals, Violation
from catga.rpc import again
from catga.rpc.again import Again
from catga.testing.waiting import eventually

A, B = (Violation(subject, False, f"no {subject}") for subject in "ab")


class Told:
    def __init__(self) -> None:
        self.refused: list[tuple[str, int]] = []
        self.doubts: list[str] = []

    def on_message(self, payload: bytes) -> None: ...
    def on_undeliverable(self, subject: str, token: int) -> None: ...
    def on_link(self, up: bool) -> None: ...
    def on_closed(self, reason: str) -> None: ...

    def on_refused(self, subject: str, token: int, reason: str) -> None:
        assert reason == f"no {subject}"
        self.refused.append((subject, token))

    def on_doubt(self, subject: str) -> None:
        self.doubts.append(subject)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def refusals(told: Told) -> Refusals:
    made = Refusals()
    made.listener = told
    return made


def send(refusals: Refusals, *subjects: str) -> None:
    for subject in subjects:
        refusals.sent([Outgoing(subject, b"", refusals.asked() + 1)])


def test_as_many_refusals_as_messages_refuse_each_of_them(refusals: Refusals, told: Told) -> None:
    send(refusals, "a", "b", "a")
    mark = refusals.asked()
    refusals.refused(A)
    refusals.refused(A)
    refusals.answered(mark)
    assert told.refused == [("a", 1), ("a", 3)]
    assert told.doubts == []


def test_fewer_refusals_than_messages_leave_all_in_doubt(refusals: Refusals, told: Told) -> None:
    send(refusals, "a", "a")
    refusals.refused(A)
    refusals.answered(refusals.asked())
    assert (told.refused, told.doubts) == ([], ["a"])


def test_what_the_server_had_answered_before_is_not_refused(refusals: Refusals, told: Told) -> None:
    send(refusals, "a")
    refusals.answered(refusals.asked())
    send(refusals, "a")
    refusals.refused(A)
    refusals.answered(refusals.asked())
    assert told.refused == [("a", 2)]


def test_what_was_sent_behind_the_question_is_judged_by_the_next_answer(refusals: Refusals, told: Told) -> None:
    send(refusals, "a")
    mark = refusals.asked()
    send(refusals, "a", "b")
    refusals.refused(A)
    refusals.answered(mark)
    assert told.refused == [("a", 1)]
    refusals.refused(A)
    refusals.refused(B)
    refusals.answered(refusals.asked())
    assert told.refused == [("a", 1), ("a", 2), ("b", 3)]


def test_more_messages_than_are_remembered_are_in_doubt(refusals: Refusals, told: Told) -> None:
    send(refusals, "a", *["b"] * MAX_SENT)
    for _ in range(MAX_SENT):
        refusals.refused(B)
    refusals.answered(refusals.asked())
    assert (told.refused, told.doubts) == ([], ["b"])
    send(refusals, "a")
    refusals.refused(A)
    refusals.answered(refusals.asked())
    assert told.refused == [("a", MAX_SENT + 2)]


def test_another_connection_tells_nothing_of_the_last_one(refusals: Refusals, told: Told) -> None:
    send(refusals, "a")
    refusals.refused(A)
    refusals.forget()
    refusals.answered(refusals.asked())
    assert (told.refused, told.doubts) == ([], [])


async def test_what_was_refused_is_sent_again_until_it_goes_out() -> None:
    sent = list[str]()

    def send_again(subject: str) -> None:
        sent.append(subject)
        if len(sent) < 3:
            refused.later(subject)

    refused = Again(send_again)
    refused.later("a")
    refused.later("a")  # it is due already
    await eventually(lambda: len(sent) == 3)
    refused.close()


async def test_the_subjects_that_are_sent_to_again_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(again, "FIRST", 0.0)
    monkeypatch.setattr(again, "MAX_SUBJECTS", 2)
    sent = list[str]()
    refused = Again(sent.append)
    for subject in "abc":
        refused.later(subject)
    await eventually(lambda: len(sent) == 2)
    refused.later("c")  # there is room again
    await eventually(lambda: len(sent) == 3)
    assert (set(sent[:2]), sent[2]) == ({"a", "b"}, "c")
    refused.close()


async def test_what_is_refused_for_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(again, "PATIENCE", 0.0)
    sent = list[str]()
    refused = Again(sent.append)
    refused.later("a")
    await eventually(lambda: sent == ["a"])
    refused.later("a")
    await asyncio.sleep(0)
    assert refused._refused == {}
    refused.close()
