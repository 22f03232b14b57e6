"""The wheel is all that a user needs: it is built, put into an empty folder, and used without the source tree."""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# `-I -S` leaves the standard library alone on the path: no PYTHONPATH, no .pth file of an editable install. The
# dependencies come from this environment's own folder, behind the wheel's.
PREAMBLE = f"""
import sys
sys.path += [sys.argv.pop(1), {sysconfig.get_path("purelib")!r}, {sysconfig.get_path("platlib")!r}]
"""


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", str(folder), ".")
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    pip("install", "--no-deps", "--no-index", "--target", str(folder), str(wheel))
    return folder


def run(installed: Path, code: str, arguments: Sequence[str] = ()) -> str:
    """What `code` prints in an interpreter that knows the wheel and the dependencies."""
    command = [sys.executable, "-I", "-S", "-c", PREAMBLE + code, str(installed), *arguments]
    done = subprocess.run(command, cwd=installed, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_the_package_is_the_wheels_and_its_version_that_of_the_file_name(installed: Path, wheel: Path) -> None:
    file, version = run(installed, "import catga; print(catga.__file__, catga.__version__)").split()
    assert Path(file).is_relative_to(installed)
    assert wheel.name == f"catga-{version}-py3-none-any.whl"


def test_the_hello_of_the_readme_runs(installed: Path) -> None:
    found = re.search(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None
    assert run(installed, found[1]).splitlines() == ["Hello World, this is alpha", "Hello World, this is beta"]


def test_the_command_tells_its_version(installed: Path) -> None:
    script = """
from importlib.metadata import entry_points
(entry,) = entry_points(group="console_scripts", name="catga")
sys.exit(entry.load()())
"""
    version = run(installed, "import catga; print(catga.__version__)").strip()
    assert version in run(installed, script, ["--version"])


def test_every_backend_opens_and_every_module_of_the_core_is_there(installed: Path) -> None:
    script = """
from catga import Mediator, add_cluster
for url in ("memory://x", "nats://127.0.0.1:1", "tls://127.0.0.1:1", "redis://127.0.0.1:1", "rediss://127.0.0.1:1"):
    print(add_cluster(Mediator(), url, node_id=url[:5]).node_id)
"""
    assert run(installed, script).split() == ["memor", "nats:", "tls:/", "redis", "redis"]


def test_the_wheel_holds_the_typed_package_its_licence_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    info = wheel.name.removesuffix("-py3-none-any.whl") + ".dist-info"
    assert {name.partition("/")[0] for name in names} == {"catga", info}
    assert {"catga/py.typed", f"{info}/licenses/LICENSE"} <= set(names)
    assert [name for name in names if "__pycache__" in name or "/tests/" in name or "/bench/" in name] == []
    sources = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src").rglob("*.py")}
    assert sources <= set(names)


def test_the_long_description_has_no_link_that_a_package_page_cannot_follow(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        description = archive.read(name).decode().partition("\n\n")[2]
    links = re.findall(r"\]\(([^)\s]+)\)", description)
    assert "Seven concepts" in description
    assert [link for link in links if not link.startswith("https://")] == []


def test_links_are_absolute_once_the_repository_is_known() -> None:
    script = """
import sys
sys.path.insert(0, sys.argv[1])
from hatch_build import standalone, urls
print(standalone("[a](docs/a.md#b) ![c](docs/c.svg) [d](https://d) [e](#e)", "https://x.test/r"), urls("https://x.test/r")["Issues"])
print(standalone("[a](docs/a.md) ![c](docs/c.svg)", ""), urls(""))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(ROOT)], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines() == [
        "[a](https://x.test/r/blob/HEAD/docs/a.md#b) ![c](https://x.test/r/raw/HEAD/docs/c.svg) [d](https://d) [e](#e) "
        "https://x.test/r/issues",
        "a *c* {}",
    ]


def test_the_source_archive_has_what_its_tests_need(tmp_path: Path) -> None:
    build = "from hatchling.build import build_sdist; import sys; print(build_sdist(sys.argv[1]))"
    command = [sys.executable, "-c", build, str(tmp_path)]
    subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60, check=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path, filter="data")
    (unpacked,) = (path for path in tmp_path.iterdir() if path.is_dir())
    tests = ["tests/docs/test_links.py", "tests/unit/test_bounds.py", "tests/unit/test_messages.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        cwd=unpacked,
        env={**os.environ, "PYTHONPATH": str(unpacked / "src")},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout
