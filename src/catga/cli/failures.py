"""How commands fail: a line for people on stderr, and an exit status for scripts."""

import click

from catga.cli.text import printable
from catga.errors import CatgaError, ClusterError, Execution, MissingExtraError
from catga.result import Failure

FAILED = 1
USAGE = 2
UNREACHABLE = 3
WORKERS_DIED = 4

IN_DOUBT = "may have been executed"


class CommandError(click.ClickException):
    """Ends the command with a message and an exit status."""

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(printable(message))
        self.exit_code = exit_code  # type: ignore[misc]  # click reads it from the instance


def explained(error: CatgaError) -> CommandError:
    """`error` for the user."""
    if isinstance(error, MissingExtraError):
        return CommandError(str(error), USAGE)
    if type(error) is ClusterError:
        return CommandError(str(error), UNREACHABLE)
    return CommandError(error_line(error))


def failed(failure: Failure) -> CommandError:
    """A failed call for the user: who answered, after how many attempts."""
    node_id, attempts = failure.metadata.node_id, failure.metadata.attempts
    known = (f"node {node_id}" if node_id else "", f"{attempts} attempts" if attempts > 1 else "")
    origin = ", ".join(filter(None, known))
    return CommandError(error_line(failure.error, f" ({origin})" if origin else ""))


def error_line(error: CatgaError, origin: str = "") -> str:
    """Code and text, and a warning if the handler may have run in spite of it."""
    line = f"{error.code}: {error}{origin}"
    in_doubt = error.execution is Execution.MAYBE and IN_DOUBT not in line
    return f"{line}: it {IN_DOUBT}" if in_doubt else line
