"""The model card of one run: metadata with a model-index, our table with its verdicts, protocol, origin, limits.

Everything comes from the run's own files; texts from outside are escaped, because a card is Markdown and HTML.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.repocard_data import model_index_to_eval_results

from evals.records import EvalRecord, error_text
from evals.registry import find
from lmmr1.types import Manifest, UserError
from reports.cells import read_contrasts, read_table
from reports.layout import CONTROL, arm_title
from reports.paper_tables import measured_text, value_text
from reports.statistics import NO_INTERVAL
from reports.summary import side
from reports.tables import difference_cell, escape_markdown, mean_cell, with_marks
from reproduce.plan import Plan
from reproduce.published import registry

REPOSITORY = "https://arxiv.org/abs/2503.07536"
MICRO_LICENSE = {"license": "apache-2.0"}
QWEN_LICENSE = {
    "license": "other",
    "license_name": "qwen-research",
    "license_link": "https://huggingface.co/Qwen/Qwen2.5-VL-3B-Instruct/blob/main/LICENSE",
}
"""A model trained from Qwen2.5-VL-3B stays under its licence."""
REQUIRED = ("license", "library_name", "pipeline_tag", "tags", "base_model", "model-index")


@dataclass(frozen=True, slots=True)
class Published:
    """What the card is about."""

    plan: Plan
    results: Path
    arm: str
    seed: int
    manifest: Manifest
    base: Manifest
    records: list[EvalRecord]
    """Headline records of this very checkpoint, one per benchmark."""
    name: str
    """Of the model: a repository's name, or arm and profile."""

    @property
    def micro(self) -> bool:
        """A model of the micro world."""
        return self.plan.profile.world == "micro"


def card_text(p: Published) -> str:
    """README.md. Raises UserError where a field is missing or the metadata do not survive a round trip."""
    card = ModelCard(f"---\n{card_data(p).to_yaml()}\n---\n\n{body(p)}\n")
    text = str(card)
    check_card(text)
    return text


def card_data(p: Published) -> ModelCardData:
    """The metadata block: one result per benchmark."""
    data_sets = {d.repo for d in p.plan.data_sets.values() if d.repo} if not p.micro else set()
    trained_on = p.plan.data_sets.get(str(p.plan.arms[p.arm].stage))
    wanted = {trained_on.repo} & data_sets if trained_on else set()
    return ModelCardData(
        language="en",
        **(MICRO_LICENSE if p.micro else QWEN_LICENSE),
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        tags=["lmmr1", "grpo", "reinforcement-learning", "qwen2_5_vl", f"arm:{p.arm}"],
        base_model=p.base.weights if not p.micro else "lmmr1/micro-base",
        datasets=sorted(wanted) or None,
        model_name=p.name,
        eval_results=[result(r) for r in p.records],
    )


def result(record: EvalRecord) -> EvalResult:
    """One record as the Hub's metadata have it: accuracy in percent, with its error and protocol."""
    benchmark = find(record.benchmark)
    source = benchmark.source.partition(":")[2].partition("@")[0] or f"lmmr1/{benchmark.name}"
    return EvalResult(
        task_type="text-generation" if benchmark.kind == "text" else "image-text-to-text",
        dataset_type=source,
        dataset_name=benchmark.title,
        metric_type="accuracy",
        metric_name=f"accuracy (%), protocol {record.protocol.protocol}",
        metric_value=round(100 * record.value, 2),
        metric_args={
            "items": record.n,
            **({} if record.stderr is None else {"standard_error": round(100 * record.stderr, 2)}),
            "harness": f"{record.protocol.harness} {record.protocol.harness_version}",
            "protocol_hash": record.protocol.hash,
        },
    )


