"""The micro world's problems: generators, their keys, the train/test split, benchmarks, data mixes and drawings.

All arithmetic is modulo `MOD`, so every numeric answer is one digit. An image is a small grid of 28 x 28 pixel cells;
with patch 14 and merge 2 one cell is exactly one visual token of Qwen2.5-VL. Everything is a function of its seeds.

Every problem stands on a *sheet*: the cells of its image, or the text of the question. The sheet alone decides the
split, so no image of a benchmark is ever seen in training with whatever question, and a chain that is a test item as
text is not a training item as a drawing (both have the sheet `3+5-2`).
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

from evals.agents.sokoban_view import sprite

MOD = 7
COLOURS = ("red", "green", "blue")
SHAPES = ("square", "circle", "triangle")
PHRASES = ("give", "find", "solve", "derive")
GLYPHS = (*map(str, range(MOD)), "+", "-")
BLANK = "."
NEAR = tuple(f"{c} {s}" for c in COLOURS for s in SHAPES)
FAR = tuple(f"far {name}" for name in NEAR)  # small and off-colour: hard to tell apart
TILES = {"#": "wall", " ": "floor", ".": "goal", "$": "box", "*": "box goal", "@": "player", "+": "player goal"}
"""The cells of a Sokoban level by their character."""
CLASSES = (*GLYPHS, *NEAR, *FAR, BLANK, *TILES.values())

CELL = 28  # pixels; one merged visual token
TEST_SHARE = 6  # one sheet of six belongs to the benchmarks
SCENE_CELLS, CROWD_CELLS = 6, 10  # cells of an image to compute with, and of one to count or compare in
DRAWN_COLS = 7  # a drawn chain is left-aligned on a strip of this width


@dataclass(frozen=True)
class Item:
    """One problem. `worked` is the text of its worked solution, `cells` its image row by row (empty: text only)."""

    task: str
    question: str
    answer: str
    worked: str = ""
    cells: tuple[str, ...] = ()
    cols: int = 0
    phrase: str = PHRASES[0]

    @property
    def text(self) -> str:
        """The question as the user asks it: opening word, then the question."""
        return f"{self.phrase} {self.question}"


def sheet(item: Item) -> str:
    """What the problem stands on: a drawn chain reads like the text chain, other images list their cells."""
    if item.task in ("chain", "fact"):
        return item.question.removesuffix("=?")
    if not item.cells:
        return item.question.split(";")[0]
    drawn = [c for c in item.cells if c != BLANK]
    if drawn and all(c in GLYPHS for c in drawn):
        return "".join(drawn)
    return f"{item.cols}:" + ",".join(item.cells)


def key(item: Item) -> str:
    """Canonical name of the problem: task, question and sheet; not the opening word, not the drawing."""
    return f"{item.task}|{item.question}|{sheet(item)}"


def split(problem_key: str) -> str:
    """'test' or 'train', by a stable hash of the key's sheet. Facts (chains of two terms) are always training."""
    task, _, rest = problem_key.partition("|")
    if task == "fact":
        return "train"
    digest = hashlib.sha256(rest.rpartition("|")[2].encode()).digest()
    return "test" if int.from_bytes(digest[:8], "big") % TEST_SHARE == 0 else "train"


# -------------------------------------------------------------------------------------------------- arithmetic


def apply(a: int, op: str, b: int) -> int:
    """One step of the world's arithmetic."""
    return (a + b) % MOD if op == "+" else (a - b) % MOD


def steps(values: list[int], ops: list[str]) -> tuple[str, str]:
    """The worked solution of a left-to-right chain, and its answer."""
    total, lines = values[0], []
    for op, value in zip(ops, values[1:], strict=True):
        result = apply(total, op, value)
        lines.append(f"{total}{op}{value}={result}")
        total = result
    return ",".join(lines), str(total % MOD)


def expression(names: list[str], ops: list[str]) -> str:
    """Names joined by operators."""
    return names[0] + "".join(op + name for op, name in zip(ops, names[1:], strict=True))


def pairs(names: list[str] | tuple[str, ...], values: dict[str, int]) -> str:
    """What was looked up or counted: `red3,blue5`. The value follows the name at once: with a sign in between, looking
    a value up takes one more step of composition, which a model of three layers learns late."""
    return ",".join(f"{name}{values[name]}" for name in names)


def look_up_then_compute(names: list[str], ops: list[str], values: dict[str, int]) -> tuple[str, str]:
    """The worked solution `red3,blue5;3+5=1` of an expression over names, and its answer."""
    worked, answer = steps([values[name] for name in names], ops)
    return f"{pairs(names, values)};{worked}".removesuffix(";"), answer


