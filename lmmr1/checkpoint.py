"""One place that loads a checkpoint, and refuses what is not whole before anything is computed.

Training, TRL, vLLM and every evaluation come through here. transformers alone would fill what is missing with random
numbers, drop what it does not know, and pass over damaged files; docs/checkpoints.md lists what happens instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import GenerationConfig

from lmmr1.checkpoint_files import AGAIN, examine_files, weight_files
from lmmr1.checkpoint_trial import loading, try_model, try_processor
from lmmr1.exits import shortage
from lmmr1.hf import AutoConfig, AutoModelForImageTextToText, AutoProcessor
from lmmr1.hub_commits import is_hub_id, resolve, snapshot, split_revision
from lmmr1.types import UserError

COMPUTED = {"layer_types": {"full_attention"}, "hidden_act": "silu", "attention_dropout": 0.0}
"""What `suffix.py` computes of the text layers."""

BUFFERS = ("inv_freq",)
"""Ends of names that older releases saved although nobody reads them."""

PATCHES = {"patch_size": "patch_size", "merge_size": "spatial_merge_size", "temporal_patch_size": "temporal_patch_size"}
"""Settings of the image processor, and what the vision tower calls them."""

PROBE = "What is 6 x 7?"

LENGTHS = ("max_length", "truncation", "truncation_strategy", "stride", "padding", "pad_to_multiple_of")
"""What a tokenizer's files may say of how long prompts are."""

THROUGH = ("embed_tokens.weight", "lm_head.weight", "model.norm.weight", "language_model.norm.weight")
"""Ends of the names of tensors that everything passes through."""


def examine(source: str, revision: str | None = None) -> tuple[Any, Any]:
    """Model (without its weights' values) and processor of a checkpoint that is whole: reads all, computes nothing.

    Raises UserError where `load_policy` would.
    """
    folder, _ = locate(source, revision)
    processor = read_processor(folder)
    model = read_model(folder, torch.float32, on_meta=True)
    require_fit(model, processor, folder)
    require_finite(_stored(folder), folder)
    heads = {n: t for n, t in _stored(folder) if n.endswith(("lm_head.weight", "embed_tokens.weight"))}
    if model.config.tie_word_embeddings and len(heads) == 2 and not torch.equal(*heads.values()):
        raise _untied(folder)
    return model, processor


def locate(source: str, revision: str | None = None) -> tuple[Path, str | None]:
    """The folder of a checkpoint, its files examined, and its commit where `source` is a Hub id.

    Raises UserError where it is neither, or the folder is not whole.
    """
    folder = Path(source)
    if not folder.exists():
        if not is_hub_id(source):
            raise UserError(f"{source}: no such checkpoint folder, and not a Hub id of the form owner/name")
        repository, asked = split_revision(source)
        revision = revision or resolve(repository, asked)
        folder = snapshot(repository, revision)
    examine_files(folder)
    return folder, revision


# --------------------------------------------------------------------------------------------------------- processor


def load_processor(
    source: str, revision: str | None = None, min_pixels: int | None = None, max_pixels: int | None = None
) -> Any:
    """A checkpoint's tokenizer, chat template and image processor, with other bounds of the image area if given.

    Raises UserError where they cannot be loaded or used.
    """
    return read_processor(locate(source, revision)[0], min_pixels, max_pixels)


def read_processor(folder: Path, min_pixels: int | None = None, max_pixels: int | None = None) -> Any:
    """The same of a folder whose files were examined."""
    with loading(folder, "config.json"):
        AutoConfig.from_pretrained(folder, trust_remote_code=False)  # the processor reads it, and would be blamed
    with loading(folder, "tokenizer or image processor"):
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    tokenizer = processor.tokenizer
    for how_it_was_loaded in ("local_files_only", "is_local"):  # saved with it, they would depend on $HF_HUB_OFFLINE
        tokenizer.init_kwargs.pop(how_it_was_loaded, None)
    _forget_lengths(tokenizer)
    if tokenizer.eos_token_id is None:
        raise UserError(f"{folder}/tokenizer_config.json: no eos_token, so no answer would end; name one")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # padding is masked: which token it is decides nothing
    prompt = _use_template(processor, folder)
    try_processor(processor, prompt, folder)
    pixels = {"shortest_edge": min_pixels, "longest_edge": max_pixels}
    processor.image_processor.size = dict(processor.image_processor.size) | {k: v for k, v in pixels.items() if v}
    return processor


