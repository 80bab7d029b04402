"""Contract: every fault in mutants/list.yaml is one that the code can still have and that a named test notices.

`make mutants` tries all of them; here a quarter, always the same one.
"""

import ast
import json
import subprocess
import sys

import pytest

from lmmr1.config import Settings, TrainConfig
from lmmr1.types import UserError
from mutants import __main__ as command
from mutants.listed import Mutant, mutated, read_list
from mutants.run import Copies, require_passing
from reproduce.plan import ROOT, Plan

MUTANTS = read_list()
AT_LEAST, AT_LEAST_GPU = 80, 40


# ----------------------------------------------------------------------------------------------------------- the list


def test_the_list_is_long_enough():
    assert len(MUTANTS) >= AT_LEAST
    assert sum(mutant.gpu for mutant in MUTANTS) >= AT_LEAST_GPU


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.id)
def test_every_fault_fits_the_code_and_is_python(mutant):
    code = ast.dump(ast.parse((ROOT / mutant.file).read_text(encoding="utf-8")))
    assert ast.dump(ast.parse(mutated(mutant, ROOT))) != code, "a fault in words alone"


@pytest.mark.parametrize("file", sorted({node.partition("::")[0] for m in MUTANTS for node in m.tests}))
def test_every_test_that_is_named_exists(file):
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    named = {node for m in MUTANTS for node in m.tests if node.startswith(f"{file}::")}
    assert {node.partition("::")[2].partition("[")[0] for node in named} <= {
        node.name for node in tree.body if isinstance(node, ast.FunctionDef)
    }


def values(settings, prefix=""):
    """{(dotted name, value)} of all settings; optional groups that are there stand for themselves, too."""
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, Settings):
            yield from values(value, f"{prefix}{name}.")
        yield f"{prefix}{name}", repr(value)


def trained_with(profile, **more):
    plan = Plan.load({"profile": profile, **more})
    return {pair for arm in plan.trained for pair in values(TrainConfig(**plan.train_config(arm, 0)))}


READ_WITH = {"vllm": "engine", "vllm.sleep_level": "engine", "loss.importance_sampling_cap": "engine",
             "loss.epsilon": "num_minibatches", "loss.kl_estimator": "loss.beta"}  # fmt: skip
"""Settings that are the same everywhere, but read with another one alone."""


GROUPS = ("critic", "loss", "lora", "reward", "reward.sokoban", "sampling", "vllm")
"""Settings that are made of others, which are in the list themselves."""


@pytest.fixture(scope="module")
def on_cpus():
    return trained_with("micro") | trained_with("smoke")


@pytest.fixture(scope="module")
def differing(on_cpus):
    """Names of settings that no run of `micro` or `smoke` has as one of the real scale has them."""
    recipes = [trained_with("paper", recipe=name) for name in ("as_released", "as_printed")]
    scale = [trained_with(name) for name in ("paper", "single_gpu", "single_gpu_24gb", "cluster")]
    return {name for name, _ in set().union(*recipes, *scale) - on_cpus}


def test_every_setting_of_the_real_scale_has_a_fault(differing):
    """What only a GPU runs is proven by this list, so no such setting may be without an entry."""
    assert differing - set(GROUPS) <= {mutant.setting for mutant in MUTANTS if mutant.gpu}


def test_settings_that_are_called_the_gpus_are_set_otherwise_there(on_cpus, differing):
    """`gpu: true` is a claim about the profiles: no run of `micro` or `smoke` has the setting as one of theirs has it."""
    known = {name for name, _ in on_cpus} | differing
    for mutant in MUTANTS:
        assert mutant.setting is None or mutant.setting in known, f"{mutant.id}: no setting {mutant.setting}"
        if mutant.gpu and mutant.setting != "bf16":  # None: on a GPU
            assert READ_WITH.get(mutant.setting, mutant.setting) in differing, f"{mutant.id}: {mutant.setting}"


@pytest.mark.slow
def test_a_quarter_of_the_faults_is_noticed():
    results = command.judge(command.chosen(MUTANTS, "1/4", ()), workers=2, timeout=120, root=ROOT)
    assert len(results) >= AT_LEAST / 8
    assert not [result for result in results if not result.proven]


# --------------------------------------------------------------------------------------------------------- the runner

TOY = {
    "toy.py": "def double(x):\n    return 2 * x\n\n\ndef unused():\n    return 1\n",
    "test_toy.py": (
        "import threading\n\nimport pytest\n\nfrom toy import double\n\n\n"
        "def test_double():\n    assert double(3) == 6\n\n\n"
        "def test_failing():\n    assert double(3) == 7\n\n\n"
        "def test_skipped():\n    pytest.skip('not here')\n"
    ),
}


@pytest.fixture
def toy(tmp_path):
    root = tmp_path / "toy"
    root.mkdir()
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
    for name, text in TOY.items():
        (root / name).write_text(text)
    return root


def mutant(name="m", **values):
    defaults = {
        "file": "toy.py",
        "old": "2 * x",
        "new": "3 * x",
        "tests": ("test_toy.py::test_double",),
        "why": "wrong",
    }
    return Mutant(id=name, **defaults | values)


def fate(toy, mutant, timeout=60):
    """One mutant without the run before it."""
    copies = Copies(toy, toy.parent / "copies", 1)
    result = copies.all[0].judge(mutant, timeout)
    assert (copies.all[0].tree / "toy.py").read_text() == TOY["toy.py"] == (toy / "toy.py").read_text()
    assert copies.all[0].process.poll() is not None
    return result


def test_a_noticed_fault_is_killed_by_its_test(toy):
    result = fate(toy, mutant())
    assert (result.fate, result.by, result.proven) == ("killed", "test_toy.py::test_double", True)


