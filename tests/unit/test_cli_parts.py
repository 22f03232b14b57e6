"""The parts of the command line that need no cluster."""

import logging
import subprocess
import sys

import pytest

from catga._version import __version__
from catga.cli.bench import histogram
from catga.cli.checks import Level
from catga.cli.checks.cluster import answers, clocks, duplicates, garbage, versions
from catga.cli.failures import failed
from catga.cli.figures import delta, figures, quantile
from catga.cli.logs import Lines
from catga.cli.nodes import incarnation, load_bar
from catga.cli.observer import Reading
from catga.cluster.stats import NodeStats, TypeStats
from catga.errors import CatgaTimeoutError, HandlerError, MaybeExecutedError
from catga.node import NodeInfo
from catga.result import Failure, ResultMetadata


def node(node_id: str = "a", **fields: object) -> NodeStats:
    defaults: dict[str, object] = {"pid": 1, "uptime": 10.0, "version": "1"}
    return NodeStats(node_id=node_id, **{**defaults, **fields})  # type: ignore[arg-type]


def test_figures_are_of_the_interval_alone() -> None:
    before = node(types={"T": TypeStats(calls=10, errors=3, histogram={40: 10}, failovers=1)})
    now = node(uptime=12.0, types={"T": TypeStats(calls=14, errors=4, histogram={40: 10, 44: 4}, failovers=3)})
    found = figures(delta(before, now).values(), 2.0)
    assert (found.rate, found.errors, found.failovers) == (2.0, 0.5, 1.0)
    assert found.p50 == found.p99 is not None


def test_a_restarted_node_began_at_zero() -> None:
    before = node(types={"T": TypeStats(calls=10, histogram={40: 10})})
    now = node(pid=2, uptime=1.0, types={"T": TypeStats(calls=2, histogram={40: 2})})
    assert figures(delta(before, now).values(), 1.0).rate == 2.0


def test_without_calls_there_are_no_percentiles() -> None:
    assert figures([], 1.0) == (0.0, None, None, 0.0, 0.0)
    assert quantile({3: 0}, 0.5) is None


def test_a_histogram_has_every_call_in_one_bar() -> None:
    lines = histogram([n / 1000 for n in range(1, 1001)])
    assert sum(int(line.split()[-1]) for line in lines) == 1000
    assert histogram([]) == []
    assert len(histogram([0.001])) == 12


def test_checks_of_nodes_name_what_is_wrong() -> None:
    assert versions({"a": node(version="1"), "b": node(version="2")}).level is Level.WARNING
    ahead = Reading(node(clock=1060.0), 0.01, 1000.0)
    assert clocks({"a": ahead}).level is Level.WARNING
    assert [f.level for f in duplicates({"a": node(ghosts={"b": 1.0})}, {})] == [Level.PROBLEM]
    assert [f.level for f in duplicates({"a": node(ghosts={"b": 60.0})}, {})] == [Level.OK]
    assert [f.text[:11] for f in duplicates({"a": node(ghosts={"b": 1.0})}, {"b": 3})] == ["3 processes"]
    assert [f.level for f in garbage({"a": node(counters={"garbage": 3})})] == [Level.WARNING]


def test_one_node_is_not_one_nodes() -> None:
    assert versions({"a": node()}).text == f"1 (1 node); here {__version__}"
    assert versions({"a": node(), "b": node("b")}).text == f"1 (2 nodes); here {__version__}"
    (finding,) = answers([NodeInfo(node_id="a")], {"a": Reading(node(), 0.002, 0.0)})
    assert finding.text == "the node answers in 2.0 ms"


def test_a_log_line_has_the_fields_that_catga_adds() -> None:
    record = logging.makeLogRecord({"msg": "the link is down", "levelname": "WARNING", "catga_url": "nats://x"})
    assert Lines("shop-1").format(record).endswith("WARNING  shop-1 the link is down url=nats://x")


def test_odd_values_of_foreign_nodes_are_shown_all_the_same() -> None:
    assert incarnation(2**53 - 1)
    assert "1000000%" in load_bar(10_000.0).plain


LOST = MaybeExecutedError("the node left")


@pytest.mark.parametrize(
    ("failure", "line"),
    [
        (Failure(HandlerError("no"), ResultMetadata("a", 1)), "handler_error: no (node a)"),
        (Failure(HandlerError("no"), ResultMetadata("a", 3)), "handler_error: no (node a, 3 attempts)"),
        (Failure(LOST), "maybe_executed: the node left: it may have been executed"),
        (
            Failure(CatgaTimeoutError("late: it may have been executed"), ResultMetadata("", 2)),
            "timeout: late: it may have been executed (2 attempts)",
        ),
    ],
)
def test_a_failed_call_tells_node_and_attempts_and_whether_it_may_have_run(failure: Failure, line: str) -> None:
    assert failed(failure).format_message() == line


def test_without_click_the_message_says_how_to_install_it() -> None:
    program = "import sys; sys.modules['click'] = None; from catga.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "catga: the command line needs click: pip install 'catga[cli]'\n")


def test_help_has_its_texts_where_docstrings_are_stripped() -> None:
    script = """
import click
from catga.cli.app import cli
context = click.Context(cli, info_name="catga")
for name in ["", *cli.list_commands(context)]:
    command = cli.get_command(context, name) if name else cli
    print(name or "catga", len(command.help or ""))
from catga.cli.demo.steps import STEPS
print(all(title for title, _ in STEPS))
"""
    done = subprocess.run([sys.executable, "-OO", "-c", script], capture_output=True, text=True, timeout=60, check=True)
    *helps, titles = done.stdout.splitlines()
    assert titles == "True"
    assert len(helps) > 10
    assert [line for line in helps if int(line.rpartition(" ")[2]) < 20] == []