def check_card(text: str) -> None:
    """Raise UserError unless the metadata are YAML, have what they need, and their results survive a round trip."""
    try:
        card = ModelCard(text, ignore_metadata_errors=False)
        values = yaml.safe_load(card.data.to_yaml())
        missing = [key for key in REQUIRED if not values.get(key)]
        name, results = model_index_to_eval_results(values.get("model-index") or [])
    except (ValueError, KeyError, TypeError, yaml.YAMLError) as e:
        raise UserError(f"model card: metadata cannot be read again ({' '.join(str(e).split())[:200]})") from None
    if missing:
        raise UserError(f"model card: metadata lack {', '.join(missing)}")
    if name != card.data.model_name or results != card.data.eval_results:
        raise UserError("model card: results change when the metadata are read again; please report this")


def body(p: Published) -> str:
    """The text under the metadata."""
    return "\n\n".join([*_head(p), *_results(p), *_recipe(p), *_limits(p)])


def _head(p: Published) -> list[str]:
    what = (
        "A model of half a million parameters of the Qwen2.5-VL architecture, trained in a generated world to test the "
        "recipe. **It is no use for anything else.**"
        if p.micro
        else "Qwen2.5-VL-3B after rule-based reinforcement learning, trained to reproduce LMM-R1."
    )
    return [
        f"# {_plain(p.name)}",
        f"{what} Arm *{_plain(arm_title(p.arm))}* of a reproduction of [LMM-R1]({REPOSITORY}), seed {p.seed}.",
    ]


def _results(p: Published) -> list[str]:
    parts = ["## Results", "This checkpoint, measured once per benchmark; ± is one standard error over items."]
    rows = [[find(r.benchmark).title, _with_error(r), f"{r.n:,}", r.protocol.protocol] for r in p.records]
    parts.append(_table(["Benchmark", "Accuracy (%)", "Items", "Protocol"], rows))
    report = p.results / "report"
    if (report / "table1.csv").is_file():
        parts += _arm_rows(p, report)
    parts += _verdict_rows(p, report)
    return parts


def _with_error(record: EvalRecord) -> str:
    error = error_text(record, "")
    return f"{100 * record.value:.2f} ± {error}" if error else f"{100 * record.value:.2f}"


def _arm_rows(p: Published, report: Path) -> list[str]:
    """The arm over all its seeds, against the baseline, and against other arms."""
    table = with_marks(read_table(report / "table1.csv"))
    rows = table[table.arm == p.arm]
    if rows.empty:
        return []
    shown = [
        [_title(r.column), mean_cell(r, 1), "" if pd.isna(r["diff"]) else difference_cell(r, 1), _word(r)]
        for _, r in rows.iterrows()
    ]
    seeds = str(rows.seeds.iloc[0]).replace(";", ", ")
    text = (
        f"The arm over its seeds ({_plain(seeds)}), mean ± half of the 95 % interval, and its difference to the "
        "baseline in points, paired by item. \\* where the interval excludes 0; † where it survives Holm's correction."
    )
    parts = [text, _table(["", "Accuracy (%)", "Difference", "Verdict"], shown)]
    contrasts = with_marks(read_contrasts(report / "contrasts.csv"))
    against = [
        [f"{arm_title(r.arm)} − {arm_title(r.against)}", _title(r.column), difference_cell(r, 1)]
        for _, r in contrasts[contrasts.arm == p.arm].iterrows()
    ]
    return [*parts, _table(["Contrast", "", "Difference"], against)] if against else parts


def _word(row: pd.Series) -> str:
    if pd.isna(row["diff"]):
        return ""
    return side(row) or (NO_INTERVAL if pd.isna(row.diff_low) else "not distinguishable")


def _verdict_rows(p: Published, report: Path) -> list[str]:
    """Published against measured, for every printed table that the arm is in."""
    found, parts = registry(), []
    for name, spec in found.tables.items():
        file = report / f"paper_{name}.csv"
        cells = pd.read_csv(file) if file.is_file() else pd.DataFrame(columns=["arm"])
        rows = [
            [_title(c.column), str(c.kind), value_text(c.published, c.kind, spec.decimals), measured_text(c),
             f"{c.verdict}: {c.reason}" if isinstance(c.reason, str) and c.reason else str(c.verdict)]
            for _, c in cells[cells.arm == p.arm].iterrows()
            if pd.notna(c.published) and pd.notna(c.measured)
        ]  # fmt: skip
        if rows:
            heads = ["", "What", "Published", "Measured", "Verdict"]
            parts += [f"Against the paper's {name.replace('table', 'Table ')}:", _table(heads, rows)]
    return parts


