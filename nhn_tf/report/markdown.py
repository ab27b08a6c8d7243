"""A report as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from nhn_tf.report import elements
from nhn_tf.report.elements import Block, Page, Text


def render(page: Page) -> str:
    """The text of report.md; its pictures are the PNG files beside it."""
    parts = [f"# {_text(page.title)}"]
    for section in page.sections:
        parts += [f"## {_text(section.title)}", *map(_block, section.blocks)]
    return "\n\n".join(parts) + "\n"


def _block(block: Block) -> str:
    match block:
        case elements.Paragraph(text):
            return _text(text)
        case elements.Heading(text):
            return f"### {_text(text)}"
        case elements.Bullets(items):
            return "\n".join(f"- {_text(item)}" for item in items)
        case elements.Listing(text):
            return "```\n" + text.rstrip("\n") + "\n```"
        case elements.Table(head, rows, right):
            return _table(head, rows, right)
        case elements.Picture(name, alt, caption):
            picture = f"![{_text(alt)}]({name}.png)"
            return f"{picture}\n\n{_text(caption)}" if caption else picture


def _table(head: Sequence[Text], rows: Iterable[Sequence[Text]], right: Sequence[int]) -> str:
    lines = [[_text(cell) for cell in line] for line in (head, *rows)]
    lines.insert(1, ["---:" if column in right else "---" for column in range(len(head))])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _text(text: Text) -> str:
    return "".join(map(_piece, elements.pieces(text)))


def _piece(piece: str) -> str:
    match piece:
        case elements.Code():
            return f"`{_line(piece).replace('`', chr(39)).replace('|', chr(92) + '|')}`" if piece else ""
        case elements.Strong():
            return f"**{_plain(piece)}**" if piece else ""
    return _plain(piece)


def _plain(text: str) -> str:
    """`text` on one line, with what Markdown would take for markup made harmless."""
    return re.sub(r"([\\`*\[\]<>|]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", _line(text))


def _line(text: str) -> str:
    return re.sub(r"\s+", " ", text)
