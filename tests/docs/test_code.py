"""The code in the documents runs, and prints what the documents say."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from documents import DOCUMENTS, ROOT, blocks

WITH_CODE = [document for document in DOCUMENTS if blocks(document, "python")]


@pytest.mark.parametrize("document", WITH_CODE)
def test_every_python_block_runs_and_prints_its_trailing_comments(
    document: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = document.removeprefix("docs/").removesuffix(".md").replace("/", "_").lower()
    page = ModuleType(name)
    monkeypatch.setitem(sys.modules, name, page)
    for block in blocks(document, "python"):
        module = page if block.module is None else ModuleType(block.module)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        code = compile("\n" * block.line + block.text, str(ROOT / document), "exec")
        exec(code, module.__dict__)  # noqa: S102 - our own documents
        assert capsys.readouterr().out == block.output, f"{document}, line {block.line + 1}"


@pytest.mark.parametrize("backend", ["memory", "nats", "redis"])
def test_the_hello_of_the_readme_is_the_same_on_every_backend(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = "memory://demo" if backend == "memory" else request.getfixturevalue(f"{backend}_url")
    hello = blocks("README.md", "python")[0]
    assert hello.text.count("memory://demo") == 1
    script = tmp_path / "hello.py"
    script.write_text(hello.text.replace("memory://demo", url), encoding="utf-8")
    assert run(script) == hello.output


@pytest.mark.parametrize("backend", ["nats", "redis"])
def test_the_tutorial_needs_another_url_and_nothing_else(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    files = {block.module: block for block in blocks("docs/tutorial.md", "python")}
    for name, block in files.items():
        text = block.text.replace("memory://shop", request.getfixturevalue(f"{backend}_url"))
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    assert run(tmp_path / "three.py") == files["three"].output


def test_the_hello_of_the_examples_prints_what_the_readme_says() -> None:
    assert run(ROOT / "examples" / "hello" / "hello.py") == blocks("README.md", "python")[0].output


def run(script: Path) -> str:
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout
