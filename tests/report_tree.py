"""A results tree of canned answers and its report, for the tests of both: the same bytes every time.

Evaluations are written by tests/canned.py; manifests and logs of training stand for what training would have written,
hostile completions among them.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import json
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from reports import page, paper_tables, plots, scores, tables
from reproduce.micro.build import write_benchmark
from tests import canned

BENCHMARKS = [
    "micro_chain:text:Chain & sum",
    "micro_table:text:Table",
    "micro_drawn:mm_reasoning:Drawn|chain",
    "micro_legend:mm_reasoning:Legend_key",
    "micro_scene:mm_reasoning:Scene",
    "micro_count:mm_general:Count",
    "micro_most:mm_general:Most",
]
NAMES = [b.split(":")[0] for b in BENCHMARKS]
SKILL = {"baseline": 0.40, "fre": 0.46, "mgt_only": 0.50, "two_stage": 0.58, "random_reward": 0.40}
HOSTILE = "<script>alert(1)</script>\x00\ud800\u202e" + "</pre><img src=http://evil.example/x.png onerror=alert(2)>"


def picture(item: int, n: int) -> Image.Image:
    """The image of an item of micro_scene, whose file has n rows, as the page's script would get it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "micro_scene.tsv"
        write_benchmark("micro_scene", n, canned.MICRO_SEED, path)
        cell = path.read_text(encoding="utf-8").splitlines()[1 + item].split("\t")[1]
    return Image.open(io.BytesIO(base64.b64decode(cell)))