def _ops(rng: random.Random, n: int) -> list[str]:
    return [rng.choice("+-") for _ in range(n)]


# -------------------------------------------------------------------------------------------------- generators


def chain(rng: random.Random, terms: int) -> Item:
    """Text: `3+5-2=?`. Two terms make a fact, which is training material only."""
    values, ops = [rng.randrange(MOD) for _ in range(terms)], _ops(rng, terms - 1)
    worked, answer = steps(values, ops)
    question = expression([str(v) for v in values], ops) + "=?"
    return Item("chain" if terms > 2 else "fact", question, answer, worked)


def table_sheet(rng: random.Random, names: int = len(COLOURS)) -> dict[str, int]:
    """A value for some colour names, in random order; a problem has all three, fewer are exercises."""
    return {name: rng.randrange(MOD) for name in rng.sample(COLOURS, names)}


def table(rng: random.Random, terms: int, values: dict[str, int] | None = None) -> Item:
    """Text: `red3,blue5,green1;value blue+red=?`: look the values up, then compute."""
    values = values or table_sheet(rng)
    names, ops = [rng.choice(list(values)) for _ in range(terms)], _ops(rng, terms - 1)
    worked, answer = look_up_then_compute(names, ops, values)
    return Item("table", f"{pairs(list(values), values)};value {expression(names, ops)}=?", answer, worked)


def drawn(rng: random.Random, terms: int) -> Item:
    """Image: the chain itself is drawn, one glyph a cell. The worked solution copies it out first, then computes."""
    text = chain(rng, terms)
    written = text.question.removesuffix("=?")
    cells = tuple(written) + (BLANK,) * (DRAWN_COLS - len(written))
    return Item("drawn", "image=?", text.answer, f"{written};{text.worked}", cells, DRAWN_COLS)


def legend_sheet(rng: random.Random) -> tuple[str, ...]:
    """Top row: a shape of every colour; bottom row: a digit under each."""
    colours = rng.sample(COLOURS, len(COLOURS))
    return tuple(f"{c} {rng.choice(SHAPES)}" for c in colours) + tuple(str(rng.randrange(MOD)) for _ in colours)


def legend_values(cells: tuple[str, ...]) -> dict[str, int]:
    """The digit under each colour."""
    return {cells[i].split()[0]: int(cells[i + 3]) for i in range(3)}


def legend(rng: random.Random, terms: int, cells: tuple[str, ...] | None = None) -> Item:
    """Image: look up the digit under each colour, then compute."""
    cells = cells or legend_sheet(rng)
    names, ops = [rng.choice(COLOURS) for _ in range(terms)], _ops(rng, terms - 1)
    worked, answer = look_up_then_compute(names, ops, legend_values(cells))
    return Item("legend", f"value {expression(names, ops)}=?", answer, worked, cells, 3)


def _sheet_of(rng: random.Random, classes: tuple[str, ...], cells: int) -> tuple[str, ...]:
    while True:
        drawn_cells = tuple(rng.choice(classes) if rng.random() < 0.8 else BLANK for _ in range(cells))
        if max(number_of(drawn_cells, word) for word in COLOURS + SHAPES) < MOD:
            return drawn_cells


def scene_sheet(rng: random.Random) -> tuple[str, ...]:
    """Two rows of coloured shapes and blanks; no colour and no shape fills more than `MOD - 1` cells."""
    return _sheet_of(rng, NEAR, SCENE_CELLS)


def crowd_sheet(rng: random.Random) -> tuple[str, ...]:
    """The same with more shapes, seen from afar: what `count` and `most` ask about is limited by perception."""
    return _sheet_of(rng, FAR, CROWD_CELLS)


def number_of(cells: tuple[str, ...], word: str) -> int:
    """How many cells show this colour or shape."""
    return sum(word in cell.split() for cell in cells)


def tally(cells: tuple[str, ...], words: tuple[str, ...]) -> dict[str, int]:
    """How often each word is seen."""
    return {word: number_of(cells, word) for word in words}


