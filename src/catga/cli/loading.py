"""Finds what the user names as ``module:attribute`` in the current folder, or says clearly why it cannot."""

import difflib
import importlib
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

import catga
from catga.cli.failures import USAGE, CommandError
from catga.mediator import Mediator
from catga.messages import is_event, is_request

CATGA = Path(catga.__file__).parent


def load(target: str, app_dir: str = ".", *, example: str = "app:mediator") -> Any:
    """The object behind ``module:attribute`` (the attribute may have dots).

    Args:
        example: of a target, for the user who gave none.

    Raises:
        CommandError: there is no such thing; the message says what there is.
    """
    module_name, colon, path = target.partition(":")
    if not module_name or not colon or not path:
        raise CommandError(f"{target!r} is not of the form module:name, e.g. {example}", USAGE)
    _check_is_module(module_name, path, app_dir)
    found: Any = import_module(module_name, app_dir)
    for name in path.split("."):
        if not hasattr(found, name):
            raise CommandError(_no_attribute(found, module_name, name), USAGE)
        found = getattr(found, name)
    return found


def _check_is_module(name: str, path: str, app_dir: str) -> None:
    file = Path(name)
    if "/" not in name and not (file.suffix == ".py" and Path(app_dir, file).is_file()):
        return
    if file.is_absolute() or ".." in file.parts:
        right = f"--app-dir {file.parent} {file.stem}:{path}"
    else:
        right = f"{'.'.join(file.with_suffix('').parts)}:{path}"
    raise CommandError(f"{name} is a file, and a module is wanted: write {right}", USAGE)


def import_module(name: str, app_dir: str) -> ModuleType:
    """The module, from `app_dir` or from what is installed."""
    folder = str(Path(app_dir).resolve())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise CommandError(f"there is no module {error.name!r} in {folder}: is --app-dir right?", USAGE) from error
        raise CommandError(_broken(name, error), USAGE) from error
    except (Exception, SystemExit) as error:  # the border to the user's module
        raise CommandError(_broken(name, error), USAGE) from error


def _broken(name: str, error: BaseException) -> str:
    return f"the module {name!r} cannot be imported: {told(error)}"


def told(error: BaseException) -> str:
    """What a user's code raised, and the last line of it that led there."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)]
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"


def _is_users(file: str) -> bool:
    return "importlib" not in file and not Path(file).is_relative_to(CATGA)


def _no_attribute(holder: Any, module: str, name: str) -> str:
    known = [key for key, value in getattr(holder, "__dict__", {}).items() if _is_of_interest(value)]
    near = difflib.get_close_matches(name, known, n=1)
    text = f"{module} has no {name!r}"
    if near:
        return f"{text}; did you mean {near[0]}?"
    return f"{text}; it has {', '.join(sorted(known))}" if known else text


def _is_of_interest(value: Any) -> bool:
    return isinstance(value, Mediator) or is_request(value) or is_event(value)
