"""The processes that train together: who computes which prompts, and how gradients come together.

Every process draws, rewards and learns its share of a step's prompts. Completions and rewards are gathered, so that
whatever is decided about the whole batch (which groups are dead, advantages, the loss's normaliser, metrics) is decided
by every process with the code of one process, from the same facts. Gradients are then sums over processes, never means.

`accelerate launch --config_file config/accelerate/ddp.yaml -m lmmr1.train ...` starts them; docs/distributed.md.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

from lmmr1.types import TrainingError, UserError

if TYPE_CHECKING:  # the verifier's workers import this module, and must start at once
    import torch

    from lmmr1.policy import Policy

T = TypeVar("T")

LONGEST_WAIT = timedelta(hours=6)
"""For what one process does while the others wait: it checks the data, and writes 45 GB of a 3B model's state into a
folder that may be slow. torch's own limit, 10 minutes on GPUs, would end the run there."""


class Processes:
    """One process alone, which shares nothing; the others are told apart by `index`, 0 to `size` - 1."""

    size = 1
    index = 0
    sharded = False
    """True where no process has all weights at rest."""

    @property
    def main(self) -> bool:
        """True in the one process that writes files."""
        return self.index == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """Every `size`-th item: what this process does of a list that all have."""
        return list(items[self.index :: self.size])

    def collect(self, value: T) -> list[T]:
        """`value` of every process, in order. The value must be picklable, its tensors on the CPU."""
        return [value]

    def of_main(self, make: Callable[[], T]) -> T:
        """What the one process that writes makes, for all: picklable, tensors on the CPU. What it raises, all raise."""
        made, error = None, None
        if self.main:
            try:
                made = make()
            except (UserError, TrainingError) as e:  # the others would wait for it
                error = e
        made, error = self.collect((made, error))[0]
        if error is not None:
            raise error
        return cast("T", made)

    def gather(self, items: Sequence[T]) -> list[T]:
        """The whole list again, in order, from every process's results for its `share`."""
        shares = self.collect(list(items))
        return [shares[i % self.size][i // self.size] for i in range(sum(map(len, shares)))]

    def shard(self, model: Any, dtype: torch.dtype) -> None:
        """Spread the weights over the processes, before an optimizer sees them, to be computed with in `dtype`; nothing
        where each has them all."""

    def unshard(self, model: Any) -> None:
        """Make the model's weights whole, to be computed with. Cheap where they are."""

    def reduce(self, policy: Policy) -> None:
        """Sum the gradients over the processes; where weights are sharded, each then keeps its part of both."""


class DataParallel(Processes):
    """Several processes, each with the whole model and optimizer (DDP): gradients are summed after the backward pass.

    torch's DistributedDataParallel itself cannot be used: it counts gradients in hooks of one forward call, and here a
    weight's gradient comes from several backward passes (completions group by group, then the prompts).
    """

    def __init__(self, accelerator: Any) -> None:
        self.accelerator = accelerator
        self.size, self.index = accelerator.num_processes, accelerator.process_index

    def collect(self, value: T) -> list[T]:
        """See Processes."""
        from accelerate.utils import gather_object

        return gather_object([value])

    def used(self, grads: Sequence[torch.Tensor | None]) -> list[bool]:
        """Which gradients any process has: the optimizer leaves the other parameters alone, as in one process."""
        import torch

        mine = torch.tensor([grad is not None for grad in grads], dtype=torch.int32, device=self.accelerator.device)
        return self.accelerator.reduce(mine, "sum").bool().tolist()

    def reduce(self, policy: Policy) -> None:
        """See Processes."""
        import torch

        params = list(policy.trained.values())
        for param, used in zip(params, self.used([p.grad for p in params]), strict=True):
            if used:
                param.grad = torch.zeros_like(param) if param.grad is None else param.grad
                torch.distributed.all_reduce(param.grad)


class FullyShardedDataParallel(DataParallel):
    """FSDP2: each process keeps its part of every weight, gradient and moment, in fp32.

    The core reads weights outside the modules' forward methods, which FSDP2's hooks would free in between. So they are
    made whole for a whole step, in the dtype that computes, and gradients are scattered by hand after it.
    """

    sharded = True

    def __init__(self, accelerator: Any, layers: Sequence[str]) -> None:
        """`layers` are the names of the classes that are gathered one by one."""
        super().__init__(accelerator)
        self.layers = layers
        self.sums: dict[torch.Tensor, torch.Tensor | None] = {}
        """Of gathered bf16 weights: their gradients, added up in fp32."""

    def shard(self, model: Any, dtype: torch.dtype) -> None:
        """See Processes."""
        import torch
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        mesh = init_device_mesh(self.accelerator.device.type, (self.size,))
        options: dict[str, Any] = {
            "mesh": mesh,
            "reshard_after_forward": False,
            "mp_policy": MixedPrecisionPolicy(param_dtype=dtype),
        }
        for module in [m for m in model.modules() if type(m).__name__ in self.layers]:
            fully_shard(module, **options)
        fully_shard(model, **options)
        model.set_requires_gradient_sync(False)
        model.set_reshard_after_backward(False)
        with torch.no_grad():  # the first module that runs becomes the root of the others
            model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=self.accelerator.device))
        self._each(model, "reshard")

    def unshard(self, model: Any) -> None:
        """See Processes."""
        import torch

        self._each(model, "unshard")
        for param in model.parameters():
            if param.requires_grad and param.dtype != torch.float32 and param not in self.sums:
                self.sums[param] = None
                param.register_post_accumulate_grad_hook(self._collect)

    def _collect(self, param: torch.Tensor) -> None:
        """Add a piece's gradient in fp32: in bf16 a sum over hundreds of pieces would lose the small ones."""
        grad, before = param.grad, self.sums[param]
        assert grad is not None
        self.sums[param] = grad.float() if before is None else before.add_(grad)
        param.grad = None

    def reduce(self, policy: Policy) -> None:
        """See Processes."""
        import torch
        from torch.distributed.tensor import DTensor, Partial

        model = policy.model
        grads = []
        for copy in [p for p in model.parameters() if p.requires_grad]:
            grads.append(self.sums.get(copy) if copy in self.sums else copy.grad)
            copy.grad = None
            if copy in self.sums:
                self.sums[copy] = None
        used = self.used(grads)
        self._each(model, "reshard")
        for param in [p for p in model.parameters() if p.requires_grad]:
            grad = grads.pop(0)
            if used.pop(0):
                # plain zeros: `param.new_zeros` is sharded, and making it whole would wait for all processes
                zeros = torch.zeros(param.shape, dtype=param.dtype, device=param.device)
                grad = zeros if grad is None else grad.to(param.dtype)
                summed = DTensor.from_local(grad, param.device_mesh, [Partial()], run_check=False)
                param.grad = summed.redistribute(placements=param.placements)

    def _each(self, model: Any, what: str) -> None:
        from torch.distributed.fsdp import FSDPModule

        for module in model.modules():
            if isinstance(module, FSDPModule):
                getattr(module, what)()


