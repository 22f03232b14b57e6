"""The command line. `main` is the entry point; click and rich are imported only there."""

import errno
import os
import sys
from importlib import import_module
from io import TextIOWrapper
from typing import Any

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def main() -> None:
    """Run ``catga``. Ends with `SystemExit`."""
    try:
        for name in ("click", "rich"):
            import_module(name)
    except ModuleNotFoundError as error:
        print(f"catga: the command line needs {error.name}: pip install 'catga[cli]'", file=sys.stderr)
        sys.exit(2)
    from catga.cli.app import cli

    stdout: Any = sys.stdout
    if isinstance(stdout, TextIOWrapper):
        stdout.reconfigure(errors="replace")  # it may be ASCII, or Latin-1
    try:
        cli(prog_name="catga")
    except OSError as error:
        if error.errno not in FULL:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python tries to write the rest when it ends
        print(f"Error: cannot write to stdout: {error.strerror}", file=sys.stderr)
        sys.exit(1)
