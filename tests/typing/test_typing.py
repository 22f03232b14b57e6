"""Both type checkers, in their strict modes, infer what they should and reject what they should."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def marked(file: str) -> set[int]:
    lines = (HERE / file).read_text().splitlines()
    return {number for number, line in enumerate(lines, 1) if line.endswith("# error")}


def mypy(file: str) -> dict[int, str]:
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", str(ROOT / ".mypy_cache")]
    output = run([*command, str(HERE / file)])
    found = re.findall(r"^(.*?)(\d+): error: (.*)$", output, re.MULTILINE)
    assert all(path.rstrip(":").endswith(file) for path, _, _ in found), output
    assert found or not output.strip(), output
    return {int(line): text for _, line, text in found}


def pyright(file: str) -> dict[int, str]:
    output = run(
        [
            sys.executable,
            "-m",
            "pyright",
            "--pythonpath",
            sys.executable,
            "--outputjson",
            "--project",
            str(ROOT),
            str(HERE / file),
        ]
    )
    found = json.loads(output)["generalDiagnostics"]
    return {d["range"]["start"]["line"] + 1: d["message"] for d in found}


def run(command: list[str]) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=110)
    return done.stdout or done.stderr


@pytest.mark.parametrize("check", [mypy, pyright])
@pytest.mark.parametrize("file", ["good.py", "bad.py"])
def test_every_marked_line_is_rejected_and_no_other(check: object, file: str) -> None:
    reported = check(file)  # type: ignore[operator]
    expected = marked(file)
    wrongly = {line: text for line, text in reported.items() if line not in expected}
    assert (sorted(expected - reported.keys()), wrongly) == ([], {})
