"""The micro world's model and processor: the real Qwen2.5-VL classes with small numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from reproduce.micro.world import CELL, COLOURS, PHRASES, SHAPES, TILES

PAD, EOS, IMAGE, VIDEO = "<|endoftext|>", "<|im_end|>", "<|image_pad|>", "<|video_pad|>"
SPECIAL = (PAD, "<|im_start|>", EOS, "<|vision_start|>", "<|vision_end|>", IMAGE, VIDEO)
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_VERBS = ("image", "value", "count", "most", "read", "colour", "shape")
_SOKOBAN = ("moves", *dict.fromkeys(" ".join(TILES.values()).split()), "up", "down", "left", "right")
WORDS = ("system", "user", "assistant", *PHRASES, *_VERBS, *COLOURS, *SHAPES, *_SOKOBAN)

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' or 'image' in part or 'image_url' in part %}"
    "{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{% elif part['type'] == 'video' or 'video' in part %}"
    "{{ '<|vision_start|><|video_pad|><|vision_end|>' }}"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the tiny model. `rope_theta` is small: M-RoPE gives the width axis its lowest frequencies, and at the
    usual theta two neighbouring cells of an image would have nearly the same position."""

    hidden: int = 96
    layers: int = 3
    head_dim: int = 32
    mlp: int = 2
    vision_hidden: int = 64
    vision_depth: int = 1
    init: float = 0.05
    rope_theta: float = 2.0
    mrope_section: tuple[int, int, int] = (4, 4, 8)
    seed: int = 0


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, plus Qwen's special tokens, the tags and the world's words; any text survives a round trip.

    It is not Qwen2Tokenizer: that class normalises to NFC, which loses decomposed characters.
    """
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=list(SPECIAL),
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=2048,
    )
    tokenizer.add_tokens([AddedToken(tag, normalized=False) for tag in TAGS])
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in WORDS])
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_processor(max_pixels: int = 64 * CELL * CELL) -> Qwen2_5_VLProcessor:
    """Tokenizer, image processor (one 28 x 28 cell is one visual token) and chat template."""
    pixels = {"min_pixels": CELL * CELL, "max_pixels": max_pixels}
    vision = {"patch_size": CELL // 2, "merge_size": 2, "temporal_patch_size": 2, **pixels}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**vision),
        tokenizer=build_tokenizer(),
        video_processor=Qwen2VLVideoProcessor(**vision),
        chat_template=CHAT_TEMPLATE,
    )


def model_config(cfg: ModelConfig) -> Qwen2_5_VLConfig:
    """The Hugging Face configuration."""
    tokenizer = build_tokenizer()
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL}
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": cfg.hidden,
        "intermediate_size": cfg.hidden * cfg.mlp,
        "num_hidden_layers": cfg.layers,
        "num_attention_heads": cfg.hidden // cfg.head_dim,
        "num_key_value_heads": cfg.hidden // cfg.head_dim,
        "max_position_embeddings": 2048,
        "initializer_range": cfg.init,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": cfg.rope_theta,
            "mrope_section": list(cfg.mrope_section),
        },
        "bos_token_id": None,
        "eos_token_id": ids[EOS],
        "pad_token_id": ids[PAD],
        "tie_word_embeddings": True,
    }
    # A window of 28 pixels is one merged cell, and no block attends to the whole image: a cell's feature depends on
    # that cell alone, so pretraining computes the features of a few drawings once per step.
    vision = {
        "depth": cfg.vision_depth,
        "hidden_size": cfg.vision_hidden,
        "intermediate_size": cfg.vision_hidden * 2,
        "num_heads": 4,
        "out_hidden_size": cfg.hidden,
        "patch_size": CELL // 2,
        "spatial_merge_size": 2,
        "window_size": CELL,
        "fullatt_block_indexes": [],
        "initializer_range": cfg.init,
    }
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids[IMAGE],
        video_token_id=ids[VIDEO],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )


def build_model(cfg: ModelConfig | None = None) -> Qwen2_5_VLForConditionalGeneration:
    """A randomly initialised model; the same weights for the same configuration."""
    cfg = cfg or ModelConfig()
    if sum(cfg.mrope_section) * 2 != cfg.head_dim:
        raise ValueError(f"mrope_section {cfg.mrope_section} must sum to half of head_dim {cfg.head_dim}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.seed)
        model = Qwen2_5_VLForConditionalGeneration(model_config(cfg))
    text = model.config.text_config
    model.generation_config = GenerationConfig(
        eos_token_id=text.eos_token_id, pad_token_id=text.pad_token_id, do_sample=False, max_new_tokens=64
    )
    return model


class FastTokenizer:
    """The same ids as the tokenizer's for the world's own texts, without the cost of calling it."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        vocab = tokenizer.get_vocab()
        names = sorted(SPECIAL + TAGS + WORDS, key=len, reverse=True)
        self._names = {name: vocab[name] for name in names}
        # The byte tokens of ASCII characters; a space and a line break have their byte-level names.
        spelled = {" ": "Ġ", "\n": "Ċ"}
        self._bytes = {chr(c): vocab[spelled.get(chr(c), chr(c))] for c in [10, *range(32, 127)]}
        self._split = re.compile("|".join(re.escape(name) for name in names) + r"|.", re.DOTALL)
        self._cache: dict[str, tuple[int, ...]] = {}

    def __call__(self, text: str) -> tuple[int, ...]:
        ids = self._cache.get(text)
        if ids is None:
            pieces = self._split.findall(text)
            ids = tuple(self._names[p] if p in self._names else self._bytes[p] for p in pieces)
            if len(self._cache) < 100_000:
                self._cache[text] = ids
        return ids
