"""Contract: Table 3 shows played benchmarks beside what was printed, in points, with intervals; levels as pictures."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.stats import t as student

from evals.agents import football, sokoban
from evals.agents.baselines import player
from evals.agents.sokoban_levels import LevelSpec, generate, levels_text
from evals.plan import Options, plan
from evals.run import run_jobs
from evals.samples import read_samples
from lmmr1.types import UserError
from reports import compare, gate, paper_tables, scores
from reports.answers import Limits
from reports.cells import headline
from reports.folders import folder_scores
from reports.layout import arm_title, parse_agents, parse_all, parse_benchmarks
from reports.played import strips
from reports.readme import played_block
from reports.rules import rules
from reports.statistics import difference_interval, score_interval

BENCHMARKS = ["micro_sokoban", "micro_football"]
LEVELS = 8
ARMS = {"baseline": [0], "direct_rl_sokoban": [0, 1], "mgt_sokoban": [0, 1]}
SKILLS = {"baseline": 0.3, "direct_rl_sokoban": 0.5, "mgt_sokoban": 0.7}
LIMITS = Limits(max_strips=2)


class Sometimes:
    """Solves a level with a chance that grows with the seed; else says something hostile."""

    def __init__(self, skill: float, seed: int) -> None:
        self.skill, self.rng = skill, np.random.default_rng(seed)

    def generate(self, samples, sampling, num_generations, seed):
        play = sokoban.scripted(sokoban.perfect, "brief").engine
        groups = play.generate(samples, sampling, num_generations, seed)
        bad = "<script>alert(1)</script>\u202e, up"
        return [
            group if self.rng.random() < self.skill else tuple(type(r)(r.sample_id, (), (), bad, "stop") for r in group)
            for group in groups
        ]


def play(folder: Path, bench: Path, key: str, model_of: Callable) -> None:
    options = Options.of(benchmark_dir=bench, batch_size=32)
    for job in plan(BENCHMARKS, folder, options):
        run_jobs(lambda job=job: model_of(job), [job], folder / "eval", options, key)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A results tree: two arms that play Sokoban more or less well and football like a machine, and the players."""
    root = tmp_path_factory.mktemp("played")
    tasks = generate(LevelSpec(name="tiny", height=5, width=5, boxes=1), LEVELS, seed=0)
    (root / "micro_sokoban.txt").write_text(levels_text(tasks))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for arm, seeds in ARMS.items():
            for seed in seeds:
                play(Path("results/x") / arm / str(seed), root, f"{arm}-{seed}", model_for(arm, seed))
            collect(arm)
        for name in ("idle", "chance", "expert"):
            play(Path("results/x") / name / "0", root, name, lambda job, name=name: player(name, job))
            collect(name)
        players = [f"results/x/{name}/scores.csv" for name in ("idle", "chance", "expert")]
        arms = [f"results/x/{arm}/scores.csv" for arm in ARMS]
        paper_tables.main(["--out-dir", "out", "--scores", *arms, "--players", *players, "--benchmarks", *BENCHMARKS])
    return root


def model_for(arm: str, seed: int):
    def model(job):
        if job.benchmark.dataset == "football":
            return replace(player("chance" if arm == "baseline" else "expert", job), backend="scripted")
        scripted = sokoban.scripted(sokoban.perfect, "brief")
        return type(scripted)(Sometimes(SKILLS[arm], seed + 10), scripted.render, "scripted", "none", None, None)

    return model


def collect(arm: str) -> None:
    records = map(str, sorted(Path(f"results/x/{arm}").glob("*/eval/*/record.json")))
    scores.main(["--out", f"results/x/{arm}/scores.csv", "--records", *records])


def level_means(root: Path, arm: str, benchmark: str) -> np.ndarray:
    """(seeds, levels), from the sample files alone."""
    runs = []
    for path in sorted(root.glob(f"results/x/{arm}/*/eval/{benchmark}/samples.jsonl")):
        rows = pd.DataFrame([(s.doc_id, s.value("score")) for s in read_samples(path)], columns=["doc_id", "score"])
        runs.append(rows.groupby("doc_id").score.mean().to_numpy())
    return np.array(runs)


