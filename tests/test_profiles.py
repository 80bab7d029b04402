"""Contract: the profiles of the real scale plan every arm of the paper's tables, with what each job asks for; nothing
is replaced, left out or started in silence."""

import json
import os
import re
import shlex
import subprocess
import sys
from types import SimpleNamespace

import pytest
import yaml

from lmmr1.config import TrainConfig
from lmmr1.types import UserError
from reports.paper_tables import not_measured
from reproduce import cli, doctor, gpu
from reproduce.plan import ROOT, Plan, load_arms
from reproduce.profiles import FOLDERS, read_extended
from reproduce.published import registry
from reproduce.recipes_cli import differences
from tests.test_bad_input import run

PAPER_SCALE = ("paper", "single_gpu", "single_gpu_24gb", "cluster")
KIND = {"prompts": "prompts", "checkpoint": "checkpoint", "train": "train"}
KIND |= dict.fromkeys(
    ("evaluate", "evaluate_arm", "evaluate_adopted", "evaluate_round", "evaluate_round_adopted"), "evaluate"
)
KIND["play_scripted"] = "benchmark"
LOCAL = {"resolve_config", "adopt", "reproduce_all", "profile"}
REPORT = {
    "scores": None,
    "table1": 1,
    "plot_arms": 1,
    "plot_curves": 1,
    "paper_tables": 1,
    "plot_evidence": 1,
    "page": 1,
}


def dry_run(*args):
    command = [sys.executable, "-m", "snakemake", "-n", "--cores", "128", *args]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def jobs_of(text):
    """[(rule, {resource: value})] of a dry run; the jobs of a group, a judge and its evaluation, stand indented."""
    text = re.sub(r"^    (?=(?:rule|localrule) \w+:|    )", "", text, flags=re.MULTILINE)
    blocks = re.findall(r"^(?:rule|localrule) (\w+):\n((?:    .*\n)*)", text, re.MULTILINE)
    found = []
    for rule, body in blocks:
        listed = re.search(r"^    resources: (.*)$", body, re.MULTILINE)
        threads = re.search(r"^    threads: (\d+)$", body, re.MULTILINE)
        pairs = dict(pair.split("=", 1) for pair in listed.group(1).split(", ")) if listed else {}
        found.append(
            (
                rule,
                {k: v for k, v in pairs.items() if k != "tmpdir"} | {"threads": threads.group(1) if threads else "1"},
            )
        )
    return found


JUDGE_ELSEWHERE = {"judge": {"url": "http://judge:8000/v1"}}


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["paper", "single_gpu", "cluster"])
def test_a_dry_run_shows_every_job_with_its_resources(profile):
    executor = ("--profile", "executors/slurm") if profile == "cluster" else ("--config", f"profile={profile}")
    given = [f"eval={json.dumps(JUDGE_ELSEWHERE)}"] if profile == "cluster" else []
    done = dry_run(*executor, "--config", f"profile={profile}", f"name=dry_{profile}", *given)
    assert done.returncode == 0, done.stderr[-2000:]
    plan, jobs = Plan.load({"profile": profile}), jobs_of(done.stdout)
    counts = {rule: sum(r == rule for r, _ in jobs) for rule, _ in jobs}
    runs = sum(len(plan.seeds_of(a)) for a in plan.arms)
    evaluations = {
        "paper": {
            "evaluate_arm": 7,
            "evaluate_adopted": 2,
            "evaluate_round": 7,
            "evaluate_round_adopted": 2,
            "judge": 9,
        },
        "single_gpu": {"evaluate_arm": 7, "evaluate_adopted": 2},
        "cluster": {
            "evaluate": runs * len(plan.benchmarks),
            "evaluate_round": 7,
            "evaluate_round_adopted": 2,
            "protocols": 1,
        },
    }[profile]
    wanted = evaluations | {
        "train": len(plan.trained) * len(plan.seeds),
        "prompts": len(plan.used_stages),
        "checkpoint": len(plan.adopted),
        "adopt": len(plan.adopted),
        "scores": len(plan.arms),
        "page": 1,
        "reproduce_all": 1,
    }
    assert wanted.items() <= counts.items()
    assert len(plan.trained) == 7 and len(plan.benchmarks) >= 7
    for rule, asked in jobs:
        if rule in LOCAL:
            continue
        if rule == "judge":  # beside its evaluation, whose memory and time are those of both
            assert (asked["gpu"], asked["threads"]) == ("1", "0")
            continue
        kind = KIND.get(rule, "report")
        of = getattr(plan.profile.resources, kind)
        values = {"gpu": of.gpus, "mem_mb": of.mem_mb, "runtime": of.runtime, "threads": of.threads}
        assert {k: int(asked[k]) for k in values} == values, rule


