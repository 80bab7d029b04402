"""Answers in batches: problems sorted by length, generated, put back into order."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from tqdm import tqdm

from lmmr1.config import DecodingConfig, SamplingConfig
from lmmr1.images import UnreadableImage, image_size
from lmmr1.types import Rollout, Sample, UserError

if TYPE_CHECKING:
    from lmmr1.policy import Policy

EngineName = Literal["hf", "vllm"]
"""What answers: our decode loop, or vLLM (optional, docs/vllm.md)."""

MAX_PROMPT_TOKENS = 32768
"""Longer prompts are an error. Benchmarks have none; the limit stops a run before the memory does."""

TOKEN_BUDGET = {"cuda": 2**19, "cpu": 2**15}
"""Tokens of a batch, completions included, by device. On a GPU 19 GB of keys and values for Qwen2.5-VL-3B in bf16; on a
CPU so few that those of a tiny model stay near the cache: decoding reads all of them for every token."""

PIXELS_PER_TOKEN = 28 * 28
"""Qwen2.5-VL: 14 x 14 pixels a patch, 2 x 2 patches a token."""


class Engine(Protocol):
    """What the harnesses need of `lmmr1.rollout.HFEngine`."""

    def generate(
        self, samples: Sequence[Sample], sampling: SamplingConfig, num_generations: int, seed: tuple[int, ...]
    ) -> list[tuple[Rollout, ...]]:
        """P samples in, P tuples of G rollouts out, in order."""


@dataclass(frozen=True, slots=True)
class EvalModel:
    """A loaded model as the harnesses see it: an engine, and what a protocol records about it."""

    engine: Engine
    render: Callable[[Sample], str]
    """The prompt as text, chat template applied."""
    backend: str
    dtype: str
    min_pixels: int | None
    max_pixels: int | None
    token_budget: int = TOKEN_BUDGET["cuda"]
    """Most tokens of a batch, completions included."""
    context: int = 2**30
    """Most tokens of one row: where they are reached, the answer ends."""
    workers: int = 1
    """Batches that the engine answers at once, asked by as many threads."""


def load_model(
    source: str,
    revision: str | None = None,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    engine: EngineName = "hf",
) -> EvalModel:
    """Load a checkpoint folder or Hub id for greedy decoding; images are resized to have at least `min_pixels` and at
    most `max_pixels` (None: as the checkpoint says). Raises UserError where it is neither, and where `engine` is vllm
    and that is not installed."""
    from lmmr1.packed import PackedEngine
    from lmmr1.policy import load_policy

    policy = load_policy(source, revision=revision, min_pixels=min_pixels, max_pixels=max_pixels)
    size = policy.processor.image_processor.size
    device, dtype = policy.device.type, str(policy.model.dtype).removeprefix("torch.")
    answering = PackedEngine(policy) if engine == "hf" else _vllm_engine(policy)
    return EvalModel(
        engine=answering,
        render=policy.render,
        backend=f"{type(answering).__name__}/{device}",
        dtype=dtype,
        min_pixels=size.get("shortest_edge"),
        max_pixels=size.get("longest_edge"),
        token_budget=TOKEN_BUDGET.get(device, TOKEN_BUDGET["cuda"]) if engine == "hf" else 2**30,
        context=policy.context,
    )


def _vllm_engine(policy: Policy) -> Engine:
    """vLLM with nearly all of the GPU: our copy of the weights leaves it, and nothing sleeps. It batches by itself."""
    from lmmr1.config import VLLMConfig
    from lmmr1.vllm_engine import VLLMEngine

    policy.model.to("cpu")
    room = SamplingConfig(max_prompt_length=MAX_PROMPT_TOKENS, max_completion_length=MAX_PROMPT_TOKENS)
    return VLLMEngine(policy, room, VLLMConfig(gpu_memory_utilization=0.9, sleep_level=0))


def greedy(max_new_tokens: int, repetition_penalty: float = 1.0) -> DecodingConfig:
    """Greedy decoding of at most `max_new_tokens` tokens."""
    return DecodingConfig(
        temperature=0,
        max_completion_length=max_new_tokens,
        max_prompt_length=MAX_PROMPT_TOKENS,
        repetition_penalty=repetition_penalty,
    )


def generate_all(
    model: EvalModel, samples: Sequence[Sample], sampling: SamplingConfig, batch_size: int
) -> list[Rollout]:
    """One rollout per sample, in the order of `samples`.

    Batches hold at most `batch_size` samples of similar length and at most `model.token_budget` tokens (estimated:
    images by their size, text by its bytes). A progress bar is shown on a terminal.
    Raises ValueError where the engine returns another number of rollouts, and whatever the engine raises.
    """
    sizes = [prompt_size(sample, model.max_pixels) for sample in samples]
    order = sorted(range(len(samples)), key=lambda i: (-sizes[i], i))
    rollouts: dict[int, Rollout] = {}
    with tqdm(total=len(samples), desc="answers", unit="sample", file=sys.__stderr__, disable=None) as bar:
        costs = [min(size + sampling.max_completion_length, model.context) for size in sizes]
        batches = list(_batches(order, costs, batch_size, model.token_budget))

        def ask(batch: list[int]) -> list[tuple[Rollout, ...]]:
            return model.engine.generate([samples[i] for i in batch], sampling, 1, (0,))

        for batch, groups in zip(batches, _in_order(ask, batches, model.workers), strict=True):
            for i, (rollout,) in zip(batch, groups, strict=True):
                rollouts[i] = dataclasses.replace(rollout, text=encodable(rollout.text))
            bar.update(len(batch))
    return [rollouts[i] for i in range(len(samples))]


def _in_order(ask: Callable[[Any], Any], batches: Sequence[Any], workers: int) -> Iterator[Any]:
    """`ask` of each batch, in order, with up to `workers` of them in flight; after an error no further one begins."""
    if workers == 1:
        yield from map(ask, batches)
        return
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(ask, batches)  # it cancels what has not begun


def _batches(order: list[int], costs: list[int], batch_size: int, budget: int) -> Iterator[list[int]]:
    """Cut `order` (longest first) into batches; every row of a batch costs as many tokens as its longest."""
    start = 0
    while start < len(order):
        stop = start + max(1, min(batch_size, budget // costs[order[start]]))
        yield order[start:stop]
        start = stop


def prompt_size(sample: Sample, max_pixels: int | None) -> int:
    """About how many tokens a prompt has, never too few for text: bytes of its text plus tokens of its images.

    Raises UserError where an image cannot be read.
    """
    text = "".join(_text_of(message["content"]) for message in sample.messages)
    return len(text.encode("utf-8", "replace")) + sum(_visual(path, max_pixels) for path in sample.images)


def _text_of(content: str | list[dict[str, str]]) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _visual(path: Path, max_pixels: int | None) -> int:
    try:
        width, height = image_size(path)
    except UnreadableImage as e:
        raise UserError(f"image {path} cannot be read ({e}); replace the file or drop its row") from None
    pixels = width * height
    return min(pixels, max_pixels or pixels) // PIXELS_PER_TOKEN + 1


def encodable(text: str) -> str:
    """`text` with lone surrogates replaced: they cannot be written as UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")


def prompt_sha256(rendered: str, image_sha256: str = "") -> str:
    """sha256 of one rendered prompt and its image's hash, as hex digits."""
    return hashlib.sha256(f"{image_sha256}\n{encodable(rendered)}".encode()).hexdigest()


def overall_sha256(hashes: Iterable[str]) -> str:
    """sha256 (16 hex digits) over prompt hashes, in order."""
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()[:16]


@contextlib.contextmanager
def console_to(path: Path) -> Iterator[None]:
    """Send what is printed meanwhile to `path`: the harnesses draw their progress bars into any log."""
    with path.open("a", encoding="utf-8") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        yield
