"""Contract: Sokoban and football are benchmarks like any other: records, resumption, level files, errors with a fix."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from evals.agents import baselines, level_sets
from evals.agents.football_levels import own_levels
from evals.agents.harness import PlayJob
from evals.agents.level_sets import MINI, OWN_SOKOBAN
from evals.agents.sokoban_levels import LevelSpec, generate, idle_score, levels_text, published_mini, score
from evals.generation import EvalModel
from evals.plan import Options, plan
from evals.records import read_records
from evals.registry import find, registry
from evals.run import evaluate, main, run_jobs
from evals.samples import GameRow, read_samples
from lmmr1.types import Rollout, UserError

TINY = LevelSpec(name="tiny", height=5, width=5, boxes=1, max_moves=12)
BOXOBAN = Path(os.environ.get("LMMR1_DATA", "../shared/data")) / "boxoban" / "unfiltered_test_000.txt"


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Path:
    """A folder with a micro benchmark's levels."""
    folder = tmp_path_factory.mktemp("bench")
    (folder / "micro_sokoban.txt").write_text(levels_text(generate(TINY, 12, seed=4)))
    return folder


def options(**changes) -> Options:
    return Options.of(**{"batch_size": 8, **changes})


def rows_of(folder: Path) -> list[GameRow]:
    return list(read_samples(folder / "samples.jsonl"))


def agent_names() -> list[str]:
    return [name for name, benchmark in registry().items() if benchmark.harness == "agents"]


# ------------------------------------------------------------------------------------------------------------- records


def test_a_real_model_is_evaluated_on_both_games_and_the_record_says_how(tiny_model, bench, tmp_path):
    names = ["micro_sokoban", "micro_football"]
    used = options(benchmark_dir=bench, limit=3, max_new_tokens=4)
    records = evaluate(str(tiny_model), names, tmp_path, used)
    heads = [r for r in records if r.subset == "all"]
    assert [(r.benchmark, r.metric, r.n) for r in heads] == [(b, m, 3) for b in names for m in ("score", "accuracy")]
    for r in heads:
        rows = rows_of(tmp_path / r.benchmark)
        unit = 100 if r.metric == "score" else 1
        assert r.value == pytest.approx(sum(row.value(r.metric) for row in rows) / len(rows) / unit)
        assert (r.protocol.harness, r.protocol.task, r.protocol.aggregation) == ("agents", r.benchmark, "reward")
        assert (r.protocol.batch_size, r.protocol.prompt, r.protocol.decoding["max_new_tokens"]) == (8, "brief", 4)
    sokoban, football = heads[0].protocol.decoding, heads[2].protocol.decoding
    assert (sokoban["environment"], sokoban["levels"]) == ("sokoban", "micro_sokoban.txt")
    assert (football["environment"], football["levels"]) == ("field", "own: 10 levels, seed 0")
    assert not list(tmp_path.glob(".*")) and not list(tmp_path.rglob("*.png"))
    before = (tmp_path / "micro_football/record.json").stat().st_mtime_ns
    assert evaluate(str(tiny_model), names, tmp_path, used) == records
    assert (tmp_path / "micro_football/record.json").stat().st_mtime_ns == before


def test_what_is_played_on_one_pitch_never_has_the_name_of_the_other():
    played = {name: find(name).play["simulator"] for name in agent_names() if find(name).dataset == "football"}
    assert played == {"micro_football": "field", "football_online": "gfootball", "football_field": "field"}


def test_all_players_have_one_protocol_but_for_the_model(bench, tmp_path):
    """Otherwise their scores could not stand in one table: what is asked later depends on what was answered."""
    hashes = set()
    for move in ("<answer>right</answer>", "<answer>left</answer>"):
        engine = Fixed(move)
        model = EvalModel(engine, lambda s: json.dumps(s.messages), "stub", "float32", None, None)
        jobs = plan(["micro_football"], tmp_path, options(limit=2))
        records = run_jobs(lambda model=model: model, jobs, tmp_path / move[8:12], options(), "k")
        hashes.add(records[0].protocol.hash)
        rows = rows_of(tmp_path / move[8:12] / "micro_football")
        assert len({row.prompts_sha256 for row in rows}) > 1
    assert len(hashes) == 1


