"""Values of LaTeX: math-verify's grammar without its defaults that change a value, and exact comparison.

math-verify cuts units out of expressions, lowers the case of variables, rounds to six decimals and takes differences
below 1e-15 for none. Here decimals are fractions, and two numbers are equal where all of DIGITS digits are.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from typing import Any

SIGNIFICANT = 6
"""A decimal gold of so many digits, leading zeros not counted, is a rounded one: what rounds to it is equal."""

DIGITS = 50
"""Decimal digits to which irrational numbers are compared, relative to the larger one."""


class Unparsable(ValueError):
    """The LaTeX grammar does not accept a text."""


def read(latex: str) -> Any:
    """A sympy object: decimals as fractions, `i` as the imaginary unit. Raises Unparsable.

    Where the whole is no expression, its last side is read, as math-verify does: `(long derivation) = 5`.
    """
    from latex2sympy2_extended import normalize_latex
    from math_verify.parser import get_last_eq

    text = normalize_latex(latex, _normalization())
    for part in dict.fromkeys((text, get_last_eq(text))):
        found = _parsed(part)
        if found is not None:
            return _exact(found)
    raise Unparsable(latex)


@cache
def _normalization() -> Any:
    """math-verify's spelling repairs, without its units: those would be cut out of expressions."""
    from latex2sympy2_extended import NormalizationConfig

    return NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none")


def _parsed(latex: str) -> Any:
    from latex2sympy2_extended import latex2sympy
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig
    from math_verify.grader import should_treat_as_complex

    try:
        return latex2sympy(
            latex,
            is_real=not should_treat_as_complex(latex),
            normalization_config=None,
            conversion_config=ConversionConfig(lowercase_symbols=False),
        )
    except MemoryError:
        raise
    except Exception:  # the grammar raises anything; the caller says what could not be read
        return None


def _exact(found: Any) -> Any:
    """Floats as the fractions that were written, the letter i as the imaginary unit: an answer has no index."""
    import sympy
    from latex2sympy2_extended.logic import And

    if isinstance(found, sympy.core.relational.Relational):  # evaluated, an equation of numbers would be `True`
        return found.func(_exact(found.lhs), _exact(found.rhs), evaluate=False)
    if isinstance(found, And):
        links = list(map(_exact, found._unsorted_args))
        return And(*links, evaluate=False) if len(set(links)) > 1 else links[0]
    floats = found.atoms(sympy.Float) if hasattr(found, "atoms") else ()
    units = [s for s in getattr(found, "free_symbols", ()) if s.name == "i"]
    changed = {x: sympy.Rational(str(x)) for x in floats} | dict.fromkeys(units, sympy.I)
    return found.xreplace(changed) if changed else found


def rounds_to(value: Fraction, decimal: str) -> bool:
    """True where `decimal` states at least SIGNIFICANT digits and `value`, rounded to its places, is that decimal."""
    whole, _, places = decimal.strip().lstrip("+-").partition(".")
    stated = places.isdigit() and len((whole + places).lstrip("0")) >= SIGNIFICANT
    return stated and round(value, len(places)) == Fraction(decimal.strip())


def snapped(found: Any, decimals: Sequence[str]) -> Any:
    """`found` with each number, also in a list, interval or matrix, that rounds to one of `decimals` replaced by it."""
    import sympy

    if not decimals:
        return found
    if _is_number(found):
        value = found.doit().evalf(DIGITS)
        near = (d for d in decimals if value.is_Float and rounds_to(Fraction(str(value)), d))
        return next((sympy.Rational(d) for d in near), found)
    if getattr(found, "is_Matrix", False):
        return found.applyfunc(lambda x: snapped(x, decimals))
    if isinstance(found, sympy.core.relational.Relational):
        return found.func(found.lhs, snapped(found.rhs, decimals), evaluate=False)
    if isinstance(found, sympy.Tuple | sympy.Set):
        return found.func(*(snapped(x, decimals) for x in found.args))
    return found


def is_false(found: Any) -> bool:
    """True for an equation, or a chain of them, between numbers that are not equal: `x = 2 + 4 = 5`."""
    numbers = [side.doit() for side in _sides(found) if _is_number(side)]
    return any(not _same_number(numbers[0], number) for number in numbers[1:])


def of_chain(gold: Any) -> Any:
    """The number that a true chain of numbers states (`0.56 = 56/100`), anything else as it is."""
    sides = _sides(gold)
    return sides[0] if sides and all(map(_is_number, sides)) and not is_false(gold) else gold


def is_unsolved(found: Any, gold: Any) -> bool:
    """True for an equation in one unknown that does not say what the unknown is, where the gold is none: `2x = 5`."""
    import sympy

    if not isinstance(found, sympy.Eq) or isinstance(gold, sympy.core.relational.Relational):
        return False
    names = found.lhs.free_symbols
    if len(names) != 1 or found.rhs.free_symbols or found.lhs in names or len(min(names, key=str).name) > 1:
        return False
    if found.lhs.has(sympy.Sum, sympy.Product, sympy.Integral, sympy.Limit, sympy.Derivative):
        return False
    named = isinstance(found.lhs, sympy.core.function.AppliedUndef) or (
        isinstance(found.lhs, sympy.functions.elementary.trigonometric.TrigonometricFunction)
        and found.lhs.args[0] in names
    )
    return isinstance(found.lhs, sympy.Expr) and not named


def _sides(found: Any) -> list[Any]:
    """Both sides of each equation of a chain; empty for what is none."""
    import sympy
    from latex2sympy2_extended.logic import And

    links = found._unsorted_args if isinstance(found, And) else [found]
    return [s for link in links for s in (link.lhs, link.rhs)] if all(isinstance(x, sympy.Eq) for x in links) else []


def union(parts: Sequence[str]) -> Any:
    """The numbers that satisfy one of several inequalities. Raises Unparsable where a part is none."""
    import sympy
    from math_verify.grader import is_relation, unwrap_fcs

    found = [read(part) for part in parts]
    if not all(is_relation(one) for one in found):
        raise Unparsable(" or ".join(parts))
    return sympy.Union(*(unwrap_fcs(one).as_set() for one in found))


def equal(gold: Any, answer: Any) -> bool:
    """The same number, or the same in math-verify's sense: expressions, sets, intervals, matrices, relations."""
    from math_verify import verify

    if _is_number(gold) and _is_number(answer):
        return _same_number(gold.doit(), answer.doit())
    return bool(verify(gold, answer, numeric_precision=DIGITS, allow_set_relation_comp=True, timeout_seconds=None))


def _is_number(x: Any) -> bool:
    import sympy

    plain = isinstance(x, sympy.Expr) and not x.free_symbols and not x.is_Matrix
    return plain and not x.atoms(sympy.core.function.AppliedUndef)  # `f(2)` has a value that nobody knows


def _same_number(one: Any, two: Any) -> bool:
    """Equal in all of DIGITS digits. No number is `nan` or `zoo`."""
    import sympy

    if one.has(sympy.nan, sympy.zoo) or two.has(sympy.nan, sympy.zoo):
        return False
    if one == two or (one.is_Rational and two.is_Rational):
        return bool(one == two)
    a, b = (x.evalf(DIGITS + 10, maxn=400) for x in (one, two))
    if not (a.is_number and b.is_number and a.is_finite and b.is_finite):
        return bool(a == b)
    return bool(abs(a - b) <= max(abs(a), abs(b)) * sympy.Float(10) ** -DIGITS)
