"""What pyproject.toml says of dependencies, the lists beside it and the documents agree."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
_BOUND = re.compile(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)")


def test_the_minima_that_are_tested_are_those_of_the_package() -> None:
    needed = [*PROJECT["dependencies"], *(each for name, extra in EXTRAS.items() if name != "all" for each in extra)]
    bounds = {found[1]: found[2] for each in needed if (found := _BOUND.match(each))}
    assert len(bounds) == len(needed)
    lines = (ROOT / "requirements" / "minima.txt").read_text(encoding="utf-8").splitlines()
    assert dict(line.split("==") for line in lines if not line.startswith("#")) == bounds


def test_all_has_every_extra() -> None:
    (everything,) = EXTRAS["all"]
    assert everything == f"catga[{','.join(name for name in EXTRAS if name != 'all')}]"


def test_every_extra_is_in_the_table_of_the_docs_with_what_it_installs() -> None:
    text = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", text, re.MULTILINE))
    told = {name: re.findall(r"`([\w-]+)`", packages) for name, packages in rows.items()}
    assert told == {
        name: [] if name == "all" else [found[1] for each in extra if (found := _BOUND.match(each))]
        for name, extra in EXTRAS.items()
    }


@pytest.mark.parametrize("profile", ["default", "ci", "few", "many"])
def test_no_property_has_a_deadline_whatever_the_profile(profile: str) -> None:
    assert settings.get_profile(profile).deadline is None