def _recipe(p: Published) -> list[str]:
    m, train = p.manifest, p.manifest.config
    chain = " → ".join(_plain(arm_title(a)) for a in _chain(p.plan, p.arm))
    base = f"{p.base.weights}@{p.base.revision}" if p.base.revision else p.base.weights
    facts = [
        ["Started from", f"{base if not p.micro else 'the micro world’s own pretraining'}; chain: {chain}"],
        ["Recipe", str(p.plan.profile.recipe or f"profile {p.plan.profile.profile}")],
        ["Training data", _data(p)],
        ["Code", m.code],
        ["Versions", ", ".join(f"{k} {v}" for k, v in sorted(m.versions.items()))],
        ["Device", m.device],
        ["Key of the run, sha256 of its weights", f"{m.key}, {m.weights_sha256}"],
    ]
    settings = yaml.safe_dump(train, sort_keys=True, allow_unicode=False).strip()
    protocols = _table(
        ["Benchmark", "Harness", "Prompt", "Tokens", "Pixels", "Judge", "Scorer", "Hash"],
        [_protocol(r) for r in p.records],
    )
    return [
        "## How it was trained", _table(["", ""], facts), f"```yaml\n{settings}\n```",
        "## How it was measured", protocols,
        "Numbers with different hashes are not comparable. The records are in `eval/`.",
    ]  # fmt: skip


def _protocol(r: EvalRecord) -> list[str]:
    q = r.protocol
    pixels = f"{q.min_pixels or 'model'} to {q.max_pixels or 'model'}"
    judge = str(q.judge.get("model")) if q.judge else "none"
    scorer, tokens = f"{q.scorer} {q.scorer_version}", str(q.decoding.get("max_new_tokens"))
    return [
        find(r.benchmark).title,
        f"{q.harness} {q.harness_version}",
        q.prompt,
        tokens,
        pixels,
        judge,
        scorer,
        q.hash,
    ]


def _data(p: Published) -> str:
    stage = str(p.plan.arms[p.arm].stage)
    data = p.plan.data_sets.get(stage)
    source = f"{data.repo or 'local'}, {Path(data.file).name}" if data else f"generated, stage {stage}"
    source = p.manifest.data_source or source  # with the commit
    return f"{source} (sha256 {str(p.manifest.data_sha256)[:16]})"


def _chain(plan: Plan, arm: str) -> list[str]:
    parent = plan.arms[arm].parent
    return [*(_chain(plan, parent) if parent else []), arm]


def _limits(p: Published) -> list[str]:
    limits = [
        "One seed of one arm: the spread over seeds stands in the table above, where there are several.",
        "Trained on problems whose answer a rule can check; nothing here says anything about safety, languages other "
        "than English, or open-ended questions.",
        "Not the authors' training code: see docs/deviations.md of the suite. Numbers are comparable with printed ones "
        "only where the verdict says so.",
    ]
    if p.arm == CONTROL:
        limits.insert(0, "A control that was paid at random: it is meant to be no better than its base.")
    if not any(r.n for r in p.records):
        limits.insert(0, "Not evaluated.")
    return ["## Limits", "\n".join(f"- {text}" for text in limits)]


def _title(column: str) -> str:
    try:
        return find(column).title
    except UserError:
        return {"text_avg": "Text avg", "mm_avg": "MM avg"}.get(column, column)


def _table(head: list[str], rows: list[list[str]]) -> str:
    cells = [[_plain(c) for c in row] for row in rows]
    return "\n".join("| " + " | ".join(r) + " |" for r in [head, ["---"] * len(head), *cells])


def _plain(text: Any) -> str:
    """One line of text in which nothing is markup."""
    if isinstance(text, float) and math.isnan(text):
        return ""
    return escape_markdown([" ".join(str(text).split())])[0]
