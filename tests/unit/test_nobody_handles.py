"""Nodes without a handler for what they are sent."""

from dataclasses import dataclass

from catga import Event, Failure, Mediator, Request, add_cluster
from catga.errors import HandlerNotFoundError


@dataclass(frozen=True)
class News(Event):
    text: str


@dataclass(frozen=True)
class Question(Request[int]):
    text: str


async def test_a_broadcast_is_acknowledged_by_nodes_that_have_no_handler_for_it() -> None:
    heard: list[News] = []
    listener = Mediator()
    listener.handles(News)(heard.append)
    url = "memory://broadcast-without-handlers"
    others = add_cluster(listener, url, node_id="b"), add_cluster(Mediator(), url, node_id="c")
    async with add_cluster(Mediator(), url, node_id="a") as sender, others[0], others[1]:
        sent = await sender.broadcast(News("hello"))
    assert sent == (("a", "b", "c"), {})
    assert heard == [News("hello")]


async def test_a_request_for_a_node_that_does_not_handle_it_ends_with_the_reason() -> None:
    url = "memory://request-without-handler"
    async with add_cluster(Mediator(), url, node_id="a") as sender, add_cluster(Mediator(), url, node_id="b"):
        for node_id in ("a", "b"):
            result = await sender.send_to_node(Question("?"), node_id)
            assert isinstance(result, Failure)
            assert isinstance(result.error, HandlerNotFoundError)