def test_training_asks_for_the_gpus_of_the_profile():
    asked = {p: Plan.load({"profile": p}).resources("train")["gpu"] for p in PAPER_SCALE}
    assert asked == {"paper": 8, "single_gpu": 1, "single_gpu_24gb": 1, "cluster": 8}
    assert Plan.load({"profile": "micro"}).resources("train")["gpu"] == 0


def test_a_partition_and_an_account_are_the_users_to_give():
    plan = Plan.load({"profile": "cluster"})
    assert "slurm_partition" not in plan.resources("train")
    given = Plan.load(
        {"profile": "cluster", "resources": {"train": {"slurm_partition": "a100", "slurm_account": "me"}}}
    )
    assert given.resources("train") == plan.resources("train") | {"slurm_partition": "a100", "slurm_account": "me"}
    assert "slurm_partition" not in given.resources("evaluate")


def test_a_profile_that_extends_another_is_its_diff():
    paper, single = (read_extended(ROOT, "profile", name) for name in ("paper", "single_gpu"))
    own = yaml.safe_load((ROOT / "config/profiles/single_gpu.yaml").read_text())
    assert set(own) - {"extends"} == {k for k in single if single[k] != paper.get(k)}
    fits = {"vllm": {"gpu_memory_utilization": 0.25}, "tokens_per_micro_batch": 8192}
    assert single["train"] == paper["train"] | {"freeze_vision": True} | fits
    small = Plan.load({"profile": "single_gpu_24gb"}).train_config("fre", 0)
    assert small["lora"] and small["freeze_vision"] and small["engine"] == "vllm" and small["num_prompts"] == 256


@pytest.mark.parametrize("kind", FOLDERS)
@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"a": "extends: b", "b": "extends: a"}, ["a -> b -> a", "cycle"]),
        ({"a": "extends: papre", "paper": "world: paper"}, ["a.yaml, key extends", "'papre'", "did you mean paper"]),
        ({"a": "[1]"}, ["a.yaml", "key: value"]),
    ],
)
def test_a_bad_chain_of_files_is_named(kind, files, words, tmp_path):
    folder = tmp_path / FOLDERS[kind]
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        read_extended(tmp_path, kind, "a")
    assert all(word in str(error.value) for word in [FOLDERS[kind], *words]), str(error.value)


# -------------------------------------------------------------------------------------------- arms


def test_every_row_of_the_papers_tables_about_this_model_has_an_arm():
    rows = {row for name in ("table1", "table2", "table3") for row in registry().tables[name].rows}
    others = {"idle", "human", "claude_3_5_sonnet", "gemini_1_5_pro", "gpt_4o"}
    plan = Plan.load({"profile": "paper"})
    assert rows - others == {plan.arms[a].paper_row for a in plan.arms if plan.arms[a].paper_row}
    assert {a: row for a, row in registry().arms.items() if a in plan.arms} == {
        a: arm.paper_row for a, arm in plan.arms.items() if arm.paper_row
    }


def test_the_arms_start_where_the_paper_says():
    plan = Plan.load({"profile": "paper"})
    starts = {arm.paper_row: plan.arms[arm.parent].paper_row for arm in plan.arms.values() if arm.stage}
    assert starts == {
        "fre_text": "qwen",
        "fre_multi": "qwen",
        "direct_rl_geo": "qwen",
        "mgt_geo": "fre_text",
        "mgt_percereason": "fre_text",
        "direct_rl_sokoban": "qwen",
        "mgt_sokoban": "fre_text",
    }


def test_an_arm_can_be_asked_for_by_its_row():
    plan = Plan.load({"profile": "paper", "arms": ["mgt_geo", "mgt_percereason"]})
    assert list(plan.arms) == ["baseline", "fre", "two_stage", "mgt_percereason"]


def test_released_is_the_authors_checkpoint():
    plan = Plan.load({"profile": "paper"})
    assert json.loads(plan.base_spec("released")) == {"adopt": "VLM-Reasoner/LMM-R1-MGT-PerceReason"}
    with pytest.raises(UserError, match="released_model"):
        Plan.load({"profile": "micro", "arms": ["released"]}).base_spec("released")


# -------------------------------------------------------------------------------------------- recipes