class Fixed:
    """Says the same whatever it is asked."""

    def __init__(self, text: str) -> None:
        self.text = text

    def generate(self, samples, sampling, num_generations, seed):
        return [(Rollout(s.id, (1,), (0.0,), self.text, "stop"),) * num_generations for s in samples]


# ---------------------------------------------------------------------------------------------------------- resumption


class SlowEngine:
    """Answers by picture, seed and place in the batch, a little later; every call is written to a file first."""

    def __init__(self, asked: Path) -> None:
        self.asked = asked

    def generate(self, samples, sampling, num_generations, seed):
        with self.asked.open("a") as file:
            file.write(f"{seed} {[s.id for s in samples]}\n")
        time.sleep(0.02)
        words = ("up", "down", "left", "right")
        return [
            tuple(Rollout(s.id, (1,), (0.0,), f"{words[(sum(map(ord, s.id)) + i * k + seed[1]) % 4]}", "stop") for k in range(num_generations))
            for i, s in enumerate(samples)
        ]  # fmt: skip


def play_slowly(bench: Path, name: str, out: Path, asked: Path) -> None:
    model = EvalModel(SlowEngine(asked), lambda s: json.dumps(s.messages), "stub/cpu", "float32", None, None)
    (job,) = plan([name], out, options(benchmark_dir=bench, limit=6))
    cfg = job.cfg.model_copy(update={"temperature": 0.7, "repeats": 3})
    sampled = PlayJob(job.benchmark, job.levels, cfg, job.settings)
    run_jobs(lambda: model, [sampled], out, options(), "k1")


def killed(bench: Path, name: str, out: Path, asked: Path, calls: int) -> None:
    """Play in a child process that is killed once it has asked so many batches more."""
    target = len(calls_of(asked)) + calls
    if (child := os.fork()) == 0:
        try:
            play_slowly(bench, name, out, asked)
        finally:
            os._exit(0)
    while len(calls_of(asked)) < target and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def calls_of(asked: Path) -> list[str]:
    return asked.read_text().splitlines() if asked.exists() else []


@pytest.mark.parametrize("name", ["micro_sokoban", "micro_football"])
def test_killed_play_goes_on_and_generates_no_episode_twice(bench, tmp_path, name):
    """Drawn answers, which depend on their batch: what was kept is taken up, and the files are the same to the byte."""
    play_slowly(bench, name, tmp_path / "whole", tmp_path / "calls")
    asked = tmp_path / "asked"
    for calls in (2, 1, 3):
        killed(bench, name, tmp_path / "out", asked, calls)
    play_slowly(bench, name, tmp_path / "out", asked)
    whole, again = calls_of(tmp_path / "calls"), calls_of(asked)
    assert sorted(set(again)) == sorted(set(whole)) and len(whole) == len(set(whole))
    assert len(again) <= len(whole) + 3  # the batch that each kill cut off, and no other
    for file in ("record.json", "samples.jsonl"):
        assert (tmp_path / "whole" / name / file).read_bytes() == (tmp_path / "out" / name / file).read_bytes()
    assert not list((tmp_path / "out").glob(".*"))


# --------------------------------------------------------------------------------------------------------- level files


def levels_of(name: str, root: Path, **changes):
    (job,) = plan([name], root, options(data_root=root, **changes))
    return job


