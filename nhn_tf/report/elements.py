"""What a report is made of, before it is set as Markdown or as HTML: texts, tables, pictures, in sections."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence


class Code(str):
    """A piece of text that is typed or read by a machine: a file, a figure's name, a command."""

    __slots__ = ()


class Strong(str):
    """A piece of text that stands out."""

    __slots__ = ()


Text = str | tuple[str, ...]
"""A text, or its pieces; nothing in it is markup."""


def pieces(text: Text) -> tuple[str, ...]:
    """The pieces of a text; those that are neither `Code` nor `Strong` are plain."""
    return (text,) if isinstance(text, str) else text


@dataclasses.dataclass(frozen=True)
class Paragraph:
    """A paragraph."""

    text: Text


@dataclasses.dataclass(frozen=True)
class Heading:
    """A heading within a section."""

    text: Text


@dataclasses.dataclass(frozen=True)
class Bullets:
    """A list."""

    items: Sequence[Text]


@dataclasses.dataclass(frozen=True)
class Listing:
    """Lines as they are typed."""

    text: str


@dataclasses.dataclass(frozen=True)
class Table:
    """A table; `right` are the columns that are set flush right."""

    head: Sequence[Text]
    rows: Sequence[Sequence[Text]]
    right: Sequence[int] = ()


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture: its name, what it shows for who cannot see it, and what is written below it.

    A name with a slash is a PNG file elsewhere, as seen from the report's directory.
    """

    name: str
    alt: str
    caption: Text = ""


Block = Paragraph | Heading | Bullets | Listing | Table | Picture


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the report. `details` is what few readers look for: a page may fold it."""

    title: str
    blocks: Sequence[Block]
    details: bool = False


@dataclasses.dataclass(frozen=True)
class Page:
    """A whole report."""

    title: str
    sections: Sequence[Section]
