"""Makes the README fit for a page that is not in the repository: the package index shows it alone."""

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://|#)([^)\s]+)\)")


def standalone(text: str, repository: str) -> str:
    """Return `text` with absolute links to files of the repository, or without them if no repository is known."""

    def absolute(found: re.Match[str]) -> str:
        mark, label, path = found.groups()
        if repository:
            return f"{mark}[{label}]({repository}/{'raw' if mark else 'blob'}/HEAD/{path})"
        return f"*{label}*" if mark else label

    return _LINK.sub(absolute, text)


def urls(repository: str) -> dict[str, str]:
    """Return the links of the package's page."""
    if not repository:
        return {}
    return {
        "Repository": repository,
        "Documentation": f"{repository}/blob/HEAD/docs/index.md",
        "Changelog": f"{repository}/blob/HEAD/CHANGELOG.md",
        "Issues": f"{repository}/issues",
    }


class CustomMetadataHook(MetadataHookInterface):
    """Sets the long description and the links; both depend on the setting ``repository`` in pyproject.toml."""

    def update(self, metadata: dict[str, Any]) -> None:
        repository = str(self.config["repository"]).rstrip("/")
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": standalone(text, repository)}
        metadata["urls"] = urls(repository)
