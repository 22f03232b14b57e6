"""The command line. `main` is the entry point; click and rich are imported only there."""

import sys


def main() -> None:
    """Run ``catga``. Ends with `SystemExit`."""
    try:
        import click  # noqa: F401
        import rich  # noqa: F401
    except ModuleNotFoundError as error:
        print(f"catga: the command line needs {error.name}: pip install 'catga[cli]'", file=sys.stderr)
        sys.exit(2)
    from catga.cli.app import cli

    cli(prog_name="catga")
