"""Sampling with vLLM, colocated with the learner: weights are updated in place and it sleeps while we learn.

Optional: vLLM is imported where it is used. How to install it, on GPU or CPU, is in docs/vllm.md.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from lmmr1.config import DecodingConfig, SamplingConfig, VLLMConfig
from lmmr1.images import open_image
from lmmr1.lora import merged_parameters
from lmmr1.policy import Policy
from lmmr1.types import Rollout, Sample, UserError


class VLLMEngine:
    """One vLLM instance in this process, filled with the policy's weights."""

    asleep = False
    exact = False  # another implementation and batch shape: importance weights correct the difference

    def __init__(
        self, policy: Policy, sampling: SamplingConfig, cfg: VLLMConfig | None = None, launched: bool = False
    ) -> None:
        """Start vLLM on the policy's checkpoint, at its commit. Raises UserError where vLLM is not installed.

        Args:
            sampling: its lengths bound prompts and completions.
            cfg: what vLLM may take of a GPU, and what it gives back after each call.
            launched: True in one of several processes of `accelerate launch`: each gets an instance of its own.
        """
        cfg, gpu = cfg or VLLMConfig(), torch.cuda.is_available()
        self.policy, self.synced, self.sleep_level = policy, policy.version, cfg.sleep_level if gpu else 0
        size, room = policy.processor.image_processor.size, sampling.max_prompt_length + sampling.max_completion_length
        self.llm = _vllm()(
            model=policy.source,
            revision=policy.revision,
            tokenizer_revision=policy.revision,
            dtype="bfloat16" if gpu else "float32",
            max_model_len=min(room, policy.context),
            enforce_eager=not gpu,
            enable_sleep_mode=self.sleep_level > 0,
            logprobs_mode="processed_logprobs",  # after temperature, as the learner computes them
            limit_mm_per_prompt={"image": 8, "video": 0},
            mm_processor_kwargs={"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]},
            **({"gpu_memory_utilization": cfg.gpu_memory_utilization} if gpu else {}),
            **({"distributed_executor_backend": "external_launcher"} if launched else {}),
        )

    def generate(
        self,
        samples: Sequence[Sample],
        sampling: SamplingConfig,
        num_generations: int,
        seed: tuple[int, ...],
        places: Sequence[int] | None = None,
    ) -> list[tuple[Rollout, ...]]:
        """P samples in, P tuples of G rollouts out, in order. Each prompt draws from its own seed, by its place.

        Weights that changed since the last call are handed over first; afterwards the GPU's memory is the learner's.
        """
        from vllm import SamplingParams

        self.wake()
        prompts = [self._prompt(sample) for sample in samples]
        penalty = sampling.repetition_penalty if isinstance(sampling, DecodingConfig) else 1.0
        params = [
            SamplingParams(
                n=num_generations,
                temperature=sampling.temperature,
                repetition_penalty=penalty,
                max_tokens=sampling.max_completion_length,
                logprobs=0,
                stop_token_ids=list(self.policy.stop_ids),
                seed=hash((*seed, place)) % 2**31,
                skip_special_tokens=True,
                spaces_between_special_tokens=False,
            )
            for place in (range(len(samples)) if places is None else places)
        ]
        outputs = self.llm.generate(prompts, params, use_tqdm=False)
        if self.sleep_level:
            self.llm.sleep(level=self.sleep_level)
            self.asleep = True
        return [
            tuple(self._rollout(sample.id, out) for out in sorted(output.outputs, key=lambda out: out.index))
            for sample, output in zip(samples, outputs, strict=True)
        ]

    def _prompt(self, sample: Sample) -> dict[str, Any]:
        images = [open_image(path) for path in sample.images]
        return {"prompt": self.policy.render(sample), **({"multi_modal_data": {"image": images}} if images else {})}

    def _rollout(self, sample_id: str, out: Any) -> Rollout:
        ids = tuple(out.token_ids)
        logprobs = tuple(step[token].logprob for step, token in zip(out.logprobs, ids, strict=True))
        text = self.policy.processor.tokenizer.decode(ids, skip_special_tokens=True)
        return Rollout(sample_id, ids, logprobs, text, "stop" if out.finish_reason == "stop" else "length")

    def wake(self) -> None:
        """Have the memory and the learner's present weights. The cache comes back last, when the weights are there."""
        if self.asleep:
            self._wake_up("weights")
        if self.synced != self.policy.version or (self.asleep and self.sleep_level == 2):
            self.sync()
        if self.asleep:
            self._wake_up("kv_cache")
        self.asleep = False

    def _wake_up(self, tag: str) -> None:
        # vLLM maps memory of the device, where what PyTorch keeps for later is not free: after an optimizer step, and
        # after the weights were handed over (verl's PR 575; TRL does so before the weights)
        torch.cuda.empty_cache()
        self.llm.wake_up(tags=[tag])

    def sync(self) -> None:
        """Hand over the learner's weights, `lm_head` included: with tied embeddings vLLM would keep the old head."""
        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": self._weights()})
        # what vLLM cached under the old weights: prompts, image features, and which images it need not send again
        self.llm.reset_prefix_cache()
        self.llm.reset_mm_cache()
        self.llm.llm_engine.engine_core.reset_encoder_cache()
        self.synced = self.policy.version

    def _weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """One after another: merged with adapters they would take as much again as the model."""
        has_head = False
        for name, weight in merged_parameters(self.policy.model):
            has_head = has_head or name.startswith("lm_head")
            yield name, weight
        if not has_head:
            yield "lm_head.weight", self.policy.head.detach()


def _vllm() -> Any:
    """vLLM's `LLM`. Raises UserError where vLLM is not installed."""
    # weights are handed over as tensors of this process
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    try:
        from vllm import LLM
    except ImportError as e:
        raise UserError(f"engine: vllm is not usable here ({e}); see docs/vllm.md, or set engine: hf") from None
    return LLM
