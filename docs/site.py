"""What the site has beside docs/: the README as its first page, and a page for every source file that is linked to.

MkDocs calls these functions (`hooks` in mkdocs.yml). Links in the repository's files stay as the repository needs them.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(?<=\]\()([^)#:\s]+)")
"""The target of a link to a file."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the README and the source files that it and the pages link to."""
    files.append(File.generated(config, "index.md", content=(ROOT / "README.md").read_text(encoding="utf-8")))
    pages = [file for file in files if file.is_documentation_page()]
    for name in sorted({name for page in pages for name in _sources(page.src_uri, page.content_string)}):
        language = {".py": "python", ".ipynb": "json"}.get(Path(name).suffix, "text")
        text = (ROOT / name).read_text(encoding="utf-8")
        content = f"# {name}\n\n`````{language}\n{text}`````\n"
        files.append(File.generated(config, f"source/{name}.md", content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns the repository's links into the site's."""
    here = page.file.src_uri
    if here.startswith("source/"):
        return markdown
    return LINK.sub(lambda link: posixpath.relpath(_target(here, link[1]), posixpath.dirname(here) or "."), markdown)


def _target(page: str, link: str) -> str:
    """Where on the site a link leads, from the site's root."""
    folder = "." if page == "index.md" else posixpath.join("docs", posixpath.dirname(page))
    name = posixpath.normpath(posixpath.join(folder, link))
    if name.startswith("docs/") and not name.endswith(".py"):
        return name.removeprefix("docs/")
    return "index.md" if name == "README.md" else f"source/{name}.md"


def _sources(page: str, markdown: str) -> Iterator[str]:
    """The repository's files outside docs/ that a page links to."""
    for link in LINK.findall(markdown):
        target = _target(page, link)
        if target.startswith("source/"):
            yield target.removeprefix("source/").removesuffix(".md")