def test_a_fault_that_no_test_notices_survives(toy):
    result = fate(toy, mutant(old="return 1", new="return 2"))
    assert (result.fate, result.proven) == ("survived", False)


def test_a_fault_that_never_ends_is_killed_by_the_clock(toy):
    result = fate(toy, mutant(new="__import__('threading').Event().wait()"), timeout=5)
    assert (result.fate, result.proven) == ("timeout", True)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"new": "2 * x)"}, "SyntaxError"),
        ({"new": "2 * y"}, "NameError"),
        ({"old": "def double", "new": "def half"}, "ImportError|cannot import"),
        ({"tests": ("test_toy.py::test_missing",)}, "test_missing"),
    ],
)
def test_what_cannot_be_loaded_proves_nothing_unless_that_is_the_point(toy, values, words):
    broken = mutant(**values)
    result = fate(toy, broken)
    assert (result.fate, result.proven) == ("broken", False)
    assert any(word in result.by for word in words.split("|")), result.by
    assert fate(toy, broken.model_copy(update={"import_ok": True})).fate == "killed"


@pytest.mark.parametrize(
    ("test", "words"),
    [
        ("test_failing", "test_toy.py::test_failing fails without any mutant"),
        ("test_skipped", "test_toy.py::test_skipped: skipped here"),
        ("test_missing", "exit code 4 without any mutant"),
    ],
)
def test_tests_that_do_not_pass_without_a_fault_are_refused(toy, test, words):
    copies = Copies(toy, toy.parent / "copies", 1)
    with pytest.raises(UserError, match=words):
        require_passing(copies, [mutant(), mutant("other", tests=(f"test_toy.py::{test}",))], 60)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"old": "4 * x"}, r"mutant m: toy\.py has 0 times '4 \* x'; write `old` anew"),
        ({"old": "return"}, r"mutant m: toy\.py has 2 times 'return'"),
        ({"file": "gone.py"}, r"mutant m: no file gone\.py"),
        ({"new": "2 * x"}, "`new` is `old`"),
    ],
)
def test_a_fault_that_does_not_fit_the_code_is_refused_before_anything_runs(toy, values, words, monkeypatch):
    monkeypatch.setattr(command, "copies", lambda *_: pytest.fail("something was run"))
    with pytest.raises(UserError, match=words):
        command.judge([mutant(**values)], 1, 60, toy)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "- {id: a, file: f, old: x, new: y, tests: [t.py::t], why: w, gpus: true}",
            "list.yaml, a: unknown key 'gpus'",
        ),
        ("- {id: a, file: f, old: x, new: y, tests: [], why: w}", "list.yaml, a: tests: "),
        ("- {id: a, file: f, old: x, new: y, tests: [t.py], why: w}", "list.yaml, a: tests.0: "),
        ("- {id: a, file: tests/t.py, old: x, new: y, tests: [t.py::t], why: w}", "list.yaml, a: file: .*is a test"),
        ("- {id: a, file: f, old: '', new: y, tests: [t.py::t], why: w}", "list.yaml, a: old: "),
        ("- &a {id: a, file: f, old: x, new: y, tests: [t.py::t], why: w}\n- *a", "id 'a' stands 2 times"),
        ("id: a", "expected a list of entries"),
        ("- [", "not a YAML file"),
        (None, "no such file"),
    ],
)
def test_a_bad_list_is_named(tmp_path, text, words):
    if text is not None:
        (tmp_path / "list.yaml").write_text(text)
    with pytest.raises(UserError, match=words):
        read_list(tmp_path / "list.yaml")


def test_parts_are_all_of_it_and_do_not_move():
    parts = [command.chosen(MUTANTS, f"{i}/4", ()) for i in (1, 2, 3, 4)]
    assert sorted(m.id for part in parts for m in part) == sorted(m.id for m in MUTANTS)
    assert command.chosen(MUTANTS[:10], "1/4", ()) == [m for m in parts[0] if m in MUTANTS[:10]]
    assert command.chosen(MUTANTS, None, [MUTANTS[3].id]) == [MUTANTS[3]]
    for part, only, words in (
        ("0/4", (), "--part 0/4"),
        ("5/4", (), "--part 5/4"),
        (None, ("x",), "--only x: no such"),
    ):
        with pytest.raises(UserError, match=words):
            command.chosen(MUTANTS, part, only)


def test_the_command_says_what_survived_and_ends_with_code_1(toy, tmp_path, monkeypatch, capsys):
    rows = [mutant("good"), mutant("bad", old="return 1", new="return 2", why="nobody looks")]
    (tmp_path / "list.yaml").write_text(json.dumps([m.model_dump(mode="json") for m in rows]))
    monkeypatch.setattr(command, "LIST", tmp_path / "list.yaml")
    monkeypatch.setattr(command, "ROOT", toy)
    with pytest.raises(SystemExit) as ended:
        command.main(out=tmp_path / "out.json", workers=2)
    assert ended.value.code == 1
    said = capsys.readouterr().out
    assert "1 killed, 1 survived" in said and "nobody looks" in said and "good" not in said
    outcome = json.loads((tmp_path / "out.json").read_text())
    assert (outcome["killed"], outcome["survived"]) == (1, 1)
    assert [row["fate"] for row in outcome["mutants"]] == ["killed", "survived"]
    command.main(only=["good"])


def test_the_command_lists_without_running():
    done = subprocess.run(
        [sys.executable, "-m", "mutants", "--list"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and MUTANTS[0].id in done.stdout
    done = subprocess.run(
        [sys.executable, "-m", "mutants", "--only", "nope"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "error: --only nope: no such mutant" in done.stderr
