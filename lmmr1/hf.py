"""What we use of transformers, imported without scikit-learn.

transformers loads it, where it is installed, for a stopping rule of assisted decoding that nothing here uses: a
quarter of the time until a process has its first model.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

utils: Any = import_module("transformers.utils")


def _import_without_sklearn(module: str) -> None:
    really = utils.is_sklearn_available
    utils.is_sklearn_available = lambda: False
    try:
        import_module(module)
    finally:
        utils.is_sklearn_available = really


_import_without_sklearn("transformers.generation.candidate_generator")

from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor  # noqa: E402
from transformers.modeling_outputs import BaseModelOutputWithPooling  # noqa: E402

__all__ = ["AutoConfig", "AutoModelForImageTextToText", "AutoProcessor", "BaseModelOutputWithPooling"]
