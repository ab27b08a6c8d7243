"""What is written down to be pasted: fenced blocks of documents, the commands among them, the cells of a notebook."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))


def fences(text: str, *languages: str) -> list[tuple[str, str]]:
    """(language, content) of the fenced blocks, of all languages or of these."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [(language, content) for language, content in found if not languages or language in languages]


def section(text: str, title: str) -> str:
    """What stands below a heading of the second level."""
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def commands(text: str) -> Iterator[list[str]]:
    """The words of every command of a document: lines of `sh` blocks, and code spans that call Python on a script.

    Shell variables set in a block are put in, `for` and `do` left out.
    """
    for _, block in fences(text, "sh"):
        values: dict[str, str] = {}
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            words = shlex.split(line, comments=True)
            if not words or words[0] in ("for", "done"):
                continue
            if assigned := re.fullmatch(r"(\w+)=(.*)", words[0]):
                values[assigned[1]] = assigned[2]
                words = words[1:]
            if not words:
                continue
            put_in = (values[word[1:]].split() if word.removeprefix("$") in values else [word] for word in words)
            yield [word for put in put_in for word in put]
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    for span in re.findall(r"`([^`]*\bpython\s[^`]*\.py\b[^`]*)`", prose):
        yield shlex.split(span)


def cells(notebook: Path) -> list[dict]:
    """The code cells of a notebook, their source as one text."""
    found = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [{**cell, "source": "".join(cell["source"])} for cell in found if cell["cell_type"] == "code"]
