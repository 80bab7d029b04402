"""Evaluate checkpoints on benchmarks: one folder of results per checkpoint, one sub-folder per benchmark.

    python -m evals.run --harness lm_eval --manifest M1.json M2.json --out DIR1 DIR2 --benchmarks micro_chain \\
        --benchmark-dir D

All inputs are read and checked before a model is loaded, and a judge is looked for where one will be asked. A benchmark
whose record is there, made from the same checkpoint under the same protocol, is not run again.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from evals.expected import FROM_MODEL
from evals.generation import EvalModel, load_model, overall_sha256
from evals.judge import Judge, ReplyStore
from evals.judge_server import JudgeServer, check_reachable, judge_server
from evals.kept import keeping
from evals.plan import DEFAULT_BATCH_SIZE, HARNESSES, AnyJob, Options, plan, worker_count
from evals.protocols import DEFAULT_PROTOCOL, ROLES
from evals.records import EvalRecord, Protocol, read_records, write_records
from evals.registry import find
from evals.samples import SampleRow, read_samples, write_samples
from evals.workers import as_many_as_fit, loaded
from lmmr1.checkpoint_files import examine_files
from lmmr1.exits import exit_code
from lmmr1.files import KINDS, TEMPLATES, seal_folder, verify, verify_weights, write
from lmmr1.hub_commits import is_hub_id, resolve, snapshot, split_revision
from lmmr1.lines import from_json
from lmmr1.lock import owned
from lmmr1.types import UserError

TIMED = ("harness.log", "lm_eval_results.json")
"""Files of the harnesses that tell the time: other bytes in every run."""

SPARE = ".record.json"
"""A second name of a record file."""

LATER = ("prompt_hash", *FROM_MODEL)
"""Fields of a protocol that no job knows before a model is loaded; the checkpoint key and the data decide them."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A checkpoint to be evaluated."""

    weights: str
    """Folder in Hugging Face format, or Hub id."""
    key: str
    """What its records call it."""
    revision: str | None = None
    """The commit, where `weights` is a Hub id."""
    system_prompt: str | None = None
    """The system message that most of its training rows brought; None where they brought none, or nobody knows."""


Accept = Callable[[AnyJob, EvalModel | None], None]
"""Raises UserError for a job whose record would be of no use; asked again once the model is loaded."""


def evaluate(
    model: str,
    benchmarks: list[str],
    out: Path,
    options: Options,
    checkpoint: str | None = None,
    accept: Accept | None = None,
) -> list[EvalRecord]:
    """Evaluate one model; all records, in the order of `benchmarks`.

    Args:
        model: checkpoint folder in Hugging Face format, or Hub id, `owner/name` (its newest commit) or
            `owner/name@REVISION`; the commit is recorded.
        benchmarks: names of the registry.
        out: gets `{benchmark}/record.json`, `{benchmark}/samples.jsonl`, the harness's own files, and `timing.json`.
        options: protocol, data and limits.
        checkpoint: key to record; without it a hash of the model's files, or the Hub id with its commit.
        accept: asked about every job before the model is loaded, and about those to be run before it answers.

    Raises:
        UserError: an unknown benchmark, a bad data file, a folder without a model, a judge that is not there.
    """
    with tempfile.TemporaryDirectory(prefix="lmmr1-evals-") as workspace:
        found = identify_after_names(model, benchmarks)
        jobs = plan(benchmarks, Path(workspace), options)
        for job in jobs if accept else ():
            accept(job, None)
        load = partial(_load, found, options)
        workers = workers_for(found.weights, jobs, options)
        return run_jobs(load, jobs, out, options, checkpoint or found.key, workers, accept)


def _load(model: Candidate, options: Options) -> EvalModel:
    protocol = options.protocol
    return load_model(model.weights, model.revision, protocol.min_pixels, protocol.max_pixels, options.engine)


def check_inputs(model: str, benchmarks: list[str], options: Options) -> None:
    """Check names, data, model and judge as `evaluate` does, and stop there. Raises UserError.

    Of a model on the Hub its name alone: nothing is fetched.
    """
    with tempfile.TemporaryDirectory(prefix="lmmr1-evals-") as workspace:
        found = identify_after_names(model, benchmarks)
        require_judge(plan(benchmarks, Path(workspace), options), options)
    if found.revision is None:
        from lmmr1.checkpoint import examine

        examine(found.weights)


