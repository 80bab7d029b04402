"""Generated pairs of a gold and a response with the verdict that the exact oracle gives: equal values in many spellings, near misses.

`generated` draws them from a seed, `cases` is the same as a hypothesis strategy. Nearly half of the pairs differ, by one digit, sign,
order of magnitude, element, coefficient, bound or base. What docs/verifier.md leaves open is not generated.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from hypothesis import strategies as st

from tests import oracle_numbers as numbers
from tests.oracle import Tree, node, verdict
from tests.oracle_numbers import Pair, decimal, exact, integer, linear, missed, near, signed, small, spelled
from tests.oracle_text import dressed, write


@dataclass(frozen=True, slots=True)
class Case:
    """One question to a verifier and its verdict; the trees are what the texts say."""

    kind: str
    gold: str
    response: str
    expected: int
    trees: Pair


UNITS = ("cm", "m", "km", "kg", "hours", "minutes", "students", "dollars", "degrees", "m/s", "km/h", "cm^2", "m^3")
LETTERS = "txyzqrwn"
"""Variables that nobody takes for a unit."""


def finite(r: random.Random) -> Tree:
    """A short decimal or an integer."""
    q = signed(r, Fraction(r.randint(1, 400), r.choice((1, 1, 2, 4, 10, 20))))
    found = decimal(q)
    assert found is not None
    return exact(q, r) if r.random() < 0.3 else found if q.denominator > 1 else integer(int(q))


def units(r: random.Random) -> Pair:
    """A number with a unit against the same with the same unit, none, or another."""
    q = Fraction(r.randint(1, 10 ** r.randint(1, 5)), r.choice((1, 1, 1, 2, 10)))
    unit, other = r.choice(UNITS), r.choice(UNITS)
    wanted, found = (spelled_plainly(number, r) for number in (q, r.choice((q, missed(q, r)))))
    if r.random() < 0.1:
        wanted, found = (node("mul", integer(r.randint(2, 3)), node("const", "pi")) for _ in range(2))
    gold = r.choice((wanted, node("unit", wanted, unit)))
    return gold, r.choice((found, *2 * [node("unit", found, unit)], node("unit", found, other)))


def spelled_plainly(q: Fraction, r: random.Random) -> Tree:
    """A number that a unit or a percent sign follows: an integer, a decimal, a fraction."""
    return r.choice((exact(q, r), decimal(q) or exact(q, r))) if q.denominator > 1 else integer(int(q))


def letters(r: random.Random) -> Pair:
    """Factors that are no units: `2t` is not 2."""
    n, letter = r.randint(2, 60), node("var", r.choice(LETTERS))
    product = node("mul", integer(n), letter)
    other = node("mul", integer(n), node("var", r.choice(LETTERS)))
    turned = node("mul", letter, integer(n))
    gold = r.choice((product, product, integer(n)))
    return gold, r.choice((product, product, turned, integer(n), other, node("mul", integer(n + 1), letter)))


def bases(r: random.Random) -> Pair:
    """Digits with a base; the answer's may be left out."""
    base = r.randint(2, 9)
    digits = [r.randint(1, base - 1), *(r.randint(0, base - 1) for _ in range(r.randint(1, 5)))]
    k, changed = r.randrange(1, len(digits)), list(digits)
    if r.random() < 0.5:
        changed[k] = (changed[k] + 1) % base
    else:
        changed[k], changed[k - 1] = changed[k - 1], changed[k]
    found = r.choice((digits, digits, changed))
    other = r.choice((base, base, None, min(base + 1, 9), r.randint(max(2, *(d + 1 for d in found)), 9)))
    return node("base", "".join(map(str, digits)), base), node("base", "".join(map(str, found)), other)


def percentages(r: random.Random) -> Pair:
    """Percent signs on both sides, on one, and on one with the value on the other."""
    q = Fraction(r.randint(1, 400), r.choice((1, 1, 1, 2, 4, 10)))
    gold, same = spelled_plainly(q, r), spelled_plainly(q, r)
    other = spelled_plainly(r.choice((q / 10, q * 10, q / 1000, q + 1, near(q, r))), r)
    value = spelled(r.choice((q / 100, q / 100, q / 10)), r)
    return r.choice((
        (node("percent", gold), node("percent", same)), (node("percent", gold), node("percent", other)),
        (node("percent", gold), same), (gold, node("percent", same)), (node("percent", gold), other),
        (node("percent", gold), value), (value, node("percent", gold)), (exact(q / 100, r), same),
    ))  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ collections


def element(r: random.Random) -> Tree:
    """A number of a collection."""
    root = node("root", 2, integer(r.choice((2, 3, 5, 7))))
    return r.choice((integer(int(signed(r, Fraction(r.randint(0, 30))))), exact(small(r), r), finite(r), root))


