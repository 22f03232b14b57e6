"""Screens that change: in place on a terminal, one after the other elsewhere."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, NamedTuple

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from catga.cli.logs import keep_last_warning
from catga.cli.output import console, to_json


class Frame(NamedTuple):
    """What is shown at one time."""

    title: str
    body: RenderableType
    data: Any
    """The same for JSON."""


async def show(frames: AsyncGenerator[Frame, None], *, as_json: bool) -> None:
    """Show frame after frame, until there are no more, or Ctrl-C, which is the normal end."""
    try:
        async with aclosing(frames):
            if as_json:
                async for frame in frames:
                    click.echo(to_json(frame.data))
            else:
                await _draw(frames)
    except asyncio.CancelledError:  # Ctrl-C
        task = asyncio.current_task()
        if task is not None:
            task.uncancel()


async def _draw(frames: AsyncIterator[Frame]) -> None:
    screen = console()
    if not screen.is_terminal:
        async for frame in frames:
            screen.print(Text(frame.title), frame.body, sep="\n")
        return
    warnings = keep_last_warning()
    last: RenderableType = ""
    try:
        with Live(console=screen, screen=True, auto_refresh=False) as live:
            async for frame in frames:
                last = Group(Text(frame.title, "bold"), frame.body)
                live.update(Group(last, Text(warnings.text, "yellow")), refresh=True)
    finally:
        screen.print(last)
