"""Where programs that this suite starts may keep what they cache."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

VARIABLE = "XDG_CACHE_HOME"


def environment() -> dict[str, str]:
    """The environment for Snakemake, which ends at once where the folder for caches cannot be written.

    Then, as with a HOME that is read-only or not there, a folder below the temporary one stands for it.
    """
    folder = Path(os.environ.get(VARIABLE) or os.path.expanduser("~/.cache"))  # noqa: PTH111  with HOME unset, too
    if _writable(folder / "snakemake"):
        return dict(os.environ)
    return os.environ | {VARIABLE: str(Path(tempfile.gettempdir()) / f"lmmr1-cache-{os.getuid()}")}


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