def _forget_lengths(tokenizer: Any) -> None:
    """Cut and fill up nothing by what was on when the tokenizer was saved: who encodes a prompt sets its length."""
    for name in LENGTHS:  # the processor would hand them to every call
        tokenizer.init_kwargs.pop(name, None)
    if tokenizer.is_fast:
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()


def _use_template(processor: Any, folder: Path) -> str:
    """Have the chat template where the processor looks for it; releases of 2024 have it in the tokenizer's settings.

    Returns what it makes of a question with an image. Raises UserError where there is none, or that lacks one of both.
    """
    template = processor.chat_template or processor.tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if not template:
        where = "chat_template.jinja, chat_template.json, or `chat_template` in tokenizer_config.json"
        raise UserError(f"{folder}: no chat template ({where}); copy it from the checkpoint that it was made from")
    processor.chat_template = template
    for content in (PROBE, [{"type": "image"}, {"type": "text", "text": PROBE}]):
        said, marks = render(processor, [{"role": "user", "content": content}], str(folder)), content is not PROBE
        if PROBE not in said or said.count(processor.image_token) != marks:
            shown = f"{said.count(processor.image_token)} marks {processor.image_token} for {int(marks)} image"
            raise UserError(
                f"{folder}: the chat template does not fit {type(processor).__name__} "
                f"({'the question is lost' if PROBE not in said else shown}); "
                "take both from the checkpoint that it was made from"
            )
    return said


def render(processor: Any, messages: list[dict[str, Any]], name: str) -> str:
    """Messages as the prompt's text, with the generation prompt. Raises UserError where the chat template refuses."""
    try:
        return processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    except Exception as e:  # a template is a program: it divides by zero, or calls itself without end
        if shortage(e):
            raise
        endless = "RecursionError: it calls itself without end"  # Python's own words depend on where it stopped
        reason = endless if isinstance(e, RecursionError) else " ".join(str(e).split())[:200]
        raise UserError(f"{name}: the chat template cannot render these messages ({reason}); mend it") from None


# ------------------------------------------------------------------------------------------------------------- model


def read_model(folder: Path, dtype: torch.dtype, on_meta: bool = False) -> Any:
    """The model of a folder whose files were examined, on the CPU; with `on_meta` without its weights' values.

    Raises UserError where its tensors are not those that config.json asks for, or it is one that `suffix.py` does not
    compute.
    """
    with loading(folder, "the model"):
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, trust_remote_code=False, output_loading_info=True,
            ignore_mismatched_sizes=True, **({"device_map": {"": "meta"}} if on_meta else {}),
        )  # fmt: skip
    model, info = loaded
    _require_same_tensors(info, folder)
    _require_computed(model.config.get_text_config(), folder)
    model.generation_config = savable(model.generation_config)
    tied = model.config.tie_word_embeddings and not on_meta
    if tied and model.lm_head.weight is not model.get_input_embeddings().weight:
        raise _untied(folder)
    return model


def _require_same_tensors(info: dict[str, Any], folder: Path) -> None:
    """Raise UserError where transformers drew weights at random or left some aside."""
    for name, stored, wanted in sorted(info["mismatched_keys"]):
        sizes = f"shape {_shape(stored)} in the weights, {_shape(wanted)} by config.json"
        which = " (vocab_size)" if name.endswith(("embed_tokens.weight", "lm_head.weight")) else ""
        raise UserError(f"{folder}: tensor {name} has {sizes}{which}; get both from one place")
    kinds = {
        "missing tensors": sorted(info["missing_keys"]),
        "tensors too many": sorted(n for n in info["unexpected_keys"] if not n.endswith(BUFFERS)),
    }
    if found := [f"{what}: {names[0]}{_and_more(names)}" for what, names in kinds.items() if names]:
        raise UserError(f"{folder}: weights and config.json do not fit, {'; '.join(found)}; get both from one place")


def _and_more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _shape(size: Iterable[int]) -> str:
    return "x".join(map(str, size))


