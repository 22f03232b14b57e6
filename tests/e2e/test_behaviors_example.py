"""The order service: what it prints, on the embedded bus and over NATS."""

import asyncio
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "order_service" / "order_service.py"
EXPECTED = """\
o1 2 tea for 9.00
o1 2 tea for 9.00
o2 refused: 1 coffee left
not valid: False
mail: o1 is on its way (visit-1)
dead letter: ConnectionError: the mail server is down, replayed: True
"""


@pytest.mark.parametrize("bus", ["memory", "nats"])
async def test_the_order_service_prints_what_it_promises(bus: str, request: pytest.FixtureRequest) -> None:
    arguments = [request.getfixturevalue("nats_url")] if bus == "nats" else []
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(SCRIPT),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert (output.decode(), process.returncode) == (EXPECTED, 0), errors.decode()


def test_the_order_service_is_shorter_than_200_lines() -> None:
    assert len(SCRIPT.read_text().splitlines()) < 200
