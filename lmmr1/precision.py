"""Computing in bf16 while the weights that the optimizer moves are fp32: a bf16 weight does not move at lr 1e-6.

FSDP2 does so by itself, its shards being fp32 and what it gathers bf16. Elsewhere, here: the model is bf16, and every
trained weight has an fp32 master, to which gradients are added and from which it is copied after a step.
"""

from __future__ import annotations

from functools import partial

import torch

from lmmr1.config import TrainConfig
from lmmr1.policy import Policy


def settled(cfg: TrainConfig) -> TrainConfig:
    """The settings of a run with what they leave to the machine said, so that they name it: `bf16` on a GPU.

    A run that a CPU began in fp32 is then not what a GPU goes on with. TRL's trainer has a setting of its own.
    """
    chosen = cfg.bf16 is None and cfg.trainer == "lmmr1" and computes_in(cfg) == torch.bfloat16
    return cfg.model_copy(update={"bf16": True}) if chosen else cfg


def computes_in(cfg: TrainConfig) -> torch.dtype:
    """The dtype of policy, reference and critic alike, so that what they differ by is what they learned."""
    return torch.bfloat16 if (has_gpu() if cfg.bf16 is None else cfg.bf16) else torch.float32


def has_gpu() -> bool:
    """What decides where nothing is said."""
    return torch.cuda.is_available()


def keep_masters(policy: Policy) -> None:
    """Turn an fp32 policy into a bf16 one with fp32 masters of what it trains, and the rest in fp32 on the CPU."""
    for name, param in policy.model.named_parameters():  # not model.to(): the rotary frequencies stay fp32
        if param.requires_grad:
            policy.masters[name] = torch.nn.Parameter(param.detach())
            param.register_post_accumulate_grad_hook(partial(_collect, policy.masters[name]))
        else:
            policy.untrained[name] = param.detach().cpu()
        param.data = param.data.to(torch.bfloat16)


def _collect(master: torch.nn.Parameter, param: torch.Tensor) -> None:
    """Add a bf16 gradient to the master's fp32 one: sums over many pieces would be rounded away."""
    assert param.grad is not None
    grad, param.grad = param.grad.float(), None
    master.grad = grad if master.grad is None else master.grad.add_(grad)


@torch.no_grad()
def restore(policy: Policy) -> None:
    """Make the model fp32 on the CPU, for saving: what was trained from the masters, the rest as it was loaded.

    It is not trained after that.
    """
    kept = {name: master.data for name, master in policy.masters.items()} | policy.untrained
    for name, param in policy.model.named_parameters():  # peft calls a layer that it wrapped base_layer
        param.data = kept.get(name.replace(".base_layer", ""), param.data).float().cpu()