def _require_computed(config: Any, folder: Path) -> None:
    """Raise UserError unless the text layers are those that `suffix.py` computes: full attention, SiLU, no dropout."""
    found = {
        "layer_types": set(getattr(config, "layer_types", None) or ["full_attention"]),
        "hidden_act": config.hidden_act,
        "attention_dropout": config.attention_dropout,
    }
    for key, value in COMPUTED.items():
        if found[key] != value:
            raise UserError(f"{folder}/config.json: {key} is {found[key]!r}; this core computes {value!r} only")


def savable(generation: GenerationConfig) -> GenerationConfig:
    """A generation config that transformers will save: without what it holds against itself, like a temperature
    beside do_sample: false. Nothing here reads more of it than the tokens."""
    try:
        generation.validate(strict=True)
        return generation
    except (ValueError, TypeError):
        padding = {
            k: v for k in ("bos_token_id", "pad_token_id") if isinstance(v := getattr(generation, k), int) and v >= 0
        }
        return GenerationConfig(do_sample=False, eos_token_id=generation.eos_token_id, **padding)


def _untied(folder: Path) -> UserError:
    return UserError(
        f"{folder}: config.json ties lm_head to the embeddings (tie_word_embeddings), and the weights hold two that "
        "differ; set it to false where both are meant, or delete lm_head.weight"
    )


def _stored(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors of the weights, one after another."""
    for file in weight_files(folder):
        with safe_open(file, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118
                yield name, weights.get_tensor(name)


@torch.no_grad()
def require_finite(tensors: Iterable[tuple[str, torch.Tensor]], folder: Path) -> None:
    """Raise UserError for weights with NaN or infinity, or with zeros where everything passes: they answer, and what
    they answer is scored."""
    for name, tensor in tensors:
        if not tensor.sum().isfinite() and not (finite := tensor.isfinite()).all():  # a sum is quick and needs no room
            bad = int((~finite).sum())
            raise UserError(f"{folder}: tensor {name} has values that are NaN or infinite ({bad}); {AGAIN}")
        if name.endswith(THROUGH) and not tensor.any():
            raise UserError(f"{folder}: tensor {name} is all zeros, so nothing of a question gets through; {AGAIN}")


# -------------------------------------------------------------------------------------------------- both of one model


def require_fit(model: Any, processor: Any, folder: Path) -> None:
    """Raise UserError where tokenizer and image processor are those of another model, or the model's settings compute
    nothing."""
    config, tokenizer = model.config, processor.tokenizer
    rows, last = config.get_text_config().vocab_size, max(tokenizer.get_vocab().values(), default=-1)
    if last >= rows:
        raise UserError(
            f"{folder}: the tokenizer has token {tokenizer.convert_ids_to_tokens(last)!r} as number {last}, the model "
            f"{rows} embeddings (vocab_size); take the tokenizer that belongs to these weights"
        )
    for token in _end_tokens(model.generation_config):
        if type(token) is not int or token not in range(rows):  # `true` is an int, too
            raise UserError(
                f"{folder}/generation_config.json: eos_token_id {token!r} is no number of the model's {rows} tokens; "
                "mend it"
            )
    mark = processor.image_token
    if processor.image_token_id != config.image_token_id or mark not in tokenizer.get_vocab():
        raise UserError(
            f"{folder}: the tokenizer has the image mark {mark} as number {processor.image_token_id}, config.json "
            f"image_token_id {config.image_token_id}; take the tokenizer that belongs to these weights"
        )
    for name, wanted in PATCHES.items():
        mine, needed = getattr(processor.image_processor, name, None), getattr(config.vision_config, wanted)
        if mine != needed:
            raise UserError(
                f"{folder}: the image processor has {name} {mine}, config.json {wanted} {needed}; take the "
                "preprocessor_config.json that belongs to these weights"
            )
    try_model(config, folder)


def _end_tokens(generation_config: Any) -> list[Any]:
    """All that a generation config names: none, one or several."""
    named = generation_config.eos_token_id
    return list(named) if isinstance(named, list | tuple) else [] if named is None else [named]


def stop_tokens(tokenizer: Any, generation_config: Any) -> tuple[int, ...]:
    """The tokenizer's end token and all that the checkpoint's generation config names (Qwen2.5-VL's: two), sorted.

    Our engines, vLLM and TRL stop at the same.
    """
    return tuple(sorted({tokenizer.eos_token_id, *_end_tokens(generation_config)}))
