"""What lies in a checkpoint folder, examined before anything of it is loaded: files, headers, names. No torch here.

lmmr1/checkpoint.py examines the rest, what only the loaded configuration and tokenizer tell, and tries it once.
docs/checkpoints.md has the table of what is refused, what is mended and what simply works.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from lmmr1.lines import from_json
from lmmr1.types import UserError

MODEL_TYPE = "qwen2_5_vl"
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
OBJECTS = (
    "config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json", "vocab.json",
    "added_tokens.json", "special_tokens_map.json", "preprocessor_config.json", "processor_config.json",
    "video_preprocessor_config.json", "chat_template.json", INDEX,
)  # fmt: skip
"""JSON files that are loaded where they are there. transformers passes over a damaged generation config in silence."""
TEXTS = ("chat_template.jinja", "merges.txt")
TOKENIZERS = ("tokenizer.json", "vocab.json", "tokenizer.model")
POINTER = b"version https://git-lfs.github.com/spec/"
BOM = b"\xef\xbb\xbf"
FLOATS = ("F64", "F32", "F16", "BF16")
"""Types of tensors that are weights as they are; others are packed, or need scales that lie elsewhere."""
OUTER = re.compile(r"^(model\.)?(language_model\.)?")
"""How the names of tensors begin, in older releases or newer ones."""

AGAIN = "get it again"
INSTEAD = {
    "snapshots/*/config.json": "the Hub's cache of a model; give the folder snapshots/COMMIT in it",
    "*.distcp": "the sharded state of a training run; merge it (accelerate merge-weights) and give the merged folder",
    "*/*.distcp": "the sharded state of a training run; merge it (accelerate merge-weights) and give the merged folder",
    "global_step*": "the state of a DeepSpeed run; convert it (its zero_to_fp32.py) and give the converted folder",
    "state.json": "a resume point; run its training to the end and give the folder `final`",
    "optimizer.*": "the state of an optimizer; give the folder that the model was saved in",
    "*.bin": "pickled weights, which could run code and are never loaded; convert them to .safetensors",
    "*.pt": "pickled weights, which could run code and are never loaded; convert them to .safetensors",
    "*.pth": "pickled weights, which could run code and are never loaded; convert them to .safetensors",
    "*.gguf": "weights in GGUF format; give the checkpoint that they were made from",
    "*/config.json": "a folder that holds a checkpoint's folder; give that one",
}
"""What may lie where a model's weights should, the first that is found, and what to do then."""


def examine_files(folder: Path) -> None:
    """Raise UserError, naming file, value and fix, where the folder's files cannot be those of a whole model."""
    _require_folder(folder)
    if (folder / "adapter_config.json").exists():
        raise _adapter(folder)
    if not (folder / "config.json").exists() and not (folder / "config.json").is_symlink():
        raise UserError(f"{folder}: not a checkpoint folder, it has no config.json{_instead(folder)}")
    for name in (*OBJECTS, *TEXTS):
        _require_whole(folder / name)
    config = read_object(folder / "config.json")
    _require_architecture(folder / "config.json", config)
    _require_plain(folder / "config.json", config)
    tensors = read_headers(folder)
    for name, (file, kind, _) in tensors.items():
        if kind not in FLOATS:
            raise UserError(
                f"{file}: tensor {name} is of type {kind}, so the weights are quantized or packed; this suite computes "
                f"with {', '.join(FLOATS)} only; give the checkpoint that they were made from"
            )
    _require_processor(folder)


def _require_folder(folder: Path) -> None:
    if folder.is_file():
        raise UserError(f"{folder}: a file, not a checkpoint folder; give the folder that holds it")
    if not folder.is_dir():
        raise UserError(f"{folder}: no such checkpoint folder")
    try:
        next(folder.iterdir(), None)
    except OSError as e:
        raise UserError(f"{folder}: cannot be read ({e.strerror}); change its permissions") from None


def _adapter(folder: Path) -> UserError:
    """An adapter is no model; beside weights transformers would load another base than the one that lies here."""
    if any((folder / name).exists() for name in (WHOLE, INDEX)):
        what = "an adapter beside whole weights, and which of both is meant nobody can tell"
        return UserError(f"{folder}/adapter_config.json: {what}; move the adapter's files to another folder")
    _require_whole(folder / "adapter_config.json")
    base = read_object(folder / "adapter_config.json").get("base_model_name_or_path") or "its base"
    return UserError(
        f"{folder}: an adapter, not a model (adapter_config.json); merge it into {base} and give the merged folder "
        "(docs/checkpoints.md shows how)"
    )


def _instead(folder: Path) -> str:
    """What lies here in the place of a model, as the end of a sentence."""
    for pattern, what in INSTEAD.items():
        if found := next(iter(sorted(folder.glob(pattern))), None):
            return f", but {found.relative_to(folder)}: {what}"
    return "; give a folder in Hugging Face format"


