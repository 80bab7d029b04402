"""Contract: one whole step of the real loop equals a slow, plain one (slow_step.py), whatever the settings.

What runs is `lmmr1.train.train` itself; replaced are the rewards, which are known numbers, the sampler, whose
completions are random tokens and whose log-probabilities are a plain forward's, off by known amounts, and the reference,
which is moved away from the policy so that there is something to be held against.

The comparison is made where single precision is double (`double`). In fp32 it could not be honest at 1e-5: AdamW divides
a gradient by its own size, so a weight whose gradient is little but rounding moves as far as any other, in a direction
that rounding decides (the worst tensor is then 8e-5 off, the median 6e-6). In double precision such a gradient is far
below AdamW's epsilon and moves nothing. What is compared is what the step did to the weights, not the weights: the norm
of the difference of both movements over the norm of the movement, tensor by tensor, which came out at 4e-12 or less; so
1e-9 is asked for. The precision that training runs in is test_core_equality.py's business.
"""

import ast
import json
import math
import random
import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from lmmr1 import train as train_module
from lmmr1.config import TrainConfig
from lmmr1.hf import AutoModelForImageTextToText, AutoProcessor
from lmmr1.store import adopt
from lmmr1.types import Reward, Rollout, ScoredGroup
from tests import slow_step
from tests.slow_step import logprobs, slow_stage

G, C = 3, 6
KINDS = {"text": lambda i: 0, "image": lambda i: 1, "mixed": lambda i: i % 3}  # mixed: none, one or two images
CRITIC = {"learning_rate": 7e-3, "gamma": 0.9, "lam": 0.8, "cliprange_value": 0.1}
SAMPLING = {"max_completion_length": C + 2, "max_prompt_length": 512}
LOSS = {"beta": 0.2, "mask_truncated_completions": True, "importance_sampling_cap": 1.5}
BASE = {
    "seed": 5, "max_steps": 1, "num_prompts": 4, "num_generations": G, "dynamic_sampling_factor": 2, "num_iterations": 2,
    "num_minibatches": 4, "advantage": "reinforce_baseline", "learning_rate": 4e-3, "warmup_steps": 2,
    "lr_scheduler_type": "cosine", "weight_decay": 0.1, "max_grad_norm": 0.5, "critic": CRITIC, "sampling": SAMPLING,
    "loss": LOSS,
}  # fmt: skip
OFFSETS = (-0.9, -0.2, 0.0, 0.3)
"""What the sampler's log-probabilities are off by: weights 2.5 (over the cap), 1.2, 1 and 0.7."""


SAME = 1e-9
EQUAL = {0, 2, 3, 5, 7}
"""Problems whose completions have all the same reward: more than half, so that one of them fills the batch up."""


def settings(**changes):
    """BASE with changes; those of nested settings go into these, e.g. loss={"beta": 0}."""
    return TrainConfig(**BASE | {k: BASE[k] | v if isinstance(v, dict) else v for k, v in changes.items()})


