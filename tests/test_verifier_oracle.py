"""Contract: over generated expressions, the verifier pays for equal values and for no other ones, and the oracle that says which they
are is exact. `make oracle` tries 20,000 fresh pairs of the same kinds."""

import json
import random
import sys
from collections import Counter
from fractions import Fraction

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from lmmr1.rewards import VerifierPool
from tests import oracle_run
from tests.oracle import Tree, kind, node, stated, value, verdict
from tests.oracle_cases import KINDS, Case, cases, generated
from tests.oracle_numbers import decimal, integer, linear, rational
from tests.oracle_text import write

EACH = 40
"""Pairs of each kind in the ordinary run."""


def dec(text: str):
    return node("dec", text)


def ints(head: str, *numbers: int):
    return node(head, *map(integer, numbers))


X, PI, E = node("var", "x"), node("const", "pi"), node("const", "e")
THIRD, HALF = ints("frac", 1, 3), ints("frac", 1, 2)
LINE = node("eq", node("var", "y"), node("add", X, integer(1)))
FACTS = [
    (HALF, dec("0.5"), True), (THIRD, dec("0.333333333333"), False), (dec("0.33"), THIRD, None), (dec("0.33"), dec("0.34"), False),
    (node("sci", "6.7", -11), node("sci", "1.6", -19), False), (node("sci", "2.5", -8), dec("0.000000025"), True),
    (node("sci", "3", 5), integer(300_001), None), (node("mixed", 2, 1, 2), ints("frac", 5, 2), True),
    (node("repeat", 0, "1", "6"), ints("frac", 1, 6), True), (node("repeat", 0, "", "9"), integer(1), True),
    (node("root", 2, integer(8)), node("mul", integer(2), node("root", 2, integer(2))), True),
    (node("root", 2, integer(2)), dec("1.41421356237"), False), (node("pow", integer(2), integer(-1)), HALF, True),
    (node("frac", integer(1), node("pow", integer(3), integer(40))), node("frac", integer(1), node("pow", integer(3), integer(41))), False),
    (node("add", PI, E), node("add", E, PI), True), (PI, dec("3.141592653590"), False),
    (node("pow", node("add", X, integer(1)), integer(2)), node("add", ints("pow", 1, 5), node("mul", integer(2), X), node("mul", X, X)), True),
    (node("unit", integer(5), "cm"), integer(5), True), (node("unit", integer(5), "cm"), node("unit", integer(5), "m"), False),
    (node("mul", integer(2), node("var", "t")), integer(2), False), (node("base", "12", 5), node("base", "12", None), True),
    (node("base", "12", 5), node("base", "12", 6), False), (node("base", "10", 2), node("base", "2", 3), None),
    (node("percent", integer(50)), HALF, True), (node("percent", integer(50)), integer(50), True), (integer(50), HALF, False),
    (ints("set", 1, 2), ints("list", 2, 1, 1), True), (ints("set", 1, 2), ints("tuple", 1, 2), False),
    (ints("tuple", 1, 2), ints("tuple", 2, 1), False), (node("pm", integer(0), integer(3)), ints("set", 3, -3), True),
    (node("interval", "(", integer(1), integer(2), "]"), node("interval", "[", integer(1), integer(2), "]"), False),
    (node("interval", "(", integer(1), node("const", "oo"), ")"), node("interval", "(", integer(1), node("const", "oo"), ")"), True),
    (node("matrix", ints("row", 1, 2)), node("matrix", ints("row", 1), ints("row", 2)), False),
    (node("eq", X, integer(2)), integer(2), True), (node("eq", X, integer(2)), node("eq", node("var", "y"), integer(2)), False),
    (LINE, node("add", integer(1), X), True), (LINE, node("eq", node("add", X, integer(1), node("neg", node("var", "y"))), integer(0)), True),
    (integer(6), ints("chain", 5, 6), False), (integer(5), node("chain", ints("add", 2, 3), integer(5)), True),
]  # fmt: skip
"""Gold, answer and what a person would say by docs/verifier.md; None where two people may differ."""


@pytest.mark.parametrize(("gold", "answer", "expected"), FACTS)
def test_the_oracle_knows_the_facts(gold, answer, expected):
    assert verdict(gold, answer) is expected


NUMERIC = (
    "fractions",
    "decimals",
    "mixed numbers",
    "scientific",
    "powers",
    "roots",
    "constants",
    "polynomials",
    "letters",
)


