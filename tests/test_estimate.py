"""Contract: `lmmr1 estimate` reproduces the design's worked figures, its formulae hold what they say, and nothing that
cannot fit is started."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from lmmr1.config import TrainConfig
from lmmr1.types import UserError
from reproduce import cli
from reproduce.budget import guard, measured
from reproduce.budget.estimate import WORKED, Request, estimate, needs, work_of
from reproduce.budget.facts import Gpu, find_gpu, gpus, mfu_levels, published, workload
from reproduce.budget.geometry import MICRO, QWEN_3B, geometry_of, read_geometry
from reproduce.budget.hours import evaluation, method_of, training_step
from reproduce.budget.memory import Piece, Prompts, demand, holding, plans, verdict
from reproduce.budget.roofline import (
    COMPACT,
    NAIVE,
    Roof,
    Work,
    decode_flops,
    decode_steps,
    pass_flops,
    prefill_flops,
    step_seconds,
    vision_flops,
)
from reproduce.budget.show import as_json
from reproduce.plan import ROOT, Plan

ROOF = find_gpu("h100").roof
GOLDEN = Path(__file__).with_name("golden") / "estimate_keys.json"

# design table 2.4: prefill, decode, one pass for log-probabilities, training (naive, compact each), totals, 40 % dead
DESIGN = [
    ((2.72, 0.17), (4.52, 2.97), (4.84, 2.29), (19.35, 8.96), 36.3, 12.1, 8.5),
    ((1.36, 0.17), (2.29, 1.57), (2.42, 1.23), (9.68, 4.71), 18.2, 6.5, 4.6),
    ((0.68, 0.04), (1.67, 1.28), (1.21, 0.57), (4.84, 2.24), 9.6, 3.6, 2.7),
    ((2.72, 0.17), (10.7, 7.6), (7.01, 4.47), (28.0, 17.7), 55.5, 25.4, 18.4),
    ((6.33, 0.40), (6.17, 3.08), (8.50, 2.57), (34.0, 9.6), 63.5, 13.1, 9.3),
    ((2.72, 0.17), (0.98, 0.59), (3.24, 0.70), (13.0, 2.6), 23.1, 3.3, 2.3),
]


def near(value):
    return pytest.approx(value, rel=0.1)


@pytest.mark.parametrize("row", range(6))
def test_worked_steps_of_the_design(row):
    prefill, decode, one_pass, train, naive_total, compact_total, with_dead = DESIGN[row]
    naive, compact = (step_seconds(QWEN_3B, ROOF, WORKED[row], m) for m in (NAIVE, COMPACT))
    assert (naive.prefill, compact.prefill) == (near(prefill[0]), near(prefill[1]))
    assert (naive.decode, compact.decode) == (near(decode[0]), near(decode[1]))
    assert naive.logprobs == near(2 * one_pass[0])
    assert step_seconds(QWEN_3B, ROOF, WORKED[row], replace(COMPACT, logprob_passes=1)).logprobs == near(one_pass[1])
    assert (naive.train, compact.train) == (near(train[0]), near(train[1]))
    assert (naive.total, compact.total) == (near(naive_total), near(compact_total))
    assert step_seconds(QWEN_3B, ROOF, WORKED[row], replace(COMPACT, dead_groups=0.4)).total == near(with_dead)


@pytest.mark.parametrize(
    ("rows", "milliseconds", "tokens_per_second"),
    [
        (1, 2.07, 484),
        (32, 2.36, 13_600),
        (64, 2.66, 24_000),
        (128, 3.27, 39_000),
        (256, 4.47, 57_000),
        (512, 8.83, 58_000),
    ],
)
def test_decode_bound_of_the_design(rows, milliseconds, tokens_per_second):
    step = decode_steps(QWEN_3B, ROOF, Work(rows, 1, 768, 1))[0]  # context 768
    assert (1e3 * step, rows / step) == (near(milliseconds), near(tokens_per_second))


def test_constants_and_memory_plans_of_the_design():
    g = QWEN_3B
    assert g.kv_bytes() == 36_864
    assert [g.layer_weights, g.head_weights, g.vision_weights, g.parameters] == [
        near(b * 1e9) for b in (2.775, 0.311, 0.630, 3.752)
    ]
    assert vision_flops(g, 1, 256) == near(1.31e12)
    found = {p.letter: p.device / 1e9 for p in plans(g)}
    assert found == {
        "A": near(60.0),
        "B": near(50.7),
        "C": near(37.5),
        "D": near(37.5),
        "E": near(15.0),
        "F": near(8.5),
    }
    assert {p.letter: p.host / 1e9 for p in plans(g)}["E"] == near(45.0)
    checkpointed = g.layers * g.hidden * 2
    assert checkpointed == near(147e3)
    copied, shared = (n * g.kv_bytes() / 1e9 for n in (512 * 1024, 32 * 512 + 512 * 512))
    assert (copied, shared) == (near(19.3), near(10.3))


def test_parameters_are_those_of_the_real_architecture(tiny_model):
    import torch
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    text = {"num_hidden_layers": 36, "hidden_size": 2048, "num_attention_heads": 16, "num_key_value_heads": 2}
    text |= {"intermediate_size": 11008, "vocab_size": 151_936, "tie_word_embeddings": True}
    vision = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 2048, "num_heads": 16}
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(
            Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True)
        )
    assert sum(p.numel() for p in model.parameters()) == QWEN_3B.parameters
    assert sum(p.numel() for p in model.model.visual.parameters()) == QWEN_3B.vision_parameters
    assert replace(read_geometry(tiny_model / "config.json"), name="micro") == MICRO


def test_released_and_saved_configs_say_the_same(tmp_path):
    flat = {"hidden_size": 2048, "num_hidden_layers": 36, "num_attention_heads": 16, "num_key_value_heads": 2, "intermediate_size": 11008, "vocab_size": 151936}  # fmt: skip
    vision = {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "patch_size": 14,
        "in_chans": 3,
        "spatial_merge_size": 2,
    }
    for form in ({**flat, "tie_word_embeddings": True}, {"text_config": flat, "tie_word_embeddings": True}):
        (tmp_path / "config.json").write_text(json.dumps({**form, "vision_config": vision}))
        assert replace(geometry_of(str(tmp_path)), name=QWEN_3B.name) == QWEN_3B
    assert geometry_of("Qwen/Qwen2.5-VL-3B-Instruct") is QWEN_3B
    with pytest.raises(UserError, match="7B"):
        geometry_of("Qwen/Qwen2.5-VL-7B-Instruct")
    for text, word in (("{", "not JSON"), ("[]", "not the config"), ('{"vision_config": {}}', "not the config")):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match=word):
            geometry_of(str(tmp_path))


WORKS = st.builds(
    Work, st.integers(1, 64), st.integers(2, 16), st.integers(300, 2000), st.integers(1, 600), st.integers(0, 300)
)


@given(WORKS, st.sampled_from(["prompts", "generations", "prompt_tokens", "completion_tokens", "image_tokens"]))
@settings(max_examples=60)
def test_more_work_takes_longer_and_compact_never_longer_than_naive(work, what):
    more = replace(work, **{what: getattr(work, what) + 1})
    for method in (NAIVE, COMPACT):
        less_time, more_time = (step_seconds(QWEN_3B, ROOF, w, method).total for w in (work, more))
        assert less_time <= more_time * (1 + 1e-12)
    naive, compact = (step_seconds(QWEN_3B, ROOF, work, m) for m in (NAIVE, COMPACT))
    for part in ("prefill", "decode", "logprobs", "train"):
        assert getattr(compact, part) <= getattr(naive, part) * (1 + 1e-12)


@given(WORKS)
@settings(max_examples=30)
def test_without_images_a_step_is_a_text_step(work):
    text = replace(work, image_tokens=0)
    for method in (NAIVE, COMPACT):
        images = replace(method, cached_vision=False)
        plain = replace(QWEN_3B, vision_depth=0, merged=0)
        assert step_seconds(QWEN_3B, ROOF, text, images) == step_seconds(plain, ROOF, text, images)
        assert step_seconds(QWEN_3B, ROOF, work, images).total >= step_seconds(QWEN_3B, ROOF, text, images).total


@given(WORKS)
@settings(max_examples=30)
def test_sampling_and_scoring_one_group_compute_the_same(work):
    """Prefill and decode together are one forward pass over shared prompts, up to the square's own half terms."""
    work = replace(work, image_tokens=0)
    sampled = prefill_flops(QWEN_3B, work, shared=True) + decode_flops(QWEN_3B, work)
    assert sampled == pytest.approx(pass_flops(QWEN_3B, work, shared=True, images=0), rel=0.02)