def test_table_3_has_the_printed_rows_and_the_played_columns(root):
    cells = paper_tables.read_cells(root / "out/paper_table3.csv").set_index(["kind", "row", "arm", "column"])
    assert cells.loc[("score", "human", "", "sokoban_global")].published == 83.63
    assert cells.loc[("score", "idle", "", "football_online")].published == 2.53
    for arm in (*ARMS, "idle", "chance", "expert"):
        for benchmark in BENCHMARKS:
            cell = cells.loc[("score", "", arm, benchmark)]
            values = level_means(root, arm, benchmark)
            assert cell.measured == pytest.approx(values.mean(), abs=1e-4)
            assert (cell.n, cell.verdict, cell.reason) == (values.shape[1], "not comparable", "no published value")
            assert np.isnan(cell.published)
        assert np.isnan(cells.loc[("score", "", arm, "sokoban_global")].measured)
    assert cells.loc[("score", "", "expert", "micro_sokoban")].measured == 100
    gains = cells.loc["gain"].dropna(subset=["measured"])
    assert set(gains.index.get_level_values("arm")) == {"direct_rl_sokoban", "mgt_sokoban"}


def test_text_first_or_not_is_a_block_of_its_own(root):
    cells = paper_tables.read_cells(root / "out/paper_table3.csv").set_index(["kind", "row", "arm", "column"])
    contrast = cells.loc["contrast"]
    assert contrast.loc[("mgt_sokoban", "", "sokoban_global")].published == pytest.approx(47.91 - 46.89)
    cell = contrast.loc[("", "mgt_sokoban", "micro_sokoban")]
    first, second = (level_means(root, arm, "micro_sokoban") for arm in ("mgt_sokoban", "direct_rl_sokoban"))
    assert cell.measured == pytest.approx(first.mean() - second.mean(), abs=1e-4)
    expected = difference_interval([first / 100], [second / 100], points=True)
    assert (cell.low, cell.high) == pytest.approx((100 * expected.low, 100 * expected.high), abs=1e-3)
    assert len(cell.records.split(";")) == 4 and cell.verdict == "not comparable"
    text = (root / "out/paper_table3.md").read_text(encoding="utf-8")
    assert "Does text-first help an agent? MGT-Sokoban − Direct-RL-Sokoban (points):" in text


def test_the_readmes_block_shows_what_was_played_and_nothing_printed(root):
    cells = paper_tables.read_cells(root / "out/paper_table3.csv")
    rows = [line.strip("| ").split(" | ") for line in played_block(cells).splitlines() if line.startswith("|")]
    shown = {name: texts for name, *texts in rows[2:]}
    means = {arm: [level_means(root, arm, b).mean() for b in BENCHMARKS] for arm in (*ARMS, "idle", "chance", "expert")}
    assert len(shown) == len(means) + 1
    for arm, values in means.items():
        found = [float(text.split(" ± ")[0].replace("−", "-")) for text in shown[arm_title(arm)]]
        assert found == pytest.approx(values, abs=0.0501)
    difference = means["mgt_sokoban"][0] - means["direct_rl_sokoban"][0]
    contrast = shown["MGT-Sokoban − Direct-RL-Sokoban"][0].split(" ± ")[0].replace("−", "-")
    assert float(contrast) == pytest.approx(difference, abs=0.0501)
    assert played_block(cells[cells.measured.isna()]) == ""


def test_intervals_are_over_levels_and_seeds_in_points(root):
    cells = paper_tables.read_cells(root / "out/paper_table3.csv").set_index(["kind", "arm", "column"])
    one = level_means(root, "baseline", "micro_sokoban")[0]
    cell = cells.loc[("score", "baseline", "micro_sokoban")]
    half = student.ppf(0.975, len(one) - 1) * one.std(ddof=1) / len(one) ** 0.5
    assert (cell.low, cell.high) == pytest.approx((one.mean() - half, one.mean() + half), abs=1e-3)
    two = level_means(root, "mgt_sokoban", "micro_sokoban")
    cell = cells.loc[("score", "mgt_sokoban", "micro_sokoban")]
    terms = [two.mean(axis=0).var(ddof=1) / LEVELS, two.mean(axis=1).var(ddof=1) / 2]
    df = sum(terms) ** 2 / (terms[0] ** 2 / (LEVELS - 1) + terms[1] ** 2)
    half = student.ppf(0.975, df) * sum(terms) ** 0.5
    assert cell.high - cell.low == pytest.approx(2 * half, abs=1e-3)
    assert cell.seeds == "0;1"


