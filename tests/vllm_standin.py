"""Stands for vLLM where it cannot run: its `LLM` with weights of its own, that samples by our decode loop.

It records what it is asked, refuses to sample asleep, and loses in its sleep what vLLM loses.
"""

from functools import cached_property
from types import ModuleType, SimpleNamespace

import torch

from lmmr1.config import SamplingConfig
from lmmr1.policy import load_policy
from lmmr1.rollout import HFEngine
from lmmr1.types import Sample


class LLM:
    """Text prompts only. `off` is taken from every log-probability that it reports."""

    started: list["LLM"] = []

    def __init__(self, model, **options):
        self.model, self.options, self.awake = model, options, {"weights", "kv_cache"}
        self.calls, self.asked, self.off = [], [], 0.0
        self.llm_engine = SimpleNamespace(engine_core=SimpleNamespace(reset_encoder_cache=self.note("reset encoder")))
        self.reset_prefix_cache, self.reset_mm_cache = self.note("reset prefix"), self.note("reset images")
        self.started.append(self)

    @cached_property
    def policy(self):
        policy = load_policy(self.model)
        policy.render = lambda sample: sample.id
        return policy

    def note(self, what):
        return lambda: self.calls.append(what)

    @torch.no_grad()
    def sleep(self, level):
        self.calls.append(f"sleep {level}")
        self.awake = set()
        if level == 2:
            for p in self.policy.model.parameters():
                p.fill_(float("nan"))

    def wake_up(self, tags):
        self.calls.append(f"wake {tags[0]}")
        self.awake |= set(tags)

    def collective_rpc(self, method, kwargs):
        assert method == "reload_weights" and "weights" in self.awake
        self.calls.append("weights")
        self.policy.model.load_state_dict(dict(kwargs["weights_iterator"]))
        self.policy.stepped()

    def generate(self, prompts, sampling_params, use_tqdm):
        assert self.awake == {"weights", "kv_cache"}
        self.calls.append("generate")
        self.asked += sampling_params
        return [self.answer(prompt["prompt"], p) for prompt, p in zip(prompts, sampling_params, strict=True)]

    def answer(self, prompt, p):
        sampling = SamplingConfig(temperature=p.temperature, max_completion_length=p.max_tokens)
        self.policy.stop_ids = tuple(p.stop_token_ids)
        ((*rollouts,),) = HFEngine(self.policy).generate([Sample(prompt, [], (), "")], sampling, p.n, (p.seed,))
        outputs = [
            SimpleNamespace(
                index=i, token_ids=r.token_ids, finish_reason=r.finish,
                logprobs=[{t: SimpleNamespace(logprob=lp - self.off)} for t, lp in zip(r.token_ids, r.logprobs, strict=True)],
            )
            for i, r in enumerate(rollouts)
        ]  # fmt: skip
        return SimpleNamespace(outputs=outputs[::-1])  # vLLM's come in the order in which they end


def module():
    """What `import vllm` gives."""
    vllm = ModuleType("vllm")
    vllm.LLM, vllm.SamplingParams = LLM, SimpleNamespace
    return vllm