def scene(rng: random.Random, terms: int, cells: tuple[str, ...] | None = None) -> Item:
    """Image: `count red+blue=?`: count the shapes of each colour, then compute."""
    cells = cells or scene_sheet(rng)
    names, ops = rng.sample(COLOURS, terms), _ops(rng, terms - 1)
    worked, answer = look_up_then_compute(names, ops, tally(cells, COLOURS))
    return Item("scene", f"count {expression(names, ops)}=?", answer, worked, cells, len(cells) // 2)


def count(rng: random.Random, cells: tuple[str, ...] | None = None) -> Item:
    """Image: `count red?`; worked by a tally of all colours (shapes)."""
    cells, word = cells or crowd_sheet(rng), rng.choice(COLOURS + SHAPES)
    words = COLOURS if word in COLOURS else SHAPES
    counts = tally(cells, words)
    return Item("count", f"count {word}?", str(counts[word]), pairs(words, counts), cells, len(cells) // 2)


def ranking(cells: tuple[str, ...], words: tuple[str, ...]) -> list[tuple[int, str]]:
    """The words by how often they are seen, the most frequent first."""
    return sorted(((number_of(cells, w), w) for w in words), reverse=True)


def most(rng: random.Random, cells: tuple[str, ...] | None = None, kind: str | None = None) -> Item | None:
    """Image: which colour (shape) is the most frequent, by exactly one; None where the given cells allow no question.

    A lead of one makes it need a count: with larger leads the overall tint of the image already tells the answer.
    """
    kind = kind or rng.choice(("colour", "shape"))
    words = COLOURS if kind == "colour" else SHAPES
    given = cells is not None
    while True:
        seen = cells if cells is not None else crowd_sheet(rng)
        order = ranking(seen, words)
        if order[0][0] == order[1][0] + 1:
            return Item("most", f"most {kind}?", order[0][1], pairs(words, tally(seen, words)), seen, len(seen) // 2)
        if given:
            return None
        cells = None


GENERATORS: dict[str, Callable[[random.Random], Item]] = {
    "chain": lambda rng: chain(rng, rng.choice((3, 4, 5))),
    "table": lambda rng: table(rng, rng.choice((2, 3))),
    "drawn": lambda rng: drawn(rng, rng.choice((3, 4))),
    "legend": lambda rng: legend(rng, rng.choice((2, 3))),
    "scene": lambda rng: scene(rng, rng.choice((2, 3))),
    "count": count,
    "most": most,
}
TASKS = tuple(GENERATORS)
BENCHMARKS = tuple(f"micro_{task}" for task in TASKS)
TEXT_TASKS = ("chain", "table")


def category(item: Item) -> str:
    """What a benchmark's results are broken down by."""
    if item.task in ("count", "most"):
        shape = item.question.removeprefix("count ").removesuffix("?") in SHAPES or item.question == "most shape?"
        return "shape" if shape else "colour"
    return f"{item.worked.count('=') + 1} terms"


# -------------------------------------------------------------------------------------------- benchmarks, mixes


def _draw(task: str, rng: random.Random, side: str, seen: set[str], tries: int) -> Item | None:
    """An unseen problem of this side of the split; after `tries` repeats an already seen one, or None for tests."""
    repeats = 0
    while True:
        item = GENERATORS[task](rng)
        name = key(item)
        if split(name) != side:
            continue
        if name not in seen:
            seen.add(name)
            return item
        repeats += 1
        if repeats >= tries:
            return item if side == "train" else None


def draw_benchmark(name: str, n: int, seed: int) -> list[Item]:
    """`n` mutually distinct test problems of one benchmark; the opening words take turns."""
    task = name.removeprefix("micro_")
    if task not in GENERATORS or f"micro_{task}" != name:
        raise ValueError(f"unknown benchmark {name!r}; known: {', '.join(BENCHMARKS)}")
    rng, seen, items = random.Random(f"benchmark-{name}-{seed}"), set(), []
    for i in range(n):
        item = _draw(task, rng, "test", seen, 20_000)
        if item is None:
            raise ValueError(f"{name} has no {n} distinct test problems: stopped at {i}")
        items.append(replace(item, phrase=PHRASES[i % len(PHRASES)]))
    return items


def shares(weights: dict[str, float], n: int) -> dict[str, int]:
    """`n` divided by the weights; what rounding leaves goes to the largest remainders."""
    unknown = set(weights) - set(TASKS)
    total = sum(weights.values())
    if unknown or total <= 0 or min(weights.values()) < 0:
        raise ValueError(f"bad weights {weights}: tasks are {', '.join(TASKS)}, weights are not negative, not all zero")
    exact = {task: n * w / total for task, w in weights.items()}
    whole = {task: int(x) for task, x in exact.items()}
    left = sorted(weights, key=lambda t: (whole[t] - exact[t], TASKS.index(t)))[: n - sum(whole.values())]
    return {task: whole[task] + (task in left) for task in weights}


def draw_mix(weights: dict[str, float], n: int, seed: int) -> list[Item]:
    """`n` shuffled training problems, tasks in the given proportions, distinct as far as a task has enough problems."""
    rng, seen = random.Random(f"mix-{seed}"), set()
    items = []
    for task, amount in shares(weights, n).items():
        items += [replace(_draw(task, rng, "train", seen, 200), phrase=rng.choice(PHRASES)) for _ in range(amount)]
    rng.shuffle(items)
    return items


# ----------------------------------------------------------------------------------------------------- drawings

# The mean colour of the image processor's normalisation: an empty pixel enters the vision tower as zero.
BACKGROUND = (122, 116, 104)
NOISE = 8.0
FAR_PURITY, FAR_RADII = (0.5, 0.75), (4, 5, 6)  # share of its own colour in a far shape, and its radii
_RGB = {"red": (225, 50, 45), "green": (45, 205, 60), "blue": (45, 70, 225)}
# 5 x 7 bitmaps: drawn here, not by a font, so that the pixels do not depend on the font library.
_BITMAPS = {
    "0": "01110 10001 10011 10101 11001 10001 01110",
    "1": "00100 01100 00100 00100 00100 00100 01110",
    "2": "01110 10001 00001 00110 01000 10000 11111",
    "3": "11110 00001 00001 01110 00001 00001 11110",
    "4": "00010 00110 01010 10010 11111 00010 00010",
    "5": "11111 10000 11110 00001 00001 10001 01110",
    "6": "00110 01000 10000 11110 10001 10001 01110",
    "+": "00000 00100 00100 11111 00100 00100 00000",
    "-": "00000 00000 00000 11111 00000 00000 00000",
}


def _paint_glyph(draw: ImageDraw.ImageDraw, glyph: str, x: int, y: int, rng: random.Random) -> None:
    """A bitmap of two or three pixels a dot, centred at (x, y)."""
    shade, scale = 255 - rng.randrange(60), rng.choice((2, 3))
    left, top = x - 5 * scale // 2, y - 7 * scale // 2
    for row, bits in enumerate(_BITMAPS[glyph].split()):
        for col, bit in enumerate(bits):
            if bit == "1":
                corner = (left + col * scale, top + row * scale)
                draw.rectangle([corner, (corner[0] + scale - 1, corner[1] + scale - 1)], fill=(shade,) * 3)


def _paint_shape(draw: ImageDraw.ImageDraw, name: str, x: int, y: int, rng: random.Random) -> None:
    """A filled shape of varying size and shade, centred at (x, y); a far one is small and tinted by another colour."""
    *far, colour, shape = name.split()
    rgb, r = _RGB[colour], rng.choice((6, 7, 8, 9))
    if far:
        other = _RGB[rng.choice([c for c in COLOURS if c != colour])]
        own, r = rng.uniform(*FAR_PURITY), rng.choice(FAR_RADII)
        rgb = tuple(round(own * a + (1 - own) * b) for a, b in zip(rgb, other, strict=True))
    fill = tuple(max(0, min(255, v + rng.randrange(-40, 41))) for v in rgb)
    if shape == "square":
        draw.rectangle([x - r, y - r, x + r, y + r], fill=fill)
    elif shape == "circle":
        draw.ellipse([x - r, y - r, x + r, y + r], fill=fill)
    else:
        draw.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill=fill)


_TILE_CHARS = {name: char for char, name in TILES.items()}


def render_cell(name: str, seed: int | str) -> np.ndarray:
    """One 28 x 28 RGB cell (uint8) with random place, size, shade and pixel noise; a tile of Sokoban as it is."""
    if name in _TILE_CHARS:
        return np.asarray(sprite(_TILE_CHARS[name], CELL, CELL))
    rng = random.Random(f"cell-{name}-{seed}")
    image = Image.new("RGB", (CELL, CELL), BACKGROUND)
    draw = ImageDraw.Draw(image)
    x, y = CELL // 2 + rng.randrange(-3, 4), CELL // 2 + rng.randrange(-3, 4)
    if name in GLYPHS:
        _paint_glyph(draw, name, x, y, rng)
    elif name != BLANK:
        _paint_shape(draw, name, x, y, rng)
    pixels = np.asarray(image, dtype=np.float64)
    noise = np.random.default_rng(rng.randrange(2**31)).normal(0, NOISE, pixels.shape)
    return np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8)


def render(item: Item, seed: int | str) -> Image.Image | None:
    """The item's image, or None for a text problem: a pixel-exact function of the cells and the seed."""
    if not item.cells:
        return None
    rows = [item.cells[i : i + item.cols] for i in range(0, len(item.cells), item.cols)]
    grid = [[render_cell(c, f"{seed}-{r}-{k}") for k, c in enumerate(row)] for r, row in enumerate(rows)]
    return Image.fromarray(np.concatenate([np.concatenate(row, axis=1) for row in grid], axis=0))