def test_points_are_not_held_within_the_limits_of_shares():
    far = np.array([[2.0, 2.2, 1.8]])
    assert score_interval([far], points=True).high > 2
    assert score_interval([-far], points=True).low < -2
    same = score_interval([np.full((1, 3), 0.5)], points=True)
    assert (same.low, same.high, same.p) == (0.5, 0.5, 0.0)
    none = difference_interval([far], [far], points=True)
    assert (none.low, none.high, none.p, none.p_at_most(0.0), none.p_at_most(-0.02)) == (0, 0, 1.0, 1.0, 0.0)


def test_the_text_says_how_little_separates_the_rows_and_what_was_played(root):
    text = (root / "out/paper_table3.md").read_text()
    assert "moves the mean by 2.5 points (the last box alone) to 3.1 (the whole level)" in text
    assert "environment field, levels own: 10 levels, seed 0 (10 of them)" in text
    assert f"environment sokoban, levels micro\\_sokoban.txt ({LEVELS} of them)" in text
    assert "are never compared" in text
    assert text.index("Human level") < text.index("Idle player")


def test_agents_are_in_no_average_and_no_column_of_table_1():
    texts = ["micro_chain", *BENCHMARKS]
    assert [b.name for b in parse_benchmarks(texts)] == ["micro_chain"]
    assert [b.name for b in parse_agents(texts)] == BENCHMARKS
    assert [b.metric for b in parse_all(texts)] == ["accuracy", "score", "score"]


def test_records_of_players_can_be_compared_and_checked(root):
    first, second = (folder_scores(root / "results/x" / arm, arm) for arm in ("mgt_sokoban", "baseline"))
    assert set(first.metric) == {"score"}
    found = compare.compare_records(first, second, cross_protocol=True)
    assert [d.column for d in found] == sorted(BENCHMARKS)  # and no mean over games
    by_name = {d.column: d for d in found}
    difference = (
        level_means(root, "mgt_sokoban", "micro_sokoban").mean() - level_means(root, "baseline", "micro_sokoban").mean()
    )
    assert 100 * by_name["micro_sokoban"].interval.mean == pytest.approx(difference)
    assert gate.judge({"x": found}, rules())


def test_strips_show_the_same_levels_for_all_and_are_small_and_clean(root, monkeypatch):
    monkeypatch.chdir(root)
    agents = parse_agents(BENCHMARKS)
    rows = headline(scores.read_scores([Path(f"results/x/{arm}/scores.csv") for arm in ARMS]), agents)
    found = strips(rows, agents, LIMITS)
    assert [game["title"] for game in found] == ["Sokoban, small", "Football-Field, small"]
    for game in found:
        levels = {arm: [s["level"] for s in game["shown"] if s["arm"] == arm] for arm in ARMS}
        assert levels["baseline"] == levels["mgt_sokoban"] and len(set(levels["baseline"])) == 2
        for one in game["shown"]:
            with Image.open(io.BytesIO(base64.b64decode(one["webp"]))) as image:
                assert image.size == (one["width"], one["height"]) and image.format == "WEBP"
                assert image.width <= 1200 and image.height <= 200
            assert len(one["webp"]) < 60_000 and "\u202e" not in json.dumps(one, ensure_ascii=False)
    assert strips(rows, agents, Limits(max_strips=2, strip_megabytes=0)) == []
    assert strips(rows, agents, Limits(max_strips=0)) == []


def test_a_damaged_sample_is_named(root, monkeypatch, tmp_path):
    monkeypatch.chdir(root)
    agents = parse_agents(["micro_football"])
    rows = headline(scores.read_scores([Path("results/x/baseline/scores.csv")]), agents)
    sample = json.loads(Path(rows.iloc[0].samples).read_text().splitlines()[0])
    for damage, named in (
        ({"filtered_resps": ["action_fly"]}, "doc_id 0: cannot be redrawn"),
        ({"doc": {"id": "a", "level": "{}"}}, "doc_id 0: cannot be redrawn"),
        ({"doc": None}, "line 1: `doc`"),
    ):
        path = tmp_path / "samples.jsonl"
        path.write_text(json.dumps(sample | damage) + "\n")
        with pytest.raises(UserError, match=named):
            strips(rows.assign(samples=str(path)), agents, LIMITS)


def test_a_football_strip_ends_where_the_episode_ended(root):
    """The replay of the recorded moves earns what the record says."""
    path = root / "results/x/mgt_sokoban/0/eval/micro_football/samples.jsonl"
    for row in read_samples(path):
        frames = football.replay(row, seed=0)
        assert len(frames) == row.turns + 1
        assert frames[0].frames_left - frames[-1].frames_left == row.frames
