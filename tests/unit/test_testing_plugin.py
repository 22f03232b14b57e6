"""The pytest plugin, in pytest runs of its own."""

import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from catga import Mediator, Request
from catga.errors import InvalidMessageError
from catga.mediator import mediator
from catga.testing import plugin

PROGRAM = """
import asyncio
from dataclasses import dataclass, field

from catga import Mediator, Request

@dataclass
class Fill(Request[int]):
    items: list[int] = field(default_factory=list)

def fills(app):
    @app.handler
    async def fill(request: Fill) -> int:
        request.items.append(1)
        return 1

    message = Fill()
    asyncio.run(app.send(message)).unwrap()
    return message.items

def test_a_handler_cannot_reach_into_its_callers_message():
    assert fills(Mediator()) == {default}
    assert fills(Mediator(strict=True)) == []
    assert fills(Mediator(strict=False)) == [1]
"""


IMPORTED_BY_A_CONFTEST = """
from catga import Mediator

early = Mediator()
"""

OF_A_CONFTEST = """
import program
from test_program import fills

def test_a_mediator_that_a_conftest_made():
    assert fills(program.early) == {default}
"""


def run_pytest(
    directory: Path,
    default: str,
    settings: str = "",
    *,
    conftest: str = "import program",
    early: str = "",
    **environment: str,
) -> None:
    (directory / "test_program.py").write_text(PROGRAM.replace("{default}", default))
    (directory / "program.py").write_text(IMPORTED_BY_A_CONFTEST)
    (directory / "conftest.py").write_text(conftest)
    (directory / "test_early.py").write_text(OF_A_CONFTEST.replace("{default}", early or default))
    (directory / "pytest.ini").write_text(f"[pytest]\n{settings}\n")
    inherited = {name: value for name, value in os.environ.items() if name != "CATGA_STRICT"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=directory,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout


def test_mediators_are_strict_in_tests(tmp_path: Path) -> None:
    run_pytest(tmp_path, "[]")


def test_a_setting_turns_that_off(tmp_path: Path) -> None:
    run_pytest(tmp_path, "[1]", "catga_strict = false")


def test_the_environment_has_the_last_word(tmp_path: Path) -> None:
    run_pytest(tmp_path, "[1]", CATGA_STRICT="0")
    run_pytest(tmp_path, "[]", "catga_strict = false", CATGA_STRICT="1")


def test_mediators_are_strict_once_a_conftest_names_the_plugin(tmp_path: Path) -> None:
    conftest = 'import program\npytest_plugins = ["catga.testing.plugin"]'
    run_pytest(tmp_path, "[]", conftest=conftest, early="[1]", PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")


def test_a_run_within_a_program_leaves_its_environment_alone(tmp_path: Path) -> None:
    (tmp_path / "test_strict.py").write_text("import os\ndef test(): assert os.environ['CATGA_STRICT'] == '1'")
    code = (
        "import os, pytest; print(int(pytest.main(['-q', '-p', 'no:cacheprovider']) or 'CATGA_STRICT' in os.environ))"
    )
    inherited = {name: value for name, value in os.environ.items() if name != "CATGA_STRICT"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=inherited,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.splitlines()[-1] == "0", done.stdout


def test_the_plugin_sets_what_mediators_read() -> None:
    assert plugin.STRICT == mediator.STRICT


@pytest.mark.parametrize(("said", "is_strict"), [("1 true yes on TRUE On", True), ("0 false no off False", False)])
def test_the_environment_says_yes_or_no(said: str, is_strict: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for word in said.split():
        monkeypatch.setenv(mediator.STRICT, word)
        assert is_refused(Mediator()) == is_strict
    monkeypatch.setenv(mediator.STRICT, "")
    assert not is_refused(Mediator())


def test_what_is_neither_yes_nor_no_in_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(mediator.STRICT, "strict")
    with pytest.raises(ValueError, match="CATGA_STRICT is 'strict'"):
        Mediator()
    Mediator(strict=False)


@dataclass
class Odd(Request[object]):
    """An answer that cannot travel."""


def is_refused(app: Mediator) -> bool:
    """Whether it refuses a message that cannot travel, as strict mediators do."""
    with suppress(InvalidMessageError):
        app.handles(Odd)(lambda _: 1)
        return False
    return True