def identify_after_names(model: str, benchmarks: Sequence[str]) -> Candidate:
    """`identify(model)` once the names are known to be good: the cheap checks come before data are read or fetched."""
    for name in benchmarks:
        find(name)
    return identify(model)


def require_judge(jobs: Sequence[AnyJob], options: Options) -> JudgeServer | None:
    """The judge's server where a job asks one. Raises UserError where nothing answers there."""
    protocol = options.protocol
    if options.judge is None or protocol.judge is None:
        return None
    if not any(protocol.judged(job.benchmark) for job in jobs):
        return None
    check_reachable(options.judge, protocol.judge.model)
    return options.judge


def run_jobs(
    load: Callable[[], EvalModel],
    jobs: Sequence[AnyJob],
    out: Path,
    options: Options,
    checkpoint: str,
    workers: int = 1,
    accept: Accept | None = None,
) -> list[EvalRecord]:
    """Run what is not done yet; the model is loaded only if something is, by `workers` processes. All records, in the
    order of `jobs`."""
    open_jobs = [job for job in jobs if not is_done(out / job.name, job, checkpoint)]
    for job in jobs:
        if job not in open_jobs and (out / f".{job.name}.lock").exists():
            with owned(out, f"evaluating {job.name}", f".{job.name}.lock"):
                pass  # left by a run that was killed after this benchmark; releasing it takes it away
    if open_jobs:
        server = require_judge(open_jobs, options)
        with contextlib.ExitStack() as stack:
            for job in open_jobs:
                stack.enter_context(owned(out, f"evaluating {job.name}", f".{job.name}.lock"))
            start = time.perf_counter()
            model = stack.enter_context(loaded(load, workers))
            for job in open_jobs if accept else ():
                accept(job, model)
            judge = stack.enter_context(_judge(server, out, options))
            _add_timing(out, {"load_model": {"seconds": round(time.perf_counter() - start, 3)}})
            for job in open_jobs:
                _run_job(model, job, out, judge, checkpoint)
    return [record for job in jobs for record in read_records(out / job.name / "record.json")]


def workers_for(model: str, jobs: Sequence[AnyJob], options: Options) -> int:
    """How many processes shall answer: as many as asked for, or as make sense for the largest job; vLLM is one."""
    if options.engine == "vllm":
        return 1
    batches = max(math.ceil(job.n / job.batch_size) for job in jobs)
    return as_many_as_fit(model, batches) if options.workers is None else min(options.workers, batches)


@contextlib.contextmanager
def _judge(server: JudgeServer | None, out: Path, options: Options) -> Iterator[Judge | None]:
    """The judge with its kept replies, where one is asked."""
    if server is None or options.protocol.judge is None:
        yield None
        return
    store = ReplyStore(options.judge_cache or out / "judge.sqlite")
    try:
        yield Judge(options.protocol.judge, server, store)
    finally:
        store.close()


def is_done(folder: Path, job: AnyJob, checkpoint: str) -> bool:
    """True where `folder` has a whole record of this checkpoint, of as many items, under the same settings."""
    record = folder / "record.json"
    if not folder.is_dir():
        return False
    try:
        _bring_back(record)
        records = read_records(record)
        next(read_samples(folder / "samples.jsonl"), None)  # of another version of this suite: an error
    except UserError as e:
        print(e, flush=True)
        return False
    if not records:
        return False
    protocol = asdict(records[0].protocol)
    same = {name: value for name, value in protocol.items() if name not in LATER} == job.settings
    return same and (records[0].checkpoint, records[0].n) == (checkpoint, job.n)


def _bring_back(record: Path) -> None:
    """Link a record that Snakemake removed: where a job fails, it deletes all that the job declared, the whole too."""
    spare = record.with_name(SPARE)
    if spare.exists() and not record.exists():
        with contextlib.suppress(OSError):
            record.hardlink_to(spare)


