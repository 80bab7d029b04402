"""Contract: the verifier's test data is well formed, ours, balanced, and its hostile part really is hostile."""

import base64
import contextlib
import json
import pickle
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from hypothesis import given
from sympy import sympify

from tests import hostile, metamorphic

GOLDEN = Path(__file__).parent / "golden"
ONE_SIDED = {"no answer", "unusable gold"}
"""Categories that are about wrong answers; each has a contrasting positive."""


def rows(name: str) -> list[dict]:
    lines = (GOLDEN / name).read_text(encoding="ascii").splitlines()
    return [json.loads(line) for line in lines]


CATEGORIES = {"verifier_pairs.jsonl": 30, "verifier_pairs_kinds.jsonl": 20}


@pytest.fixture(scope="module", params=CATEGORIES)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def pairs(name) -> list[dict]:
    return rows(name)


def test_pairs_are_well_formed(pairs):
    required = {"gold": str, "response": str, "accuracy": int, "category": str, "why": str}
    for pair in pairs:
        assert required.keys() <= pair.keys() <= required.keys() | {"choices"}, pair
        assert all(isinstance(pair[key], kind) for key, kind in required.items()), pair
        assert pair["accuracy"] in (0, 1) and pair["category"], pair
        if "choices" in pair:
            assert ord(pair["gold"]) - ord("A") in range(len(pair["choices"])), pair
            assert len(set(pair["choices"])) == len(pair["choices"]), pair


def test_there_are_enough_and_no_two_are_the_same(pairs):
    assert len(pairs) >= 500
    keys = Counter((p["gold"], p["response"], tuple(p.get("choices", ()))) for p in pairs)
    assert [key for key, n in keys.items() if n > 1] == []


def test_every_category_has_right_and_wrong_answers(pairs, name):
    verdicts = defaultdict(Counter)
    for pair in pairs:
        verdicts[pair["category"]][pair["accuracy"]] += 1
    assert len(verdicts) >= CATEGORIES[name]
    for category, count in verdicts.items():
        least = 1 if category in ONE_SIDED else 5
        assert count[0] >= least and count[1] >= least, (category, count)
    share = sum(p["accuracy"] for p in pairs) / len(pairs)
    assert 0.45 < share < 0.65


def test_every_reason_is_its_own(pairs):
    reasons = Counter(" ".join(p["why"].lower().split()) for p in pairs)
    assert all(len(reason) >= 10 for reason in reasons)
    assert [reason for reason, n in reasons.items() if n > 1] == []


def test_released_cases_are_well_formed():
    cases = rows("released_cases.jsonl")
    assert all(c.keys() == {"gold", "response", "accuracy", "format", "case"} for c in cases)
    assert all(c["accuracy"] in (0, 1) and c["format"] in (0, 1) and c["case"] for c in cases)
    assert len({(c["gold"], c["response"]) for c in cases}) == len(cases)
    assert any(not c["gold"] and c["accuracy"] for c in cases)  # the defect that gives the switch its reason


def test_hostile_answers_are_many_long_and_repeatable():
    cases = hostile.generated()
    assert len(hostile.MEASURED) == 15 and len(cases) == 200
    assert len({name for name, _ in cases}) == 200
    assert cases == hostile.generated() != hostile.generated(seed=1)
    texts = [text for _, text in cases]
    assert max(map(len, texts)) >= 1_000_000
    assert any("\x00" in text for text in texts)
    assert any(text.count("\\boxed") >= 10_000 for text in texts)
    assert any(any("\ud800" <= char <= "\udfff" for char in text) for text in texts)
    assert {name.split(" ", 1)[1] for name, _ in cases} == hostile.FAMILIES.keys()


def test_canaries_are_live(tmp_path):
    """A canary that could not fire would prove nothing: run three of them where they must."""
    for i, fire in enumerate((eval, sympify, lambda text: pickle.loads(base64.b64decode(text)))):
        path = tmp_path / f"canary{i}"
        found = [c for c in hostile.canaries(path) if _kind(c) == i]
        assert found and not path.exists()
        with contextlib.suppress(Exception):  # sympify makes the file, then fails on the None it got
            fire(found[0])
        assert path.exists()


def _kind(text: str) -> int:
    """0 for the import through `eval`, 1 for the plain call, 2 for the pickle, -1 otherwise."""
    if text.startswith("__import__('pathlib')"):
        return 0
    if text.startswith("open("):
        return 1
    try:
        return 2 if base64.b64decode(text, validate=True).startswith(b"\x80") else -1
    except ValueError:
        return -1


def test_making_the_canaries_touches_nothing(tmp_path):
    path = tmp_path / "canary"
    texts = hostile.canaries(path)
    assert len(set(texts)) == len(texts) >= 30
    assert not path.exists()


@given(metamorphic.rewritings())
def test_rewritings_keep_the_answer(case):
    assert case.gold and case.plain and case.rewritten
    if case.equal:
        digits = Counter(filter(str.isdigit, case.gold))
        assert not digits - Counter(filter(str.isdigit, case.rewritten))  # nothing of the value was lost
