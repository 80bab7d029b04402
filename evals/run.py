"""Evaluate checkpoints on benchmarks: one folder of results per checkpoint, one sub-folder per benchmark.

    python -m evals.run --harness lm_eval --manifest M1.json M2.json --out DIR1 DIR2 --benchmarks micro_chain \\
        --benchmark-dir D

All inputs are read and checked before a model is loaded. A benchmark whose record is there, made from the same
checkpoint under the same protocol, is not run again.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import importlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from evals.generation import EvalModel, load_model, overall_sha256
from evals.inputs import prepare
from evals.problems import Prepared
from evals.records import EvalRecord, Protocol, read_records, write_records
from evals.registry import find, registry
from evals.scoring import SCORER, scorer_version, to_records, write_jsonl
from lmmr1.types import UserError

HARNESSES = {"lm_eval": ("evals.lm_eval_harness", "lm_eval"), "vlmevalkit": ("evals.vlmevalkit", "ms-vlmeval")}
"""Harness -> our module (imported when needed: seconds) and the distribution whose version is recorded."""

FROM_MODEL = ("prompt_hash", "backend", "dtype", "min_pixels", "max_pixels")
"""Fields of a protocol that are known only once the model is loaded; the checkpoint key and the data decide them."""

DEFAULT_BATCH_SIZE = 64


@dataclass(frozen=True, slots=True)
class Job:
    """One benchmark to run, with all of its protocol that does not depend on the model."""

    prepared: Prepared
    max_new_tokens: int
    run: Callable[[EvalModel, Prepared, int, int, Path], list[dict[str, Any]]]
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        """Name of the benchmark."""
        return self.prepared.benchmark.name


def evaluate(
    model: str,
    benchmarks: list[str],
    out: Path,
    limit: int | None = None,
    data_root: Path | None = None,
    benchmark_dir: Path | None = None,
    batch_size: int = DEFAULT_BATCH_SIZE,
    max_new_tokens: int | None = None,
    checkpoint: str | None = None,
) -> list[EvalRecord]:
    """Evaluate one model; all records, in the order of `benchmarks`.

    Args:
        model: checkpoint folder in Hugging Face format, or Hub id (its newest commit, which is recorded).
        benchmarks: names of the registry.
        out: gets `{benchmark}/record.json`, `{benchmark}/samples.jsonl`, the harness's own files, and `timing.json`.
        limit: only the first so many problems of each benchmark.
        data_root: folder with `math500/` and `mathvision/`; without it they are downloaded.
        benchmark_dir: folder with the micro benchmarks' files.
        batch_size: most prompts in a batch.
        max_new_tokens: instead of the registry's.
        checkpoint: key to record; without it a hash of the model's files, or the Hub id with its commit.

    Raises:
        UserError: an unknown benchmark, a bad data file, a folder without a model.
    """
    at_least_one({"--batch-size": batch_size})
    with tempfile.TemporaryDirectory(prefix="lmmr1-evals-") as workspace:
        key, revision = identify_after_names(model, benchmarks)
        jobs = plan(benchmarks, Path(workspace), limit, data_root, benchmark_dir, max_new_tokens)
        return run_jobs(lambda: load_model(model, revision), jobs, out, batch_size, checkpoint or key)


def check_inputs(model: str, benchmarks: list[str], data_root: Path | None, benchmark_dir: Path | None) -> None:
    """Check names, data and model as `evaluate` does, and stop there. Raises UserError."""
    with tempfile.TemporaryDirectory(prefix="lmmr1-evals-") as workspace:
        identify_after_names(model, benchmarks)
        plan(benchmarks, Path(workspace), None, data_root, benchmark_dir, None)


def identify_after_names(model: str, benchmarks: Sequence[str]) -> tuple[str, str | None]:
    """`identify(model)` once the names are known to be good: the cheap checks come before data are read or fetched."""
    for name in benchmarks:
        find(name)
    return identify(model)


def plan(
    benchmarks: Sequence[str],
    workspace: Path,
    limit: int | None,
    data_root: Path | None,
    benchmark_dir: Path | None,
    max_new_tokens: int | None,
) -> list[Job]:
    """Read and check the benchmarks' files. Raises UserError; images from inside the files go to `workspace`."""
    at_least_one({"--limit": limit, "--max-new-tokens": max_new_tokens})
    found = [find(name) for name in dict.fromkeys(benchmarks)]
    if not found:
        raise UserError(f"no benchmark given; known: {', '.join(registry())}")
    prepared = [prepare(benchmark, data_root, benchmark_dir, limit, workspace) for benchmark in found]
    return [_job(p, max_new_tokens or p.benchmark.max_new_tokens) for p in prepared]


