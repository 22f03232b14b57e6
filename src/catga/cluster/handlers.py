"""This node's handlers as the bus sees them: by wire name, with their codecs and compiled pipelines."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import structs

from catga.abc import Interceptor
from catga.cluster.stats import NodeStats, Recorder, Stats
from catga.cluster.watchdog import watch
from catga.codec import Codec
from catga.codec.exact import exactness
from catga.errors import HandlerNotFoundError
from catga.mediator.carried import CONTEXT, carrying
from catga.mediator.intercept import handling
from catga.mediator.nested import HEADER
from catga.mediator.pipeline import Pipeline, compile_request
from catga.mediator.registry import Registry
from catga.messages import is_request, response_type, wire_name
from catga.result import CatgaResult, ResultMetadata
from catga.rpc.runner import Endpoint

STATS = wire_name(Stats)
LISTED = 20
"""Names in the text of an error, at most."""
OWN = (CONTEXT, HEADER)
"""Headers that are no interceptor's business."""
MAX_NAME = 200
"""Characters of one that is not known."""


class Codecs(dict[type, Codec]):
    """Message class → codec, worked out once."""

    def __missing__(self, cls: type) -> Codec:
        codec = self[cls] = Codec(cls)
        return codec


class LocalHandlers(dict[str, Endpoint]):
    """Wire name → endpoint: the registry's handlers, compiled for this node, each at its first use.

    To ask for what nothing handles raises `HandlerNotFoundError`.

    Args:
        recorder: counts the calls.
        stats: answers the built-in `Stats` request: no handler of the user's, so it is not announced, and no
            behavior sees it.
        on_change: called after a registration.
    """

    def __init__(
        self,
        registry: Registry,
        node_id: str,
        codecs: Codecs,
        recorder: Recorder,
        stats: Callable[[Stats], NodeStats],
        on_change: Callable[[], None],
    ) -> None:
        super().__init__()
        self._registry = registry
        self._node_id = node_id
        self._codecs = codecs
        self._recorder = recorder
        self._stats = stats
        self._on_change = on_change
        self._metadata = ResultMetadata(node_id)
        self._is_closed = False
        self._unwatch = watch(registry)
        registry.on_change(self._changed, check=self._check)

    def names(self) -> tuple[str, ...]:
        """Wire names of all that is handled, sorted. Raises `InvalidMessageError` for what cannot travel."""
        names = dict(self._registry.names)  # other threads may register meanwhile
        for cls in names.values():
            self._codecs[cls]
        return tuple(sorted(names))

    def requests(self) -> list[str]:
        """Wire names of the requests among them."""
        return [name for name, cls in dict(self._registry.names).items() if is_request(cls)]

    def __missing__(self, name: str) -> Endpoint:
        cls = Stats if name == STATS else self._registry.names.get(name)
        pipeline = None if cls is None else self._compile(cls)
        if cls is None or pipeline is None:
            raise self._not_found(name)
        codec, answer = self._codecs[cls], response_type(cls) if is_request(cls) else None
        found = Endpoint(
            codec,
            pipeline.run,
            self._recorder.tally(name),
            pipeline.direct,
            pipeline.call,
            is_exact=exactness(cls),
            is_exact_answer=exactness(answer),
        )
        if cls is not Stats:
            interceptors = self._registry.interceptors
            found = _intercepted(found, interceptors, self._metadata) if interceptors else _in_context(found)
        self[name] = found
        return found

    def _not_found(self, name: str) -> HandlerNotFoundError:
        """Short and cheap: anybody on the bus can ask for anything. Who sends knows what is handled where."""
        listed = ", ".join(sorted(self._registry.names)[:LISTED])
        text = f"node {self._node_id} has no handler for {name[:MAX_NAME]}; it handles {listed or 'nothing'}"
        return HandlerNotFoundError(text, details={"name": name[:MAX_NAME]})

    def _compile(self, cls: type) -> Pipeline | None:
        if cls is Stats:
            return compile_request(self._stats, (), self._metadata)
        return self._registry.compile(cls, self._metadata)

    def close(self) -> None:
        """Whatever is registered from now on is registered for others."""
        self._is_closed = True
        self._unwatch()

    def _check(self, cls: type) -> None:
        if not self._is_closed:
            self._codecs[cls]

    def _changed(self) -> None:
        self.clear()
        self._on_change()


def _intercepted(endpoint: Endpoint, interceptors: Sequence[Interceptor], metadata: ResultMetadata) -> Endpoint:
    """`endpoint` inside `interceptors`, which see the headers of each call."""
    received = handling(interceptors, endpoint.run, metadata)

    def receiving(headers: Mapping[str, str]) -> Endpoint:
        async def run(message: Any) -> CatgaResult[Any]:
            return await received(message, {n: v for n, v in headers.items() if n not in OWN})

        return _carrying(headers, structs.replace(endpoint, run=run, direct=None, call=None))

    return structs.replace(endpoint, direct=None, call=None, receiving=receiving, is_intercepted=True)


def _in_context(endpoint: Endpoint) -> Endpoint:
    """`endpoint` with the context that comes with a call."""

    def receiving(headers: Mapping[str, str]) -> Endpoint:
        return _carrying(headers, endpoint)

    return structs.replace(endpoint, receiving=receiving)


def _carrying(headers: Mapping[str, str], endpoint: Endpoint) -> Endpoint:
    """`endpoint` for one call, in the context that came with it. A call of this node's own has its sender's already."""
    if CONTEXT not in headers:
        return endpoint

    async def run(message: Any) -> CatgaResult[Any]:
        with carrying(headers):
            return await endpoint.run(message)

    return structs.replace(endpoint, run=run, direct=None, call=None)
