"""Pairs of trees of one number or expression each: a gold and the same value in another form, or a near miss of it.

Every function takes a `random.Random`, seeded or one of hypothesis's, and every pair of trees goes to the oracle for its verdict.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction

import sympy
from sympy import Symbol

from tests.oracle import Tree, node, value

Pair = tuple[Tree, Tree]
"""Gold and answer."""

Terms = Sequence[tuple[Fraction, Tree | None]]
"""Coefficients with what they stand before; None for the constant term."""


# ------------------------------------------------------------------------------------------------------------ rationals


def integer(n: int) -> Tree:
    return node("int", n)


def negated(tree: Tree, negative: bool) -> Tree:
    return node("neg", tree) if negative else tree


def decimal(q: Fraction, places: int = 0) -> Tree | None:
    """The decimal of a rational that terminates within 30 places, with at least `places` of them."""
    while places < 31 and (q * 10**places).denominator > 1:
        places += 1
    if places > 30:
        return None
    digits = f"{abs(q.numerator) * 10**places // q.denominator:0{places + 1}d}"
    text = f"{digits[:-places]}.{digits[-places:]}" if places else digits
    return negated(node("dec", text), q < 0)


def scientific(q: Fraction, r: random.Random) -> Tree:
    """A mantissa of one digit before the point, or shifted by one place, times a power of ten; for terminating decimals."""
    if not q:
        return integer(0)
    exponent = 0
    while abs(q) >= Fraction(10) ** (exponent + 1):
        exponent += 1
    while abs(q) < Fraction(10) ** exponent:
        exponent -= 1
    exponent += r.choice((0, 0, 0, -1, 1))
    mantissa = decimal(q / Fraction(10) ** exponent)
    assert mantissa is not None
    negative, bare = mantissa.head == "neg", mantissa.args[0] if mantissa.head == "neg" else mantissa
    return negated(node("sci", bare.args[0], exponent), negative)


def fraction(q: Fraction, r: random.Random) -> Tree:
    """Numerator over denominator, not always reduced, the minus in front or above."""
    k = r.choice((1, 1, 1, 2, 3, 10))
    n, d = q.numerator * k, q.denominator * k
    if n < 0 and r.random() < 0.7:
        return node("neg", node("frac", integer(-n), integer(d)))
    return node("frac", integer(n), integer(d))


def mixed(q: Fraction) -> Tree:
    whole, rest = divmod(abs(q), 1)
    return negated(node("mixed", int(whole), rest.numerator, rest.denominator), q < 0)


def repeating(q: Fraction) -> Tree | None:
    """A decimal with a bar over its period, where period and what precedes it are short."""
    whole, rest = divmod(abs(q), 1)
    for fixed in range(3):
        for length in (1, 2, 3, 6):
            if (rest * 10**fixed * (10**length - 1)).denominator == 1:
                start, cycle = divmod(int(rest * 10**fixed * (10**length - 1)), 10**length - 1)
                digits = f"{start:0{fixed}d}" if fixed else ""
                return negated(node("repeat", int(whole), digits, f"{cycle:0{length}d}"), q < 0)
    return None


def exact(q: Fraction, r: random.Random) -> Tree:
    """An integer or a fraction: what may be a coefficient."""
    return integer(int(q)) if q.denominator == 1 else fraction(q, r)


def spelled(q: Fraction, r: random.Random) -> Tree:
    """A rational in any exact form."""
    forms = [exact(q, r), exact(q, r), fraction(q, r)]
    if (finite := decimal(q, r.choice((0, 0, 1, 2)))) is not None and q.denominator <= 10**9:
        forms += [finite, finite] if q.denominator > 1 else [finite]
    if q.denominator > 1 and abs(q) > 1:
        forms += [mixed(q), mixed(q)]
    if q.denominator > 1 and finite is None and (periodic := repeating(q)) is not None:
        forms.append(periodic)
    if q.denominator == 1 and abs(q) < 10**6:
        forms.append(node("add", exact(q - 7, r), integer(7)))
        forms += [node("mul", integer(k), integer(int(q) // k)) for k in (2, 3, 5) if q > 0 and q % k == 0]
    return r.choice(forms)


def near(q: Fraction, r: random.Random) -> Fraction:
    """Another rational that a careless reader takes for this one."""
    n, d = abs(q.numerator), q.denominator
    place = 10 ** r.randrange(len(str(n)))
    digits = list(str(n))
    k = r.randrange(len(digits))
    digits[k], digits[k - 1] = digits[k - 1], digits[k]
    sign = -1 if q < 0 else 1
    candidates = [
        -q, q + 1, q - 1, q * 10, q / 10, sign * Fraction(n + place, d), sign * Fraction(abs(n - place), d),
        sign * Fraction(int("".join(digits)), d), sign * Fraction(n, d + 1), sign * Fraction(n * d),
        1 / q if q else Fraction(1), Fraction(int(q)), q * q, q * 2,
    ]  # fmt: skip
    return r.choice(candidates)


def rounded(tree: Tree, r: random.Random) -> Tree:
    """The value of a real tree to some digits: an approximation, however many they are."""
    places = r.choice((2, 3, 4, 6, 8, 12))
    q = Fraction(str(sympy.N(value(tree), 40)))
    approximation = decimal(Fraction(round(q * 10**places), 10**places), places)
    assert approximation is not None
    return approximation


def missed(q: Fraction, r: random.Random) -> Fraction:
    """The rational itself or a near miss."""
    return near(q, r) if r.random() < 0.55 else q


def rational(tree: Tree) -> Fraction | None:
    """The value of a rational number, None for any other."""
    found = value(tree)
    return Fraction(int(found.p), int(found.q)) if found.is_Rational else None


def signed(r: random.Random, q: Fraction) -> Fraction:
    return -q if r.random() < 0.3 else q


def small(r: random.Random) -> Fraction:
    """An integer or a simple fraction."""
    return signed(r, Fraction(r.randint(1, 12), r.choice((1, 1, 1, 2, 3, 4, 5))))


def integers(r: random.Random) -> Pair:
    q = signed(r, Fraction(r.randint(0, 10 ** r.choice((1, 2, 3, 4, 5, 7)))))
    return integer(int(q)), spelled(missed(q, r), r)


def fractions(r: random.Random) -> Pair:
    q = signed(r, Fraction(r.randint(1, 99), r.randint(2, 40)))
    gold = exact(q, r)
    return gold, rounded(gold, r) if r.random() < 0.1 else spelled(missed(q, r), r)


def decimals(r: random.Random) -> Pair:
    places = r.randint(1, 5)
    q = signed(r, Fraction(r.randint(1, 10 ** r.randint(1, 6)), 10**places))
    gold = decimal(q, r.choice((0, places)))
    assert gold is not None
    return gold, spelled(missed(q, r), r)


def mixed_numbers(r: random.Random) -> Pair:
    d = r.randint(2, 12)
    q = signed(r, r.randint(1, 20) + Fraction(r.randint(1, d - 1), d))
    whole, rest = divmod(abs(q), 1)
    other = r.choice(
        (missed(q, r), whole * rest, Fraction(int(f"{whole}{rest.numerator}"), rest.denominator), whole - rest)
    )
    return mixed(q), spelled(r.choice((q, other)), r)


def sized(r: random.Random) -> Pair:
    """Scientific notation and its digits written out, from 10^-30 to 10^30."""
    exponent = r.choice((r.randint(-30, 30), r.randint(-12, 12)))
    q = signed(r, Fraction(r.randint(1, 999), 100) * Fraction(10) ** exponent)
    other = r.choice((q, q * 10, q / 10, near(q, r), q / Fraction(10) ** (2 * exponent), q * 1000, Fraction(0)))
    texts = []
    for number in (q, r.choice((q, other))):
        written = decimal(number)
        forms = [exact(number, r)] if written is None else [scientific(number, r), scientific(number, r)]
        if written is not None and abs(exponent) <= 15:
            forms += [written, exact(number, r)]
        texts.append(r.choice(forms))
    return texts[0], texts[1]


def inverse(tree: Tree) -> Tree:
    return node("frac", integer(1), tree)


def powers(r: random.Random) -> Pair:
    """Powers, their inverses, and inverses of factorials: tiny and huge."""
    b, n = r.randint(2, 9), r.randint(2, 14)
    if r.random() < 0.25:
        one, other = (node("factorial", k) for k in (n, n + r.choice((0, 0, 1, -1))))
        return inverse(one), inverse(other)
    minus = r.random() < 0.3
    c, m = r.choice(((b, n), (b, n), (b, n + 1), (b + 1, n), (b, n - 1), (n, b)))
    gold = node("pow", negated(integer(b), minus), integer(n))
    flipped = r.random() < 0.15
    forms = [
        node("pow", negated(integer(c), minus != flipped), integer(m)),
        negated(node("pow", integer(c), integer(m)), (minus and m % 2 == 1) != flipped),
        node("mul", integer(c), node("pow", integer(c), integer(m - 1))) if not minus else gold,
        exact(Fraction(-c if minus else c) ** m, r),
    ]
    pair = gold, r.choice(forms)
    if r.random() < 0.4:
        pair = inverse(pair[0]), inverse(pair[1])
    if r.random() < 0.2:
        pair = pair[0], node("pow", negated(integer(c), minus), node("neg", integer(m)))
    return pair


# ------------------------------------------------------------------------------------------------------------ sums


def term(c: Fraction, atom: Tree | None, r: random.Random, decimals: bool) -> Tree:
    """A rational times a root, constant or monomial."""
    if atom is None:
        return exact(c, r)
    size = abs(c)
    n = atom if size.numerator == 1 else node("mul", integer(size.numerator), atom)
    forms = [n] if size.denominator == 1 else [node("frac", n, integer(size.denominator))]
    if size.denominator > 1:
        forms.append(node("mul", node("frac", integer(size.numerator), integer(size.denominator)), atom))
    if decimals and size.denominator > 1 and (finite := decimal(size)) is not None:
        forms.append(node("mul", finite, atom))
    return negated(r.choice(forms), c < 0)


def linear(terms: Terms, r: random.Random, decimals: bool = False) -> Tree:
    """A sum in any order, but for e, which stands last: `3e-5` is another number."""
    kept = [(c, a) for c, a in terms if c]
    r.shuffle(kept)
    kept.sort(key=lambda t: t[1] == node("const", "e"))
    parts = [term(c, a, r, decimals) for c, a in kept] or [integer(0)]
    return parts[0] if len(parts) == 1 else node("add", *parts)


def disturbed(terms: Terms, r: random.Random) -> list[tuple[Fraction, Tree | None]]:
    """One coefficient changed, dropped or turned, or two exchanged."""
    changed = list(terms)
    k = r.randrange(len(changed))
    c, atom = changed[k]
    other = changed[k - 1]
    if r.random() < 0.2:
        changed[k], changed[k - 1] = (other[0], atom), (c, other[1])
    else:
        changed[k] = (r.choice((near(c, r), -c, Fraction(0), c + 1)), atom)
    return changed


def sums(terms: Terms, r: random.Random) -> Pair:
    other = disturbed(terms, r) if r.random() < 0.5 else terms
    return linear(terms, r), linear(other, r, decimals=True)


def roots(r: random.Random) -> Pair:
    """Roots, alone and in sums; the same root with another factor outside; perfect powers; decimals near them."""
    n, b, k = r.choice((2, 3, 5, 6, 7, 10, 11, 13)), r.randint(2, 9), r.choice((2, 2, 3))
    root = node("root", 2, integer(n))
    if r.random() < 0.2:
        m = r.choice((b, b, b + 1, -b))
        return node("root", k, integer(b**k)), exact(Fraction(m), r)
    if r.random() < 0.3:
        return sums([(small(r), None), (small(r), root)], r)
    gold = r.choice((node("mul", integer(b), root), node("root", 2, integer(b * b * n))))
    c, m = r.choice(((b, n), (b, n), (b + 1, n), (b, n + 1), (n, b)))
    half = node("frac", integer(1), integer(2))
    forms = [
        node("mul", integer(c), node("root", 2, integer(m))), node("root", 2, integer(c * c * m)),
        node("frac", integer(c * m), node("root", 2, integer(m))), node("pow", integer(c * c * m), half),
        node("root", 2, integer(r.choice((c * m, c * c * m)))), node("neg", node("root", 2, integer(c * c * m))),
        node("mul", node("root", 2, integer(c * c)), node("root", 2, integer(m))), rounded(gold, r),
    ]  # fmt: skip
    return gold, r.choice(forms)


def constants(r: random.Random) -> Pair:
    """Rational combinations of pi, e and i, and decimals near the real ones."""
    names = r.choice((["pi"], ["e"], ["i"], ["pi", "e"]))
    terms: list[tuple[Fraction, Tree | None]] = [(small(r), node("const", name)) for name in names]
    if r.random() < 0.6:
        terms.append((small(r), None))
    gold, answer = sums(terms, r)
    return gold, rounded(gold, r) if "i" not in names and r.random() < 0.15 else answer


def polynomials(r: random.Random) -> Pair:
    """One or two variables, also letters that are units; expanded in any order or as a product."""
    names = r.choice((["x"], ["x"], ["t"], ["x", "y"], ["m", "n"], ["h", "t"], ["s", "t"], ["a", "b"]))

    def factor() -> Tree:
        atoms = [node("var", name) for name in names]
        if r.random() < 0.3:
            atoms = [node("pow", a, integer(2)) for a in atoms]
        constant: list[tuple[Fraction, Tree | None]] = [(Fraction(signed(r, Fraction(r.randint(1, 9)))), None)]
        return linear([*((signed(r, Fraction(r.randint(1, 6))), a) for a in atoms), *constant], r)

    product = r.choice((node("mul", factor(), factor()), node("pow", factor(), integer(2)), factor()))
    poly = sympy.Poly(sympy.expand(value(product)), *map(Symbol, names))
    terms = [(Fraction(int(c.p), int(c.q)), monomial(names, powers)) for powers, c in poly.terms()]
    gold, answer = sums(terms, r)
    return r.choice(((gold, answer), (gold, answer), (product, answer), (gold, product)))


def monomial(names: Sequence[str], exponents: Sequence[int]) -> Tree | None:
    factors = [
        node("var", name) if n == 1 else node("pow", node("var", name), integer(n))
        for name, n in zip(names, exponents, strict=True)
        if n
    ]
    return None if not factors else factors[0] if len(factors) == 1 else node("mul", *factors)