@pytest.fixture
def double(worlds, monkeypatch):
    """Single precision is double: in the core, in transformers and in the slow step."""
    before = torch.get_default_dtype()
    for name in ("float", "float32"):
        monkeypatch.setattr(torch, name, torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture(scope="module")
def worlds(tiny_model, make_samples, tmp_path_factory):
    """By kind of problem, with the tiny model in double precision: safetensors looks for torch's dtypes, too."""
    model = tmp_path_factory.mktemp("double") / "model"
    shutil.copytree(tiny_model, model)
    AutoModelForImageTextToText.from_pretrained(tiny_model).double().save_pretrained(model)
    return {k: World(model, make_samples(8, KINDS[k]), tmp_path_factory.mktemp(k)) for k in KINDS}


class World:
    """A model, eight problems of one kind, and for each G completions of ordinary tokens, with rewards."""

    def __init__(self, model, samples, folder):
        self.model, self.processor, self.parent = model, AutoProcessor.from_pretrained(model), adopt(str(model), "tiny")
        self.prompts, rng = folder / "prompts.jsonl", random.Random(1)
        self.prompts.write_text("".join(json.dumps(as_row(s)) + "\n" for s in samples))
        marks = set(self.processor.tokenizer.all_special_ids)  # with an image mark in it a plain forward cannot run
        ordinary = [i for i in range(len(self.processor.tokenizer)) if i not in marks]
        self.completions, self.rewards, self.known = {}, {}, {}
        for i, sample in enumerate(samples):
            rows = [rng.choices(ordinary, k=k) for k in (rng.randint(1, 3), rng.randint(2, C), C)]
            self.completions[sample.id] = [(ids, rng.choices(OFFSETS, k=len(ids))) for ids in rows]
            self.rewards[sample.id] = [1.0] * G if i in EQUAL else [0.5, 25.0 if i == 1 else 1.5, 0.0]

    def network(self):
        return AutoModelForImageTextToText.from_pretrained(self.model, dtype=torch.float32)

    def rows(self, sample, cfg):
        """A problem's completions as the slow step takes them, with the sampler's log-probabilities."""
        temperature = cfg.sampling.temperature
        if (sample.id, temperature) not in self.known:
            self.known[sample.id, temperature] = list(self.computed(sample, cfg))
        return [SimpleNamespace(**vars(row)) for row in self.known[sample.id, temperature]]

    @torch.no_grad()
    def computed(self, sample, cfg):
        text = self.processor.apply_chat_template(sample.messages, add_generation_prompt=True, tokenize=False)
        images = [Image.open(path).convert("RGB") for path in sample.images] or None
        prompt, network = self.processor(text=[text], images=images, return_tensors="pt"), self.network()
        for (tokens, offsets), reward in zip(self.completions[sample.id], self.rewards[sample.id], strict=True):
            ids, finish = torch.tensor([tokens]), "length" if len(tokens) == C else "stop"
            more = {"input_ids": ids, "attention_mask": ids * 0 + 1, "mm_token_type_ids": ids * 0}
            inputs = {**prompt, **{name: torch.cat([prompt[name], new], 1) for name, new in more.items()}}
            row = SimpleNamespace(inputs=inputs, ids=ids[0], finish=finish, reward=reward)
            row.sampler = [own + off for own, off in zip(logprobs(network, row, cfg).tolist(), offsets, strict=True)]
            yield row


def as_row(sample):
    """A line of a prompt file."""
    images = iter(sample.images)
    (message,) = sample.messages
    content = [p | {"image": str(next(images))} if p["type"] == "image" else p for p in message["content"]]
    return {"id": sample.id, "messages": [message | {"content": content}], "answer": sample.answer}


class StubEngine:
    """Hands out the world's completions, and keeps them."""

    def __init__(self, world, cfg, exact):
        self.world, self.cfg, self.exact, self.batches = world, cfg, exact, []

    def generate(self, samples, sampling, num_generations, seed, places=None):
        self.batches.append([self.world.rows(s, self.cfg) for s in samples])
        return [
            tuple(Rollout(s.id, tuple(r.ids.tolist()), tuple(r.sampler), "", r.finish) for r in group)
            for s, group in zip(samples, self.batches[-1], strict=True)
        ]


def moved(world, seed=3, by=0.02):
    """The weights of the reference: the parent's and noise."""
    generator = torch.Generator().manual_seed(seed)
    start = world.network().state_dict()
    return {n: t + by * torch.randn(t.shape, generator=generator).to(t) for n, t in start.items()}


def real(world, cfg, engine, folder):
    """`train` with the stub: the learner as it ended, and every step's metrics."""
    learners = []

    def build(*args):
        learners.append(build_learner(*args))
        if learners[0].reference:
            learners[0].reference.model.load_state_dict(moved(world))
        return learners[0]

    def score(samples, rollouts, *_):
        rewards = [tuple(Reward(r, 0, 0) for r in world.rewards[s.id]) for s in samples]
        return [ScoredGroup(*parts) for parts in zip(samples, rollouts, rewards, strict=True)]

    build_learner = train_module.build
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_module, "build", build)
        patch.setattr(train_module, "build_engine", lambda *_: engine)
        patch.setattr(train_module, "score", score)
        patch.setattr(train_module, "verifier_pool", nullcontext)
        _, store = train_module.train(cfg, world.parent, world.prompts, folder)
    lines = (store.folder / "steps.jsonl").read_text().splitlines()
    return learners[0], [json.loads(line) for line in lines]


