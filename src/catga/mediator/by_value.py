"""Messages and values passed as if they crossed the wire, where caller and handler are one process."""

from typing import Any

from catga.codec import Codec, encode
from catga.codec.exact import exactness
from catga.errors import CatgaError, HandlerError, InvalidMessageError
from catga.mediator.pipeline import Run
from catga.messages import is_request, response_type
from catga.result import CatgaResult, Failure, ResultMetadata, Success


def by_value(run: Run, cls: type, metadata: ResultMetadata) -> Run:
    """`run` for messages of `cls`, with copies of what a handler and its caller could tell from the original."""
    codec = Codec(cls)
    is_exact, is_exact_answer = exactness(cls), exactness(response_type(cls) if is_request(cls) else None)

    async def copied(message: Any) -> CatgaResult[Any]:
        try:
            message = message if is_exact(message) else codec.copy(message)
        except CatgaError as error:
            return Failure(error, metadata)
        result = await run(message)
        return result if isinstance(result, Failure) or is_exact_answer(result.value) else returned(codec, result)

    return copied


def returned(codec: Codec, result: Success[Any]) -> CatgaResult[Any]:
    """`result` as it would arrive at another node."""
    try:
        body = encode(result.value)
    except InvalidMessageError as error:
        return Failure(HandlerError(f"the handler's value cannot travel: {error}"), result.metadata)
    try:
        return Success(codec.decode_response(body), result.metadata)
    except InvalidMessageError as error:
        return Failure(error, result.metadata)