def at_least_one(values: dict[str, int | None]) -> None:
    """Raise UserError for a number below 1; None is no number."""
    for name, value in values.items():
        if value is not None and value < 1:
            raise UserError(f"{name} {value}: give at least 1")


def _job(prepared: Prepared, max_new_tokens: int) -> Job:
    benchmark = prepared.benchmark
    module_name, distribution = HARNESSES[benchmark.harness]
    harness = importlib.import_module(module_name)
    settings = {
        "harness": benchmark.harness,
        "harness_version": version(distribution),
        "task": benchmark.name,
        "task_version": harness.task_version(prepared),
        "prompt": benchmark.prompt,
        "decoding": {"temperature": 0.0, "max_new_tokens": max_new_tokens},
        "judge": None,
        "scorer": SCORER,
        "scorer_version": scorer_version(),
        "aggregation": "mean",
        "data_sha256": prepared.data_sha256,
    }
    return Job(prepared, max_new_tokens, harness.run, settings)


def run_jobs(
    load: Callable[[], EvalModel], jobs: Sequence[Job], out: Path, batch_size: int, checkpoint: str
) -> list[EvalRecord]:
    """Run what is not done yet; the model is loaded only if something is. All records, in the order of `jobs`."""
    open_jobs = [job for job in jobs if not is_done(out / job.name, job, checkpoint)]
    if open_jobs:
        out.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        model = load()
        _add_timing(out, {"load_model": {"seconds": round(time.perf_counter() - start, 3)}})
        for job in open_jobs:
            _run_job(model, job, out, batch_size, checkpoint)
    return [record for job in jobs for record in read_records(out / job.name / "record.json")]


def is_done(folder: Path, job: Job, checkpoint: str) -> bool:
    """True where `folder` has a record of this checkpoint, of as many problems, under the same settings."""
    try:
        records = read_records(folder / "record.json")
    except UserError:
        return False
    if not records or not (folder / "samples.jsonl").is_file():
        return False
    protocol = asdict(records[0].protocol)
    same = {name: value for name, value in protocol.items() if name not in FROM_MODEL} == job.settings
    return same and (records[0].checkpoint, records[0].n) == (checkpoint, len(job.prepared.problems))