def test_levels_come_from_a_file_a_folder_or_are_our_own(tmp_path):
    tasks = generate(TINY, 5, seed=1)
    folder = tmp_path / "root/sokoban_global"
    folder.mkdir(parents=True)
    for name, part in (("b", tasks[:2]), ("a", tasks[2:])):
        (folder / f"{name}.txt").write_text(levels_text(part))
    job = levels_of("sokoban_global", tmp_path / "root")
    assert [t.id for t in job.levels.tasks] == [f"a/{t.id}" for t in tasks[2:]] + [f"b/{t.id}" for t in tasks[:2]]
    assert job.settings["decoding"]["levels"] == "sokoban_global"
    assert levels_of("sokoban_global", tmp_path / "root", limit=4).n == 4
    (own,) = plan(["sokoban_global"], tmp_path, options())
    assert (own.n, own.settings["decoding"]["levels"]) == (20, f"own: {OWN_SOKOBAN.name}")
    assert own.settings["data_sha256"] != job.settings["data_sha256"]


def test_json_levels_keep_a_published_upper_reward_and_get_ours_else(tmp_path):
    task = generate(TINY, 1, seed=2)[0]
    rows = [
        {"id": "a", "level": task.level.text()},
        {"id": "b", "level": task.level.text().split("\n"), "upper_reward": 9.9, "category": "given"},
    ]
    (tmp_path / "sokoban_global.json").write_text(json.dumps(rows))
    job = levels_of("sokoban_global", tmp_path)
    assert [(t.id, t.upper_reward, t.category) for t in job.levels.tasks] == [
        ("a", task.upper_reward, "5x5-1"),
        ("b", 9.9, "given"),
    ]


def test_only_the_published_set_is_called_by_its_name(tmp_path):
    level = generate(TINY, 1, seed=2)[0].level.text()
    rows = [{"id": name, "level": level, "upper_reward": upper} for name, upper in published_mini().items()]
    for rewards, name in ((rows, MINI), ([*rows[1:], rows[0] | {"upper_reward": 1.0}], "sokoban_global.jsonl")):
        (tmp_path / "sokoban_global.jsonl").write_text("\n".join(map(json.dumps, rewards)))
        assert levels_of("sokoban_global", tmp_path).settings["decoding"]["levels"] == name


def test_football_levels_come_from_json_and_from_level_files(tmp_path, monkeypatch):
    monkeypatch.setattr(level_sets.football_levels, "own_levels", None)  # not asked
    scenario = own_levels(1)[0].level
    (tmp_path / "football_online.json").write_text(json.dumps([{"id": "x", "level": json.loads(scenario.text())}]))
    found = level_sets.football_set(find("football_online"), 20, tmp_path, None)
    assert [(t.id, t.level) for t in found.tasks] == [("x", scenario)]
    folder = tmp_path / "football_online"
    folder.mkdir()
    (folder / "R1_P_1.py").write_text("def build_scenario(builder):\n    raise SystemExit\n")
    found = level_sets.football_set(find("football_online"), 20, tmp_path, None)
    assert [(t.id, t.category) for t in found.tasks] == [("R1_P_1", "R1_P")]


@pytest.mark.skipif(not BOXOBAN.is_file(), reason="no LMMR1_DATA/boxoban")
def test_boxoban_is_pinned_and_the_record_says_so(tmp_path):
    job = levels_of("sokoban_global", BOXOBAN.parents[1], limit=2)
    assert job.settings["data_pin"].startswith("sha256 ")
    assert (job.n, job.settings["decoding"]["levels"]) == (2, "boxoban/unfiltered_test_000.txt")
    copy = tmp_path / "boxoban/unfiltered_test_000.txt"
    copy.parent.mkdir()
    copy.write_text(levels_text(generate(TINY, 2, seed=2)))
    with pytest.raises(UserError, match="not the pinned data"):
        levels_of("sokoban_global", tmp_path)
    assert levels_of("sokoban_global", tmp_path, any_data=True).settings["data_pin"] == "other data"


