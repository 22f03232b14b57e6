"""The command line. `main` is the entry point; click and rich are imported only there."""

import sys
from importlib import import_module


def main() -> None:
    """Run ``catga``. Ends with `SystemExit`."""
    try:
        for name in ("click", "rich"):
            import_module(name)
    except ModuleNotFoundError as error:
        print(f"catga: the command line needs {error.name}: pip install 'catga[cli]'", file=sys.stderr)
        sys.exit(2)
    from catga.cli.app import cli

    cli(prog_name="catga")
