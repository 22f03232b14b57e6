"""Message metadata: ids that follow a message, at no cost where nobody asks."""

from dataclasses import dataclass

from catga import Event, Mediator, Request
from catga.mediator import MessageContext, MessageInfo, correlate, current_message


@dataclass(frozen=True)
class Outer(Request[list[MessageInfo]]):
    pass


@dataclass(frozen=True)
class Inner(Request[MessageInfo]):
    pass


@dataclass(frozen=True)
class Happened(Event):
    pass


def mediator() -> Mediator:
    app = Mediator()

    @app.handler
    async def outer(request: Outer) -> list[MessageInfo]:
        before = current_message()
        inner = (await app.send(Inner())).unwrap()
        return [before, inner, current_message()]

    @app.handler
    def inner(request: Inner) -> MessageInfo:
        return current_message()

    return app


async def test_without_message_context_there_are_no_ids() -> None:
    app = mediator()
    assert (await app.send(Outer())).unwrap() == [MessageInfo()] * 3


async def test_a_nested_send_keeps_the_correlation_and_names_its_cause() -> None:
    app = mediator()
    app.use(MessageContext())
    before, inner, after = (await app.send(Outer())).unwrap()
    assert before == after
    assert before.correlation_id == before.message_id
    assert before.causation_id == ""
    assert inner.correlation_id == before.message_id
    assert inner.causation_id == before.message_id
    assert inner.message_id != before.message_id
    assert current_message() == MessageInfo()


async def test_two_sends_have_two_ids() -> None:
    app = mediator()
    app.use(MessageContext())
    first, second = [(await app.send(Inner())).unwrap() for _ in range(2)]
    assert first.message_id != second.message_id


async def test_correlate_brings_an_id_from_outside_into_nested_sends() -> None:
    app = mediator()
    app.use(MessageContext())
    with correlate("http-42"):
        before, inner, _ = (await app.send(Outer())).unwrap()
    assert before.correlation_id == inner.correlation_id == "http-42"


async def test_an_unprintable_or_huge_correlation_id_is_ignored() -> None:
    app = mediator()
    app.use(MessageContext())
    for bad in ("", "x" * 129, "a\nb"):
        with correlate(bad):
            info = (await app.send(Inner())).unwrap()
        assert info.correlation_id == info.message_id


async def test_handlers_of_an_event_see_one_message_id() -> None:
    app = Mediator()
    app.use(MessageContext())
    seen: list[MessageInfo] = []
    for _ in range(2):

        @app.handler
        async def note(event: Happened) -> None:
            seen.append(current_message())

    await app.publish(Happened())
    assert len(seen) == 2
    assert seen[0] == seen[1]