def again(tree: Tree, r: random.Random) -> Tree:
    """The same number, rationals often in another form."""
    q = numbers.rational(tree)
    return tree if q is None or r.random() < 0.5 else r.choice((exact(q, r), decimal(q) or tree))


def other_than(tree: Tree, r: random.Random) -> Tree:
    """A number near it."""
    q = numbers.rational(tree)
    return node("neg", tree) if q is None else exact(near(q, r), r)


def point(r: random.Random) -> Tree:
    return node("tuple", *(integer(r.randint(-9, 20)) for _ in range(2)))


def lists(r: random.Random) -> Pair:
    """Sets and lists in any order; an element missing, added, changed, repeated; the same elements as a point."""
    make = r.choice((element, element, point))
    items = [make(r) for _ in range(r.randint(2, 4))]
    gold = node(r.choice(("set", "list")), *items)
    found = [i if i.head == "tuple" else again(i, r) for i in items]
    r.shuffle(found)
    match r.randrange(8):
        case 0:
            found = [*found[1:], found[0], found[0]]
        case 1:
            found[0] = make(r) if found[0].head == "tuple" else other_than(found[0], r)
        case 2:
            found.append(make(r))
        case 3 if len(found) > 2:
            found.pop()
        case 4 if items[0].head == "tuple":
            found[0] = node("tuple", *found[0].args[::-1])
        case 5 if items[0].head != "tuple":
            return gold, node("tuple", *found)
    return gold, node(r.choice(("set", "list")), *found)


def plus_minus(r: random.Random) -> Pair:
    r"""`a \pm b` and the list of both values."""
    centre, half = integer(r.choice((0, 0, r.randint(1, 9)))), integer(r.randint(1, 12))
    if r.random() < 0.5:
        half = node("root", 2, integer(r.choice((2, 3, 5, 7))))
    tree = node("pm", centre, half)
    a, b = half if centre == integer(0) else node("add", centre, half), node("neg", half)
    low = b if centre == integer(0) else node("add", centre, b)
    further = node("mul", integer(3), half) if half.head == "root" else integer(half.args[0] + 1)
    forms = [node("list", low, a), node("set", a, low), tree, a, node("list", a, half), node("pm", centre, further)]
    pair = tree, r.choice(forms)
    return pair[::-1] if pair[1].head in ("list", "set") and r.random() < 0.5 else pair


def tuples(r: random.Random) -> Pair:
    """Points: exchanged, changed, lengthened; the same numbers as a set."""
    items = [element(r) for _ in range(r.randint(2, 3))]
    found = [again(i, r) for i in items]
    k = r.randrange(len(found))
    match r.randrange(7):
        case 0:
            found[k], found[k - 1] = found[k - 1], found[k]
        case 1:
            found[k] = other_than(found[k], r)
        case 2:
            found.append(element(r))
        case 3:
            return node("tuple", *items), node(r.choice(("set", "list")), *found)
    answer = node("tuple", *found)
    if len(items) == len(found) == 2 and r.random() < 0.15:
        answer = node("eq", node("label", "(x, y)"), answer)
    return node("tuple", *items), answer


def intervals(r: random.Random) -> Pair:
    """Bounds open, closed, infinite, changed, exchanged; also as inequalities."""
    parts = r.choice((1, 1, 2, 4))
    ends = [spelled_plainly(Fraction(n, parts), r) for n in sorted(r.sample(range(-40, 41), 2))]
    infinite = node("const", "oo")
    left, right = r.choice("(["), r.choice(")]")
    if (side := r.randrange(6)) == 0:
        left, ends[0] = "(", node("neg", infinite)
    elif side == 1:
        right, ends[1] = ")", infinite
    found = [left, *(e if numbers.rational(e) is None else again(e, r) for e in ends), right]
    match r.randrange(6):
        case 0 if side != 0:
            found[0] = "[(".replace(left, "")
        case 1 if side != 1:
            found[3] = "])".replace(right, "")
        case 2 if side > 1:
            found[r.choice((1, 2))] = other_than(ends[r.choice((0, 1))], r)
    return node("interval", left, *ends, right), node("interval", *found)


def matrices(r: random.Random) -> Pair:
    """Small matrices and vectors: an entry changed, transposed, two entries exchanged."""
    height, width = r.choice(((2, 2), (2, 1), (3, 1), (1, 2), (2, 3), (3, 3)))
    rows = [[element(r) for _ in range(width)] for _ in range(height)]
    found = [[again(e, r) for e in row] for row in rows]
    i, j = r.randrange(height), r.randrange(width)
    match r.randrange(6):
        case 0:
            found = [list(column) for column in zip(*found, strict=True)]
        case 1:
            found[i][j] = other_than(found[i][j], r)
        case 2:
            found[i][j], found[i - 1][j - 1] = found[i - 1][j - 1], found[i][j]
    gold, answer = (node("matrix", *(node("row", *row) for row in m)) for m in (rows, found))
    return gold, answer


