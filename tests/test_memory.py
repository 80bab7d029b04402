"""Contract: what the learner holds grows with its token budget, not with the batch, and the estimate knows how much.

Bytes are those that torch allocates (bench/memory.py), which are the same every time.
"""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from bench.memory import Point, bounded, build_model, counted, expected, learner_of, of_phases, phases

BASE = Point(P=8, G=4, prompt=64, completion=64, budget=256)
"""Its budget has room for four prompts, or one prompt's four completions."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("memory")
    build_model(folder, layers=3, hidden=64, vocab=512)
    return folder


@pytest.fixture(scope="module")
def peaks(model):
    """peaks(point): bytes above the start by phase, measured once."""
    known = {}

    def of(point):
        if point not in known:
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            known[point] = {name: counted(run) for name, run in phases(point, learner_of(point, model)).items()}
            torch.set_num_threads(threads)
        return known[point]

    return of


@pytest.mark.parametrize("recompute", [False, True])
def test_more_prompts_need_no_more_memory(peaks, recompute):
    # two prompts at once, so that four too leave gradients of the first two beside the last two's activations
    found = [peaks(replace(BASE, P=p, budget=128, recompute=recompute)) for p in ((4, 32) if recompute else (4, 8, 32))]
    for phase in ("logprobs", "step"):
        values = [f[phase] for f in found]
        assert max(values) < 1.15 * min(values), (phase, values)


@pytest.mark.parametrize("recompute", [False, True])
def test_half_the_budget_bounds_less(peaks, model, recompute):
    points = [replace(BASE, budget=b, recompute=recompute) for b in (256, 128, 64)]
    found = [bounded(expected(p, model), peaks(p)) for p in points]
    for phase in ("logprobs", "step"):
        for whole, half in pairwise(found):
            assert half[phase] <= 0.65 * whole[phase], (phase, found)


VARIED = {
    "plain": {},
    "recompute": {"recompute": True},
    "half": {"budget": 128},
    "half, recompute": {"budget": 128, "recompute": True},
    "reference": {"reference": True},
    "critic": {"critic": True},
    "bf16": {"bf16": True},
    "long": {"P": 2, "G": 2, "completion": 600, "budget": 1200},
}


@pytest.mark.parametrize("name", VARIED)
def test_estimate_is_near_what_is_measured(peaks, model, name):
    point = replace(BASE, **VARIED[name])
    found, said = peaks(point), of_phases(expected(point, model))
    assert said == {k: pytest.approx(v, rel=0.2) for k, v in found.items()}


def test_constants_are_the_cores():
    """The estimate loads no torch, so it has copies of them."""
    from lmmr1 import loss, policy, rollout, suffix
    from reproduce.budget import memory

    assert (memory.LOGITS, memory.LONG, memory.CACHED_IMAGES) == (loss.LOGITS, suffix.LONG, policy.CACHED_IMAGES)
    assert memory.COMPACTED == 2 - 1 / rollout.COMPACT_EVERY