def test_controlled_trains_all_arms_alike():
    plan = Plan.load({"profile": "paper"})
    configs = [plan.train_config(a, 0) for a in plan.trained]
    assert [c["reward"].pop("kind") for c in configs].count("sokoban") == 2
    assert all(c == configs[0] for c in configs)
    cfg = TrainConfig(
        **plan.train_config("fre", 0)
    )  # what all arms have, said once more (reproduce/recipes/controlled.yaml)
    assert (cfg.num_prompts, cfg.num_generations, cfg.num_minibatches, cfg.max_steps) == (256, 16, 16, 130)
    assert (cfg.learning_rate, cfg.lr_scheduler_type, cfg.warmup_steps, cfg.loss.beta) == (1e-6, "cosine", 4, 1e-3)
    assert cfg.loss.importance_sampling_cap == 2.0  # no recipe sets it: what vLLM's samples weigh at most, as TRL's


PROMPTS = {"fre": 40_315, "fre_multi": 65_118, "mgt_only": 16_810, "two_stage": 16_810, "mgt_percereason": 65_118}
PROMPTS |= {"random_reward": 40_315} | dict.fromkeys(("direct_rl_sokoban", "mgt_sokoban"), 11_500)
NO_CRITIC, CRITIC, SOKOBAN_CRITIC = ("reinforce_baseline", None), ("gae", 9e-6), ("gae", 5e-6)
# estimator and the critic's learning rate, batch, episodes, new tokens, learning rate, KL coefficient
SCRIPTS = {
    "fre": (*NO_CRITIC, 256, 2, 4096, 4e-7, 1e-3),
    "random_reward": (*NO_CRITIC, 256, 2, 4096, 4e-7, 1e-3),
    "fre_multi": (*NO_CRITIC, 256, 2, 4096, 1e-6, 1e-3),
    "mgt_only": (*CRITIC, 256, 2, 4096, 1e-6, 1e-3),
    "two_stage": (*CRITIC, 256, 2, 4096, 1e-6, 1e-3),
    "mgt_percereason": (*NO_CRITIC, 256, 2, 8192, 4e-7, 1e-3),
    "direct_rl_sokoban": (*SOKOBAN_CRITIC, 128, 4, 8196, 1e-6, 0),
    "mgt_sokoban": (*SOKOBAN_CRITIC, 128, 4, 8196, 1e-6, 0),
}
TABLE_A7 = {
    "fre": (*CRITIC, 128, 1, 8192, 1e-6, 1e-3),
    "random_reward": (*CRITIC, 128, 1, 8192, 1e-6, 1e-3),
    "fre_multi": (*CRITIC, 256, 2, 8192, 1e-6, 1e-3),
    "mgt_only": (*CRITIC, 256, 2, 8192, 4e-7, 1e-3),
    "two_stage": (*CRITIC, 256, 2, 8192, 4e-7, 1e-3),
    "mgt_percereason": (*NO_CRITIC, 256, 2, 8192, 4e-7, 1e-3),
    "direct_rl_sokoban": (*SOKOBAN_CRITIC, 128, 4, 8192, 1e-6, 0),
    "mgt_sokoban": (*SOKOBAN_CRITIC, 128, 4, 8192, 1e-6, 0),
}


def authors_arms(recipe):
    """{arm: its settings} of all that the recipe trains."""
    plan = Plan.load({"profile": "paper", "recipe": recipe, "arms": list(PROMPTS)})
    assert set(plan.trained) == set(PROMPTS)
    return {a: TrainConfig(**plan.train_config(a, 0)) for a in plan.trained}


@pytest.mark.parametrize(("recipe", "said"), [("as_released", SCRIPTS), ("as_printed", TABLE_A7)])
def test_an_authors_recipe_says_what_they_say_of_each_arm(recipe, said):
    """Read from the scripts and from Table A7; docs/deviations.md has both beside each other."""
    for arm, cfg in authors_arms(recipe).items():
        estimator, critic, batch, episodes, tokens, rate, beta = said[arm]
        assert (cfg.advantage, cfg.num_prompts) == (estimator, batch), arm
        assert critic in (None, cfg.critic.learning_rate), arm
        assert (cfg.sampling.max_completion_length, cfg.learning_rate, cfg.loss.beta) == (tokens, rate, beta), arm
        assert cfg.max_steps == PROMPTS[arm] // batch * episodes, arm
        assert cfg.freeze_vision == ("sokoban" in arm) and cfg.loss.kl_in_reward == (beta > 0), arm
    lengths = {a: c.reward.sokoban.length_terms for a, c in authors_arms(recipe).items()}
    assert {a for a, paid in lengths.items() if paid} == (
        {"direct_rl_sokoban", "mgt_sokoban"} if recipe == "as_released" else set()
    )