def _run_job(model: EvalModel, job: AnyJob, out: Path, judge: Judge | None, checkpoint: str) -> None:
    """Answer one benchmark and write what came out. What an attempt that was killed left goes, its answers are used."""
    start, cpu = time.perf_counter(), time.process_time()
    for left in out.glob(f".{job.name}-run-*"):
        shutil.rmtree(left, ignore_errors=True)
    identity = f"{checkpoint} {model.backend} {model.dtype} {model.min_pixels} {model.max_pixels} {job.batch_size}"
    with keeping(model, out / f".{job.name}-answers.jsonl", identity) as keeper, new_folder(out, job.name) as folder:
        rows = job.answer(keeper, folder, judge)
        write_evaluation(folder, rows, job.records(rows, checkpoint, protocol_of(job, rows, model)))
    seconds = time.perf_counter() - start
    timing = {
        "seconds": round(seconds, 3),
        "cpu_seconds": round(time.process_time() - cpu, 3),
        "samples": len(rows),
        "samples_per_second": round(len(rows) / seconds, 1),
        "batch_size": job.batch_size,
        "workers": model.workers,
    }
    _add_timing(out, {job.name: timing})


@contextlib.contextmanager
def new_folder(out: Path, name: str) -> Iterator[Path]:
    """A folder that is given its name, sealed, where the block succeeds: `out/name` is there whole or not at all."""
    folder = Path(tempfile.mkdtemp(prefix=f".{name}-run-", dir=out))
    try:
        yield folder
        seal_folder(folder, TIMED)
        folder.chmod(0o755)
        shutil.rmtree(out / name, ignore_errors=True)
        folder.replace(out / name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_evaluation(folder: Path, rows: Sequence[SampleRow], records: list[EvalRecord]) -> None:
    """samples.jsonl and record.json of one benchmark: the only writer of either."""
    write_samples(folder / "samples.jsonl", rows)
    write_records(folder / "record.json", records)
    (folder / SPARE).hardlink_to(folder / "record.json")


def protocol_of(job: AnyJob, rows: Sequence[SampleRow], model: EvalModel) -> Protocol:
    """The whole protocol: the job's, and what is known only of the model."""
    return Protocol(
        **job.settings,
        prompt_hash=overall_sha256(row.prompt_hash for row in rows),
        **{name: getattr(model, name) for name in FROM_MODEL},
    )


def _add_timing(out: Path, entries: dict[str, dict[str, float]]) -> None:
    """Merge `entries` into `out/timing.json`. Locked: the processes of two harnesses may write to the same folder."""
    path = out / "timing.json"
    folder = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        write(path, json.dumps(known | entries, indent=1, sort_keys=True) + "\n")
    finally:
        os.close(folder)


def identify(model: str) -> Candidate:
    """A model without a manifest. Its key: `weights-` and 16 hex digits over its files, or `owner/name@commit`.

    Raises UserError where it is neither a whole checkpoint folder nor on the Hub.
    """
    folder = Path(model)
    if not folder.exists():
        if not is_hub_id(model):
            raise UserError(f"{model}: no such checkpoint folder, and not a Hub id of the form owner/name")
        repository, asked = split_revision(model)
        commit = resolve(repository, asked)
        return Candidate(repository, f"{repository}@{commit[:12]}", commit)
    examine_files(folder)
    files = sorted(p for p in folder.glob("[!.]*") if p.suffix in KINDS and p.is_file())
    files += sorted(folder.glob(TEMPLATES))
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(f"{path.name}\n{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return Candidate(model, f"weights-{digest.hexdigest()[:16]}")


def read_manifest(path: Path) -> Candidate:
    """The checkpoint of a manifest, its files verified: in the folder, or in the Hub's cache at the commit, fetched if
    need be. Raises UserError where either is damaged, malformed or not there."""
    verify(path)
    try:
        manifest = from_json(path.read_text(encoding="utf-8"))
        found = Candidate(manifest["weights"], manifest["key"], manifest.get("revision"), manifest.get("system_prompt"))
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{path}: no such manifest; train or adopt the checkpoint first") from None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as e:
        raise UserError(f"{path}: not a manifest ({type(e).__name__}: {e}); make the checkpoint again") from None
    for name, value in asdict(found).items():
        if not isinstance(value, str) and (value is not None or name in ("weights", "key")):
            raise UserError(f"{path}: `{name}` must be a text (got {value!r:.80}); make the checkpoint again")
    _verify_files(found, path, manifest.get("weights_sha256"))
    return found


def _verify_files(model: Candidate, path: Path, digest: str | None) -> None:
    """Raise UserError where the files of a manifest's checkpoint are not there, or not those that it names."""
    folder = Path(model.weights)
    if model.revision:
        folder = snapshot(model.weights, model.revision)
        fix = f"delete {folder.parents[1]} and run the same command again"
    elif folder.is_dir():
        fix = f"delete it and {path}, and make the checkpoint again"
    elif is_hub_id(model.weights):
        raise UserError(f"{path}: names {model.weights} without a commit; delete it and make it again")
    else:
        raise UserError(f"{path}: its weights {model.weights!r} are no folder here; run from the folder it was made in")
    if digest:
        verify_weights(folder, digest, fix)
    examine_files(folder)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m evals.run", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--harness", choices=list(HARNESSES), help="refuse benchmarks of other harnesses")
    parser.add_argument("--manifest", nargs="+", type=Path, required=True, help="one manifest per checkpoint")
    parser.add_argument("--out", nargs="+", type=Path, required=True, help="one folder per manifest")
    parser.add_argument("--benchmarks", nargs="+", required=True)
    parser.add_argument("--protocol", default=DEFAULT_PROTOCOL, help="name in evals/protocols.yaml")
    parser.add_argument("--role", choices=ROLES, default="trained", help="whose prompt of the protocol applies")
    parser.add_argument("--prompt", help="a prompt style instead of the protocol's")
    parser.add_argument("--system-prompt-file", type=Path, help="the paper's system prompt, or training data with it")
    parser.add_argument("--benchmark-dir", type=Path, help="folder with the micro benchmarks' files")
    parser.add_argument("--data-root", type=Path, help="folder with the benchmarks' files; default: download")
    parser.add_argument("--levels", type=Path, help="folder with levels of agent benchmarks; default: --data-root")
    parser.add_argument("--any-data", action="store_true", help="measure on files that are not the pinned ones, too")
    parser.add_argument("--limit", type=int, help="only the first N problems")
    parser.add_argument("--batch-size", type=int, default=DEFAULT_BATCH_SIZE)
    parser.add_argument("--engine", default="hf", help="what answers: hf, or vllm (docs/vllm.md)")
    parser.add_argument("--workers", default="1", help="processes that answer; auto: one for each GPU or core")
    parser.add_argument("--max-new-tokens", type=int, help="instead of the protocol's")
    parser.add_argument("--judge-url", help="base URL of an OpenAI-compatible server, e.g. http://localhost:8000/v1")
    parser.add_argument("--judge-model", help="instead of the protocol's")
    parser.add_argument("--judge-cache", type=Path, help="file with the judge's replies; default: in the output folder")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate several checkpoints in one process. 0: done; 2: something that the user can mend."""
    return exit_code(partial(_main, parse_arguments(arguments)))


def _main(args: argparse.Namespace) -> None:
    if len(args.manifest) != len(args.out):
        counts = f"{len(args.manifest)} manifests but {len(args.out)} output folders"
        raise UserError(f"{counts}; give as many --out as --manifest")
    names = ("role", "prompt", "system_prompt_file", "benchmark_dir", "data_root", "levels", "any_data", "limit")
    names += ("batch_size", "max_new_tokens", "judge_cache", "engine")
    given = {name: getattr(args, name) for name in names}
    given |= {"judge": judge_server(args.judge_url), "workers": worker_count(args.workers)}
    options = Options.of(args.protocol, args.judge_model, **given)
    others = [name for name in args.benchmarks if args.harness and find(name).harness != args.harness]
    if others:
        raise UserError(f"benchmark {others[0]!r} runs on {find(others[0]).harness}, not on {args.harness}")
    _evaluate_all([read_manifest(path) for path in args.manifest], args.out, args.benchmarks, options)


def _evaluate_all(models: list[Candidate], outs: list[Path], benchmarks: list[str], options: Options) -> None:
    """Evaluate models into their folders, and print what came out. All is planned before the first one is loaded."""
    with tempfile.TemporaryDirectory(prefix="lmmr1-evals-") as workspace:
        plans = {
            prompt: plan(benchmarks, Path(tempfile.mkdtemp(dir=workspace)), replace(options, training_prompt=prompt))
            for prompt in dict.fromkeys(model.system_prompt for model in models)
        }
        for model, out in zip(models, outs, strict=True):
            jobs = plans[model.system_prompt]
            load, workers = partial(_load, model, options), workers_for(model.weights, jobs, options)
            for r in run_jobs(load, jobs, out, options, model.key, workers):
                if r.subset == "all":
                    error = "" if r.stderr is None else f" +- {r.stderr:.4f}"
                    print(f"{model.key[:12]} {r.benchmark}: {r.metric} {r.value:.4f}{error} (n={r.n})")


if __name__ == "__main__":
    sys.exit(main())
