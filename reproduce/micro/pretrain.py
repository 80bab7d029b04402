"""Pretraining of the base ("instruct") checkpoint: supervised, packed, with a curriculum.

The base learns every skill in two styles: a worked solution inside <think>, and a direct answer. Which style is
likelier depends on the opening word of the question, so a greedy base reasons on some questions and blurts out others.

The work is shared by `processes` single-threaded processes that average their gradients in shared memory. The result
depends on the configuration and on `processes`, not on how many cores there are.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import random
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import Qwen2_5_VLForConditionalGeneration

from lmmr1.exits import run_cli
from lmmr1.files import seal_folder
from lmmr1.sokoban import Level
from lmmr1.store import saving
from lmmr1.types import UserError
from reproduce.micro import football, sokoban, world
from reproduce.micro.model import EOS, FastTokenizer, ModelConfig, build_model, build_processor
from reproduce.micro.packing import Group, cell_features, cheapest_fit, gallery, loss_logits, pack, prefix
from reproduce.micro.world import PHRASES, Item


@dataclass(frozen=True)
class PretrainConfig:
    """Settings of the pretraining; `image_worked_factor` is how often images are reasoned about, relative to text."""

    steps: int = 3000
    tokens: int = 900  # per step and process
    lr: float = 3e-3
    warmup: int = 50
    final_lr: float = 0.02  # share of lr that the cosine ends at
    weight_decay: float = 0.05
    seed: int = 0
    phase_ends: tuple[float, float] = (0.3, 0.7)
    p_worked: tuple[float, ...] = (0.15, 0.35, 0.65, 0.90)  # by opening word, in the order of PHRASES
    image_worked_factor: float = 0.85
    p_worked_early: float = 0.6  # before the last phase
    p_untagged: float = 0.06
    text_share: float = 0.3
    image_weights: tuple[float, ...] = (0.30, 0.25, 0.30, 0.15)  # drawn, legend, scene, most
    drill_shares: tuple[float, float, float] = (0.20, 0.05, 0.0)  # by phase
    pair_shares: tuple[float, float, float] = (0.35, 0.20, 0.05)
    pair_weights: tuple[float, float, float] = (0.60, 0.20, 0.20)  # legend, scene, most
    reading_shares: tuple[float, float, float] = (1.0, 0.5, 0.1)  # of the images also read cell by cell, by phase
    sokoban_shares: tuple[float, float, float] = (0.25, 0.2, 0.2)  # of the groups, by phase
    game_shares: tuple[float, float, float] = (0.5, 0.4, 0.1)  # of them without a picture
    p_plays_ahead: tuple[float, float, float] = (0.50, 0.30, 0.12)  # worked, in Sokoban, by number of inner walls
    sokoban_rooms: int = 1000
    football_share: float = 0.02  # of the groups, after the first phase
    # Drawings of a class, other ones in every process. A few dozen the vision tower learns by heart, noise and all, and
    # then it misreads every new drawing.
    variants: int = 400
    drawings: int = 4  # of them, used in one step
    alignment: float = 0.2  # weight of the loss that makes a cell's feature name the cell
    log_every: int = 100
    benchmark_n: int = 500  # for the measured overlap
    benchmark_rooms: int = 100
    benchmark_seed: int = 0
    model: ModelConfig = field(default_factory=ModelConfig)


IMAGE_SHEETS = ("drawn", "legend", "scene", "most")
# Lengths of the rows of a drill's 20 facts, and where they start.
DRILL_ROWS = ((1, 0), (1, 1), (1, 2), (1, 3), (2, 4), (2, 6), (2, 8), (4, 10), (6, 14))
# The same for the 12 pairs of a sheet, and the sheets besides tables.
PAIR_ROWS = ((1, 0), (1, 1), (1, 2), (1, 3), (2, 4), (2, 6), (4, 8))
PAIR_SHEETS = ("legend", "scene", "most")
# What the loss is broken down by.
KINDS = (
    "drill",
    "read",
    *(f"{sheet} pairs" for sheet in ("table", *PAIR_SHEETS)),
    *(f"football {style}" for style in football.STYLES),
    *(f"sokoban {style}" for style in ("places", "game", *sokoban.STYLES)),
    *(f"{task}{style}" for task in ("fact", *world.TASKS) for style in ("", " worked")),
)


# ------------------------------------------------------------------------------------------------------ the data


def completion(item: Item, style: str) -> str:
    """The assistant's reply in one of the styles 'worked', 'direct' and 'untagged'."""
    if style == "untagged":
        return item.answer + EOS
    return f"<think>{item.worked if style == 'worked' else ''}</think><answer>{item.answer}</answer>{EOS}"