@pytest.mark.parametrize("recipe", ["as_released", "as_printed"])
def test_an_authors_recipe_has_the_scripts_defaults_in_every_arm(recipe):
    for cfg in authors_arms(recipe).values():
        samples = cfg.num_prompts * cfg.num_generations
        assert cfg.num_generations == 16 and samples // cfg.optimizer_steps == cfg.num_prompts
        assert cfg.lr_per_optimizer_step and cfg.lr_scheduler_type == "cosine"
        assert cfg.warmup_steps == round(0.03 * cfg.max_steps)
        assert (cfg.adam_beta1, cfg.adam_beta2, cfg.weight_decay, cfg.max_grad_norm) == (0.9, 0.95, 0, 1)
        assert (cfg.critic.gamma, cfg.critic.lam, cfg.critic.cliprange_value, cfg.loss.epsilon) == (1, 1, 0.2, 0.2)
        assert (cfg.loss.loss_type, cfg.loss.kl_estimator, cfg.sampling.temperature) == ("seq_mean", "k1", 1)
        assert (cfg.min_pixels, cfg.max_pixels, cfg.sampling.max_prompt_length) == (3136, 501_760, 4096)
        assert (cfg.reward.compat, cfg.reward.accuracy_weight, cfg.reward.format_weight) == ("released", 1, 0.5)


def test_as_printed_differs_where_the_table_does_and_nowhere_else():
    plans = [Plan.load({"profile": "paper", "recipe": r, "arms": list(PROMPTS)}) for r in ("as_released", "as_printed")]
    assert [p.name for p in plans] == ["paper_as_released", "paper_as_printed"]  # neither overwrites the controlled run
    tokens, fre = "sampling.max_completion_length", {"advantage", "num_prompts", "learning_rate"}
    geo, games = {"learning_rate", tokens}, {tokens, "reward.sokoban.length_terms"}
    assert {arm: {row[0] for row in differences(arm, *plans)} for arm in PROMPTS} == {
        "fre": fre | {tokens}, "random_reward": fre | {tokens}, "fre_multi": {"advantage", tokens},
        "mgt_only": geo, "two_stage": geo, "mgt_percereason": set(), "direct_rl_sokoban": games, "mgt_sokoban": games,
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["as_released", "as_printed"])
def test_a_dry_run_of_an_authors_recipe_trains_every_arm(recipe):
    done = dry_run("--config", "profile=paper", f"recipe={recipe}", f"name=dry_{recipe}")
    assert done.returncode == 0, done.stderr[-2000:]
    trained = Plan.load({"profile": "paper", "recipe": recipe}).trained
    assert sum(rule == "train" for rule, _ in jobs_of(done.stdout)) == len(trained) == 7


def test_a_recipe_is_for_the_real_scale_and_must_know_the_arm():
    with pytest.raises(UserError, match="key recipe: controlled is for the 3B model"):
        Plan.load({"profile": "micro", "recipe": "controlled"})
    with pytest.raises(UserError, match="unknown recipe 'controled'.*did you mean controlled"):
        Plan.load({"profile": "paper", "recipe": "controled"})
    plan = Plan.load({"profile": "paper", "recipe": "as_released", "arms": ["fre"]})
    with pytest.raises(UserError, match="says nothing about arm candidate"):
        plan.recipe.settings("as_released", "candidate")


def test_the_machines_settings_and_the_command_line_win_over_a_recipe():
    plan = Plan.load({"profile": "single_gpu_24gb", "train": {"learning_rate": 1e-5}})
    got = plan.train_config("fre", 0)
    assert (got["learning_rate"], got["sampling"]["max_completion_length"]) == (1e-5, 2048)


def test_the_difference_of_two_recipes_is_complete():
    plans = [Plan.load({"profile": "paper", "recipe": r}) for r in ("controlled", "as_released")]
    for arm in plans[0].trained:
        rows = {row[0]: row[1:] for row in differences(arm, *plans)}
        assert rows["advantage"] == ("group_norm", SCRIPTS[arm][0])
        assert {"loss.loss_type", "lr_per_optimizer_step"} <= rows.keys()
        assert ("loss.kl_in_reward" in rows) == ("sokoban" not in arm)


