"""The tables of the command line, in terminals of any width."""

from io import StringIO

import pytest
from rich.console import Console, RenderableType

from catga.cli.figures import Figures
from catga.cli.nodes import nodes_table
from catga.cli.observer import Reading
from catga.cli.top import Row, table
from catga.cluster.stats import NodeStats
from catga.node import NodeInfo

POD = "a-rather-long-node-id-for-kubernetes-6f7d9c-x2x1"
HANDLES = tuple(f"shop.Message{number}" for number in range(12))
MEMBER = NodeInfo(node_id=POD, service="orders-service-name", handles=HANDLES, incarnation=1)
READINGS = {POD: Reading(NodeStats(node_id=POD, inflight=517), 0.0123, 0.0)}
RATES = Row("orders.messages.CreateOrderOfACustomer", POD, Figures(1234.5, 0.0123, 0.0456, 7.5, 0.0))


def drawn(what: RenderableType, width: int) -> list[str]:
    file = StringIO()
    Console(file=file, width=width, highlight=False).print(what)
    return file.getvalue().splitlines()


def column(lines: list[str], title: str, following: str = "") -> str:
    """The text of a cell that may have several lines."""
    begin, end = lines[0].index(title), lines[0].index(following) if following else None
    return "".join(line[begin:end].strip() for line in lines[1:])


@pytest.mark.parametrize("width", [40, 80, 120, 300])
@pytest.mark.parametrize("cut", ["", "HANDLES"])
def test_nodes_shows_id_and_state_and_load_whole_at_any_width(width: int, cut: str) -> None:
    lines = drawn(nodes_table([MEMBER], READINGS, cut=cut), width)
    assert max(map(len, lines)) <= width
    assert all(word in lines[0] for word in ("NODE", "STATE", "LOAD", "IN FLIGHT"))
    assert all(word in lines[1] for word in ("alive", "0%", "517"))
    assert column(lines, "NODE", "STATE") == POD


@pytest.mark.parametrize("width", [80, 120, 300])
def test_nodes_shows_all_that_is_handled_or_cuts_it_on_a_screen(width: int) -> None:
    whole = drawn(nodes_table([MEMBER], READINGS), width)
    assert column(whole, "HANDLES").replace(" ", "") == ",".join(name.removeprefix("shop.") for name in HANDLES)
    screen = drawn(nodes_table([MEMBER], READINGS, cut="HANDLES"), width)
    assert sum("Mes" in line for line in screen) == 1


@pytest.mark.parametrize("width", [40, 80, 120, 300])
def test_top_shows_node_and_rates_whole_at_any_width(width: int) -> None:
    lines = drawn(table([RATES]), width)
    assert max(map(len, lines)) <= width
    assert all(word in lines[0] for word in ("REQ/S", "ERRORS/S"))
    assert all(word in lines[1] for word in ("1234.5", "7.5"))
    assert column(lines, "TYPE", "NODE") == RATES.type
    assert column([line.replace("1234.5", " " * 6) for line in lines], "NODE", "REQ/S") == POD


def test_a_table_without_rows_has_its_titles() -> None:
    assert drawn(table([]), 80)[0].split() == ["TYPE", "NODE", "REQ/S", "P50", "P99", "ERRORS/S", "FAILOVERS/S"]


def test_control_characters_in_a_name_are_escaped() -> None:
    lines = drawn(nodes_table([NodeInfo(node_id="a\x1b[2J\nb")], {}), 200)
    assert len(lines) == 2
    assert r"a\x1b[2J\nb" in lines[1]


def test_brackets_in_a_name_are_no_markup() -> None:
    assert any("[red]" in line for line in drawn(nodes_table([NodeInfo(node_id="[red]")], {}), 200))
