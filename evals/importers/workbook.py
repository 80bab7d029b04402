"""Excel workbooks, as VLMEvalKit writes its tables."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from openpyxl.reader.excel import ExcelReader

BROKEN = (ValueError, OSError, KeyError, TypeError, SyntaxError, RecursionError, BadZipFile, csv.Error)
"""What reading a damaged table raises; XML's errors are SyntaxErrors."""

COMPUTED = ("hit", "score")
"""Columns that a person may have had a spreadsheet compute; what looks like a formula elsewhere is a text."""

ESCAPE = re.compile(r"_x([0-9A-Fa-f]{4})_")


def read_workbook(path: Path) -> pd.DataFrame:
    """The first sheet, every cell as text. Raises one of BROKEN for a file that is none.

    A workbook holds as `_x000D_` what XML cannot, and as `_x005F_x000D_` a text that looks so. openpyxl takes half of
    that back, after which the two are the same: so its texts are read as they stand.

    VLMEvalKit's writer takes a text for a formula where it begins with `=`, and writes 0 for its value: the text is the
    formula. Columns of COMPUTED have their values.
    """
    frame = _frame(path, values=False)
    computed = [name for name in COMPUTED if name in frame and frame[name].str.startswith("=").any()]
    if computed:
        frame[computed] = _frame(path, values=True)[computed]
    return frame


def _frame(path: Path, values: bool) -> pd.DataFrame:
    """values: whether formulas give their values, and not themselves."""
    import pandas as pd
    from openpyxl.reader.excel import ExcelReader

    reader = ExcelReader(path, data_only=values)
    reader.read_strings = lambda: reader.shared_strings.extend(_shared_strings(reader))
    reader.read()
    for cell in itertools.chain(*(row for sheet in reader.wb.worksheets[:1] for row in sheet.iter_rows())):
        if cell.data_type == "f":  # a formula's text has no escapes that could be taken back
            cell._value, cell.data_type = ESCAPE.sub(r"_x005F_x\1_", written(cell.value)), "s"
    frame = pd.read_excel(reader.wb, dtype=str, keep_default_na=False, engine="openpyxl")
    return frame.rename(columns=unescaped).map(unescaped)


def written(formula: Any) -> str:
    """The text that xlsxwriter made a formula of, from what openpyxl reads.

    xlsxwriter cuts off a brace at the end; it was there where one is missing, unless the text ended too early. It puts
    `_xlfn.` before names of functions, and the braces around `{=...}` into the kind of the formula.

    >>> written("= 5"), written("=x^{2"), written("=_xlfn.LET(x)")
    ('= 5', '=x^{2}', '=LET(x)')
    """
    read = str(getattr(formula, "text", formula) or "=")  # an array formula is an object
    text = re.sub(r"_xlfn\.(?:_xlws\.)?", "", read)
    if text == read and not isinstance(formula, str):
        return f"{{{text}}}"
    return text + "}" * (text.count("{") == text.count("}") + 1)


def _shared_strings(reader: ExcelReader) -> Iterator[str]:
    from openpyxl.cell.text import Text
    from openpyxl.xml.constants import SHARED_STRINGS, SHEET_MAIN_NS
    from openpyxl.xml.functions import iterparse

    part = reader.package.find(SHARED_STRINGS)
    if part is not None:
        with reader.archive.open(part.PartName[1:]) as source:
            for _, node in iterparse(source):
                if node.tag == f"{{{SHEET_MAIN_NS}}}si":
                    yield Text.from_tree(node).content
                    node.clear()


def unescaped(cell: Any) -> Any:
    """A cell's text without a workbook's escapes, read once from left to right; two halves of a character are one.

    >>> unescaped("B_x000D_"), unescaped("_x005F_x000D_"), unescaped("a_x41_")
    ('B\\r', '_x000D_', 'a_x41_')
    """
    if not isinstance(cell, str):
        return cell
    text = ESCAPE.sub(lambda found: chr(int(found[1], 16)), cell)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