def test_the_command_prints_the_difference_of_any_two_recipes(monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, cli.cli, "recipes", "--left", "as_released", "--right", "as_printed")
    assert code == 0 and re.search(r"fre_multi +advantage +reinforce_baseline +gae", out)
    assert "mgt_percereason" not in out  # the two agree on it
    code, _, err = run(monkeypatch, capsys, cli.cli, "recipes", "--right", "as_printd")
    assert code == 2 and "did you mean as_printed" in err


# -------------------------------------------------------------------------------------------- with a critic


CRITICS = {"fre": "fre_gae", "mgt_only": "mgt_only_gae", "two_stage": "two_stage_gae"}


def test_the_micro_arms_with_a_critic_differ_in_the_estimator_alone():
    plan = Plan.load({"profile": "micro", "arms": ["baseline", *CRITICS, *CRITICS.values()]})
    for arm, twin in CRITICS.items():
        plain, critic = (TrainConfig(**plan.train_config(a, 0)) for a in (arm, twin))
        assert critic.advantage == "gae" and critic.critic.learning_rate == pytest.approx(10 * critic.learning_rate)
        same = {"advantage": plain.advantage, "critic": plain.critic}
        assert critic.model_copy(update=same) == plain
        assert plan.prompts_spec(plan.arms[arm].stage) == plan.prompts_spec(plan.arms[twin].stage)
    assert plan.arms["two_stage_gae"].parent == "fre_gae"
    for profile in ("micro", "smoke", *PAPER_SCALE):
        assert not set(CRITICS.values()) & set(Plan.load({"profile": profile}).arms)


def test_at_the_real_scale_a_recipe_says_which_arms_have_a_critic():
    with pytest.raises(UserError, match="stage fre_gae: no data for world paper"):
        Plan.load({"profile": "paper", "arms": ["fre_gae"]})


@pytest.mark.slow
def test_a_dry_run_trains_both_estimators_side_by_side():
    arms = ",".join(["baseline", *CRITICS, *CRITICS.values()])
    done = dry_run("--config", "profile=micro", "name=dry_critic", f"arms=[{arms}]")
    assert done.returncode == 0, done.stderr[-2000:]
    assert sum(rule == "train" for rule, _ in jobs_of(done.stdout)) == 6 * 5


# -------------------------------------------------------------------------------------------- doctor, guard


@pytest.fixture
def bare(monkeypatch):
    """A machine without GPU and network, and with an empty cache."""
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(doctor, "try_to_load_from_cache", lambda *args, **kwargs: None)
    monkeypatch.setenv("PATH", "")


def test_doctor_says_what_is_missing_for_the_paper_with_each_fix(bare, monkeypatch, capsys):
    code, _, err = run(monkeypatch, capsys, cli.cli, "doctor", "--profile", "paper")
    assert code == 2 and "cannot run profile paper" in err
    missing = {f.what: f for f in doctor.examine(Plan.load({"profile": "paper"})) if f.state == "missing"}
    wanted = {
        "GPU",
        "Qwen/Qwen2.5-VL-3B-Instruct",
        "VLM-Reasoner/LMM-R1-MGT-PerceReason",
        "data of stage fre",
        "data of stage multi",
    }
    assert wanted <= missing.keys()
    assert all(f.fix for f in missing.values())
    assert "8 x CUDA GPU of 80 GB" in missing["GPU"].fix and "hf download" in missing["data of stage fre"].fix


@pytest.mark.parametrize(("what", "amount"), [("memory", "memory_gb"), ("free disk", "disk_gb")])
def test_memory_and_disk_are_compared_with_the_profile(bare, what, amount):
    state = {
        n: {f.what: f.state for f in doctor.examine(Plan.load({"profile": "single_gpu", "machine": {amount: n}}))}[what]
        for n in (1, 10**9)
    }
    assert state == {1: "ok", 10**9: "missing"}


def test_doctor_of_the_cluster_looks_for_slurm_and_not_for_gpus(bare):
    found = {f.what: f.state for f in doctor.examine(Plan.load({"profile": "cluster"}))}
    assert found["sbatch"] == "missing" and found["GPU"] == "note"


def test_a_gpu_that_is_too_small_or_alone_is_not_enough(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i=0: "card")
    for gigabytes, states in ((80, ["missing", "ok", "ok"]), (24, ["missing", "missing", "ok"])):
        monkeypatch.setattr(
            torch.cuda, "get_device_properties", lambda i, g=gigabytes: SimpleNamespace(total_memory=g * 1e9 * 0.97)
        )
        machines = [Plan.load({"profile": p}).profile.machine for p in ("paper", "single_gpu", "single_gpu_24gb")]
        assert [doctor._gpu(m).state for m in machines] == states


