"""A finished run as a folder that can go to the Hub: card, weights as safetensors, configuration, records.

Nothing leaves this machine unless a push is asked for; the token is the Hub library's own business (HF_TOKEN or
`hf auth login`), and is never read, written or shown here.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id

from evals.records import EvalRecord, read_records
from lmmr1.config import read_mapping
from lmmr1.files import KINDS, are_weights
from lmmr1.store import read_manifest
from lmmr1.tracking import redacted
from lmmr1.types import Manifest, UserError
from reports.files import write_text
from reproduce.model_card import Published, card_text
from reproduce.plan import Plan


def prepare(arm_folder: Path, seed: int | None, repo: str | None, out: Path | None) -> tuple[Path, Published]:
    """Write the folder of one run of `arm_folder` (results/NAME/ARM). Returns it and what its card is about.

    Raises UserError where the run is not finished, was not trained here, is damaged, or has no evaluation.
    """
    if repo:
        check_repo(repo)
    published = collect(arm_folder, seed, repo)
    folder = out or arm_folder.parent / "publish" / f"{published.arm}-{published.seed}"
    weights = _local_weights(published.manifest, arm_folder.resolve().parents[2])
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for file in sorted(weights.iterdir()):
        if file.suffix in KINDS and file.is_file():  # never a pickle
            _place(file, partial / file.name)
    run = arm_folder / str(published.seed)
    for record in published.records:
        target = partial / "eval" / record.benchmark / "record.json"
        target.parent.mkdir(parents=True)
        shutil.copyfile(run / "eval" / record.benchmark / "record.json", target)
    write_text(partial / "README.md", card_text(published))
    _replace(partial, folder)
    return folder, published


def collect(arm_folder: Path, seed: int | None, repo: str | None) -> Published:
    """What the run's own files say. Raises UserError, as `prepare`."""
    results, arm = arm_folder.parent, arm_folder.name
    plan = Plan.load(read_mapping(results / "profile.json"))
    if arm not in plan.arms or not plan.arms[arm].stage:
        raise UserError(f"{arm_folder}: not a trained arm of this run; trained are {', '.join(plan.trained)}")
    chosen = _seed(arm_folder, seed)
    manifest = read_manifest(arm_folder / str(chosen) / "manifest.json")
    records = _records(arm_folder / str(chosen), plan)
    name = repo.partition("/")[2] if repo else f"lmmr1-{plan.name}-{arm}-{chosen}"
    return Published(plan, results, arm, chosen, manifest, _base(results, manifest), records, name)


def _seed(arm_folder: Path, seed: int | None) -> int:
    found = sorted(int(p.parent.name) for p in arm_folder.glob("*/manifest.json") if p.parent.name.isdecimal())
    if not found:
        raise UserError(f"{arm_folder}: no finished run in it; give results/NAME/ARM (see lmmr1 status)")
    if seed is not None and seed not in found:
        raise UserError(f"--seed {seed}: not finished in {arm_folder}; finished: {', '.join(map(str, found))}")
    return found[0] if seed is None else seed


def _records(run: Path, plan: Plan) -> list[EvalRecord]:
    files = [run / "eval" / b / "record.json" for b in plan.benchmarks]
    found = [r for f in files if f.is_file() for r in read_records(f) if (r.subset, r.metric) == ("all", "accuracy")]
    if not found:
        raise UserError(f"{run}: not evaluated; a card without results is not written (snakemake evaluates it)")
    return found


def _base(results: Path, manifest: Manifest) -> Manifest:
    """The adopted checkpoint that the chain of parents starts from."""
    known = {m.key: m for m in map(read_manifest, sorted(results.glob("*/*/manifest.json")))}
    while manifest.parent:
        if manifest.parent not in known:
            raise UserError(f"{results}: run {manifest.parent} is missing, from which {manifest.key} started")
        manifest = known[manifest.parent]
    return manifest


def _local_weights(manifest: Manifest, base: Path) -> Path:
    """The checkpoint's folder below `base`, with the bytes that its manifest names."""
    folder = base / manifest.weights
    if not folder.is_dir():
        raise UserError(f"{folder}: the checkpoint of run {manifest.key} is not on this machine")
    if not are_weights(folder, manifest.weights_sha256):
        raise UserError(f"{folder}: the weights are damaged (sha256 differs from the manifest's); nothing was written")
    return folder


def _place(file: Path, target: Path) -> None:
    """A hard link where the file system allows one: the weights are not there twice."""
    try:
        os.link(file, target)
    except OSError:
        shutil.copyfile(file, target)


def _replace(partial: Path, folder: Path) -> None:
    if folder.exists() and not (folder / "README.md").is_file():
        raise UserError(f"{folder}: there is something else there; give another --out")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def check_repo(repo: str) -> None:
    """Raise UserError unless `repo` is owner/name as the Hub allows it."""
    try:
        validate_repo_id(repo)
    except HFValidationError as e:
        raise UserError(f"--repo {repo}: {' '.join(str(e).split())[:200]}") from None
    if repo.count("/") != 1:
        raise UserError(f"--repo {repo}: give owner/name")


def push(folder: Path, repo: str, private: bool = True) -> str:
    """Create the repository if need be and upload the folder in one commit. Returns the commit's address.

    Raises UserError without a token and where the Hub refuses or cannot be reached.
    """
    if not get_token():
        raise UserError("--push: no token; set HF_TOKEN or run `hf auth login` (a token with write access)")
    api = HfApi()
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo, folder_path=folder, commit_message="Checkpoint, card and records", revision="main"
        )
    except (HfHubHTTPError, OSError, json.JSONDecodeError) as e:
        raise UserError(f"{repo}: not uploaded: {redacted(str(e))[:300]}") from None
    return str(commit.commit_url)
