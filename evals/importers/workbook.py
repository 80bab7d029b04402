"""Excel workbooks, as VLMEvalKit writes its tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from openpyxl.reader.excel import ExcelReader

BROKEN = (ValueError, OSError, KeyError, TypeError, SyntaxError, BadZipFile)
"""What reading a damaged table raises; XML's errors are SyntaxErrors."""


def read_workbook(path: Path) -> pd.DataFrame:
    """The first sheet, every cell as text. Raises one of BROKEN for a file that is none.

    A workbook holds as `_x000D_` what XML cannot, and as `_x005F_x000D_` a text that looks so. openpyxl takes half of
    that back, after which the two are the same: so its texts are read as they stand.
    """
    import pandas as pd
    from openpyxl.reader.excel import ExcelReader

    reader = ExcelReader(path, data_only=True)
    reader.read_strings = lambda: reader.shared_strings.extend(_shared_strings(reader))
    reader.read()
    frame = pd.read_excel(reader.wb, dtype=str, keep_default_na=False, engine="openpyxl")
    return frame.rename(columns=unescaped).map(unescaped)


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
    text = re.sub(r"_x([0-9A-Fa-f]{4})_", lambda found: chr(int(found[1], 16)), cell)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