def _run_job(model: EvalModel, job: Job, out: Path, batch_size: int, checkpoint: str) -> None:
    """Run one benchmark in a folder of its own, then give the folder its name: it is there whole or not at all."""
    start = time.perf_counter()
    folder = Path(tempfile.mkdtemp(prefix=f".{job.name}-", dir=out))
    try:
        rows = job.run(model, job.prepared, job.max_new_tokens, batch_size, folder)
        write_jsonl(folder / "samples.jsonl", rows)
        from_model = {
            "prompt_hash": overall_sha256(row["prompt_hash"] for row in rows),
            "backend": model.backend,
            "dtype": model.dtype,
            "min_pixels": model.min_pixels,
            "max_pixels": model.max_pixels,
        }
        protocol = Protocol(**job.settings, **from_model)
        metric = job.prepared.benchmark.metric
        records = to_records(
            rows, benchmark=job.name, metric=metric, checkpoint=checkpoint, protocol=protocol, samples="samples.jsonl"
        )
        write_records(folder / "record.json", records)
        folder.chmod(0o755)
        shutil.rmtree(out / job.name, ignore_errors=True)
        folder.replace(out / job.name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    seconds = time.perf_counter() - start
    timing = {"seconds": round(seconds, 3), "samples": len(rows), "samples_per_second": round(len(rows) / seconds, 1)}
    _add_timing(out, {job.name: {**timing, "batch_size": batch_size}})


def _add_timing(out: Path, entries: dict[str, dict[str, float]]) -> None:
    """Merge `entries` into `out/timing.json`. Locked: the processes of two harnesses may write to the same folder."""
    path = out / "timing.json"
    folder = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        new = path.with_name("timing.json.partial")
        new.write_text(json.dumps(known | entries, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        new.replace(path)
    finally:
        os.close(folder)


def identify(model: str) -> tuple[str, str | None]:
    """Key and Hub commit of a model: `weights-` and 16 hex digits over its files, or `owner/name@commit`.

    Raises UserError where it is neither a checkpoint folder nor on the Hub.
    """
    folder = Path(model)
    if not folder.exists():
        commit = hub_commit(model)
        return f"{model}@{commit[:12]}", commit
    listed = folder.iterdir() if folder.is_dir() else ()
    files = sorted(p for p in listed if p.suffix in {".safetensors", ".json", ".jinja", ".txt", ".model"})
    if not any(p.suffix == ".safetensors" for p in files) or not (folder / "config.json").is_file():
        raise UserError(f"{model}: not a checkpoint folder, it needs config.json and *.safetensors files")
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(f"{path.name}\n{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return f"weights-{digest.hexdigest()[:16]}", None


def hub_commit(model: str) -> str:
    """The commit that a Hub id stands for now; offline, the one in the local cache. Raises UserError without either."""
    if model.count("/") != 1 or model.startswith((".", "/")):
        raise UserError(f"{model}: no such checkpoint folder, and not a Hub id of the form owner/name")
    import huggingface_hub

    try:
        # The cache keeps the file in a folder named by the commit.
        return Path(huggingface_hub.hf_hub_download(model, "config.json")).parent.name
    except (OSError, ValueError) as e:
        raise UserError(f"{model}: not found on the Hugging Face Hub ({' '.join(str(e).split())[:200]})") from None


def read_manifest(path: Path) -> tuple[str, str]:
    """`weights` and `key` of a manifest. Raises UserError where it is malformed or its weights are not there."""
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        weights, key = manifest["weights"], manifest["key"]
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{path}: no such manifest; train or adopt the checkpoint first") from None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as e:
        raise UserError(f"{path}: not a manifest ({type(e).__name__}: {e}); make the checkpoint again") from None
    if not isinstance(weights, str) or not isinstance(key, str):
        raise UserError(f"{path}: `weights` and `key` must be texts (got {weights!r:.80} and {key!r:.80})")
    folder = Path(weights)
    if not folder.is_dir() and (weights.count("/") != 1 or weights.startswith((".", "/"))):
        raise UserError(f"{path}: its weights {weights!r} are no folder here; run from the folder it was made in")
    return weights, key


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m evals.run", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--harness", choices=list(HARNESSES), required=True)
    parser.add_argument("--manifest", nargs="+", type=Path, required=True, help="one manifest per checkpoint")
    parser.add_argument("--out", nargs="+", type=Path, required=True, help="one folder per manifest")
    parser.add_argument("--benchmarks", nargs="+", required=True)
    parser.add_argument("--benchmark-dir", type=Path, help="folder with the micro benchmarks' files")
    parser.add_argument("--data-root", type=Path, help="folder with math500/ and mathvision/; default: download")
    parser.add_argument("--limit", type=int, help="only the first N problems")
    parser.add_argument("--batch-size", type=int, default=DEFAULT_BATCH_SIZE)
    parser.add_argument("--max-new-tokens", type=int, help="instead of the registry's")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate several checkpoints in one process. 0: done; 2: something that the user can mend."""
    args = parse_arguments(arguments)
    try:
        at_least_one({"--batch-size": args.batch_size})
        if len(args.manifest) != len(args.out):
            counts = f"{len(args.manifest)} manifests but {len(args.out)} output folders"
            raise UserError(f"{counts}; give as many --out as --manifest")
        others = [name for name in args.benchmarks if find(name).harness != args.harness]
        if others:
            raise UserError(f"benchmark {others[0]!r} runs on {find(others[0]).harness}, not on {args.harness}")
        models = [read_manifest(path) for path in args.manifest]
        with tempfile.TemporaryDirectory(prefix="lmmr1-evals-") as workspace:
            files = (args.limit, args.data_root, args.benchmark_dir, args.max_new_tokens)
            jobs = plan(args.benchmarks, Path(workspace), *files)
            for (weights, key), out in zip(models, args.out, strict=True):
                for r in run_jobs(partial(load_model, weights), jobs, out, args.batch_size, key):
                    if r.subset == "all":
                        print(f"{key[:12]} {r.benchmark}: {r.metric} {r.value:.4f} +- {r.stderr:.4f} (n={r.n})")
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