def test_engines_are_needed_where_the_plan_uses_them(monkeypatch):
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    of = lambda profile: {f.what: f.state for f in doctor._engines(Plan.load({"profile": profile}))}
    assert of("micro")["vllm"] == of("paper")["peft"] == "note"
    assert of("paper")["vllm"] == of("single_gpu_24gb")["peft"] == "missing"
    answers = {"profile": "single_gpu", "arms": ["baseline"], "train": {"engine": "hf"}}
    states = [
        {f.what: f.state for f in doctor._engines(Plan.load(answers | {"eval": {"engine": e}}))}["vllm"]
        for e in ("hf", "vllm")
    ]
    assert states == ["note", "missing"]


def test_local_weights_and_data_need_no_network(bare, tiny_model, tmp_path):
    (tmp_path / "my.jsonl").write_text("{}")
    config = {
        "profile": "single_gpu",
        "arms": ["fre"],
        "base_model": str(tiny_model),
        "data": {"fre": {"file": str(tmp_path / "my.jsonl")}},
    }
    found = {f.what: f.state for f in doctor.examine(Plan.load(config))}
    assert found[str(tiny_model)] == found["data of stage fre"] == "ok"
    gone = {f.what: f for f in doctor.examine(Plan.load(config | {"data": {"fre": {"file": "no.jsonl"}}}))}
    assert gone["data of stage fre"].state == "missing" and "no.jsonl" in gone["data of stage fre"].found


def test_the_guard_stops_a_run_unless_it_is_forced(bare):
    with pytest.raises(UserError, match=r"GPU: none .*Nothing was started; --config force=true"):
        doctor.require(Plan.load({"profile": "paper"}))
    doctor.require(Plan.load({"profile": "paper", "force": True}))
    doctor.require(Plan.load({"profile": "micro"}))


@pytest.mark.slow
def test_a_real_run_ends_with_code_2_before_it_writes_anything():
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--config", "profile=paper", "name=guarded"]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HOME": "/nowhere",
    }
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "error: this machine cannot run profile paper" in done.stderr
    assert not (ROOT / "results/guarded").exists()


# -------------------------------------------------------------------------------------------- SLURM, GPUs


def test_the_slurm_plugin_reads_our_settings_and_submits_what_a_job_asks_for():
    pytest.importorskip("snakemake_executor_plugin_slurm", reason="pip install 'lmmr1[slurm]'")
    from snakemake.cli import get_argument_parser
    from snakemake_executor_plugin_slurm.submit_string import get_submit_command
    from snakemake_executor_plugin_slurm.utils import set_gres_string
    from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

    args = get_argument_parser(profiles=[str(ROOT / "executors/slurm")]).parse_args([])
    settings = ExecutorPluginRegistry().get_plugin("slurm").get_settings(args)
    assert args.executor == "slurm" and settings.requeue and args.retries == 3
    resources = Plan.load({"profile": "cluster"}).resources("train")
    job = SimpleNamespace(resources=SimpleNamespace(get=resources.get, **resources), threads=64, is_group=lambda: False)
    params = {
        "run_uuid": "u",
        "slurm_logfile": "l",
        "comment_str": "c",
        "account": "-A me",
        "partition": "-p gpu",
        "workdir": "w",
    }
    command = get_submit_command(job, params, settings) + set_gres_string(job)
    assert "--mem 480000" in command and " -t 1440" in command and "--requeue" in command
    assert re.search(r"(--gpus|--gres=gpu)[=:]8", command), command


def test_jobs_that_run_at_once_get_gpus_of_their_own(tmp_path):
    show = "import os, sys; print(os.environ.get('CUDA_VISIBLE_DEVICES'), flush=True); sys.stdin.readline()"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "4,7,9", "TMPDIR": str(tmp_path)}
    environment.pop("SLURM_JOB_ID", None)
    pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    start = lambda n: subprocess.Popen(
        [sys.executable, "-m", "reproduce.gpu", str(n), sys.executable, "-c", show], env=environment, **pipe
    )
    with start(2) as first:
        assert first.stdout.readline() == "4,7\n"
        with start(2) as second, start(1) as third:  # the second has to wait: one is left
            assert third.stdout.readline() == "9\n"
            first.stdin.close()
            assert second.stdout.readline() == "4,7\n"


