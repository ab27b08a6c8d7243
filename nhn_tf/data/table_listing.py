"""A table of pictures: a CSV file whose rows are path,label or path,label,split.

The first row may name the columns, in any order; paths start from the table's folder, or from the root of the file
system. Commas, semicolons or tabs part the cells. The file is UTF-8, whatever the locale.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from nhn_tf.data.listing import SPLIT_CALLED, TRAIN, Listing, Picture
from nhn_tf.data.skipped_files import LeftOut, one_form, readable
from nhn_tf.data.splits import DataError
from nhn_tf.storage import files

UNLABELLED: Final = "rows without a path or a label"
REPEATED: Final = "rows that name a picture again"
MOST_BYTES: Final = 2**30
_COLUMNS: Final = {
    "path": ("path", "file", "filename", "file_name", "filepath", "image", "image_path"),
    "label": ("label", "class", "class_name", "target", "category"),
    "split": ("split", "set", "subset", "fold"),
}
_NAMED: Final = {word: column for column, words in _COLUMNS.items() for word in words}


def read(table: Path) -> Listing:
    """Lists the pictures that a table names. Rows without a split are training images.

    Raises:
      DataError: there is no such file, it is no table of paths and labels, or a split has an unknown name.
    """
    rows = _rows(table, _text(table))
    columns = _columns(table, rows)
    splits: dict[str, list[Picture]] = {}
    left_out: list[LeftOut] = []
    seen: dict[str, str] = {}
    for number, row in rows:
        cells = {column: row[place].strip() if place < len(row) else "" for column, place in columns.items()}
        path, label = os.fsdecode(cells["path"].encode()), one_form(cells["label"])
        if not path or not label:
            left_out.append(LeftOut(readable(path) or f"row {number}", UNLABELLED))
            continue
        if path in seen:
            if seen[path] != label:
                raise DataError(f"{table}, row {number}: {readable(path)} is '{label}', and '{seen[path]}' before.")
            left_out.append(LeftOut(readable(path), REPEATED, f"row {number}"))
            continue
        seen[path] = label
        splits.setdefault(_split(table, number, cells.get("split", "")), []).append(
            Picture(label, readable(path), path)
        )
    return Listing(table.parent, {split: tuple(sorted(found)) for split, found in splits.items()}, tuple(left_out))


def _text(table: Path) -> str:
    if table.is_dir():
        raise DataError(f"{table} is a folder, no table. Pass `dataset`=folder, or name the CSV file.")
    try:
        return files.read_bytes(table, limit=MOST_BYTES).decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"There is no file {table}. Pass `data_dir`=labels.csv, rows of path,label[,split].") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{table} is no table in UTF-8: {error}.\nSave it as UTF-8.") from None


def _rows(table: Path, text: str) -> list[tuple[int, list[str]]]:
    """The rows that hold anything, with their numbers from 1."""
    head = text.partition("\n")[0]
    try:
        parsed = list(csv.reader(text.splitlines(), delimiter=max(",;\t", key=head.count), strict=True))
    except csv.Error as error:
        raise DataError(f"{table} is no table of cells parted by commas: {error}.") from None
    rows = [(number, row) for number, row in enumerate(parsed, 1) if any(cell.strip() for cell in row)]
    if not rows or len(rows[0][1]) < 2:
        raise DataError(f"{table} must have rows of path,label or path,label,split. Received: {head[:80]!r}.")
    return rows


def _columns(table: Path, rows: list[tuple[int, list[str]]]) -> dict[str, int]:
    """The place of each column; a first row of names is taken out of `rows`."""
    head: Sequence[str] = [cell.strip().casefold() for cell in rows[0][1]]
    named = {_NAMED[word]: place for place, word in reversed(list(enumerate(head))) if word in _NAMED}
    if {"path", "label"} <= set(named):
        del rows[0]
        return named
    if len(head) > 3:
        raise DataError(
            f"{table} has {len(head)} columns: its first row must name them, path,label and maybe split.\n"
            f"Received: {', '.join(rows[0][1])[:80]}."
        )
    return dict(zip(_COLUMNS, range(len(head)), strict=False))


def _split(table: Path, number: int, called: str) -> str:
    if called and called.casefold() not in SPLIT_CALLED:
        raise DataError(
            f"{table}, row {number}: a split must be among {', '.join(SPLIT_CALLED)}. Received: {called!r}."
        )
    return SPLIT_CALLED.get(called.casefold(), TRAIN)