# ------------------------------------------------------------------------------------------------------------ equations


def solutions(r: random.Random) -> Pair:
    """`x = v`, `v = x` and `v`; another value, another name."""
    q = small(r) * r.choice((1, 1, 10))
    name, other = node("var", r.choice("xyzt")), node("var", r.choice("xyn"))
    wanted, found = exact(q, r), spelled(missed(q, r), r)
    gold = r.choice((wanted, node("eq", name, wanted)))
    forms = [found, node("eq", name, found), node("eq", name, found), node("eq", found, name), node("eq", other, found)]
    return gold, r.choice(forms)


def lines(r: random.Random) -> Pair:
    """A line, its rearrangements and its right side; a coefficient changed, the variables exchanged."""
    x, y = r.choice((("x", "y"), ("t", "s"), ("n", "m")))
    a, b = signed(r, Fraction(r.randint(2, 9))), signed(r, Fraction(r.randint(1, 9)))
    wrong = r.random() < 0.5
    c, d = r.choice(((-a, b), (a, -b), (near(a, r), b), (a, near(b, r)))) if wrong else (a, b)
    left, right = (node("var", y), node("var", x))
    k = Fraction(r.randint(2, 4))
    gold = node("eq", left, linear([(a, right), (b, None)], r))
    zero = linear([(c * k, right), (-k, left), (d * k, None)], r)
    forms = [
        linear([(c, right), (d, None)], r), node("eq", left, linear([(c, right), (d, None)], r)), node("eq", zero, integer(0)),
        node("eq", linear([(k, left)], r), linear([(c * k, right), (d * k, None)], r)),
        node("eq", right, linear([(c, left), (d, None)], r)),
    ]  # fmt: skip
    if r.random() < 0.2:
        return linear([(a, right), (b, None)], r), node("eq", node("label", f"f({x})"), forms[0])
    return gold, r.choice(forms)


def chains(r: random.Random) -> Pair:
    """A computation that ends in the answer, or is false."""
    q = small(r)
    part = Fraction(r.randint(1, 20))
    end = missed(q, r)
    steps = [node("add", exact(q - part, r), integer(int(part))), exact(end, r)]
    return exact(q, r), node("chain", *r.choice((steps, [exact(q, r), *steps[1:]], [*steps, numbers.fraction(end, r)])))


KINDS: dict[str, Callable[[random.Random], Pair]] = {
    "integers": numbers.integers, "fractions": numbers.fractions, "decimals": numbers.decimals,
    "mixed numbers": numbers.mixed_numbers, "scientific": numbers.sized, "powers": numbers.powers, "roots": numbers.roots,
    "constants": numbers.constants, "polynomials": numbers.polynomials, "units": units, "letters": letters, "bases": bases,
    "percentages": percentages, "lists": lists, "plus-minus": plus_minus, "tuples": tuples, "intervals": intervals,
    "matrices": matrices, "solutions": solutions, "lines": lines, "chains": chains,
}  # fmt: skip
"""How to draw a gold and an answer of each kind."""


def drawn(kind: str, r: random.Random) -> Case:
    """One case of this kind on whose verdict the specification leaves no doubt."""
    while True:
        gold, answer = KINDS[kind](r)
        expected = verdict(gold, answer)
        if expected is not None:
            break
    text, formula = write(gold, r)
    misleading = text if formula and not expected else str(r.randint(2, 99))
    response = dressed(answer, r, misleading)
    return Case(kind, f"${text}$" if formula and r.random() < 0.1 else text, response, int(expected), (gold, answer))


def generated(n: int, seed: int | str) -> Iterator[Case]:
    """`n` different questions, every kind in turn; equal for equal `n` and `seed`."""
    seen: set[tuple[str, str]] = set()
    r = random.Random(seed)
    while len(seen) < n:
        case = drawn(list(KINDS)[len(seen) % len(KINDS)], r)
        if (case.gold, case.response) not in seen:
            seen.add((case.gold, case.response))
            yield case


@st.composite
def cases(draw: st.DrawFn, kinds: Sequence[str] = tuple(KINDS)) -> Case:
    """One case of one of these kinds, from numbers that hypothesis draws and shrinks."""
    return drawn(draw(st.sampled_from(kinds)), draw(st.randoms(use_true_random=False)))
