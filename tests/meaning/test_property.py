"""Whatever the types: a value comes back equal and of the same types all the way down, or its class is refused."""

import asyncio
import uuid
from collections import Counter
from itertools import count

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from inventions import Sent, exchanges
from places import Exact, success, told

from catga import Mediator, add_cluster, message
from catga.codec import Codec, encode
from catga.errors import InvalidMessageError

always_the_same = settings(
    max_examples=5 * settings.default.max_examples,  # two thousand in `make test-long`
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


class Places:
    """One process that is strict, and a node that calls itself."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self._runner, self._numbers = runner, count()
        self._apps = Mediator(strict=True), Mediator()
        self._node = add_cluster(self._apps[1], f"memory://{uuid.uuid4().hex}", node_id="own")
        runner.run(self._node.start())

    def stop(self) -> None:
        self._runner.run(self._node.stop())

    def expect(self, cls: type, exchanged: list[Sent]) -> None:
        """Send the requests in each place."""
        message(name=f"property.{next(self._numbers)}")(cls)
        answers: list[object] = []
        heard: list[object] = []

        def answer(request: object) -> object:
            heard.append(request)
            return answers[-1]

        for app in self._apps:
            app.handles(cls)(answer)
            for sent in exchanged:
                answers.append(sent.answer)
                assert told(self._runner.run(app.send(sent.request))) == success(sent.answer)
                assert Exact(heard[-1]) == Exact(sent.request)


def expect_elsewhere(codec: Codec, sent: Sent) -> None:
    """What another node makes of the request, and the caller of the answer."""
    assert Exact(codec.decode(encode(sent.request))) == Exact(sent.request)
    assert Exact(codec.decode_response(encode(sent.answer))) == Exact(sent.answer)


@pytest.mark.hypothesis
@pytest.mark.timeout(600)  # two thousand examples: half a minute, if nothing else runs
def test_a_value_of_any_type_comes_back_equal_or_its_class_is_refused() -> None:
    seen = Counter[str]()

    @always_the_same
    @given(exchanges())
    def check(exchange: tuple[type, list[Sent]]) -> None:
        cls, exchanged = exchange
        try:
            codec = Codec(cls)
        except InvalidMessageError:
            seen["refused"] += 1
            return
        seen["passed"] += 1
        for sent in exchanged:
            expect_elsewhere(codec, sent)
        places.expect(cls, exchanged)

    with asyncio.Runner() as runner:
        places = Places(runner)
        try:
            check()
        finally:
            places.stop()
    assert seen["passed"] > seen["refused"]
