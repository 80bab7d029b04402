"""Contract: no bytes from outside end a parser with anything but a UserError; what fuzzing found stays found.

`make fuzz` looks for new ones, guided by coverage, for as long as it is given; here every parser sees its seeds, damaged seeds
and each earlier find.
"""

import random

import pytest

from tests.fuzz_targets import SEEDS, TARGETS

FINDS: dict[str, list[bytes]] = {
    "benchmark_tsv": [
        b'index\timage\tquestion\t"answer',  # a quote that never closes, in the line of names
        "index\timage\tquestion\tanswer\tcategory\tchoices\n1\t\u00e9\tq\tB\tx\t['1', '2']\n".encode(),  # base64 beyond ASCII
    ],
    "records": [b"[[]]", b"[1]", b'{"a": 1}', b"[" * 100_000],  # no rows of fields
    "manifest": [b"[" * 100_000],
    "predictions_jsonl": [b"[" * 100_000],
    "samples": [b"[" * 100_000, b'{"kind": "x"}'],
}
"""Target -> inputs that once ended in a traceback."""
NASTY = (
    b"\x00",
    b"\xff",
    b"\n",
    b"{",
    b"[",
    b'"',
    b"\\",
    b"NaN",
    b"1e999",
    b"\xed\xa0\x80",
    b"!!python/object:os.system",
    b"&a [*a]",
)


def damaged(seed: bytes, rng: random.Random) -> bytes:
    """`seed` cut, with something nasty put in, or with a part of it doubled."""
    at, end = sorted(rng.randrange(len(seed) + 1) for _ in range(2))
    return rng.choice(
        [
            seed[:at],
            seed[at:],
            seed[:at] + rng.choice(NASTY) + seed[at:],
            seed[:end] + seed[at:],
            seed[:at] + seed[end:],
        ]
    )


@pytest.mark.parametrize("target", TARGETS)
def test_a_parser_takes_a_whole_input_and_survives_any_other(target):
    """The target fails with what the parser raised, unless that is a refusal; readers of model output refuse nothing."""
    rng = random.Random(target)
    assert not any(TARGETS[target](seed) for seed in SEEDS[target])
    broken = [damaged(seed, rng) for seed in [*SEEDS[target], *FINDS.get(target, [])] for _ in range(60)]
    refusals = sum(bool(TARGETS[target](content)) for content in broken)
    assert (refusals > 0) == (target not in ("answers", "scorers", "judge_replies", "actions", "page_text"))


@pytest.mark.parametrize(("target", "find"), [(name, find) for name, finds in FINDS.items() for find in finds])
def test_what_was_found_is_refused_in_words(target, find):
    assert TARGETS[target](find)