def slow(world, cfg, engine):
    """The slow version of what `real` did with the engine: weights by name as `Learner.trained` has them, metrics."""
    policy, reference, critic = world.network(), world.network(), world.network()
    reference.load_state_dict(moved(world))
    critic.value_head = value_head(critic.config.get_text_config().hidden_size, cfg.seed)
    for network in (policy, critic):
        network.model.visual.requires_grad_(not cfg.freeze_vision)
    start = {n: p.detach().clone() for n, p in named(policy, critic, cfg)}
    metrics = slow_stage(policy, reference, critic, engine.batches, cfg, engine.exact)
    return {n: p.detach() - start[n] for n, p in named(policy, critic, cfg)}, start, metrics


def named(policy, critic, cfg):
    yield from policy.named_parameters()
    if cfg.advantage == "gae":
        yield from ((f"critic.{n}", p) for n, p in critic.named_parameters())


def value_head(width, seed):
    """The critic's head at the start: as documented, drawn from the seed with deviation 1 / (H + 1)."""
    head = torch.nn.Linear(width, 1, bias=False)
    head.weight = torch.nn.Parameter(torch.randn(1, width, generator=torch.Generator().manual_seed(seed)) / (width + 1))
    return head


def compared(world, cfg, folder, exact=False):
    """Run both. Returns the largest difference of a weight's movement, and the real metrics of the first step.

    All metrics are held against the slow ones here, where the step and the name can be said.
    """
    engine = StubEngine(world, cfg, exact)
    learner, found = real(world, cfg, engine, folder)
    assert [len(drawn) for drawn in engine.batches] == [cfg.num_prompts * cfg.dynamic_sampling_factor] * cfg.max_steps
    movement, start, expected = slow(world, cfg, engine)
    for step, (mine, theirs) in enumerate(zip(found, expected, strict=True), 1):
        for name in theirs.keys() - (set() if cfg.advantage == "gae" else {"loss/value_avg"}):
            assert mine[name] == pytest.approx(theirs[name], rel=SAME, abs=SAME), (step, name)
    assert learner.trained.keys() == {n for n in start if not cfg.freeze_vision or "visual" not in n}
    movements = [(apart(p.detach() - start[n], movement[n]), n) for n, p in learner.trained.items()]
    worst = max(movements, key=lambda one: (math.isnan(one[0]), one))  # NaN is no smaller than anything
    return worst, found[0]


def apart(mine, theirs):
    """Norm of the difference of two movements over the norm of the second; 0 where neither moved."""
    assert mine.dtype == theirs.dtype == torch.float64
    return 0.0 if torch.equal(mine, theirs) else float((mine - theirs).norm() / theirs.norm())  # infinite where one did


@pytest.mark.parametrize("in_reward", [True, False], ids=["kl_in_reward", "kl_in_loss"])
@pytest.mark.parametrize("advantage", ["reinforce_baseline", "gae"])
@pytest.mark.parametrize("kind", KINDS)
def test_whole_step(double, worlds, tmp_path, kind, advantage, in_reward):
    cfg = settings(advantage=advantage, loss={"kl_in_reward": in_reward})
    worst, found = compared(worlds[kind], cfg, tmp_path)
    assert worst < (SAME, "")
    assert found["grad_norm"] > cfg.max_grad_norm and found["clip_ratio/region_mean"] > 0.05  # both are exercised
    if advantage == "gae":
        assert found["critic/grad_norm"] > cfg.max_grad_norm and found["val/clipfrac_avg"] > 0.05


