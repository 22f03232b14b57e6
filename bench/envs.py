"""The peers' own environments below ``bench/.envs``: made on demand, never a dependency of catga."""

import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ENVS = HERE / ".envs"

PYTHON = {
    "meator": ["meator"],
    "mediatr": ["mediatr"],
    "python-cqrs": ["python-cqrs"],
    "py-mediatr": ["py-mediatr"],
    "faststream": ["faststream[nats,redis]", "hiredis", "uvloop"],
    "moleculerpy": ["moleculerpy", "nats-py", "redis", "hiredis", "uvloop"],
}
"""Environment → its requirements."""
NEWER = {"moleculerpy": ("python3.12", "python3.13")}
"""Those that need a newer interpreter than the oldest that catga runs on."""
VERSIONS = (("faststream", "faststream"), ("moleculerpy", "moleculerpy"), ("meator", "meator"))
"""(environment, package) whose versions the page states."""
NODE = {"moleculer": ["moleculer@0.14", "nats@2", "ioredis@5"]}


def python(name: str) -> Path | None:
    """The interpreter of a Python peer's environment, made if need be; None where it cannot be installed."""
    home = ENVS / name
    interpreter = home / "bin" / "python"
    marker = home / ".ready"
    if marker.exists():
        return interpreter
    if (home / ".failed").exists():
        return None
    base = _interpreter(NEWER.get(name, ()))
    if base is None:
        return None
    install = [str(interpreter), "-m", "pip", "install", "-q", *PYTHON[name]]
    return interpreter if _install(home, [[base, "-m", "venv", str(home)], install]) else None


def node(name: str) -> Path | None:
    """The folder whose ``node_modules`` holds a Node peer; None without Node or the package."""
    home = ENVS / name
    if (home / ".ready").exists():
        return home
    if (home / ".failed").exists() or shutil.which("npm") is None:
        return None
    command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(home), *NODE[name]]
    return home if _install(home, [command]) else None


def _interpreter(names: tuple[str, ...]) -> str | None:
    if not names:
        return sys.executable
    for name in names:
        managed = sorted(Path.home().glob(f".pyenv/versions/{name.removeprefix('python')}*/bin/python"))
        found = str(managed[-1]) if managed else shutil.which(name)
        if found is not None:
            return found
    return None


def _install(home: Path, commands: list[list[str]]) -> bool:
    home.mkdir(parents=True, exist_ok=True)
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        if done.returncode:
            (home / ".failed").write_text(done.stdout + done.stderr)
            return False
    (home / ".ready").touch()
    return True


def main() -> None:
    """Install all peers: ``python -m bench.envs``."""
    for name in PYTHON:
        print(name, python(name), flush=True)
    for name in NODE:
        print(name, node(name), flush=True)


if __name__ == "__main__":
    main()