def config(**changes):
    return TrainConfig(**changes).model_dump()


@given(WORKS, st.booleans(), st.booleans(), st.sampled_from([0.0, 1e-3]))
@settings(max_examples=30)
def test_expectations_are_ordered_and_above_the_bound(work, freeze, many_steps, beta):
    train = config(freeze_vision=freeze, num_minibatches=4 if many_steps else 1, loss={"beta": beta})
    hours = training_step(QWEN_3B, find_gpu("h100"), work, train, holding(QWEN_3B, train))
    assert hours.bound <= hours.fast <= hours.likely <= hours.slow
    answers = evaluation(QWEN_3B, find_gpu("a100"), work, 32)
    assert 0 < answers.bound <= answers.fast <= answers.likely <= answers.slow


def test_methods_follow_the_settings():
    assert method_of(config()).logprob_passes == 0
    assert method_of(config(loss={"beta": 0.1})).logprob_passes == 1
    assert method_of(config(engine="vllm", loss={"beta": 0.1})).logprob_passes == 2
    assert method_of(config(num_iterations=2)).train_factor == 6
    assert method_of(config(freeze_vision=True)).cached_vision


def test_known_devices_and_sources():
    assert {"h100", "h200", "a100", "a100-40gb", "l40s", "rtx4090", "cpu"} <= set(gpus())
    for gpu in gpus().values():
        assert gpu.reached[0] <= gpu.bf16 and gpu.reached[1] <= gpu.bandwidth and gpu.memory_bytes > 1e9
    sheet = gpus()["h100"]
    share = (sheet.reached[0] / sheet.bf16, sheet.reached[1] / sheet.bandwidth)
    for gpu in (g for g in gpus().values() if g.reached_source == "scaled"):
        assert (gpu.reached[0] / gpu.bf16, gpu.reached[1] / gpu.bandwidth) == pytest.approx(share, rel=0.01)
    with pytest.raises(UserError, match="did you mean h100"):
        find_gpu("H10O")
    fast, likely, slow = mfu_levels()
    assert 0.3 > fast > likely > slow > 0.01
    assert all(row.source for row in published())