# -------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("name", "files", "changes", "message"),
    [
        ("sokoban_global", {}, {}, "no levels of sokoban_global; put them into sokoban_global/"),
        ("football_online", {}, {}, "no levels of football_online; put them into football_online/"),
        ("micro_sokoban", {}, {}, "say where it lies with --benchmark-dir"),
        ("sokoban_global", {}, {"prompt": "cot"}, "--prompt cot: sokoban_global knows tags, sections, brief"),
        ("sokoban_global", {"sokoban_global.txt": "; a\n#####\n#@$ #\n#####\n"}, {}, "1 boxes and 0 targets"),
        ("sokoban_global", {"sokoban_global.txt": "; a\n#####\n#$@.#\n#####\n"}, {}, "it has no solution; remove the level"),
        ("sokoban_global", {"sokoban_global.json": "{"}, {}, "not JSON"),
        ("sokoban_global", {"sokoban_global.json": "[]"}, {}, "no levels in it"),
        ("sokoban_global", {"sokoban_global.json": '[{"id": "a"}]'}, {}, "level 1: `level` must be a text"),
        ("sokoban_global", {"sokoban_global.json": '[{"id": 1, "level": ""}]'}, {}, "whose `id` is a text of its own"),
        ("sokoban_global", {"sokoban_global.json": '[{"id": "a", "level": "#@$.#", "upper_reward": "9"}]'}, {}, "`upper_reward` must be a number"),
        ("football_online", {"football_online.json": '[{"id": "a", "level": {"ball": [0, 0]}}]'}, {}, "`level`, left: Field required"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_before_a_model_is_loaded(tmp_path, name, files, changes, message):
    for file, text in files.items():
        (tmp_path / file).write_text(text)
    with pytest.raises(UserError, match=message.replace("[", r"\[").replace("(", r"\(")):
        plan([name], tmp_path, options(data_root=tmp_path, **changes))


def test_a_missing_simulator_is_exit_code_2_with_the_fix(tiny_model, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LMMR1_FOOTBALL", str(tmp_path / "nowhere"))
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps({"weights": str(tiny_model), "key": "k"}))
    arguments = ["--harness", "agents", "--manifest", str(manifest), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--benchmarks", "football_online"]) == 2
    assert (
        "Google Research Football is not built; run `make football`, or set LMMR1_FOOTBALL" in capsys.readouterr().err
    )
    assert main([*arguments, "--benchmarks", "math500"]) == 2
    assert "runs on lm_eval, not on agents" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------- scripted players


def test_idle_and_expert_play_from_the_command_line(bench, tmp_path, capsys):
    tasks = generate(TINY, 12, seed=4)
    common = ["--benchmarks", "micro_sokoban", "micro_football", "--benchmark-dir", str(bench), "--limit", "6"]
    found = {}
    for name in baselines.PLAYERS:
        assert baselines.main(["--player", name, *common, "--out", str(tmp_path / name)]) == 0
        for benchmark in ("micro_sokoban", "micro_football"):
            found[name, benchmark] = read_records(tmp_path / name / benchmark / "record.json")[0].value * 100
    assert found["idle", "micro_sokoban"] == pytest.approx(idle_score(t.upper_reward for t in tasks[:6]))
    assert found["expert", "micro_sokoban"] == pytest.approx(100)
    assert found["idle", "micro_sokoban"] < found["chance", "micro_sokoban"] < 100
    assert found["expert", "micro_football"] > found["idle", "micro_football"]
    assert "expert micro_sokoban: accuracy 100.00 +- 0.00 (n=6)" in capsys.readouterr().out
    assert baselines.main(["--player", "idle", "--benchmarks", "micro_chain", "--out", str(tmp_path)]) == 2


def test_the_published_idle_scores_are_printed(capsys):
    assert baselines.main(["--published"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "idle on the mini set of MageBench (20 levels): 41.175",
        "idle on all levels of MageBench (182 levels): 45.602",
    ]
    assert baselines.main(["--player", "idle"]) == 2


def test_an_expert_scores_100_on_our_own_levels(tmp_path):
    (line, _) = baselines.play("expert", ["sokoban_global"], tmp_path, options())
    assert line == "expert sokoban_global: score 100.00 +- 0.00 (n=20)"
    rows = rows_of(tmp_path / "sokoban_global")
    assert len(rows) == 60 and {row.repeat for row in rows} == {0, 1, 2}
    assert all(row.score == score(row.best_reward, row.upper_reward) for row in rows)