def reading(item: Item) -> Item:
    """Transcribe the sheet cell by cell; it teaches glyphs and places faster than answers do."""
    glyphs = item.task == "drawn"
    answer = ("" if glyphs else ",").join(c for c in item.cells if not (glyphs and c == world.BLANK))
    return replace(item, task="read", question="read image?", answer=answer, worked="")


def table_values(item: Item) -> dict[str, int]:
    """The values that a table question lists."""
    return {pair[:-1]: int(pair[-1]) for pair in item.question.split(";")[0].split(",")}


def look_ups(rng: random.Random, item: Item, values: dict[str, int]) -> Item:
    """All values of the item's sheet in an order of the question's choosing."""
    names = rng.sample(list(values), len(values))
    listing = item.question.rpartition("value ")[0]
    return replace(item, question=f"{listing}value {','.join(names)}=?", answer=world.pairs(names, values), worked="")


def train_sheet(make: Callable[[], Item]) -> Item:
    """The first problem whose sheet is on the training side."""
    while True:
        item = make()
        if world.split(world.key(item)) == "train":
            return item


class Stream:
    """The endless stream of one process's training groups, with a record of every problem used."""

    def __init__(self, cfg: PretrainConfig, rank: int, tokenizer: FastTokenizer, image_token: int) -> None:
        self.cfg, self.tokenize, self.image_token = cfg, tokenizer, image_token
        self.rng = random.Random(f"pretrain-{cfg.seed}-{rank}")
        self.class_id = {name: i for i, name in enumerate(world.CLASSES)}
        self.rooms = sokoban.draw_rooms("train", cfg.sokoban_rooms, cfg.seed)
        self.keys: set[str] = set()
        self.answers = 0

    def style(self, item: Item, phase: int) -> str:
        """How this question is answered."""
        rng, cfg = self.rng, self.cfg
        if not item.worked:
            return "direct"
        if phase < 2 and rng.random() < cfg.p_worked_early:
            return "worked"
        if rng.random() < cfg.p_untagged:
            return "untagged"
        p = cfg.p_worked[PHRASES.index(item.phrase)] * (cfg.image_worked_factor if item.cells else 1)
        return "worked" if rng.random() < p else "direct"

    def text_items(self, phase: int) -> list[Item]:
        """A chain, or several questions on one table; in phase 0 single facts and single look-ups."""
        rng = self.rng
        if rng.random() < 0.5:
            lengths = (2, 2, 3) if phase == 0 else (2, 3, 4, 5, 5)
            return [train_sheet(lambda: world.chain(rng, rng.choice(lengths)))]
        size = rng.choice((1, 2, 3)) if phase == 0 else 3
        first = train_sheet(lambda: world.table(rng, 1, world.table_sheet(rng, size)))
        values = table_values(first)
        items = [look_ups(rng, first, values) for _ in range((3, 1, 0)[phase])]
        return items + [world.table(rng, n, values) for n in ((1,), (2, 3), (2, 3))[phase]]

    def image_items(self, phase: int) -> list[Item]:
        """Several questions on one image; in phase 0 only what needs no arithmetic: read, look up, count."""
        rng = self.rng
        kind = rng.choices(IMAGE_SHEETS, self.cfg.image_weights)[0]
        if kind == "drawn":
            items = [train_sheet(lambda: world.drawn(rng, rng.choice((3, 4))))]
        elif kind == "legend":
            first = train_sheet(lambda: world.legend(rng, 1))
            values = world.legend_values(first.cells)
            items = [look_ups(rng, first, values) for _ in range((3, 1, 0)[phase])]
            items += [world.legend(rng, n, first.cells) for n in ((1,), (2, 3), (2, 3))[phase]]
        elif kind == "scene":
            items = [train_sheet(lambda: world.count(rng, world.scene_sheet(rng)))]
            items += [world.count(rng, items[0].cells) for _ in range((3, 2, 2)[phase])]
            items += [world.scene(rng, n, items[0].cells) for n in ((), (2, 3), (2, 3))[phase]]
        else:
            items = [train_sheet(lambda: world.most(rng))]
            items += [world.count(rng, items[0].cells) for _ in range((3, 2, 2)[phase])]
            other = world.most(rng, items[0].cells, "shape" if items[0].question == "most colour?" else "colour")
            items += [other] if other else []
        if kind == "most" or rng.random() >= self.cfg.reading_shares[phase]:
            return items
        return [reading(items[0])] + (items if phase or kind != "drawn" else [])

    def drill(self) -> Group:
        """Single facts, a few in a row, of which only the results are trained on.

        Short rows are learned much sooner than long ones: fewer other digits compete for attention.
        """
        facts = [world.chain(self.rng, 2) for _ in range(20)]
        self.keys.update(world.key(fact) for fact in facts)
        group = prefix(self.tokenize("<|im_start|>user\n"), facts[0], self.image_token, lambda name: 0)
        for length, start in DRILL_ROWS:
            ids = self.tokenize(",".join(fact.worked for fact in facts[start : start + length]))
            group.branches.append((ids, range(4, len(ids), 6), KINDS.index("drill")))
        return group

    def pair_drill(self) -> Group:
        """Many single look-ups (or counts) on one sheet, of which only the values are trained on."""
        rng, cfg = self.rng, self.cfg
        kind = "table" if rng.random() < cfg.text_share else rng.choices(PAIR_SHEETS, cfg.pair_weights)[0]
        start, close = "<|im_start|>user\n", ""
        if kind == "table":
            item = train_sheet(lambda: world.table(rng, 1, world.table_sheet(rng)))
            values = table_values(item)
            start += f"{rng.choice(PHRASES)} {world.pairs(list(values), values)};"
        else:
            item = train_sheet(lambda: world.legend(rng, 1) if kind == "legend" else world.GENERATORS[kind](rng))
            words = world.COLOURS + world.SHAPES
            values = world.legend_values(item.cells) if kind == "legend" else world.tally(item.cells, words)
            start, close = start + "<|vision_start|>", "<|vision_end|>"
        self.keys.add(f"{kind}|pairs|{world.sheet(item)}")
        group = prefix(self.tokenize(start), item, self.image_token, self.feature_row)
        names = [rng.choice(list(values)) for _ in range(12)]
        for length, at in PAIR_ROWS:
            ids = self.tokenize(close + world.pairs(names[at : at + length], values))
            first = 2 if close else 1
            group.branches.append((ids, range(first, len(ids), 3), KINDS.index(f"{kind} pairs")))
        return group

    def room(self, phase: int) -> Group:
        """A Sokoban room with its replies; before the last phase most of them worked, and where things are."""
        room = self.rng.choice(self.rooms).level
        level = self.rng.choice(sokoban.images(room))
        self.keys.add(sokoban.key(room))
        sheet = Item("sokoban", "", "", cells=sokoban.cells(level), cols=level.width)
        group = prefix(self.tokenize("<|im_start|>user\n<|vision_start|>"), sheet, self.image_token, self.feature_row)
        if phase < 2:
            self.add_places(group, level)
        for _ in range(1 if phase < 2 else 3):
            style = self.play_style(level, phase)
            self.add_reply(group, sokoban.QUESTION, sokoban.reply(self.rng, level, style), f"sokoban {style}")
        return group

    def add_reply(self, group: Group, question: str, reply: str, kind: str) -> None:
        """A question on the group's picture, and its answer, which is trained on."""
        ask = self.tokenize(f"<|vision_end|>{question}<|im_end|>\n<|im_start|>assistant\n")
        ids = ask + self.tokenize(reply + EOS)
        group.branches.append((ids, range(len(ask), len(ids)), KINDS.index(kind)))
        self.answers += 1

    def games(self) -> Group:
        """Games played ahead from the places alone, without a picture, and answered; the places are given."""
        group = prefix(self.tokenize("<|im_start|>user\n"), Item("games", "", ""), self.image_token, lambda name: 0)
        for room in self.rng.sample(self.rooms, 6):
            level = self.rng.choice(sokoban.images(room.level))
            self.keys.add(sokoban.key(level))
            given, moves = self.tokenize(sokoban.places(level) + ";"), sokoban.shortest(level)
            ids = given + self.tokenize(f"{sokoban.trace(level, moves)}</think>{sokoban.answer(moves)}")
            group.branches.append((ids, range(len(given), len(ids)), KINDS.index("sokoban game")))
        return group

    def play_style(self, level: Level, phase: int) -> str:
        """How this room is answered: the base plays ahead where a room looks easy, and rather guesses where not."""
        walls = level.height * level.width - len(level.floor)
        p = self.cfg.p_plays_ahead[walls] if phase == 2 else 0.8
        return self.rng.choices(sokoban.STYLES, ((1 - p) / 2, (1 - p) / 2, p))[0]

    def add_places(self, group: Group, level: Level) -> None:
        """Short rows of single look-ups, of which only the places are trained on."""
        names = sokoban.places(level).split(",")
        for size in (1, 1, 1, 1, 2, 2):
            ids = self.tokenize("<|vision_end|>" + ",".join(self.rng.choice(names[:3]) for _ in range(size)))
            group.branches.append((ids, range(2, len(ids), 3), KINDS.index("sokoban places")))

    def pitch(self) -> Group:
        """Questions of the football game, each answered with a random move."""
        start = self.tokenize("<|im_start|>user\n<|vision_start|>")
        group = prefix(start, football.sheet(self.rng), self.image_token, self.feature_row)
        for _ in range(4):
            style = football.STYLES[self.rng.random() < 0.3]
            question, reply = football.question(self.rng), football.reply(self.rng, style)
            self.add_reply(group, question, reply, f"football {style}")
        return group

    def feature_row(self, name: str) -> int:
        """A random one of this step's drawings of a class."""
        return self.class_id[name] * self.cfg.drawings + self.rng.randrange(self.cfg.drawings)

    def group(self, phase: int) -> Group:
        """One shared prefix with its questions and answers."""
        rng, kind = self.rng, self.rng.random()
        if rng.random() < self.cfg.sokoban_shares[phase]:
            return self.games() if rng.random() < self.cfg.game_shares[phase] else self.room(phase)
        if phase and rng.random() < self.cfg.football_share:
            return self.pitch()
        facts, looks = self.cfg.drill_shares[phase], self.cfg.pair_shares[phase]
        if kind < facts + looks:
            return self.drill() if kind < facts else self.pair_drill()
        items = self.text_items(phase) if rng.random() < self.cfg.text_share else self.image_items(phase)
        start = "<|im_start|>user\n" + ("<|vision_start|>" if items[0].cells else "")
        group = prefix(self.tokenize(start), items[0], self.image_token, self.feature_row)
        for item in [replace(item, phrase=rng.choice(PHRASES)) for item in items]:
            self.keys.add(world.key(item))
            close = "<|vision_end|>" if item.cells else ""
            ask = self.tokenize(f"{close}{item.text}<|im_end|>\n<|im_start|>assistant\n")
            style = self.style(item, phase)
            reply = self.tokenize(completion(item, style))
            kind = KINDS.index(item.task if style != "worked" else f"{item.task} worked")
            group.branches.append((ask + reply, range(len(ask), len(ask) + len(reply)), kind))
        self.answers += len(items)
        return group

    def groups(self, phase: int) -> list[Group]:
        """One step's groups."""
        out, size = [], 0
        while size < self.cfg.tokens:
            out.append(self.group(phase))
            size += len(out[-1])
        return out