def test_published_step_lies_in_the_range():
    """EasyR1's own step: 320 samples of 675 tokens per GPU took 120 s; the roof is 16 s (design 2.5)."""
    work = Work(64, 5, 335, 340, 256)
    train = config(num_prompts=64, num_generations=5, engine="vllm", loss={"beta": 1e-2})
    found = training_step(QWEN_3B, find_gpu("h100"), work, train, holding(QWEN_3B, train))
    assert found.fast < 120 < found.slow
    assert step_seconds(QWEN_3B, ROOF, work, NAIVE).total == near(16)


# ------------------------------------------------------------------------------------------------ memory


@pytest.mark.parametrize("n", [256, 600])
def test_activations_are_what_autograd_keeps(tiny_model, make_samples, n):
    """What a piece's layers keep against the tensors that its forward really saves, weights not counted."""
    import torch

    from lmmr1.policy import load_policy
    from lmmr1.suffix import TextWeights, group_hidden, rope_tables

    policy, (sample,) = load_policy(str(tiny_model), trainable=True), make_samples(1)
    prefix, weights = policy.prefix([sample], 2000, grad=True), TextWeights.of(policy.model, grad=True)
    known = [
        *policy.model.parameters(),
        *(leaf for _, leaf in weights.fused),
        *(x for kv in prefix.kv_leaves for x in kv),
    ]
    old = {t.untyped_storage().data_ptr() for t in known}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in old:
            kept[storage.data_ptr()] = storage
        return tensor

    g = 4
    cos, sin = rope_tables(policy.model, prefix.next_position, n + 1)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        group_hidden(weights, prefix, 0, torch.full((g, n + 1), 7), torch.full((g,), n + 1), cos, sin)
    found = sum(s.nbytes() for s in kept.values())
    assert found == pytest.approx(Piece(MICRO, 4, g, prefix.mask.size(1), n).kept(checkpointing=False), rel=0.1)


