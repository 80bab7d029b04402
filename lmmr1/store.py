"""Checkpoints: content-addressed, resumable, never overwritten in place.

checkpoints/{key}/final/      the finished model in Hugging Face format, sealed; manifest.json beside it is written last
checkpoints/{key}/begun/      the processor of the result, kept before anything is computed
checkpoints/{key}/resume/     step-N folders: weights, optimizer state, the logs' lengths; the newest good one counts
checkpoints/{key}/steps.jsonl, completions.jsonl, timings.jsonl    what the run wrote so far
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lmmr1 import NUMERICS
from lmmr1.checkpoint import examine
from lmmr1.config import TrainConfig
from lmmr1.files import seal, seal_folder, sha256_file, sha256_weights, verify, verify_weights, write, writing
from lmmr1.hub_commits import is_hub_id, resolve, snapshot, split_revision
from lmmr1.lines import from_json
from lmmr1.lora import save_adapters
from lmmr1.policy import Policy
from lmmr1.processes import ALONE, Processes, as_sharded, whole
from lmmr1.types import Manifest, TrainingData, TrainingError, UserError

LOGS = ("steps.jsonl", "completions.jsonl", "timings.jsonl")
MOMENTS = ("exp_avg", "exp_avg_sq", "step")
"""What AdamW keeps per parameter; `step` differs between parameters where a step left some without gradient."""


def run_key(cfg: TrainConfig, parent_key: str, data_sha256: str) -> str:
    """16 hex digits that name a run by everything that decides its numbers, and by nothing else."""
    facts = {"config": cfg.deciding(), "parent": parent_key, "data": data_sha256, "numerics": NUMERICS}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def write_json(path: Path, value: Any, sealed: bool = False) -> None:
    """Write through a temporary file, so that a reader never sees half of it."""
    write(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=True) + "\n", sealed)


def read_manifest(path: Path) -> Manifest:
    """Raises UserError where the file is missing, damaged or not a manifest."""
    verify(path)
    try:
        return Manifest(**from_json(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UserError(f"{path}: no such manifest; train or adopt the checkpoint first") from None
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError) as e:
        raise UserError(f"{path}: not a manifest ({e})") from None


def read_parent(path: Path) -> Manifest:
    """`read_manifest` of a checkpoint that will be used: its files are there and verified, from the Hub at its commit.

    Raises UserError where they are damaged or cannot be had.
    """
    manifest = read_manifest(path)
    if manifest.revision:
        folder = snapshot(manifest.weights, manifest.revision)
        verify_weights(folder, manifest.weights_sha256, f"delete {folder.parents[1]} and run the same command again")
    elif (folder := Path(manifest.weights)).is_dir():
        made_here = (folder.parent / "manifest.json").is_file() or (folder / "pretrain.json").is_file()
        what = f"delete {folder.parent} and {path}" if made_here else f"get it again, or delete {path}"
        verify_weights(folder, manifest.weights_sha256, f"{what}, then make it again")
    elif is_hub_id(manifest.weights):
        raise UserError(f"{path}: names {manifest.weights} without a commit; delete it and make it again")
    return manifest


def adopt(weights: str, name: str) -> Manifest:
    """The manifest of a checkpoint that was not trained here, keyed by its files.

    Args:
        weights: a local folder, or a model on the Hub, `owner/name` or `owner/name@REVISION`: its files are fetched,
            and the manifest names the commit.
        name: what the manifest calls it.

    Raises:
        UserError: there is no such folder, it is no whole checkpoint, or the commit or its files cannot be had.
    """
    folder, revision = Path(weights), None
    if not folder.is_dir() and is_hub_id(weights):
        weights, asked = split_revision(weights)
        revision = resolve(weights, asked)
        folder = snapshot(weights, revision)
    examine(str(folder))
    digest = sha256_weights(folder)
    return replace(_manifest(digest[:16], weights, digest, None, {"adopted": name}), revision=revision)


def _manifest(key: str, weights: str, digest: str, parent: str | None, config: dict[str, Any]) -> Manifest:
    packages = ("torch", "transformers", "lmmr1", *(["trl"] if config.get("trainer") == "trl" else []))
    versions = {p: version(p) for p in packages} | {"python": platform.python_version()}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return Manifest(key, weights, digest, parent, config, None, NUMERICS, code_version(), versions, device)


def code_version(here: Path = Path(__file__).parent) -> str:
    """The git commit of a source tree, with `-dirty` where tracked files changed; `unknown` outside a checkout."""
    commands = ["git rev-parse --short=12 HEAD", "git status --porcelain --untracked-files=no"]
    try:
        commit, changes = (
            subprocess.run(c.split(), cwd=here, capture_output=True, text=True, check=True).stdout.strip()
            for c in commands
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("-dirty" if changes else "")


class Store:
    """The folder of one run. Of several processes, which all see it, one writes."""

    def __init__(self, root: Path, key: str, processes: Processes = ALONE) -> None:
        self.folder, self.key, self.processes = root / key, key, processes
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def final(self) -> Path:
        """The finished model's folder."""
        return self.folder / "final"

    @property
    def begun(self) -> Path:
        """The processor of the result: the parent's own, without training's bounds of the image area."""
        return self.folder / "begun"

    def resume(self, trained: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer) -> int:
        """Load the newest whole resume point and cut the logs back to it. Returns the step to continue after, or 0.

        `trained` is what the optimizer moves, by name; what is computed with must be told of it afterwards. Of several
        processes the first checks the files for all. Raises TrainingError where the others do not see them.
        """
        name, state = self.processes.of_main(self._newest) or ("", None)
        self._cut_logs(state["log_bytes"] if state else dict.fromkeys(LOGS, 0))
        if state is None:
            return 0
        point = self.folder / "resume" / name
        try:
            _load_weights(trained, point / "model.safetensors")
            _load_moments(trained, optimizer, point / "optimizer.safetensors")
        except (OSError, SafetensorError) as e:
            raise TrainingError(f"{point}: cannot be read by every process ({e}); is the folder shared?") from None
        return int(state["step"])

    def _newest(self) -> tuple[str, dict[str, Any]] | None:
        """Name of the newest whole resume point and what it says; None where there is none."""
        points = sorted(self.folder.glob("resume/step-*[0-9]"), key=lambda p: int(p.name.partition("-")[2]))
        for point in reversed(points):
            try:
                return point.name, self._checked_state(point)
            except (OSError, ValueError, KeyError) as e:
                print(f"resume point {point} is not usable ({e}); trying the one before", flush=True)
        return None

    def _checked_state(self, point: Path) -> dict[str, Any]:
        """What a resume point says. Raises UserError or ValueError where it, its tensors or the logs are damaged."""
        verify(point / "state.json")
        state = json.loads((point / "state.json").read_text(encoding="utf-8"))
        for name, digest in state["sha256"].items():
            if sha256_file(point / name) != digest:
                raise ValueError(f"{name} is damaged")
        for name, digest in state["log_sha256"].items():
            if sha256_start(self.folder / name, state["log_bytes"][name]) != digest:
                raise ValueError(f"{self.folder / name} is damaged")
        return state

    def _state(self, step: int, digests: dict[str, str]) -> dict[str, Any]:
        """What a resume point says: its step, sha256 of its files, the logs' lengths and sha256 so far."""
        sizes = {name: (self.folder / name).stat().st_size for name in LOGS}
        logs = {name: sha256_start(self.folder / name, size) for name, size in sizes.items()}
        return {"step": step, "log_bytes": sizes, "log_sha256": logs, "sha256": digests}

    def _cut_logs(self, sizes: dict[str, int]) -> None:
        for name in LOGS if self.processes.main else ():
            (self.folder / name).touch()
            os.truncate(self.folder / name, sizes[name])

    def log(self, name: str, *rows: dict[str, Any]) -> None:
        """Append JSON lines. A half-written line after a crash lies beyond the resume point and is cut off."""
        if not self.processes.main:
            return
        with writing(self.folder / name), (self.folder / name).open("a", encoding="utf-8") as f:
            f.writelines(json.dumps(row) + "\n" for row in rows)

    def save(self, step: int, trained: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer) -> None:
        """Write a resume point under a temporary name, rename it, then drop older ones but one.

        Weights and moments are whole, however many processes have them: any number can go on from there.
        """
        weights = self._whole(trained)  # the others are those of the parent
        moments = self._whole(_moments(trained, optimizer))
        if not self.processes.main:
            return
        point = self.folder / "resume" / f"step-{step}"
        with saving(point):
            partial = _fresh(point.with_name(point.name + ".partial"))
            save_file(weights, partial / "model.safetensors")
            save_file(moments, partial / "optimizer.safetensors")
        digests = {f.name: sha256_file(f) for f in sorted(partial.glob("*.safetensors"))}
        write_json(partial / "state.json", self._state(step, digests), sealed=True)
        with saving(point):
            shutil.rmtree(point, ignore_errors=True)
            os.replace(partial, point)
        points = sorted(self.folder.glob("resume/step-*[0-9]"), key=lambda p: int(p.name.partition("-")[2]))
        for old in points[:-2]:
            shutil.rmtree(old)

    def _whole(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Copies on the CPU, gathered one after another where they are sharded; empty but in the process that writes.

        Clones, because safetensors refuses shared memory.
        """
        parts = ((name, whole(tensor.detach())) for name, tensor in tensors.items())
        return {name: tensor.cpu().clone() for name, tensor in parts if self.processes.main}

    def seal(self, step: int, point: Path) -> None:
        """Make a resume point of a folder that another trainer wrote: digests and the logs' lengths beside it, last."""
        files = sorted(f for f in point.rglob("*") if f.is_file())
        digests = {str(f.relative_to(point)): sha256_file(f) for f in files}
        write_json(point / "state.json", self._state(step, digests), sealed=True)

    def sealed(self) -> Path | None:
        """The newest whole sealed folder in resume/, or None; the logs are cut back to it."""
        points = sorted(self.folder.glob("resume/checkpoint-*"), key=lambda p: int(p.name.partition("-")[2]))
        for point in reversed(points):
            try:
                state = self._checked_state(point)
            except (OSError, ValueError, KeyError) as e:
                print(f"resume point {point} is not usable ({e}); trying the one before", flush=True)
                continue
            self._cut_logs(state["log_bytes"])
            return point
        self._cut_logs(dict.fromkeys(LOGS, 0))
        return None

    def begin(self, parent: Manifest) -> None:
        """Examine the parent, keep its processor for the result, and rehearse saving, before anything is computed.

        What cannot be saved is found now, and not when there is a trained model to lose. Raises UserError.
        """
        model, processor = examine(parent.weights, parent.revision)
        with saving(self.begun):
            folder = _fresh(self.begun)
            try:
                model.save_pretrained(folder / "rehearsal", state_dict={})
                processor.save_pretrained(folder)
            except (ValueError, TypeError, AttributeError) as e:
                reason = " ".join(str(e).split())[:300]
                raise UserError(f"{parent.weights}: a model trained from it could not be saved ({reason})") from None
            shutil.rmtree(folder / "rehearsal")

    def finish(self, policy: Policy, parent: Manifest, cfg: TrainConfig, data: TrainingData) -> Manifest:
        """Write the model in Hugging Face format (rename at the end) and return its manifest."""
        weights = self._whole(dict(policy.model.named_parameters())) if self.processes.sharded else None
        if self.processes.main:
            if not self.begun.is_dir():
                self.begin(parent)
            self._write_final(policy, weights, parent, cfg, data)
        self.processes.collect(None)  # none goes on before the files are there
        return read_manifest(self.folder / "manifest.json")

    def _write_final(
        self,
        policy: Policy,
        weights: dict[str, torch.Tensor] | None,
        parent: Manifest,
        cfg: TrainConfig,
        data: TrainingData,
    ) -> None:
        with saving(self.final):
            partial = _fresh(self.folder / "final.partial")
            if policy.peft is not None:
                save_adapters(policy.peft, partial / "adapter")
            policy.model.save_pretrained(partial, state_dict=weights)
            self.add_processor(partial)
        self.publish(partial, parent, cfg, data)

    def add_processor(self, folder: Path) -> None:
        """Copy what `begin` kept; the parent's folder is not needed any more."""
        shutil.copytree(self.begun, folder, dirs_exist_ok=True)

    def publish(self, partial: Path, parent: Manifest, cfg: TrainConfig, data: TrainingData) -> Manifest:
        """Make `partial`, a whole model in Hugging Face format, the sealed result (by renaming); its manifest."""
        with saving(self.final):
            seal_folder(partial)
            shutil.rmtree(self.final, ignore_errors=True)
            os.replace(partial, self.final)
        for name in LOGS:
            seal(self.folder / name)
        digest = sha256_weights(self.final)
        manifest = _manifest(self.key, str(self.final), digest, parent.key, cfg.model_dump())
        manifest = replace(manifest, data_sha256=data.sha256, data_source=data.source, system_prompt=data.system_prompt)
        write_manifest(self.folder / "manifest.json", manifest)
        self._clear()
        return manifest

    def _clear(self) -> None:
        """Take away what only an unfinished run needs."""
        for left in (self.folder / "resume", self.begun):
            shutil.rmtree(left, ignore_errors=True)

    def finished(self) -> Manifest | None:
        """The manifest of a finished run, or None. Raises UserError where anything of it is damaged."""
        path = self.folder / "manifest.json"
        if not path.exists():
            return None
        fix = f"delete {self.folder} and run the same command again"
        verify(path, fix)
        manifest = read_manifest(path)
        if self.processes.main:  # the others would read it all again
            verify_weights(self.final, manifest.weights_sha256, fix)
            for name in LOGS:
                verify(self.folder / name, fix)
            self._clear()  # of a run that was killed right after its manifest
        return manifest


def sha256_start(path: Path, size: int) -> str:
    """Hex sha256 of the first `size` bytes of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as f:
        while size and (piece := f.read(min(size, 1 << 20))):
            digest.update(piece)
            size -= len(piece)
    return digest.hexdigest() if not size else ""


def write_manifest(path: Path, manifest: Manifest) -> None:
    """The edge between two rules: written last, so its existence means that the checkpoint is complete."""
    write_json(path, asdict(manifest), sealed=True)


@contextlib.contextmanager
def saving(target: Path) -> Iterator[None]:
    """Inside, weights are written for `target`. Raises UserError where the file system refuses, with the fix."""
    with writing(target):
        try:
            yield
        except SafetensorError as e:  # its own word for any error of the file system
            fix = "free some space or make it writable, and run the same command again"
            raise UserError(f"{target}: cannot be written ({e}); {fix}") from None


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _moments(trained: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    names = {p: n for n, p in trained.items()}
    return {f"{names[p]}:{kind}": state[kind] for p, state in optimizer.state.items() for kind in MOMENTS}


@torch.no_grad()
def _load_weights(trained: dict[str, torch.Tensor], file: Path) -> None:
    with safe_open(file, "pt") as weights:  # tensor by tensor: several processes would each hold the whole
        for name in weights.keys():  # noqa: SIM118
            trained[name].copy_(as_sharded(weights.get_tensor(name), trained[name]))


def _load_moments(trained: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer, file: Path) -> None:
    with safe_open(file, "pt") as moments:
        # sorted: sharding a tensor takes all processes, so each must come to the same one
        for name in sorted({key.rpartition(":")[0] for key in moments.keys()}):  # noqa: SIM118
            param, (mean, square, step) = trained[name], (moments.get_tensor(f"{name}:{kind}") for kind in MOMENTS)
            values = (as_sharded(mean, param), as_sharded(square, param), step.to(param.device))
            optimizer.state[param] = dict(zip(MOMENTS, values, strict=True))
