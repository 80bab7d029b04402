"""What both sides of the comparison share: model, prompts, images, reward, and how a run is described."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image

CELL = 28
ENDINGS = (
    "Answer.",
    "Give the sum as digits.",
    "Be short.",
    "Write only the number in the answer.",
    "Think, then answer.",
)


@dataclass(frozen=True)
class Setting:
    """One point of the comparison: P prompts, G completions each of at most C tokens, images of `side` pixels or 0."""

    mode: Literal["forced", "natural"] = "forced"
    side: int = 0
    G: int = 16
    P: int = 8
    C: int = 32
    steps: int = 2

    @property
    def name(self) -> str:
        """Short and unique, e.g. `forced image16 G16 P8 C32`."""
        kind = f"image{(self.side // CELL) ** 2}" if self.side else "text"
        return f"{self.mode} {kind} G{self.G} P{self.P} C{self.C}"

    def json(self) -> dict[str, Any]:
        """The fields as a dictionary."""
        return asdict(self)


def build_model(folder: Path, taught_to_stop: bool) -> None:
    """Save the benchmark's model: 4 layers, hidden 128, 4/2 heads, MLP 512, vocabulary 512, two vision blocks.

    `taught_to_stop` adds a short supervised run on digit strings of geometric length, mean 10, so that completions end
    by themselves at about a third of 32 tokens.
    """
    from transformers import Qwen2_5_VLForConditionalGeneration

    from reproduce.micro.model import ModelConfig, build_processor, model_config

    torch.manual_seed(0)
    config = model_config(
        ModelConfig(hidden=128, layers=4, head_dim=32, mlp=4, vision_depth=2, mrope_section=(4, 6, 6), rope_theta=1e4)
    )
    text = config.text_config
    text.vocab_size, text.num_key_value_heads, text.initializer_range = 512, 2, 0.02
    model, processor = Qwen2_5_VLForConditionalGeneration(config), build_processor()
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    if taught_to_stop:
        teach_to_stop(model, processor)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def teach_to_stop(model: Any, processor: Any, steps: int = 60) -> None:
    """Supervised steps on prompts followed by random digits and the end token."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    generator, tokenizer = torch.Generator().manual_seed(0), processor.tokenizer
    for _ in range(steps):
        rows, starts = [], []
        for i in torch.randint(64, (24,), generator=generator).tolist():
            messages = [{"role": "user", "content": question(i)}]
            prompt = tokenizer(processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))[
                "input_ids"
            ]
            length = min(31, int(torch.empty(1).geometric_(0.1, generator=generator)))
            digits = "".join(str(int(d)) for d in torch.randint(10, (length,), generator=generator))
            rows.append([*prompt, *tokenizer(digits)["input_ids"], tokenizer.eos_token_id])
            starts.append(len(prompt))
        width = max(map(len, rows))
        ids = torch.tensor([r + [tokenizer.pad_token_id] * (width - len(r)) for r in rows])
        mask = torch.arange(width) < torch.tensor(list(map(len, rows)))[:, None]
        labels = ids.masked_fill((torch.arange(width) < torch.tensor(starts)[:, None]) | ~mask, -100)
        model(input_ids=ids, attention_mask=mask.long(), labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def question(i: int) -> str:
    """The i-th prompt; lengths differ."""
    return f"What is {i} + {i + 1}? {ENDINGS[i % len(ENDINGS)]}"


def image(i: int, side: int) -> Image.Image:
    """The i-th image: seeded noise."""
    generator = torch.Generator().manual_seed(i)
    pixels = torch.randint(256, (side, side, 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def reward(text: str, solution: str) -> float:
    """Right number 1, plus a small graded part so that an untrained model's answers differ."""
    digits = 0.2 * sum(c.isdigit() for c in text) / max(1, len(text))
    return float(solution in re.findall(r"\d+", text)) + digits + 0.01 * (len(text) % 7)
