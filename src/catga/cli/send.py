"""``catga send``"""

import time
from collections.abc import Sequence
from typing import Any

import click
import msgspec

from catga.cli.failures import FAILED, failed
from catga.cli.loops import run
from catga.cli.messages import message_of
from catga.cli.observer import observer
from catga.cli.options import app_dir_option, cluster_options, json_option, where
from catga.cli.output import milliseconds, note, pretty_json, to_json
from catga.cli.text import printable
from catga.cluster import DistributedMediator
from catga.messages import message
from catga.node import NodeInfo
from catga.result import CatgaResult, Failure
from catga.routing import ConsistentHash


@message(key="key")
class Keyed(msgspec.Struct, frozen=True):
    """Stands for any message with that key."""

    key: str | int


class ByKey:
    """Consistent hashing by a given key, whatever the message."""

    def __init__(self, key: str | int) -> None:
        self._keyed = Keyed(key)
        self._ring = ConsistentHash()

    def select(self, nodes: Sequence[NodeInfo], message: object) -> NodeInfo:
        """The node to which the key belongs."""
        return self._ring.select(nodes, self._keyed)

    def __repr__(self) -> str:
        return f"ConsistentHash() for the key {self._keyed.key!r}"


HELP = """Send a request, and print the handler's value as JSON.

JSON has the fields of the request: '{"sku": "a-1"}', @file, or - for stdin. Exit status 1: it failed.
"""


@click.command("send", help=HELP)
@click.argument("target", metavar="MODULE:REQUEST")
@click.argument("body", metavar="JSON", default="{}")
@click.option("--node", "node_id", metavar="ID", help="Send it to this node.")
@click.option("--key", help="Send it to the node of this key, by consistent hashing. Digits are a number.")
@click.option("--explain", is_flag=True, help="Do not send: tell where it would go, and why.")
@click.option("--timeout", type=click.FloatRange(0, min_open=True), default=30.0, show_default=True, help="Seconds.")
@json_option
@app_dir_option
@cluster_options
def command(
    target: str, body: str, node_id: str | None, key: str | None, explain: bool, as_json: bool, **options: Any
) -> None:
    if node_id is not None and key is not None:
        raise click.UsageError("--node and --key exclude each other")
    if node_id is not None and explain:
        raise click.UsageError("--explain needs no --node: there is nothing to choose")
    cluster, timeout = where(options), options.pop("timeout")
    request = message_of(target, body, **options)
    routing = None if key is None else ByKey(int(key) if key.isdecimal() else key)

    async def act() -> None:
        async with observer(cluster, request_timeout=timeout, routing=routing) as node:
            if explain:
                _explain(node, request, as_json=as_json)
            else:
                await _send(node, request, node_id, as_json=as_json)

    run(act())


async def _send(node: DistributedMediator, request: Any, node_id: str | None, *, as_json: bool) -> None:
    start = time.perf_counter()
    result = await (node.send(request) if node_id is None else node.send_to_node(request, node_id))
    seconds = time.perf_counter() - start
    if as_json:
        click.echo(to_json(result_dict(result, seconds)))
    if isinstance(result, Failure):
        if as_json:
            raise click.exceptions.Exit(FAILED)
        raise failed(result)
    if not as_json:
        click.echo(pretty_json(result.value))
        attempts = result.metadata.attempts
        times = "" if attempts == 1 else f", {attempts} attempts"
        note(f"by {result.metadata.node_id} in {milliseconds(seconds)}{times}")


def _explain(node: DistributedMediator, request: Any, *, as_json: bool) -> None:
    explanation = node.explain(request)
    click.echo(to_json(explanation) if as_json else printable(str(explanation)))


def result_dict(result: CatgaResult[Any], seconds: float) -> dict[str, Any]:
    """A result for JSON."""
    outcome: dict[str, Any] = {"error": error_dict(result)} if isinstance(result, Failure) else {"value": result.value}
    return {
        "ok": result.is_success,
        "node": result.metadata.node_id,
        "attempts": result.metadata.attempts,
        "seconds": round(seconds, 6),
        **outcome,
    }


def error_dict(failure: Failure) -> dict[str, Any]:
    """An error for JSON."""
    error = failure.error
    return {
        "code": error.code,
        "message": error.message,
        "details": error.details,
        "is_retryable": error.is_retryable,
        "execution": error.execution.value,
    }
