"""A report as one HTML file that asks nothing of the network: styles, script and pictures are part of it."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import jinja2
from markupsafe import Markup, escape

from nhn_tf.report import drawing, elements
from nhn_tf.report.elements import Block, Page, Text
from nhn_tf.report.placement import LAYER, Layout

SVG: Final = "image/svg+xml"
PNG: Final = "image/png"


class Shown(NamedTuple):
    """A picture as the page embeds it.

    Attributes:
      kind: its media type.
      wide: the file.
      narrow: the same for screens as narrow as a phone's; None where one file does for both.
      photo: whether its colours must stay as they are in the dark.
    """

    kind: str
    wide: bytes
    narrow: bytes | None = None
    photo: bool = False


def render(page: Page, pictures: Mapping[str, Shown | Layout]) -> str:
    """The text of report.html.

    Args:
      page: the report; its pictures that are not among `pictures` are left out.
      pictures: by the names that the page gives them; a network's layout becomes a drawing that tells what is what.
    """
    return _environment().get_template("report.html.j2").render(page=page, pictures=pictures)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("nhn_tf.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"text": _text, "plain": _plain, "data": _data, "u": _units, "anchor": _anchor}
    environment.tests["layout"] = lambda picture: isinstance(picture, Layout)
    environment.globals |= {
        "kind": _kind,
        "edge": LAYER[0] / 2,
        "fill_of": drawing.fill_of,
        "hatch_of": drawing.hatch_of,
        "line_color": drawing.line_color,
        "darker": drawing.darker,
    }
    return environment


def _kind(block: Block) -> str:
    return type(block).__name__


def _text(text: Text) -> Markup:
    """A text with its pieces marked up."""
    tags = {elements.Code: "code", elements.Strong: "strong"}
    told = Markup("")
    for piece in elements.pieces(text):
        tag = tags.get(type(piece))
        told += Markup(f"<{tag}>{{}}</{tag}>").format(piece) if tag and piece else escape(piece)
    return told


def _plain(text: Text) -> str:
    return "".join(elements.pieces(text))


def _anchor(title: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in title.lower()).split())


def _data(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _units(inches: Any) -> str:
    """A length in the drawing's units, 100 to an inch."""
    return f"{100 * inches:.1f}"
