"""The largest message is as large as the documents say, on every backend."""

from dataclasses import dataclass

import pytest
from documents import text_of

from catga import Failure, Mediator, Request, add_cluster
from catga.codec import encode
from catga.errors import HandlerError, InvalidMessageError

LARGEST = 1_048_064
PAGES = ("docs/messages.md", "docs/backends/memory.md", "docs/backends/nats.md", "docs/backends/redis.md")


@dataclass(frozen=True)
class Store(Request[int]):
    data: bytes


@dataclass(frozen=True)
class Load(Request[bytes]):
    size: int


@pytest.mark.parametrize("document", PAGES)
def test_the_pages_name_the_limit(document: str) -> None:
    assert f"{LARGEST:,} bytes" in text_of(document)


@pytest.mark.parametrize("backend", ["memory", "nats", "redis"])
async def test_the_largest_message_passes_and_a_byte_more_does_not(
    backend: str, request: pytest.FixtureRequest
) -> None:
    url = "memory://limits" if backend == "memory" else request.getfixturevalue(f"{backend}_url")
    app = Mediator()
    app.handles(Store)(lambda message: len(message.data))
    app.handles(Load)(lambda message: bytes(message.size))
    message, answer = LARGEST - (len(encode(Store(bytes(70_000)))) - 70_000), LARGEST - 5
    assert len(encode(Store(bytes(message)))) == len(encode(bytes(answer))) == LARGEST
    prefix = f"limits-{backend}"
    async with add_cluster(Mediator(), url, prefix=prefix) as caller, add_cluster(app, url, prefix=prefix):
        assert (await caller.send(Store(bytes(message)))).unwrap() == message
        assert len((await caller.send(Load(answer))).unwrap()) == answer
        sent, got = await caller.send(Store(bytes(message + 1))), await caller.send(Load(answer + 1))
    assert isinstance(sent, Failure)
    assert isinstance(sent.error, InvalidMessageError)
    assert (sent.error.details["bytes"], sent.error.details["limit"]) == (LARGEST + 1, LARGEST)
    assert isinstance(got, Failure)
    assert isinstance(got.error, HandlerError)
