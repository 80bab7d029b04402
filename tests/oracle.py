"""An exact, slow judge of answers: expression trees, their values, and which of them docs/verifier.md calls equal.

Nothing here reads text, and nothing of `lmmr1` is used: `oracle_cases.py` draws trees, `oracle_text.py` spells them, and `verdict`
says from the trees alone what a verifier of the texts must say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import sympy
from sympy import E, Expr, I, Integer, Rational, Symbol, oo, pi


@dataclass(frozen=True, slots=True)
class Tree:
    """An expression: its head is a key of `NUMBER`, or one of the heads that `verdict` knows; leaves are ints and strings."""

    head: str
    args: tuple[Any, ...]


def node(head: str, *args: Any) -> Tree:
    """A tree with these arguments."""
    return Tree(head, args)


# ------------------------------------------------------------------------------------------------------------ values

CONSTANTS = {"pi": pi, "e": E, "i": I, "oo": oo}


def _repeating(whole: int, fixed: str, cycle: str) -> Expr:
    start = Rational(int(f"{whole}{fixed}"), 10 ** len(fixed))
    return start + Rational(int(cycle), (10 ** len(cycle) - 1) * 10 ** len(fixed))


NUMBER: dict[str, Callable[..., Expr]] = {
    "int": Integer,
    "dec": Rational,
    "sci": lambda mantissa, exponent: Rational(mantissa) * Integer(10) ** exponent,
    "mixed": lambda whole, n, d: whole + Rational(n, d),
    "repeat": _repeating,
    "var": Symbol,
    "const": CONSTANTS.__getitem__,
    "factorial": sympy.factorial,
    "neg": lambda a: -a,
    "add": sympy.Add,
    "mul": sympy.Mul,
    "frac": lambda a, b: a / b,
    "pow": lambda a, b: a**b,
    "root": lambda k, a: sympy.root(a, k),
}
"""The exact value of each kind of number and expression from its arguments."""


def value(tree: Tree) -> Expr:
    """The exact value of a number or expression."""
    return NUMBER[tree.head](*(value(a) if isinstance(a, Tree) else a for a in tree.args))


def stated(tree: Tree) -> Rational:
    """One unit in the last digit that a decimal states; 0 for what is exact."""
    match tree.head, tree.args:
        case "dec", (text,):
            return Rational(1, 10 ** len(text.partition(".")[2]))
        case "sci", (mantissa, exponent):
            return stated(node("dec", mantissa)) * Integer(10) ** exponent
        case "neg", (a,):
            return stated(a)
    return Integer(0)


def _numbers(gold: Tree, answer: Tree, scale: int = 1) -> bool | None:
    """Section 3: equal values are equal; what agrees with a decimal gold in all digits but not in value is left open."""
    wanted, found = value(gold), value(answer)
    if scale == 1 and wanted == found:
        return True
    difference = sympy.expand(wanted / scale - found)
    if difference == 0:
        return True
    near = difference.is_number and bool(abs(difference) * scale < stated(gold))
    return None if near else False


# ------------------------------------------------------------------------------------------------------------ verdicts


def _all(verdicts: Iterable[bool | None]) -> bool | None:
    """One clear difference decides; one open question leaves the whole open."""
    found = set(verdicts)
    return False if False in found else None if None in found else True


def _any(verdicts: Iterable[bool | None]) -> bool | None:
    found = set(verdicts)
    return True if True in found else None if None in found else False


def members(tree: Tree) -> tuple[Tree, ...]:
    """The elements of a set, of a list without brackets, or of plus-minus."""
    if tree.head != "pm":
        return tree.args
    centre, half = tree.args
    return node("add", centre, half), node("add", centre, node("neg", half))


def _unordered(gold: Tree, answer: Tree) -> bool | None:
    wanted, found = members(gold), members(answer)
    return _all(
        [_any(verdict(g, a) for a in found) for g in wanted] + [_any(verdict(g, a) for g in wanted) for a in found]
    )


def _ordered(gold: Tree, answer: Tree) -> bool | None:
    if len(gold.args) != len(answer.args):
        return False
    return _all(
        verdict(g, a) if isinstance(g, Tree) else g == a for g, a in zip(gold.args, answer.args, strict=True)
    )  # brackets are texts


def _bases(gold: Tree, answer: Tree) -> bool | None:
    """The base may be left out of the answer; another spelling of the same number in another base is left open."""
    (digits, base), (found, other) = gold.args, answer.args
    if found == digits and other in (base, None):
        return True
    return None if int(digits, base) == int(found, other or 10) else False


def _percent(gold: Tree, answer: Tree) -> bool | None:
    """Section 4: two signs: the numbers; one sign: the numbers or the values."""
    bare = [t.args[0] if t.head == "percent" else t for t in (gold, answer)]
    if kind(bare[0]) != kind(bare[1]):
        return False
    if gold.head == answer.head:
        return _numbers(*bare)
    if gold.head == "percent":
        return _any([_numbers(*bare), _numbers(*bare, scale=100)])
    return _any([_numbers(*bare), _numbers(bare[0], node("frac", bare[1], node("int", 100)))])


def _units(gold: Tree, answer: Tree) -> bool | None:
    """Section 4: a unit counts only where both sides have one."""
    (wanted, unit), (found, other) = (t.args if t.head == "unit" else (t, "") for t in (gold, answer))
    return False if unit and other and unit != other else verdict(wanted, found)


def _named(tree: Tree) -> tuple[str, Tree] | None:
    """The name that an equation defines and what it is; the empty name for what is no equation; None for other equations."""
    if tree.head != "eq":
        return "", tree
    for name, rest in (tree.args, tree.args[::-1]):
        if name.head == "label" or (name.head == "var" and Symbol(name.args[0]) not in value(rest).free_symbols):
            return name.args[0], rest
    return None


def _equations(gold: Tree, answer: Tree) -> bool | None:
    """Section 6: rearrangements are equal, a name on one side alone does not count, another name does."""
    if gold.head == answer.head and all(a.head in NUMBER for a in gold.args + answer.args):
        sides = [value(left) - value(right) for left, right in (gold.args, answer.args)]
        if sympy.cancel(sympy.expand(sides[0]) / sympy.expand(sides[1])).is_Rational:
            return True
    wanted, found = _named(gold), _named(answer)
    if wanted is None or found is None:
        return False if gold.head == answer.head else None
    if wanted[0] and found[0] and wanted[0] != found[0]:
        return False
    return verdict(wanted[1], found[1])


def _chain(gold: Tree, answer: Tree) -> bool | None:
    """Section 6: a chain of values must be true."""
    first, *rest = answer.args
    return verdict(gold, first) if all(_numbers(first, other) for other in rest) else False


COMPARE: dict[str, Callable[[Tree, Tree], bool | None]] = {
    "chain": _chain, "eq": _equations, "percent": _percent, "unit": _units, "base": _bases,
    "number": _numbers, "unordered": _unordered, "tuple": _ordered, "interval": _ordered, "matrix": _ordered,
    "row": _ordered,
}  # fmt: skip
"""How two trees compare, by kind; the first five decide also where only one side is of that kind."""


def kind(tree: Tree) -> str:
    """A key of `COMPARE`."""
    if tree.head in NUMBER:
        return "number"
    return "unordered" if tree.head in ("set", "list", "pm") else tree.head


def verdict(gold: Tree, answer: Tree) -> bool | None:
    """Whether docs/verifier.md calls the answer equal to the gold; None where that may be argued about."""
    kinds = {kind(gold), kind(answer)}
    for mixed in ("chain", "eq", "percent", "unit"):
        if mixed in kinds:
            return COMPARE[mixed](gold, answer)
    return COMPARE[kind(gold)](gold, answer) if len(kinds) == 1 else False
