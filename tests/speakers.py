"""Real checkpoints that say one text to whatever they are asked: for tests that need many answers and no training.

The architecture, the files and the decoding are the product's. Attention and feed-forward layers add nothing, so the
next token depends on the last one alone; the output matrix holds the text as a chain of tokens and ends it.
"""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from pathlib import Path

import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from reproduce.micro.model import EOS, ModelConfig, build_model, build_processor

SURE = 30.0
"""Logit of the next token of the text; the others stay below a third of it."""


def write_speaker(folder: Path, text: str, seed: int = 0) -> Path:
    """A checkpoint that answers `text`, in which no token may come twice, and ends. Returns the folder."""
    processor = build_processor()
    tokens = processor.tokenizer(f"\n{text}")["input_ids"] + [processor.tokenizer.convert_tokens_to_ids(EOS)]
    assert len(set(tokens)) == len(tokens), f"{text!r} has a token twice: the chain would not end"
    config = build_model(dataclasses.replace(ModelConfig(), layers=1)).config
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = False
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "visual" not in name and name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.zero_()
        embedding = torch.nn.functional.normalize(torch.randn_like(model.get_input_embeddings().weight), dim=1)
        model.get_input_embeddings().weight.copy_(embedding)
        model.lm_head.weight.zero_()
        for last, following in pairwise(tokens):
            model.lm_head.weight[following] += SURE / embedding.shape[1] ** 0.5 * embedding[last]
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