# --------------------------------------------------------------------------------------------------- the training


class Averager:
    """Gradients averaged over processes in shared memory, summed in the order of the ranks."""

    def __init__(self, buffer: torch.Tensor, barrier: Barrier, rank: int) -> None:
        self.buffer, self.barrier, self.rank, self.turn = buffer, barrier, rank, 0

    def __call__(self, parameters: list[torch.nn.Parameter]) -> None:
        # Two buffers take turns: writing one is safe as soon as everybody has passed the other's barrier.
        shared = self.buffer[self.turn]
        self.turn = 1 - self.turn
        torch.cat([p.grad.reshape(-1) for p in parameters], out=shared[self.rank])
        self.barrier.wait()  # the end of any process aborts it
        total, at = shared.sum(0) / shared.shape[0], 0
        for p in parameters:
            p.grad.copy_(total[at : at + p.numel()].view_as(p))
            at += p.numel()


def make_optimizer(
    model: Qwen2_5_VLForConditionalGeneration, cfg: PretrainConfig
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW and its warm-up and cosine schedule."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": cfg.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=cfg.lr, betas=(0.9, 0.98), fused=True)

    def scale(step: int) -> float:
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / cfg.steps)))
        return min(1.0, (step + 1) / cfg.warmup) * (cfg.final_lr + (1 - cfg.final_lr) * cosine)

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, scale)


