"""What the base of the micro world can do before any RL: the table in docs/micro_world.md, measured.

    python -m bench.micro_base --model checkpoints/KEY/final --n 1000 --out docs/micro_base.md

Greedy answers on test problems: how many are right, and how many are worked out. Then the same with the opening of a
direct or of a worked answer put into the model's mouth: what it could do if it always answered so. Sokoban rooms are
played greedily and, as RL sees them, at temperature 1.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evals.agents.sokoban import SokobanEval, observations, play_answer
from evals.generation import encodable
from evals.scoring import score_responses
from lmmr1.config import DecodingConfig
from lmmr1.packed import PackedEngine
from lmmr1.policy import Policy, load_policy
from lmmr1.types import Sample
from reproduce.micro.build import png
from reproduce.micro.sokoban import draw_rooms
from reproduce.micro.world import BENCHMARKS, Item, draw_benchmark
from reproduce.sokoban_data import MICRO

LIMIT = 56
BATCH = 64
KINDS = ("", "direct", "worked")


@dataclass
class Begun(Policy):
    """A policy whose answers have begun."""

    begun: dict[str, str] = field(default_factory=dict)
    """Sample id -> how its answer begins."""

    def render(self, sample: Sample) -> str:
        """The prompt and the beginning."""
        return super().render(sample) + self.begun[sample.id]


def samples_of(items: Sequence[Item], folder: Path) -> list[Sample]:
    """The problems as the harnesses ask them: image first, then text."""
    samples = []
    for i, item in enumerate(items):
        content: list[dict[str, str]] = [{"type": "text", "text": item.text}]
        files: tuple[Path, ...] = ()
        if item.cells:
            files = (folder / f"{item.task}-{i}.png",)
            files[0].write_bytes(png(item, f"test-0-{i}"))
            content.insert(0, {"type": "image"})
        samples.append(Sample(f"{item.task}-{i}", [{"role": "user", "content": content}], files, item.answer))
    return samples


def answers(
    policy: Policy, samples: Sequence[Sample], starts: Sequence[str] = (), temperature: float = 0.0, g: int = 1
) -> list[str]:
    """Texts, `g` of each sample, which begin with `starts`."""
    sampling = DecodingConfig(temperature=temperature, max_completion_length=LIMIT, max_prompt_length=512)
    starts = starts or [""] * len(samples)
    begun = {s.id: start for s, start in zip(samples, starts, strict=True)}
    engine = PackedEngine(
        Begun(policy.model, policy.processor, policy.source, policy.pad_id, policy.stop_ids, begun=begun)
    )
    texts = []
    for at in range(0, len(samples), BATCH):
        groups = engine.generate(samples[at : at + BATCH], sampling, g, (0, at))
        texts += [encodable(s + r.text) for s, group in zip(starts[at:], groups, strict=False) for r in group]
    return texts


def start_of(kind: str, item: Item, policy: Policy) -> str:
    """How an answer begins; a worked one with the first token of what it works out."""
    if kind == "worked":
        tokenizer = policy.processor.tokenizer
        return "<think>" + tokenizer.decode(tokenizer(item.worked)["input_ids"][:1])
    return {"": "", "direct": "<think></think>"}[kind]


def accuracy(texts: Sequence[str], samples: Sequence[Sample]) -> float:
    """By the evaluation's own scorer."""
    verdicts = score_responses([(text, sample.answer, ()) for text, sample in zip(texts, samples, strict=True)])
    return sum(verdict.accuracy for verdict in verdicts) / len(texts)


def worked(text: str) -> bool:
    """Something stands in the think block."""
    return text.startswith("<think>") and not text.startswith("<think></think>")


def task_row(policy: Policy, name: str, n: int, folder: Path) -> str:
    """Accuracy, share of worked answers, accuracy where direct or worked answers are forced."""
    items = draw_benchmark(name, n, 0)
    samples = samples_of(items, folder)
    found = {kind: answers(policy, samples, [start_of(kind, item, policy) for item in items]) for kind in KINDS}
    scores = {kind: accuracy(texts, samples) for kind, texts in found.items()}
    share = sum(map(worked, found[""])) / n
    cells = [scores[""], share, scores["direct"], scores["worked"]]
    return f"| {name.removeprefix('micro_')} | " + " | ".join(f"{v:.2f}".removeprefix("0") for v in cells) + " |"


def sokoban_rows(policy: Policy, rooms: int, folder: Path) -> list[str]:
    """Share of rooms solved and of replies that play ahead, greedy and at temperature 1 (8 replies a room)."""
    tasks = list(draw_rooms("test", rooms, 0))
    cfg = SokobanEval(form=MICRO.form, image_side=MICRO.image_side, repeats=1)
    samples = observations(tasks, cfg, folder / "rooms")
    rows = []
    for title, temperature, g in (("greedy", 0.0, 1), ("temperature 1", 1.0, 8)):
        texts = answers(policy, samples, (), temperature, g)
        levels = [task.level for task in tasks for _ in range(g)]
        solved = sum(play_answer(level, MICRO.form, text).end.solved for level, text in zip(levels, texts, strict=True))
        ahead = sum(";" in text for text in texts)
        rows.append(f"| {title} | {solved / len(texts):.2f} | {ahead / len(texts):.2f} |")
    return rows


def main() -> None:
    """Command line; see the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m bench.micro_base", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True, help="checkpoint folder")
    parser.add_argument("--n", type=int, default=1000, help="problems per benchmark")
    parser.add_argument("--rooms", type=int, default=100)
    parser.add_argument("--out", type=Path, help="Markdown file")
    args = parser.parse_args()
    policy = load_policy(args.model)
    lines = ["| benchmark | accuracy | share worked | forced direct | forced worked |", "|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        for name in BENCHMARKS:
            lines.append(task_row(policy, name, args.n, Path(folder)))
            print(lines[-1], flush=True)
        lines += ["", f"| Sokoban, {args.rooms} test rooms | solved | plays ahead |", "|---|---|---|"]
        lines += sokoban_rows(policy, args.rooms, Path(folder))
    print("\n".join(lines))
    if args.out:
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