def write_jsonl(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")


def write_eval(folder: Path, answers: Iterable[canned.Answer], **options: object) -> None:
    """The evaluation `folder` of a run: right or wrong (or what was said) per item, options of `canned.planned`."""
    answers = list(answers)
    job = canned.planned(folder.name, n=len(answers), **options)
    manifest = json.loads((folder.parents[1] / "manifest.json").read_text(encoding="utf-8"))
    canned.write_answers(folder.parent, job, answers, manifest["key"])


def write_run(folder: Path, arm: str, seed: int, steps: int, rng: np.random.Generator) -> None:
    """manifest.json and, for a trained arm, config, steps and completions."""
    config = {"seed": seed, "learning_rate": 5e-4, "max_steps": steps, "reward": {"kind": "rule", "format_weight": 0.5}}
    if arm == "random_reward":
        config["reward"]["kind"] = "random"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(
        json.dumps(
            {
                "key": f"{arm}-{seed}",
                "weights": "checkpoints/x",
                "weights_sha256": hashlib.sha256(f"{arm}-{seed}".encode()).hexdigest(),
                "parent": None if arm == "baseline" else "baseline-0",
                "config": {"pretraining": 1} if arm == "baseline" else config,
                "data_sha256": None,
                "numerics": 1,
                "code": "0123abc",
                "versions": {"torch": "2.9"},
                "device": "cpu",
            }
        )
    )
    if arm == "baseline":
        return
    rise = 1 - np.exp(-np.arange(1, steps + 1) / (steps / 3))
    accuracy = np.clip(SKILL["baseline"] + (SKILL[arm] - 0.35) * 2 * rise + rng.normal(0, 0.04, steps), 0, 1)
    write_jsonl(
        folder / "steps.jsonl",
        [
            {
                "step": i + 1,
                "reward": a + 0.5 * rise[i],
                "reward_std": 0.3,
                "rewards/accuracy/mean": a,
                "loss": 0.01,
                "rewards/format/mean": rise[i],
                "completions/mean_length": 20 + 18 * rise[i] + rng.normal(),
            }
            for i, a in enumerate(accuracy)
        ],
    )
    write_jsonl(
        folder / "completions.jsonl",
        [
            {
                "step": s,
                "sample_id": f"p{s}-{g}",
                "prompt": "What is 1 + 1?",
                "completion": HOSTILE if g == 0 else "<answer>2",
                "answer": "2",
                "reward": 1.5 * g,
                "accuracy": g,
                "format": g,
                "advantage": 2 * g - 1,
            }
            for s in (1, steps // 2, steps)
            for g in (0, 1)
        ],
    )


def write_tree(root: Path, n: int = 40, seeds: tuple[int, ...] = (0, 1, 2), steps: int = 30) -> Path:
    """A whole results/micro under `root`; the same bytes every time: a copy, after the first of its kind."""
    made = _tree(n, seeds, steps)
    shutil.copytree(Path(made.name) / "results", root / "results", dirs_exist_ok=True)
    return root / "results" / "micro"


@functools.cache
def _tree(n: int, seeds: tuple[int, ...], steps: int) -> tempfile.TemporaryDirectory[str]:
    made = tempfile.TemporaryDirectory()
    root = Path(made.name)
    rng = np.random.default_rng(7)
    easiness = {b: rng.beta(2, 2, n) - 0.5 for b in NAMES}
    for arm, skill in SKILL.items():
        for seed in seeds[:1] if arm == "baseline" else seeds:
            folder = root / "results" / "micro" / arm / str(seed)
            write_run(folder, arm, seed, steps, rng)
            for b in NAMES:
                write_eval(folder / "eval" / b, rng.random(n) < skill + easiness[b])
    write_benchmark("micro_scene", n, canned.MICRO_SEED, root / "results/micro/benchmarks/micro_scene.tsv")
    return made


def records_of(results: Path, arm: str, seeds: tuple[int, ...] = (0, 1, 2)) -> list[str]:
    return [
        f"results/micro/{arm}/{s}/eval/{b}/record.json"
        for s in seeds
        for b in NAMES
        if (results / arm / str(s)).exists()
    ]


def build(results: Path, arms: list[str] | None = None, seeds: tuple[int, ...] = (0, 1, 2)) -> Path:
    """Run every command as the workflow does, in the folder above `results`/. Returns the report folder."""
    arms = arms or list(SKILL)
    out, trained = "results/micro/report", [a for a in arms if a != "baseline"]
    for arm in arms:
        scores.main(["--out", f"results/micro/{arm}/scores.csv", "--records", *records_of(results, arm, seeds)])
    files = [f"results/micro/{arm}/scores.csv" for arm in arms]
    runs = [f"results/micro/{a}/{s}" for a in trained for s in seeds]
    tables.main(["--out-dir", out, "--scores", *files, "--benchmarks", *BENCHMARKS])
    paper_tables.main(["--out-dir", out, "--scores", *files, "--benchmarks", *BENCHMARKS])
    plots.main(["arms", "--table", f"{out}/table1.csv", "--out", f"{out}/arms", "--benchmarks", *BENCHMARKS])
    plots.main(["curves", "--out", f"{out}/curves", "--steps", *[f"{r}/steps.jsonl" for r in runs]])
    Path("timings").mkdir(exist_ok=True)
    Path("timings/train.tsv").write_text("s\th:m:s\tmax_rss\n90.0\t0:01:30\t512.5\n30\t0:00:30\t-\n")
    page.main(
        [
            "--out",
            f"{out}/index.html",
            "--table",
            f"{out}/table1.csv",
            "--contrasts",
            f"{out}/contrasts.csv",
            "--paper-tables",
            *[f"{out}/paper_table{i}.csv" for i in (1, 2, 3)],
            "--scores",
            *files,
            "--images",
            "results/micro/benchmarks/micro_scene.tsv",
            "--figures",
            f"{out}/arms.svg",
            f"{out}/curves.svg",
            "--timings",
            "timings/train.tsv",
            "--manifests",
            "results/micro/baseline/0/manifest.json",
            *[f"{r}/manifest.json" for r in runs],
            "--completions",
            *[f"{r}/completions.jsonl" for r in runs],
            "--benchmarks",
            *BENCHMARKS,
        ]
    )
    return results / "report"
