"""The commands in the documents exist, and print what the documents say."""

import os
import queue
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from documents import DOCUMENTS, blocks, text_of

import catga
from catga.cli.app import cli

PATIENCE = 60.0
_FENCED = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"^(?:\$ )?(catga .*)$", re.MULTILINE)
# What differs from run to run: times of day, durations, loads, and whether a sender has heard of a death yet.
_VARYING = (
    (re.compile(r"\d\d:\d\d:\d\d"), "<time>"),
    (re.compile(r"\d+(\.\d+)? m?s\b"), "<seconds>"),
    (re.compile(r"\S{6} +\d+%"), "<load>"),
    (re.compile(r'"seconds":[\d.]+'), "<seconds>"),
    (re.compile(r"load \d\.\d\d"), "<load>"),
    (re.compile(r", \d attempts"), ""),
    (re.compile(r"^by \w+ in"), "by <node> in"),  # each in turn, from any on
    (re.compile(r"\s+"), " "),
)


def check(arguments: list[str]) -> None:
    """Fail unless ``catga`` takes these arguments."""
    try:
        group = cli.make_context("catga", arguments)
        name, command, rest = cli.resolve_command(group, [*group._protected_args, *group.args])
        assert command is not None, name
        command.make_context(name, rest, parent=group)
    except click.ClickException as error:
        raise AssertionError(f"catga {' '.join(arguments)}: {error.format_message()}") from error


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_catga_command_in_a_block_is_one_that_catga_takes(document: str) -> None:
    for block in _FENCED.findall(text_of(document)):
        for line in _COMMAND.findall(block):
            check(shlex.split(re.split(r";? (?:[|<>;&]|echo) ?", line)[0], comments=True)[1:])


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_yaml_block_is_yaml_and_starts_catga_with_options_that_it_has(document: str) -> None:
    for block in blocks(document, "yaml"):
        for part in yaml.safe_load_all(block.text):
            for command in commands(part):
                check(command[1:])


def commands(part: Any) -> Iterator[list[str]]:
    """The lists in a document that begin with ``catga``."""
    if isinstance(part, list) and part and part[0] == "catga":
        yield part
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from commands(inner)


# -- transcripts ------------------------------------------------------------------------------------------


def normal(line: str) -> str:
    for pattern, name in _VARYING:
        line = pattern.sub(name, line)
    return line.strip()


class Shell:
    """A bash whose background jobs write to the same place, as in a terminal."""

    def __init__(self, folder: Path, **env: str) -> None:
        self._process = subprocess.Popen(
            ["bash", "--norc"],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **env},
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._type("set -m; trap 'kill -9 $(jobs -p) 2>/dev/null' EXIT")

    def run(self, command: str, expected: list[str]) -> None:
        """Run `command` until it ended and has printed the lines `expected`, among others."""
        self._type(f"{command}\necho 'ended' '{command[:9]}'")
        missing, seen = [*map(normal, expected), f"ended {command[:9]}"], []
        if command.endswith("&"):
            missing = [missing[-1], *missing[:-1]]
        deadline = time.monotonic() + PATIENCE
        while missing:
            try:
                seen.append(self._lines.get(timeout=max(deadline - time.monotonic(), 0.0)))
            except queue.Empty:
                raise AssertionError(f"$ {command}\nmissing: {missing}\nprinted: {''.join(seen)}") from None
            if normal(seen[-1]) in missing:
                missing.remove(normal(seen[-1]))

    def close(self) -> None:
        self._type("exit")
        self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def _type(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text + "\n")
        self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)


def steps(transcript: str) -> Iterator[tuple[str, list[str]]]:
    """Each command after ``$``, with the lines it prints."""
    for part in re.split(r"^\$ ", transcript, flags=re.MULTILINE)[1:]:
        command, *printed = part.splitlines()
        yield command, printed


@pytest.fixture
def shell(request: pytest.FixtureRequest, nats_url: str, tmp_path: Path) -> Iterator[Shell]:
    """In a folder with the files of the tutorial, and with ``catga`` and a broker at hand."""
    for block in blocks("docs/tutorial.md", "python"):
        (tmp_path / f"{block.module}.py").write_text(block.text, encoding="utf-8")
    script = tmp_path / "catga"
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m catga.cli "$@"\n')
    script.chmod(0o755)
    opened = Shell(
        tmp_path,
        PATH=f"{tmp_path}:{os.environ['PATH']}",
        PYTHONPATH=str(Path(catga.__file__).parents[1]),
        CATGA_URL=nats_url,
        CATGA_PREFIX=f"docs-{tmp_path.name}",
        COLUMNS="100",
    )
    yield opened
    opened.close()


@pytest.mark.parametrize("document", [document for document in DOCUMENTS if blocks(document, "console")])
def test_every_transcript_is_what_the_commands_print(document: str, shell: Shell) -> None:
    for block in blocks(document, "console"):
        for command, printed in steps(block.text):
            shell.run(command, printed)