def numerically(case: Case) -> bool:
    """The verdict on two numbers from 60 digits of them at a fixed place, which is no proof but knows nothing of algebra."""
    wanted, found = (value(tree) for tree in case.trees)
    place = {
        s: sympy.Rational(17 + 2 * k, 31)
        for k, s in enumerate(sorted(wanted.free_symbols | found.free_symbols, key=str))
    }
    difference, size = (sympy.N(v.subs(place), 60) for v in (wanted - found, wanted))
    return bool(abs(difference) <= abs(size) * sympy.Float(10) ** -40)


@settings(max_examples=100)
@given(case=cases(NUMERIC).filter(lambda case: {kind(tree) for tree in case.trees} == {"number"}))
def test_the_oracle_agrees_with_sixty_digits(case):
    assert numerically(case) == case.expected, case


@given(st.fractions(max_denominator=10**6))
def test_a_decimal_has_the_value_of_its_rational(q):
    found = decimal(q)
    assert found is None or (rational(found) == q and (stated(found) * q.numerator / q.denominator).is_Rational)


def test_every_kind_has_equal_pairs_and_near_misses():
    counts = {name: Counter[int]() for name in KINDS}
    for case in generated(EACH * len(KINDS), seed=0):
        counts[case.kind][case.expected] += 1
    assert all(sum(c.values()) == EACH and min(c[0], c[1]) >= EACH // 5 for c in counts.values()), counts
    equal = sum(c[1] for c in counts.values()) / (EACH * len(KINDS))
    assert 0.4 < equal < 0.6


def test_a_seed_gives_the_same_pairs_and_no_pair_twice():
    first = [(case.gold, case.response) for case in generated(200, seed=3)]
    assert first == [(case.gold, case.response) for case in generated(200, seed=3)]
    assert len(set(first)) == 200 and first != [(case.gold, case.response) for case in generated(200, seed=4)]


SPELLINGS = [
    (HALF, {r"\frac{1}{2}", r"\dfrac{1}{2}", r"\tfrac{1}{2}", r"\frac12", "1/2", "½"}),
    (node("mixed", 2, 1, 3), {r"2\frac{1}{3}", r"2 \frac{1}{3}", r"2\dfrac{1}{3}", "2 1/3"}),
    (node("sci", "4.2", -3), {r"4.2 \times 10^{-3}", r"4.2 \cdot 10^{-3}", "4.2e-3", "4.2 × 10^{-3}"}),
    (node("neg", integer(12345)), {s + t for s in "-−" for t in ("12345", "12,345", "12{,}345", r"12\,345", "12 345")}),
    (node("repeat", 0, "1", "6"), {r"0.1\overline{6}"}), (node("pow", integer(-2), integer(10)), {"(-2)^{10}"}),
    (node("mul", integer(3), ints("pow", 2, 5)), {rf"3 {dot} 2^{p}" for dot in (r"\cdot", r"\times") for p in ("5", "{5}")}),
    (node("mul", integer(3), node("add", X, integer(-1))), {"3(x-1)", "3(x - 1)"}),
    (node("base", "12", 5), {"12_5", "12_{5}", r"12_{\text{five}}", r"12_{\text{5}}"}),
    (node("percent", integer(5)), {r"5\%", "5%", r"5 \text{ percent}", "5 percent"}),
    (node("pm", integer(1), node("root", 2, integer(3))), {r"1 \pm \sqrt{3}", r"1 \pm \sqrt3", r"1 \pm √3"}),
]  # fmt: skip


@pytest.mark.parametrize(("tree", "texts"), SPELLINGS, ids=[str(tree) for tree, _ in SPELLINGS])  # a set has no order
def test_a_tree_is_spelled_in_its_ways_and_no_other(tree, texts):
    assert {write(tree, random.Random(seed))[0] for seed in range(400)} == texts


def test_e_stands_where_it_makes_no_power_of_ten():
    terms = [(Fraction(3), E), (Fraction(-5), None), (Fraction(2), PI)]
    for seed in range(50):
        assert linear(terms, random.Random(seed)).args[-1] == node("mul", integer(3), E)


def test_no_text_means_two_things():
    """Two trees with the same text are equal: else the verifier could not be right on both."""
    meanings: dict[str, Tree] = {}
    for number, case in enumerate(generated(50 * len(KINDS), seed=1)):
        for tree in case.trees:
            text, _ = write(tree, random.Random(number))
            other = meanings.setdefault(text, tree)
            if not {other.head, tree.head} & {"base", "chain"}:  # digits without a base are digits; a chain is no gold
                assert verdict(other, tree) is not False and verdict(tree, other) is not False, (text, other, tree)


# ------------------------------------------------------------------------------------------------- the verifier


@pytest.fixture(scope="module")
def pool():
    with VerifierPool(2) as pool:
        yield pool


def test_a_thousand_generated_pairs_have_the_oracles_verdict(pool):
    found = list(oracle_run.judged(pool, generated(max(1000, EACH * len(KINDS)), seed="ordinary run")))
    wrong = [
        f"{oracle_run.fault(c, a)} ({note}): {c.gold!r} <- {c.response!r}"
        for c, a, note in found
        if oracle_run.fault(c, a)
    ]
    assert len(found) >= 1000 and not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=10, derandomize=True)