ALONE = Processes()


def join() -> Processes:
    """What `accelerate launch` made of this process; ALONE without it.

    Raises UserError for a kind of training that this core does not do.
    """
    if "WORLD_SIZE" not in os.environ:
        return ALONE
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        raise UserError(
            "accelerate config: distributed_type DEEPSPEED is not for this core, whose layers DeepSpeed's hooks do not "
            "see; config/accelerate/fsdp2.yaml shards the same things, or set trainer: trl"
        )
    import torch
    from accelerate import Accelerator, FullyShardedDataParallelPlugin, InitProcessGroupKwargs

    waits = InitProcessGroupKwargs(timeout=LONGEST_WAIT)
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[waits])
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return DataParallel(accelerator)
    plugin = FullyShardedDataParallelPlugin()  # as accelerate read it from the config file
    if plugin.fsdp_version != 2 or not plugin.transformer_cls_names_to_wrap:
        raise UserError(
            "accelerate config, fsdp_config: this core needs fsdp_version 2 and fsdp_transformer_layer_cls_to_wrap; "
            "see config/accelerate/fsdp2.yaml"
        )
    return FullyShardedDataParallel(accelerator, plugin.transformer_cls_names_to_wrap)


def require_prompts(processes: Processes, per_step: int) -> None:
    """Raise UserError where an optimizer step has fewer prompts than there are processes."""
    if per_step < processes.size:
        raise UserError(
            f"{processes.size} processes but {per_step} prompts per optimizer step (num_prompts / num_minibatches): "
            "start fewer processes or take more prompts"
        )


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, gathered where it is sharded; then all processes must call it."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def as_sharded(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """`tensor`, which is whole, on the device of `like` and sharded as it is."""
    tensor = tensor.to(like.device)
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)
