"""The public surface."""

import importlib
import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

import catga


def modules() -> Iterator[str]:
    for found in pkgutil.walk_packages(catga.__path__, "catga."):
        if not any(part.startswith("_") for part in found.name.split(".")[1:]):
            yield found.name


@pytest.fixture(params=sorted(modules()))
def module(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(request.param)


def test_the_roots_all_equals_what_exists() -> None:
    public = {n for n, v in vars(catga).items() if not n.startswith("_") and not inspect.ismodule(v)}
    assert public | {"__version__"} == set(catga.__all__)
    assert all(hasattr(catga, name) for name in catga.__all__)
    assert catga.__all__ == sorted(catga.__all__)


def test_the_root_is_small() -> None:
    assert len(catga.__all__) <= 25


def test_every_export_of_the_root_has_a_docstring() -> None:
    assert [n for n in catga.__all__ if n not in ("__version__", "CatgaResult") and not getattr(catga, n).__doc__] == []


def test_a_module_says_what_it_is_for(module: ModuleType) -> None:
    assert (module.__doc__ or "").strip()


def test_what_all_names_exists(module: ModuleType) -> None:
    assert [name for name in getattr(module, "__all__", ()) if not hasattr(module, name)] == []


def test_public_classes_and_functions_have_docstrings(module: ModuleType) -> None:
    """Methods of a class that implement a documented protocol may go without."""
    own = [
        (name, value)
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == module.__name__
    ]
    assert [name for name, value in own if not (value.__doc__ or "").strip()] == []


def test_importing_catga_imports_no_client_library() -> None:
    code = (
        "import sys, catga; print([m for m in ('nats','redis','pydantic','attr','click','pytest') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