def test_jobs_within_one_allocation_of_slurm_get_gpus_of_their_own_too(tmp_path, monkeypatch):
    """Snakemake started inside an allocation runs its jobs there: each of them would take GPU 0."""
    monkeypatch.setattr(gpu.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(gpu, "POLL_SECONDS", 0.01)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert (gpu.hold(1), gpu.hold(1), gpu.hold(0)) == (["0"], ["1"], [])
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    assert gpu.hold(2) == ["0", "1"]  # another job's GPUs 0 and 1 are others


def test_more_gpus_than_there_are_is_an_error_not_a_wait(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(UserError, match="2 GPUs are asked for, and this machine shows 1"):
        gpu.take(2, tmp_path)


def test_titles_and_rows_are_those_of_arms_yaml():
    from reports.layout import arm_title

    assert arm_title("fre_multi") == load_arms()["fre_multi"].title == "FRE-Multi"


def test_a_profile_may_differ_in_one_stage():
    plan = Plan.load({"profile": "micro", "stages": {"sokoban": {"max_steps": 7}}})
    steps = {arm: plan.train_config(arm, 0)["max_steps"] for arm in ("fre", "direct_rl_sokoban", "mgt_sokoban")}
    assert steps == {"fre": 60, "direct_rl_sokoban": 7, "mgt_sokoban": 7}
    assert plan.train_config("mgt_sokoban", 0)["reward"]["kind"] == "sokoban"
    with pytest.raises(UserError, match="key stages: unknown name 'sokobann'"):
        Plan.load({"profile": "micro", "stages": {"sokobann": {}}})


# -------------------------------------------------------------------------------------------- protocols, judge, levels


def loaded(profile="paper", **settings):
    return Plan.load({"profile": profile, "eval": settings})


def words(plan, arm, way=None):
    """{option: its values} of an arm's evaluation."""
    rounds, found = plan.evaluations, {}
    for word in rounds.arguments(way or rounds.main, arm):
        if word.startswith("--"):
            values = found.setdefault(word[2:], [])
        else:
            values.append(word)
    return found


def test_paper_is_measured_under_the_papers_protocol_first_and_then_without_a_judge():
    plan = Plan.load({"profile": "paper"})
    (rule,) = plan.evaluations.further
    first, second = words(plan, "fre"), words(plan, "fre", rule)
    assert (first["protocol"], second["protocol"]) == (["paper"], ["rule"])
    assert first["out"] == ["results/paper/fre/0/eval"] and first["engine"] == ["vllm"]
    assert second["out"] == ["results/paper/protocols/rule/fre/0/eval"]
    assert set(first["benchmarks"]) - set(second["benchmarks"]) == {"sokoban_global"}  # games are played once
    assert plan.evaluations.judged(plan.evaluations.main) == ["mathvision", "mathverse", "mmstar", "mathvista_mini"]
    assert not plan.evaluations.judged(rule)


def test_the_baseline_alone_has_the_role_of_the_baseline():
    plan = Plan.load({"profile": "paper"})
    assert {a: words(plan, a)["role"] for a in plan.arms} == {
        a: ["baseline" if a == "baseline" else "trained"] for a in plan.arms
    }
    own = loaded(arm_prompts={"released": "cot"}, prompts=["direct"])
    assert words(own, "released")["prompt"] == ["cot"] and "prompt" not in words(own, "fre")
    (style,) = own.evaluations.styles
    assert words(own, "released", style)["prompt"] == ["direct"] and words(own, "fre", style)["protocol"] == ["paper"]


def test_data_and_levels_of_ones_own_reach_what_reads_them():
    plan = loaded(data_root="/d", levels="/l", any_data=True)
    got = words(plan, "fre")
    assert (got["data-root"], got["levels"], "any-data" in got) == (["/d"], ["/l"], True)
    assert "levels" not in words(plan, "fre", plan.evaluations.further[0])
    assert plan.evaluations.play_arguments("idle")[-2:] == ["--data-root", "/l"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"protocols": ["papr"]}, ["unknown protocol 'papr'", "did you mean paper"]),
        ({"protocols": ["rule", "rule"]}, ["stands here twice"]),
        ({"arm_prompts": {"fer": "cot"}}, ["key eval.arm_prompts", "'fer'", "did you mean fre"]),
        ({"arm_prompts": {"fre": "cott"}}, ["key eval.arm_prompts", "'cott'", "did you mean cot"]),
        ({"judge": {"url": "u", "serve": {}}}, ["give `url` or `serve`, not both"]),
    ],
)
def test_bad_evaluation_settings_are_named(settings, said):
    with pytest.raises(UserError) as error:
        loaded(**settings)
    assert all(word in str(error.value) for word in said), str(error.value)


