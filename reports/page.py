"""One self-contained HTML page: verdicts, tables, figures, answers, and where every number comes from.

    python -m reports.page --out results/micro/report/index.html --table results/micro/report/table1.csv \\
        --contrasts results/micro/report/contrasts.csv --paper-tables results/micro/report/paper_table1.csv ... \\
        --figures results/micro/report/arms.svg results/micro/report/curves.svg \\
        --scores results/micro/baseline/scores.csv results/micro/fre/scores.csv ... \\
        --manifests results/micro/baseline/0/manifest.json ... --images results/micro/benchmarks/micro_scene.tsv ... \\
        --completions results/micro/fre/0/completions.jsonl ... --timings timings/micro/fre/0/train.tsv ... \\
        --benchmarks micro_chain micro_table ...

--contrasts, --prompt-styles, --protocols and --contamination may be left out; --paper-tables, --players (scores.csv of
scripted players), --figures, --images, --completions and --timings may be empty. A figure's caption is the text of
reports/captions/NAME.rst. How many answers are embedded is said in config/report.yaml.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import re
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from lmmr1.types import UserError
from reports.answers import embed, limits
from reports.cells import CONTRAST_COLUMNS, headline, read_contrasts, read_table
from reports.embed import json_block
from reports.exposure import read_exposure
from reports.files import read_text, run_cli, write_text
from reports.images import downloaded
from reports.layout import (
    AVERAGES,
    add_benchmarks_argument,
    arm_style,
    arm_title,
    columns,
    parse_agents,
    parse_benchmarks,
)
from reports.page_tables import contrast_rows, group_spans, paper_table, table_rows
from reports.paper_tables import read_cells, with_players
from reports.played import PLAYED_RULE, strips
from reports.plots import INK, LINE
from reports.prompt_styles import CAPTION, text_rows
from reports.prompt_styles import read_table as read_styles
from reports.protocols import caption as protocols_caption
from reports.protocols import read_table as read_protocols
from reports.protocols import text_rows as protocol_rows
from reports.provenance import Manifests, Trail, link, read_manifests, settings, versions, wall_times
from reports.rules import rules
from reports.samples import LIMIT, pick_training
from reports.scores import read_scores
from reports.summary import arm_cards, claim, control, gains
from reports.tables import CONTRASTS_CAPTION, DIFFERENCES_CAPTION, MEANS_CAPTION, prompts_note
from reproduce.published import registry

HERE = Path(__file__).parent


def inline_svg(path: Path) -> Markup:
    """A figure of reports.plots as markup for the page: ids made unique, ink and lines in the page's colours.

    Raises UserError on a missing file or one that is not such a figure.
    """
    text = read_text(path)
    start = text.find("<svg")
    if start < 0 or re.search(r"<script|\son\w+=|href=\"[^#]", text, re.IGNORECASE):
        raise UserError(f"{path}: not a figure of reports.plots; make it again")
    text = re.sub(r"<metadata>.*?</metadata>", "", text[start:], flags=re.DOTALL)
    text = re.sub(r'(\sid="|href="#|url\(#)', rf"\g<1>{re.escape(path.stem)}-", text)
    text = text.replace(INK, "currentColor").replace(LINE, "var(--line)")
    return Markup(text.replace("<svg ", '<svg role="img" ', 1))


def caption(name: str) -> str:
    """The text of reports/captions/NAME.rst as plain text; empty where there is none."""
    path = HERE / "captions" / f"{name}.rst"
    return " ".join(read_text(path).replace("``", "").split()) if path.is_file() else ""


def figure(path: Path, folder: Path) -> dict[str, Any]:
    """A figure with its heading (the caption up to the rule's name), its caption, and links to its files."""
    text = caption(path.stem)
    files = [p for p in (path, path.with_suffix(".png")) if p.is_file()]
    return {
        "name": path.stem,
        "title": text.partition(" (")[0] or path.stem,
        "caption": text,
        "svg": inline_svg(path),
        "files": [(p.name, link(p, folder)) for p in files],
    }


def render(**context: Any) -> str:
    """Fill page.html.jinja with autoescape on; the page's own script is allowed by its hash, no other script runs."""
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined)
    script, style = (Markup(read_text(HERE / f"page.{kind}")) for kind in ("js", "css"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    own = {"script": script, "style": style, "script_hash": digest, "arm_title": arm_title, "limit": LIMIT}
    return environment.get_template("page.html.jinja").render(**own, **context)


def provenance(manifests: Manifests, timings: list[Path]) -> dict[str, Any]:
    """The template's view of the runs."""
    common, different = settings(manifests)
    runs = []
    for run, manifest in manifests.items():
        shown = {key: manifest.get(key) or "-" for key in ("key", "parent", "code", "device")}
        weights = str(manifest.get("weights_sha256"))[:12]
        runs.append({"arm": run.arm, "seed": run.seed, "weights": weights, **shown})
    return {
        "runs": runs,
        "common": common,
        "different": different,
        "versions": versions(manifests),
        "setting_arms": list(next(iter(different.values()), {})),
        "timings": wall_times(timings),
        "commits": sorted({str(r["code"]) for r in runs}),
    }


def context(args: argparse.Namespace) -> dict[str, Any]:
    """Everything that the template shows but the runs; reads the files that the command line names."""
    benchmarks, agents = parse_benchmarks(args.benchmarks), parse_agents(args.benchmarks)
    table = read_table(args.table)
    contrasts = read_contrasts(args.contrasts) if args.contrasts else pd.DataFrame(columns=CONTRAST_COLUMNS)
    all_scores = headline(read_scores(args.scores), [*benchmarks, *agents])
    scores = all_scores[all_scores.metric == "accuracy"]
    everybody = with_players(all_scores, args.players, agents)
    trail = Trail(everybody, read_manifests(args.manifests), args.out)
    titles = {name: title for name, title, _ in columns(benchmarks)} | {b.name: b.title for b in agents}
    arms = table_rows(table, titles, trail)
    names = [arm["name"] for arm in arms]
    answers = embed(scores, benchmarks, [*args.images, *downloaded(list(titles))], limits())
    played = strips(everybody, agents, limits())
    tables = {p.stem.removeprefix("paper_"): read_cells(p) for p in args.paper_tables}
    styles = read_styles(args.prompt_styles) if args.prompt_styles else None
    by_protocol = read_protocols(args.protocols) if args.protocols else None
    shown = (args.table, args.contrasts, args.prompt_styles, args.protocols, args.contamination, *args.paper_tables)
    return {
        "profile": table.profile.iloc[0],
        "seeds": ", ".join(max(table.seeds.str.split(";"), key=len)),
        "claim": claim(contrasts, benchmarks),
        "gains": gains(table, benchmarks),
        "control": control(table, benchmarks),
        "cards": arm_cards(arms, benchmarks),
        "means_caption": f"{MEANS_CAPTION} {prompts_note(table)}".rstrip(),
        "differences_caption": DIFFERENCES_CAPTION,
        "contrasts_caption": CONTRASTS_CAPTION,
        "styles_caption": CAPTION,
        "styles": text_rows(styles) if styles is not None else [],
        "style_columns": [titles[name] for name in dict.fromkeys(styles.column)] if styles is not None else [],
        "protocols_caption": protocols_caption(by_protocol) if by_protocol is not None else "",
        "protocols": protocol_rows(by_protocol) if by_protocol is not None else [],
        "exposure": read_exposure(args.contamination, benchmarks) if args.contamination else None,
        "columns": [{"title": title, "average": name in AVERAGES} for name, title, _ in columns(benchmarks)],
        "groups": group_spans(benchmarks),
        "arms": arms,
        "contrasts": contrast_rows(contrasts, titles, trail),
        "paper_tables": [paper_table(n, cells, titles, registry(), rules(), trail) for n, cells in tables.items()],
        "colours": {name: arm_style(name, names)[0] for name in names},
        "benchmarks": benchmarks,
        "titles": titles,
        "figures": [figure(p, args.out.parent) for p in args.figures],
        "files": [(p.name, link(p, args.out.parent)) for p in shown if p],
        "answers": answers,
        "images_json": json_block(answers.images),
        "played": played,
        "played_rule": PLAYED_RULE,
        "training": pick_training(args.completions),
        "trail": trail,
        "trail_json": json_block(trail.as_json()),
    }


def main(argv: list[str]) -> None:
    """Command line; see the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m reports.page", description="Write the HTML page.")
    for name in ("--out", "--table"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--contrasts", type=Path, help="contrasts.csv (default: no contrasts are shown)")
    parser.add_argument("--prompt-styles", type=Path, help="prompts.csv of reports.prompt_styles")
    parser.add_argument("--protocols", type=Path, help="protocols.csv of reports.protocols")
    parser.add_argument("--contamination", type=Path, help="file of `lmmr1 contamination --out`")
    for name in ("--scores", "--manifests"):
        parser.add_argument(name, type=Path, nargs="+", required=True)
    for name in ("--paper-tables", "--players", "--figures", "--images", "--completions", "--timings"):
        parser.add_argument(name, type=Path, nargs="*", default=[])
    add_benchmarks_argument(parser)
    args = parser.parse_args(argv)
    write_text(args.out, render(**context(args), **provenance(read_manifests(args.manifests), args.timings)))


if __name__ == "__main__":
    sys.exit(run_cli(main))
