"""What the documents refer to is there."""

import re

import pytest
from documents import DOCUMENTS, ROOT, text_of

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def anchors(document: str) -> set[str]:
    """The anchors of the headings, as the usual renderers make them."""
    headings = re.findall(r"^#+ +(.+)$", _FENCE.sub("", text_of(document)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_to_this_project_leads_somewhere(document: str) -> None:
    for link in _LINK.findall(_FENCE.sub("", text_of(document))):
        if link.startswith(("https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / document).parent / path if path else ROOT / document
        assert target.exists(), f"{document} links to {link}"
        if anchor:
            assert anchor in anchors(target.resolve().relative_to(ROOT).as_posix()), f"{document} links to {link}"


def test_every_page_of_the_docs_is_linked_from_another() -> None:
    linked = {
        ((ROOT / document).parent / link.partition("#")[0]).resolve()
        for document in DOCUMENTS
        for link in _LINK.findall(text_of(document))
    }
    pages = {(ROOT / document).resolve() for document in DOCUMENTS if document.startswith("docs/")}
    assert pages - linked == set()