CASES = {
    "truncated_completions_count": ("text", {"loss": {"mask_truncated_completions": False}}),
    "as_many_prompts_drawn_as_trained_on": ("text", {"dynamic_sampling_factor": 1}),
    "one_optimizer_step": ("text", {"num_minibatches": 1, "num_iterations": 1}),
    "one_optimizer_step_without_a_reference": (
        "text",
        {"num_minibatches": 1, "num_iterations": 1, "loss": {"beta": 0}},
    ),
    "one_optimizer_step_with_kl_in_reward": (
        "text",
        {"num_minibatches": 1, "num_iterations": 1, "loss": {"kl_in_reward": True}},
    ),
    "without_a_reference": ("mixed", {"loss": {"beta": 0}}),
    "one_pass": ("text", {"num_iterations": 1}),
    "group_norm": ("text", {"advantage": "group_norm", "num_minibatches": 2, "loss": {"beta": 0}}),
    "group_norm_with_kl_in_loss": ("text", {"advantage": "group_norm", "num_minibatches": 2}),
    "grpo": ("text", {"num_minibatches": 2, "loss": {"loss_type": "grpo"}}),
    "seq_mean": ("text", {"num_minibatches": 2, "loss": {"loss_type": "seq_mean"}}),
    "dr_grpo": ("text", {"num_minibatches": 2, "loss": {"loss_type": "dr_grpo"}}),
    "bnpo": ("text", {"num_minibatches": 2, "loss": {"loss_type": "bnpo"}}),
    "cispo": ("text", {"loss": {"loss_type": "cispo", "epsilon_high": 1.1}}),
    "sequence_ratios": ("text", {"loss": {"importance_sampling_level": "sequence", "epsilon": 0.05}}),
    "asymmetric_clip": ("text", {"loss": {"epsilon_high": 0.6}}),
    "frozen_vision": ("image", {"freeze_vision": True, "advantage": "gae"}),
    "lr_per_optimizer_step": ("text", {"lr_per_optimizer_step": True, "advantage": "gae"}),
    "small_pieces": ("mixed", {"tokens_per_micro_batch": 7, "num_minibatches": 2, "advantage": "gae"}),
    "small_pieces_one_step": ("mixed", {"tokens_per_micro_batch": 1024, "num_minibatches": 1}),
    "recomputed_layers": ("mixed", {"gradient_checkpointing": True, "advantage": "gae"}),
    "temperature": ("text", {"sampling": {"temperature": 0.7}}),
    "two_steps": ("text", {"max_steps": 2, "advantage": "gae", "loss": {"kl_in_reward": True}}),
    "as_released": (
        "mixed",
        {
            "dynamic_sampling_factor": 1,
            "num_iterations": 1,
            "lr_per_optimizer_step": True,
            "weight_decay": 0.0,
            "loss": {"loss_type": "seq_mean", "kl_in_reward": True, "mask_truncated_completions": False},
        },
    ),
}
"""What is not in the grid above, one at a time: the kind of problem, and changes to BASE."""


@pytest.mark.parametrize("case", CASES)
def test_each_setting(double, worlds, tmp_path, case):
    kind, changes = CASES[case]
    assert compared(worlds[kind], settings(**changes), tmp_path)[0] < (SAME, "")


@pytest.mark.parametrize("in_reward", [True, False], ids=["kl_in_reward", "kl_in_loss"])
def test_exact_engine(double, worlds, tmp_path, in_reward):
    """What such a sampler says is taken for the learner's own, even where it is not: nothing computes it again."""
    cfg = settings(loss={"kl_in_reward": in_reward})
    assert compared(worlds["text"], cfg, tmp_path, exact=True)[0] < (SAME, "")


def test_projections_apart(double, worlds, tmp_path, monkeypatch):
    """The way in which a model of the real width computes."""
    monkeypatch.setattr("lmmr1.suffix.FUSED_BELOW", 1)
    assert compared(worlds["mixed"], settings(advantage="gae"), tmp_path)[0] < (SAME, "")


def test_the_slow_version_is_short():
    """At most 80 lines besides docstrings and blank ones: short enough to be read against the paper."""
    text = Path(slow_step.__file__).read_text(encoding="utf-8")
    words = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)]
    inside = {number for node in words for number in range(node.lineno, (node.end_lineno or 0) + 1)}
    lines = [line for number, line in enumerate(text.splitlines(), 1) if line.strip() and number not in inside]
    assert len(lines) <= 80