def alignment_loss(
    model: Qwen2_5_VLForConditionalGeneration, features: torch.Tensor, words: torch.Tensor
) -> torch.Tensor:
    """A cell's feature should be nearest to the embeddings of the words that name it, as in a contrastive tower."""
    table = F.normalize(model.get_input_embeddings().weight, dim=-1)
    scores = F.normalize(features, dim=-1) @ table.T * 10
    return F.cross_entropy(scores, words[:, 0]) + F.cross_entropy(scores, words[:, 1])


class LossCurve:
    """Mean loss per token since the last row, in all and by kind of answer."""

    def __init__(self) -> None:
        self.rows: list[dict] = []
        self._sums, self._counts = torch.zeros(len(KINDS)), torch.zeros(len(KINDS))

    def add(self, kind: torch.Tensor, losses: torch.Tensor) -> None:
        """The loss tokens of one step."""
        self._sums.index_add_(0, kind, losses)
        self._counts.index_add_(0, kind, torch.ones_like(losses))

    def row(self, step: int) -> dict:
        """Close a stretch of steps."""
        pairs = zip(KINDS, self._sums.tolist(), self._counts.tolist(), strict=True)
        by_kind = {name: round(total / n, 3) for name, total, n in pairs if n}
        self.rows.append({"step": step, "loss": round((self._sums.sum() / self._counts.sum()).item(), 4), **by_kind})
        self._sums.zero_()
        self._counts.zero_()
        return self.rows[-1]