def test_a_judge_that_nobody_gives_is_refused_with_the_fix():
    with pytest.raises(UserError, match=r"key eval\.judge: protocol paper asks a judge about mathvision.*url: http"):
        loaded("cluster").check_judge()
    loaded("cluster", protocols=["rule"]).check_judge()
    loaded("cluster", **JUDGE_ELSEWHERE).check_judge()
    Plan.load({"profile": "cluster", "benchmarks": ["math500"]}).check_judge()  # text is not judged
    found = {f.what: f for f in doctor._judge(loaded("cluster"))}["judge"]
    assert found.state == "missing" and "url" in found.fix


def test_a_judge_is_served_only_where_there_is_room():
    for profile in ("paper", "single_gpu", "single_gpu_24gb"):
        Plan.load({"profile": profile}).check_judge()
    with pytest.raises(UserError, match="key eval.judge.serve: the judge's 1 and the evaluation's 1 GPUs are more"):
        loaded("single_gpu", protocols=["paper"], judge={"serve": {}}).check_judge()
    loaded("single_gpu", protocols=["paper"], judge={"serve": {"gpus": 0}}).check_judge()
    with pytest.raises(UserError, match=r"executor slurm and eval\.jobs benchmark.*start one server"):
        loaded("cluster", judge={"serve": {}}).check_judge()


def test_a_url_takes_the_place_of_the_profiles_own_judge():
    assert loaded(**JUDGE_ELSEWHERE).profile.eval.judge.serve is None
    assert loaded(judge={"serve": {"gpus": 2}}).evaluations.judge_gpus == 2
    assert loaded(**JUDGE_ELSEWHERE).evaluations.judge_gpus == 0


def test_another_judge_model_is_part_of_what_is_measured_and_its_place_is_not():
    plan = loaded(judge={"serve": {"model": "Qwen/Qwen2.5-7B-Instruct", "options": ["--seed", "1"]}})
    assert words(plan, "fre")["judge-model"] == ["Qwen/Qwen2.5-7B-Instruct"]
    assert "judge-model" not in words(plan, "fre", plan.evaluations.further[0])
    assert json.loads(plan.recorded)["eval"]["judge"] == {"serve": {"model": "Qwen/Qwen2.5-7B-Instruct"}}
    assert Plan.load(json.loads(plan.recorded)).evaluations.main.protocol == "paper"
    assert json.loads(loaded(**JUDGE_ELSEWHERE).recorded)["eval"]["judge"] is None


def test_football_is_left_out_and_said_where_its_simulator_is_not_built(tmp_path, monkeypatch):
    monkeypatch.setenv("LMMR1_FOOTBALL", str(tmp_path))
    plan = Plan.load({"profile": "paper"})
    assert set(plan.not_measured) == {"football_online"} and "make football" in plan.not_measured["football_online"]
    assert "football_online" not in plan.benchmarks and len(plan.benchmarks) == 8
    with pytest.raises(UserError, match="none can be measured.*make football"):
        Plan.load({"profile": "paper", "benchmarks": ["football_online"]})
    (tmp_path / "version").write_text("2.10.2")
    plan = Plan.load({"profile": "paper"})
    assert not plan.not_measured and "football_online" in plan.benchmarks


@pytest.mark.slow
def test_the_tables_are_told_what_is_not_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("LMMR1_FOOTBALL", str(tmp_path))
    done = dry_run("-p", "--config", "profile=paper", "name=dry_football")
    (command,) = re.findall(r"^Shell command: (.*reports\.paper_tables.*)$", done.stdout, re.MULTILINE)
    told = shlex.split(command)[shlex.split(command).index("--not-measured") + 1]
    assert not_measured([told]) == Plan.load({"profile": "paper"}).not_measured  # as the tables read it
    assert told.startswith("football_online=the football simulator is not built")
    assert "football_online is not measured" in done.stderr


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data_root": "/data/{x}"}, "holds a brace, which Snakemake takes for a wildcard"),
        ({"judge": {"url": "nope"}}, "must be of the form http://HOST:PORT/v1"),
    ],
)
def test_values_that_could_only_fail_later_are_refused_at_plan_time(changes, said):
    with pytest.raises(UserError, match=said):
        Plan.load({"profile": "paper", "eval": changes})