@given(data=st.data())
def test_the_verifier_and_the_oracle_agree(pool, name, data):
    """The same kinds from numbers that hypothesis chooses and, where a verdict is wrong, makes small."""
    case = data.draw(cases([name]))
    ((_, accuracy, note),) = oracle_run.judged(pool, [case])
    assert accuracy == case.expected, note


# --------------------------------------------------------------------------------------------- verifiers with a fault


def rounds(gold, answer):
    """Numbers are equal where they agree in six decimals."""
    if {kind(gold), kind(answer)} == {"number"} and (difference := value(gold) - value(answer)).is_number:
        return bool(abs(sympy.N(difference, 50)) < sympy.Float("5e-7"))
    return verdict(gold, answer)


def ignores(head: str, *kept: int):
    """What stands around the first arguments of this head, such as a unit, a base, or the kind of brackets, does not count."""

    def judge(gold, answer):
        if gold.head == answer.head == head:
            return all(gold.args[k] == answer.args[k] or verdict(gold.args[k], answer.args[k]) for k in kept)
        return verdict(gold, answer)

    return judge


def unordered(gold, answer):
    """Points are sets."""
    as_set = [node("set", *tree.args) if tree.head == "tuple" else tree for tree in (gold, answer)]
    return verdict(*as_set)


def drops_letters(gold, answer):
    """A trailing letter is a unit."""
    return verdict(*(t.args[0] if t.head == "mul" and t.args[-1].head == "var" else t for t in (gold, answer)))


FAULTY = {
    "six decimals": (rounds, "scientific"), "units": (ignores("unit", 0), "units"), "brackets": (ignores("interval", 1, 2), "intervals"),
    "order": (unordered, "tuples"), "letters": (drops_letters, "letters"),
    "names": (lambda g, a: verdict(*(t.args[1] if t.head == "eq" and t.args[0].head == "var" else t for t in (g, a))), "solutions"),
}  # fmt: skip


@pytest.mark.parametrize(("judge", "where"), FAULTY.values(), ids=list(FAULTY))
def test_a_planted_fault_is_found(judge, where):
    pairs = list(generated(EACH * len(KINDS), seed=0))
    paid = [case.kind for case in pairs if judge(*case.trees) and not case.expected]
    assert where in paid


# ------------------------------------------------------------------------------------------------------- the command


class Stub:
    """A pool whose verdict on every pair is the same."""

    def __init__(self, accuracy: float) -> None:
        self.accuracy, self.note = accuracy, "stub"

    def __call__(self, workers):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *reason):
        return None

    def judge(self, questions):
        return [self] * len(questions)


@pytest.mark.parametrize(("accuracy", "code", "fault"), [(1.0, 1, "false reward"), (0.0, 0, "false refusal")])
def test_the_command_lists_what_is_wrong_and_fails_for_a_false_reward(monkeypatch, capsys, accuracy, code, fault):
    monkeypatch.setattr(oracle_run, "VerifierPool", Stub(accuracy))
    monkeypatch.setattr(sys, "argv", ["oracle_run", "--pairs", "63"])
    assert oracle_run.main() == code
    said = capsys.readouterr()
    rows = [json.loads(line) for line in said.out.splitlines()]
    assert (
        rows and {row["fault"] for row in rows} == {fault} and {row["expected"] for row in rows} == {1 - int(accuracy)}
    )
    seed, *lines = said.err.splitlines()
    assert seed.startswith("seed ") and lines[-1].split()[:2] == ["all", "63"] and len(lines) == len(KINDS) + 2


def test_the_command_draws_a_seed_of_its_own_each_time(monkeypatch, capsys):
    monkeypatch.setattr(oracle_run, "VerifierPool", Stub(0.0))
    seeds = set()
    for _ in range(3):
        monkeypatch.setattr(sys, "argv", ["oracle_run", "--pairs", "1"])
        oracle_run.main()
        seeds.add(capsys.readouterr().err.splitlines()[0])
    assert len(seeds) == 3
