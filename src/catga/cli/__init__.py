"""The command line. `main` is the entry point; click and rich are imported only there."""

import errno
import os
import sys
from importlib import import_module

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

    try:
        cli(prog_name="catga")
    except OSError as error:
        if error.errno not in FULL:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python tries to write the rest when it ends
        print(f"Error: cannot write to stdout: {error.strerror}", file=sys.stderr)
        sys.exit(1)