def _require_whole(path: Path) -> None:
    """Raise UserError where a file that would be loaded is a dead link, a pointer, empty, or no text or JSON."""
    if path.is_symlink() and not path.exists():
        raise UserError(f"{path}: a link to {path.readlink()}, which is not there; {AGAIN}")
    if not path.exists():
        return
    start = _start(path)
    if start.startswith(POINTER):
        raise UserError(f"{path}: a git LFS pointer, not the file; run `git lfs pull` in its folder, or {AGAIN}")
    if not start:
        raise UserError(f"{path}: empty; {AGAIN}")
    if start.startswith(BOM):
        raise UserError(f"{path}: begins with a byte-order mark; save it as UTF-8 without one")
    if path.suffix == ".json":
        read_object(path)
    elif path.suffix != ".safetensors":
        _text(path)


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(len(POINTER))
    except OSError as e:
        raise UserError(f"{path}: cannot be read ({e.strerror}); change its permissions, or {AGAIN}") from None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as e:
        raise UserError(f"{path}: not UTF-8 (byte {e.start}); {AGAIN}") from None


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object. Raises UserError where it is none."""
    try:
        value = from_json(_text(path))
    except json.JSONDecodeError as e:
        raise UserError(f"{path}: damaged or cut off, not JSON ({e}); {AGAIN}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, got {type(value).__name__}; {AGAIN}")
    return value


def _require_architecture(path: Path, config: dict[str, Any]) -> None:
    found = config.get("model_type")
    if found != MODEL_TYPE:
        raise UserError(
            f"{path}: model_type is {found!r}; this core computes {MODEL_TYPE!r} only: give a Qwen2.5-VL checkpoint"
        )


def _require_plain(path: Path, config: dict[str, Any]) -> None:
    """Raise UserError, with the method, for quantized weights."""
    parts = [config]
    while parts:  # it may be said for the text layers or the vision tower alone
        part = parts.pop()
        parts += [value for value in part.values() if isinstance(value, dict)]
        for key in ("quantization_config", "compression_config"):
            if settings := part.get(key):
                raise UserError(
                    f"{path}: {key}: weights quantized with {_method(settings)}, and this suite computes with plain "
                    "ones only; give the checkpoint that was quantized, or dequantize it"
                )


def _method(settings: Any) -> str:
    """The name of a quantization and its bits, as far as they are said."""
    if not isinstance(settings, dict):
        return repr(settings)[:80]
    loaded = next((bits for bits in (4, 8) if settings.get(f"load_in_{bits}bit")), None)
    name, bits = settings.get("quant_method") or ("bitsandbytes" if loaded else "no named method"), settings.get("bits")
    return f"{name} ({bits or loaded} bits)" if bits or loaded else str(name)


def _require_processor(folder: Path) -> None:
    """Raise UserError where tokenizer or image processor are not there: transformers would make up an empty one."""
    wanted = {
        TOKENIZERS: "tokenizer",
        ("tokenizer_config.json",): "tokenizer settings",
        ("preprocessor_config.json", "processor_config.json"): "image processor",
    }
    for names, what in wanted.items():
        if not any((folder / name).exists() for name in names):
            raise UserError(f"{folder}: no {what} ({' or '.join(names)}); copy it from the checkpoint it was made from")


# ----------------------------------------------------------------------------------------------------------- weights

Header = dict[str, tuple[Path, str, tuple[int, ...]]]
"""Tensor: its file, type as safetensors calls it, and shape."""


def weight_files(folder: Path) -> list[Path]:
    """The files of the weights: one, or the shards that the index names. Raises UserError where it is unclear which."""
    whole, index = folder / WHOLE, folder / INDEX
    if whole.exists() and index.exists():
        raise UserError(f"{folder}: both {WHOLE} and {INDEX}, two sets of weights; delete the one that is not meant")
    if whole.exists() or whole.is_symlink():
        return [whole]
    if not index.exists():
        shards = any(folder.glob("*-of-*.safetensors"))
        rest = f", which says what is in which shard; {AGAIN}" if shards else _instead(folder)
        raise UserError(f"{folder}: no weights, neither {WHOLE} nor {INDEX}{rest}")
    return [folder / name for name in sorted(set(_weight_map(index).values()))]


def _weight_map(index: Path) -> dict[str, str]:
    """{tensor: shard}. Raises UserError where the index holds none, or names files elsewhere."""
    found = read_object(index).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise UserError(f"{index}: no `weight_map`; {AGAIN}")
    for tensor, shard in found.items():
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise UserError(f"{index}: tensor {tensor} is in {shard!r}, which is no file of this folder; {AGAIN}")
    return found


def read_headers(folder: Path) -> Header:
    """All tensors of the weights, by the headers of their files. Raises UserError where file, shard or tensor lacks."""
    files = weight_files(folder)
    missing = [file for file in files if not file.exists() and not file.is_symlink()]
    if missing:
        raise UserError(f"{missing[0]}: missing, one of {len(files)} shards that {INDEX} names; {AGAIN}")
    tensors: Header = {}
    for file in files:
        _require_whole(file)
        for name, (kind, shape) in _header(file).items():
            if name in tensors:
                raise UserError(f"{file}: tensor {name} is also in {tensors[name][0].name}; {AGAIN}")
            tensors[name] = file, kind, shape
    _require_one_name_each(tensors)
    for name, shard in _weight_map(folder / INDEX).items() if files[0].name != WHOLE else ():
        if name not in tensors or tensors[name][0].name != shard:
            raise UserError(f"{folder / INDEX}: tensor {name} is not in {shard}; {AGAIN}")
    return tensors


def _require_one_name_each(tensors: Header) -> None:
    """Raise UserError where a tensor is there twice, by its names in two releases: one would be dropped unseen."""
    seen: dict[str, str] = {}
    for name, (file, *_) in tensors.items():
        other = seen.setdefault(OUTER.sub("", name), name)
        if other != name:
            raise UserError(
                f"{file}: tensor {name} is also there as {other}, as other releases call it; delete the one that is "
                "not meant"
            )


def _header(file: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of each tensor of a file, whose size is that which the header asks for."""
    try:
        with safe_open(file, "np") as weights:
            slices = {name: weights.get_slice(name) for name in weights.keys()}  # noqa: SIM118
            found = {name: (str(part.get_dtype()), tuple(part.get_shape())) for name, part in slices.items()}
    except (SafetensorError, OSError, ValueError) as e:
        raise UserError(f"{file}: damaged or cut off ({' '.join(str(e).split())[:200]}); {AGAIN}") from None
    if not found:
        raise UserError(f"{file}: holds no tensor; {AGAIN}")
    return found
