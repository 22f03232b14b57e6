"""How commands fail: a line for people on stderr, and an exit status for scripts."""

import click

from catga.errors import CatgaError, ClusterError, MissingExtraError

FAILED = 1
USAGE = 2
UNREACHABLE = 3
WORKERS_DIED = 4


class CommandError(click.ClickException):
    """Ends the command with a message and an exit status."""

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click reads it from the instance


def explained(error: CatgaError) -> CommandError:
    """`error` for the user."""
    if isinstance(error, MissingExtraError):
        return CommandError(str(error), USAGE)
    if type(error) is ClusterError:
        return CommandError(str(error), UNREACHABLE)
    return CommandError(f"{error.code}: {error}")
