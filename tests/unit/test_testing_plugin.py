"""The pytest plugin, in pytest runs of its own."""

import os
import subprocess
import sys
from pathlib import Path

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


def run_pytest(directory: Path, default: str, settings: str = "", **environment: str) -> None:
    (directory / "test_program.py").write_text(PROGRAM.replace("{default}", default))
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