@pytest.mark.parametrize(("values", "rel"), [(4, 0.2), (2, 0.05)])
def test_vision_blocks_keep_what_autograd_keeps(values, rel):
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    from reproduce.micro.model import ModelConfig, model_config

    def kept(depth):
        model = Qwen2_5_VLForConditionalGeneration(model_config(ModelConfig(vision_depth=depth)))
        model.to({4: torch.float32, 2: torch.bfloat16}[values])
        old, found = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}

        def pack(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in old:
                found[storage.data_ptr()] = storage
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            model.model.visual(torch.randn(64, 1176, dtype=model.dtype), grid_thw=torch.tensor([[1, 8, 8]]))
        return sum(s.nbytes() for s in found.values())

    prompts = [
        Prompts(replace(MICRO, vision_depth=d), values, 1, 16, 16, True).kept(checkpointing=False) for d in (1, 3)
    ]
    assert prompts[1] - prompts[0] == pytest.approx(kept(3) - kept(1), rel=rel)


def test_what_stands_there_at_rest_and_while_learning():
    """Bytes per parameter as the core holds them: bf16 with masters, fp32, sharded, adapters; a critic doubles them."""
    p, text = QWEN_3B.parameters, QWEN_3B.text_parameters
    of = lambda shards=1, gpu=True, **values: holding(QWEN_3B, config(**values), shards, gpu)
    assert (of().states, of().gradients, of().plan) == (14 * p, 4 * p, "A")
    assert (of(gpu=False).states, of(bf16=False).states, of(bf16=False).gradients) == (12 * p, 12 * p, 4 * p)
    assert (of(gpu=False, bf16=True).states, of(gpu=False).compute_bytes) == (14 * p, 4)
    frozen = of(freeze_vision=True)
    assert (frozen.states, frozen.gradients, frozen.plan) == (12 * text + 2 * p, 4 * text, "B")
    spread = of(8)
    assert (spread.states, spread.copies, spread.gradients) == (12 * p / 8, 2 * p, 4 * p)
    assert of(8, loss={"beta": 0.1}).reference == 2 * p  # every process has all of it
    adapters = of(lora={"r": 64}, loss={"beta": 0.1})
    assert adapters.states == 12 * QWEN_3B.adapter_parameters(64) + 2 * p and adapters.reference == 0
    assert (of(advantage="gae").states, of(8, advantage="gae").copies) == (28 * p, 4 * p)


def test_demand_grows_with_the_budget_and_not_with_the_batch():
    held, work = holding(QWEN_3B, config()), Work(64, 16, 512, 2048)
    train = config(num_generations=16, sampling={"max_prompt_length": 1024, "max_completion_length": 2048})
    of = lambda w=work, h=held, have=80e9, **values: demand(QWEN_3B, h, w, train | values, have)
    one = of()
    assert of(replace(work, prompts=128)) == one  # more than are sampled or computed at once
    half = of(tokens_per_micro_batch=train["tokens_per_micro_batch"] // 2)
    assert half.prompts == pytest.approx(one.prompts / 2, rel=0.1) and half.update < 0.65 * one.update
    assert of(tokens_per_rollout=train["tokens_per_rollout"] // 2).rollout < 0.65 * one.rollout
    assert of(h=replace(held, checkpointing=True)).total < one.total
    assert one.total == max(one.phases.values()) and one.decides == "update"
    critic = holding(QWEN_3B, config(advantage="gae"))
    assert of(h=critic).gradients == 2 * held.gradients and of(h=critic).update < one.update
    mean, most = needs(QWEN_3B, held, replace(work, completion_tokens=512), train, 80e9)
    assert mean.total <= most.total
    assert [verdict(*v) for v in ((1, 2, 3), (1, 4, 3), (4, 4, 3))] == ["yes", "tight", "no"]


def test_vllm_has_its_share_while_it_is_awake():
    held, work = holding(QWEN_3B, config(gradient_checkpointing=True)), Work(64, 16, 512, 512)
    of = lambda **vllm: demand(QWEN_3B, held, work, config(engine="vllm", vllm=vllm), 80e9)
    asleep, awake = of(gpu_memory_utilization=0.3), of(gpu_memory_utilization=0.3, sleep_level=0)
    assert (asleep.rollout, asleep.resting, awake.resting) == (24e9, 0, 24e9)
    assert awake.phases["update"] == asleep.phases["update"] + 24e9
    small = of(gpu_memory_utilization=0.05)
    assert small.decides == "vllm" and small.card > 80e9 and "raise vllm" in small.advice(config(engine="vllm"))
    assert "lower vllm" in of(gpu_memory_utilization=0.9).advice(config(engine="vllm"))


def test_profiles_of_one_gpu_fit_with_answers_of_every_length():
    for profile, gpu in (("single_gpu", "h100"), ("single_gpu_24gb", "rtx4090"), ("paper", "h100")):
        found = estimate(Plan.load({"profile": profile}), Request(gpu=gpu))
        assert {s.fits for s in found.stages} == {"yes"}, profile


@pytest.mark.parametrize("recipe", ["as_released", "as_printed"])
def test_what_a_recipe_asks_of_a_card_is_said(recipe):
    """The paper's own node holds every recipe's arms; one card of 80 GB none that has a critic."""
    fits = {}
    for profile in ("paper", "single_gpu"):
        command = ["estimate", "--profile", profile, "--recipe", recipe, "--gpu", "h100", "--json"]
        done = CliRunner().invoke(cli.cli, command)
        assert done.exit_code == 0, done.output
        fits[profile] = {stage["arm"]: stage["fits"] for stage in json.loads(done.stdout)["stages"]}
    own = CliRunner().invoke(
        cli.cli, ["estimate", "--profile", "paper", "--gpu", "h100", "--json"]
    )  # without one: its own
    assert json.loads(own.stdout) == as_json(estimate(Plan.load({"profile": "paper"}), Request(gpu="h100")))
    plan = Plan.load({"profile": "single_gpu", "recipe": recipe})
    critic = {arm for arm in plan.trained if plan.train_config(arm, 0).get("advantage") == "gae"}
    assert set(fits["paper"].values()) == {"yes"} and critic
    assert {arm for arm, answer in fits["single_gpu"].items() if answer == "no"} == critic


# ------------------------------------------------------------------------------------------------ the command


@pytest.fixture(scope="module")
def paper():
    return as_json(estimate(Plan.load({"profile": "paper"}), Request(gpu="h100")))


def shape(value):
    """A JSON value's keys and types; of a list its first item."""
    if isinstance(value, dict):
        return {k: shape(v) for k, v in sorted(value.items())}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def test_json_keeps_its_keys(paper):
    """A key that goes or changes its type is a new schema: raise `show.SCHEMA` and write the golden file again."""
    found = json.loads(json.dumps(paper, allow_nan=False))
    assert shape(found) == json.loads(GOLDEN.read_text(encoding="utf-8"))


def test_json_has_the_worked_figures_and_sums_up(paper):
    first = paper["worked_steps"][0]
    assert (first["naive_seconds"], first["compact_seconds"]) == (near(36.3), near(12.1))
    assert [p["plan"] for p in paper["memory_plans"]] == list("ABCDEF")
    parts = [
        *(s["gpu_hours"]["likely"] for s in paper["stages"]),
        *(v["gpu_hours"]["likely"] for v in paper["evaluations"]),
    ]
    assert paper["totals"]["gpu_hours"]["likely"] == pytest.approx(sum(parts), rel=1e-4)
    disk = paper["disk_gb"]
    assert disk["total"] == pytest.approx(sum(v for k, v in disk.items() if k not in ("total", "unknown")), rel=1e-4)
    for stage in paper["stages"]:
        assert (
            stage["sampled_tokens"]
            == stage["runs"] * stage["steps"] * stage["rows_per_step"] * stage["lengths"]["completion"]
        )


def test_requests_change_what_they_say():
    plan = Plan.load({"profile": "paper"})
    one, two = (estimate(plan, Request(gpus=n)) for n in (1, 2))
    assert two.stages[0].hours.bound < one.stages[0].hours.bound
    longer = estimate(plan, Request(gpus=1, completion_tokens=3000))
    assert longer.stages[0].hours.likely > one.stages[0].hours.likely
    assert longer.stages[0].lengths.origin.startswith("given (completion)")
    assert estimate(plan, Request(completion_tokens=10**6)).stages[0].lengths.completion == 4096
    ways = {p: estimate(plan, Request(gpus=1, protocol=p)) for p in ("paper", "rule")}
    judged = {v.benchmark: v.judge_calls for v in ways["paper"].evaluations}
    arms = len(plan.arms)
    assert (judged["math500"], judged["mathvision"], judged["mathverse"]) == (0, 3040 * arms, 2 * 3940 * arms)
    assert sum(v.judge_calls for v in ways["rule"].evaluations) == 0


def test_every_protocol_of_the_profile_is_paid_for():
    plan = Plan.load({"profile": "paper"})
    both = {v.benchmark: v for v in estimate(plan, Request(gpus=1)).evaluations}
    once = {v.benchmark: v for v in estimate(plan, Request(gpus=1, protocol="paper")).evaluations}
    assert {b: v.runs // once[b].runs for b, v in both.items()} == {
        b: 1 if plan.benchmarks[b].harness == "agents" else 2 for b in plan.benchmarks
    }
    assert {b: v.judge_calls for b, v in both.items()} == {b: v.judge_calls for b, v in once.items()}
    assert both["math500"].hours.likely == pytest.approx(2 * once["math500"].hours.likely)


def test_power_of_the_planned_evaluation():
    found = {v.benchmark: v.detectable for v in estimate(Plan.load({"profile": "paper"}), Request()).evaluations}
    assert (
        found["gpqa_diamond"].points_one_seed > found["math500"].points_one_seed > found["mathvision"].points_one_seed
    )
    assert found["mathverse"].effective_items == near(1313)  # 788 problems in five versions
    assert found["math500"].points_one_seed == pytest.approx(
        100 * 2.8 * math.sqrt(0.25 / 500), rel=0.02
    )  # normal theory
    micro = estimate(Plan.load({"profile": "micro"}), Request()).evaluations[0].detectable
    assert micro.points_all_seeds < micro.points_one_seed


def test_micro_profiles_are_within_a_factor_of_two_of_what_they_took(tmp_path, monkeypatch):
    """docs/runtimes.md: 10 min 05 s of which 1 min 48 s set-up; smoke 86 s beside other tests."""
    monkeypatch.chdir(tmp_path)
    for profile, seconds in (("micro", 605 - 108), ("smoke", 86)):
        found = 3600 * estimate(Plan.load({"profile": profile}), Request()).wall.likely
        assert seconds / 2 < found < seconds * 2


def test_what_ran_before_is_used(tmp_path, monkeypatch):
    from reproduce.micro.pretrain import PretrainConfig

    assert PretrainConfig().steps == measured.PRETRAIN_STEPS
    plan = Plan.load({"profile": "smoke", "name": "mine"})
    monkeypatch.chdir(tmp_path)
    assert measured.jobs(plan).origin == workload().cpu.origin
    for name, value in (("fre/0/train.tsv", "100.5"), ("two_stage/0/train.tsv", "broken")):
        file = tmp_path / plan.results("timings", name)
        file.parent.mkdir(parents=True)
        file.write_text(f"s\th:m:s\n{value}\t0:01:40\n")
    found = measured.jobs(plan)
    assert found.train["fre"] == 100.5 and found.train["two_stage"] < 100
    assert found.origin == "measured in results/mine/timings"


def test_games_are_counted_as_games(tmp_path, monkeypatch):
    """docs/runtimes.md: an arm's games took 10 s for the base, 15 to 16 s for five seeds, loading included in both."""
    monkeypatch.chdir(tmp_path)  # what this clone ran before is no part of it
    plan = Plan.load({"profile": "micro"})
    asked = {b: measured.items_of(plan, b) for b in plan.benchmarks}
    assert (asked["micro_chain"], asked["micro_sokoban"], asked["micro_football"]) == (500, 100, 10)
    without = Plan.load(
        {"profile": "micro", "benchmarks": [b for b in plan.benchmarks if b not in plan.of_harness("agents")]}
    )
    games, others = measured.jobs(plan).evaluate, measured.jobs(without).evaluate
    took = {arm: games[arm] - others[arm] for arm in games}
    assert len(plan.seeds_of("fre")) == 5 and len(plan.seeds_of("baseline")) == 1
    assert took["fre"] - took["baseline"] == pytest.approx(15.5 - 10, rel=0.15)  # one process loads once for all
    more = Plan.load({"profile": "micro", "micro": {"levels": 300}})
    longer = measured.jobs(more).evaluate["fre"] - games["fre"]
    assert longer == pytest.approx(5 * 200 * (15.5 - 10) / (4 * 110), rel=0.15)  # four seeds more were 440 games more


def test_an_arm_is_loaded_once_for_all_its_benchmarks(tmp_path, monkeypatch):
    """What its process took here before is taken for all of them, and a further protocol is a process of its own."""
    monkeypatch.chdir(tmp_path)
    plan = Plan.load({"profile": "smoke", "name": "mine"})
    file = tmp_path / plan.results("timings", "fre", "evaluate_arm.tsv")
    assert str(file.relative_to(tmp_path)) in plan.timings()
    file.parent.mkdir(parents=True)
    file.write_text("s\th:m:s\n77.5\t0:01:17\n")
    assert measured.jobs(plan).evaluate["fre"] == 77.5 != measured.jobs(plan).evaluate["two_stage"]
    more = Plan.load({"profile": "smoke", "name": "mine", "eval": {"protocols": ["rule", "vlmevalkit"]}})
    assert measured.jobs(more).evaluate["fre"] > 77.5 + workload().cpu.evaluate["start"]


def test_command(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    run = lambda *args: CliRunner().invoke(cli.cli, ["estimate", *args])
    shown = run("--profile", "paper", "--gpu", "h100")
    assert shown.exit_code == 0 and len(shown.output.splitlines()) <= 40
    assert all(
        word in shown.output for word in ("two_stage", "mathvista_mini", "GPU-hours", "A 60.1, B 50.7", "roofline")
    )
    assert json.loads(run("--profile", "micro", "--json").output)["sources"]["measured"]
    assert len(run("--help").output.splitlines()) <= 40
    assert isinstance(run("--gpu", "h1000").exception, UserError)


# ------------------------------------------------------------------------------------------------ the guard

SMALL = Gpu(title="small", memory=24, bf16=1, bandwidth=1, source="vendor", reached=(1, 1), reached_source="measured")


def test_guard_names_need_have_and_fix(monkeypatch):
    plan = Plan.load({"profile": "paper"})
    monkeypatch.setattr(guard, "local_gpus", lambda: [])
    guard.require_fit(plan)
    monkeypatch.setattr(guard, "local_gpus", lambda: [SMALL.model_copy(update={"memory": 1e6}), SMALL])
    with pytest.raises(UserError) as error:
        guard.require_fit(plan)
    words = ["profile paper on 2 x small", "stage fre of arm fre (memory plan A)", "of one GPU's 24", "force=true"]
    assert all(word in str(error.value) for word in words), str(error.value)
    monkeypatch.setattr(guard, "local_gpus", lambda: [SMALL.model_copy(update={"memory": 1e6})])
    guard.require_fit(plan)


def test_guard_offers_what_fits():
    changes = {"num_prompts": 8, "num_generations": 8, "num_minibatches": 1, "max_steps": 10}
    plan = Plan.load({"profile": "paper", "train": changes | {"sampling": {"max_completion_length": 4096}}})
    train = plan.train_config("fre", 0)
    assert work_of(train, workload().stages["default"], 2).prompts == 4
    found = estimate(plan, Request(gpus=1), SMALL)
    part = found.stages[0]
    need = {
        names[0]: guard._need(changed, part, found)
        for names, changed in guard._smaller(train, part.memory.decides)
        if len(names) == 1
    }
    best = min(need, key=need.get)
    assert need[best] < part.memory.total
    room = SMALL.model_copy(update={"memory": (need[best] + 1e8) / 1e9})
    with pytest.raises(UserError, match=f"it fits with {best} under `train`"):
        guard.require(estimate(plan, Request(gpus=1), room))


def test_workflow_refuses_what_cannot_fit(tmp_path):
    """On a machine whose nvidia-smi reports one 24 GB GPU: exit 2 before anything is made, but a dry run shows the jobs."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA GeForce RTX 4090, 24564'\n")
    tool.chmod(0o755)
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = [sys.executable, "-m", "snakemake", "-s", ROOT / "Snakefile", "-d", ROOT, "--cores", "1", "-q", "all"]
    command += ["--config", "profile=paper", f"name=guard_{tmp_path.name}"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "1 x NVIDIA GeForce RTX 4090" in done.stderr, done.stderr[-2000:]
    assert not (ROOT / f"results/guard_{tmp_path.name}").exists()


def test_local_gpus_survive_a_broken_tool(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert guard.local_gpus() == []
    for body in ("exit 9", "echo no devices were found", "echo 'a, b'"):
        tool.write_text(f"#!/bin/sh\n{body}\n")
        tool.chmod(0o755)
        assert guard.local_gpus() == []
    tool.write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 81559'\necho 'NVIDIA H100 80GB HBM3, 81559'\n")
    assert [round(gpu.memory) for gpu in guard.local_gpus()] == [86, 86]


def test_roof_scales():
    double = Roof(2 * ROOF.flops, 2 * ROOF.bandwidth)
    slow, fast = (step_seconds(QWEN_3B, roof, WORKED[0], NAIVE).total for roof in (ROOF, double))
    assert slow == pytest.approx(2 * fast)