def phase_of(step: int, cfg: PretrainConfig) -> int:
    """0: facts, naming cells, short chains; 1: every task, mostly worked; 2: the final mixture of styles."""
    return sum(step >= end * cfg.steps for end in cfg.phase_ends)


def train(cfg: PretrainConfig, rank: int, average: Averager | None, log: Callable[[str], None]) -> dict:
    """One process's share of the training; every rank ends with the same weights."""
    started = time.monotonic()
    torch.manual_seed(cfg.seed * 1000 + rank)
    processor, model = build_processor(), build_model(cfg.model).train()
    tokenizer = FastTokenizer(processor.tokenizer)
    stream = Stream(cfg, rank, tokenizer, model.config.image_token_id)
    drawings = gallery(world.CLASSES, cfg.variants, f"pretrain-{cfg.seed}-{rank}")
    names = [tokenizer(name.removeprefix("far ").replace(" ", "")) * 2 for name in world.CLASSES]
    words = torch.tensor([name[:2] for name in names]).repeat_interleave(cfg.drawings, 0)
    classes, parameters = torch.arange(len(world.CLASSES))[:, None], list(model.parameters())
    optimizer, schedule = make_optimizer(model, cfg)
    pad, curve = model.config.text_config.pad_token_id, LossCurve()
    for step in range(cfg.steps):
        batch = pack(cheapest_fit(stream.groups(phase_of(step, cfg))), pad)
        pick = torch.randint(cfg.variants, (len(world.CLASSES), cfg.drawings))
        features = cell_features(model, drawings[classes, pick].flatten(0, 1))
        token_losses = F.cross_entropy(loss_logits(model, features, batch), batch.target, reduction="none")
        loss = token_losses.mean()
        aligned = alignment_loss(model, features, words)
        optimizer.zero_grad()
        (loss + cfg.alignment * aligned).backward()
        if average:
            average(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        curve.add(batch.kind, token_losses.detach())
        if (step + 1) % cfg.log_every == 0 or step + 1 == cfg.steps:
            row = curve.row(step + 1)
            log(f"{step + 1}/{cfg.steps} {time.monotonic() - started:.0f}s {row}")
    return {"model": model.eval(), "processor": processor, "curve": curve.rows, "stream": stream}


def overlap(keys: set[str], cfg: PretrainConfig) -> dict:
    """How many of the problems used belong to the benchmarks: to their side of the split, and to drawn benchmarks."""
    drawn = {
        world.key(item)
        for name in world.BENCHMARKS
        for item in world.draw_benchmark(name, cfg.benchmark_n, cfg.benchmark_seed)
    } | {sokoban.key(task.level) for task in sokoban.draw_rooms("test", cfg.benchmark_rooms, cfg.benchmark_seed)}
    return {
        "distinct_keys": len(keys),
        "keys_in_test_split": sum(world.split(k) == "test" for k in keys),
        "benchmark_keys": len(drawn),
        "overlap_with_benchmarks": len(keys & drawn),
    }


def _end_with_parent() -> None:
    """End this process as soon as rank 0 is gone: it would wait for it at the barrier."""

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _helper(rank: int, cfg: PretrainConfig, buffer: torch.Tensor, barrier: Barrier, results: Connection) -> None:
    """A further process: train in step with rank 0 and hand back the keys it used."""
    _end_with_parent()
    torch.set_num_threads(1)
    try:
        result = train(cfg, rank, Averager(buffer, barrier, rank), lambda line: None)
        results.send((result["stream"].keys, result["stream"].answers))
    except BaseException:
        barrier.abort()  # rank 0 is waiting: let it fail at once
        raise


def _train_together(cfg: PretrainConfig, processes: int, log: Callable[[str], None]) -> tuple[dict, set[str], int]:
    """Rank 0 here, the others as spawned processes; the result of rank 0, and keys and answers of all."""
    context = torch.multiprocessing.get_context("spawn")
    size = sum(p.numel() for p in build_model(cfg.model).parameters())
    buffer, barrier = torch.zeros(2, processes, size).share_memory_(), context.Barrier(processes)
    helpers, ends = [], []
    for rank in range(1, processes):
        mine, its = context.Pipe(duplex=False)
        helper = context.Process(target=_helper, args=(rank, cfg, buffer, barrier, its), daemon=True)
        helper.start()
        its.close()  # so that the end of the process is the end of its results
        threading.Thread(target=_abort_with, args=(helper, barrier), daemon=True).start()
        helpers.append(helper)
        ends.append(mine)
    try:
        result = train(cfg, 0, Averager(buffer, barrier, 0) if helpers else None, log)
        handed = [end.recv() for end in ends]
    except (threading.BrokenBarrierError, EOFError):
        raise UserError(_lost(helpers)) from None
    except BaseException:
        barrier.abort()
        raise
    for helper in helpers:
        helper.join()
    keys = set(result["stream"].keys).union(*(more for more, _ in handed))
    return result, keys, result["stream"].answers + sum(count for _, count in handed)


def _abort_with(helper: BaseProcess, barrier: Barrier) -> None:
    """Where a helper is killed, rank 0 must not wait for it."""
    helper.join()
    if helper.exitcode:
        barrier.abort()


def _lost(helpers: list[BaseProcess]) -> str:
    for helper in helpers:
        helper.join(5)
    codes = ", ".join(str(helper.exitcode) for helper in helpers)
    return (
        f"a helper process of the pretraining ended early (exit code {codes}; -9 is what the system does when memory "
        "runs out); free some memory and run the same command again"
    )


def pretrain(cfg: PretrainConfig, out_dir: str | Path, processes: int = 2, log: Callable[[str], None] = print) -> dict:
    """Train the base and save it as a normal Hugging Face folder with `pretrain.json`; returns that card.

    The folder appears by renaming, complete and sealed or not at all. The helper processes are spawned, so a script
    that calls this needs the usual `if __name__ == "__main__"` guard.
    """
    started, threads, out = time.monotonic(), torch.get_num_threads(), Path(out_dir)
    torch.set_num_threads(1)
    try:
        result, keys, answers = _train_together(cfg, processes, log)
    finally:
        torch.set_num_threads(threads)
    model, problems = result["model"], overlap(keys, cfg)
    if problems["keys_in_test_split"] or problems["overlap_with_benchmarks"]:
        raise RuntimeError(f"pretraining met benchmark problems: {problems}")
    card = {
        "settings": asdict(cfg),
        "processes": processes,
        "parameters": sum(p.numel() for p in model.parameters()),
        "answers": answers,
        **problems,
        "loss": result["curve"],
    }
    temporary = out.with_name(out.name + ".partial")
    with saving(out):
        shutil.rmtree(temporary, ignore_errors=True)
        model.save_pretrained(temporary)
        result["processor"].save_pretrained(temporary)
        (temporary / "pretrain.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
        seal_folder(temporary)
        if out.exists():
            shutil.rmtree(out)
        temporary.replace(out)
    seconds = time.monotonic() - started
    log(f"saved {out}: {card['parameters']} parameters, {card['distinct_keys']} problems, {seconds:.0f} s")
    return card


def main() -> None:
    """Command line: every numeric setting of PretrainConfig is an option."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True)
    parser.add_argument("--processes", type=int, default=2)
    simple = [f for f in fields(PretrainConfig) if f.type in ("int", "float")]
    for setting in simple:
        kind = int if setting.type == "int" else float
        parser.add_argument(f"--{setting.name.replace('_', '-')}", type=kind, default=setting.default)
    args = parser.parse_args()
    cfg = PretrainConfig(**{setting.name: getattr(args, setting.name) for setting in simple})
    pretrain(cfg, args.out, args.processes, lambda line: print(line, flush=True))


if __name__ == "__main__":
    run_cli(main)
