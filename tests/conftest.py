"""Shared fixtures: a tiny random model folder, made once per session."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

import json
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings

from tests.checkouts import copy_checkout, snakemake

# never a limit in seconds; in CI the same examples every time, so that a red run can be repeated
settings.register_profile("lmmr1", deadline=None, derandomize=os.environ.get("CI") == "true")
settings.load_profile("lmmr1")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A randomly initialised micro model with its processor, in Hugging Face format."""
    from reproduce.micro.model import build_model, build_processor

    folder = tmp_path_factory.mktemp("tiny") / "model"
    build_model().save_pretrained(folder)
    build_processor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def two_stops(tiny_model, make_samples, tmp_path_factory) -> Path:
    """`tiny_model` with two stop tokens in its generation config, as Qwen2.5-VL has: the second one that it says most."""
    from lmmr1.config import SamplingConfig
    from lmmr1.policy import load_policy
    from lmmr1.rollout import HFEngine

    policy, greedy = load_policy(str(tiny_model)), SamplingConfig(max_completion_length=12, temperature=0)
    special = policy.processor.tokenizer.all_special_ids
    groups = HFEngine(policy).generate(make_samples(12), greedy, 1, (0,))
    said = Counter(t for (r,) in groups for t in r.token_ids if t not in special)
    folder = tmp_path_factory.mktemp("two_stops") / "model"
    shutil.copytree(tiny_model, folder)
    generation = json.loads((folder / "generation_config.json").read_text())
    generation["eos_token_id"] = [policy.processor.tokenizer.eos_token_id, said.most_common(1)[0][0]]
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


@pytest.fixture(scope="session")
def make_samples(tmp_path_factory):
    """make_samples(n, images): n problems of unequal prompt length; `images(i)` gives the number of images of problem i."""
    from PIL import Image

    from lmmr1.types import Sample

    folder = tmp_path_factory.mktemp("images")

    def make(n: int, images=lambda i: 0, seed: int = 0):
        rng, out = random.Random(seed), []
        for i in range(n):
            files = []
            for k in range(images(i)):
                path = folder / f"{seed}-{i}-{k}.png"
                size = (28 * rng.randint(1, 4), 28 * rng.randint(1, 3))
                Image.frombytes("RGB", size, rng.randbytes(size[0] * size[1] * 3)).save(path)
                files.append(path)
            content = [{"type": "image"} for _ in files] + [
                {"type": "text", "text": f"find {i}+{i * i}=?" + " give" * (i % 4)}
            ]
            out.append(Sample(f"s{seed}-{i}", [{"role": "user", "content": content}], tuple(files), str(i + i * i)))
        return tuple(out)

    return make


@pytest.fixture(scope="session")
def checkout(tmp_path_factory) -> Path:
    """The files that a clone of the working tree would have."""
    folder = tmp_path_factory.mktemp("checkout")
    copy_checkout(folder)
    return folder


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory) -> Path:
    """A checkout after a real run of the smoke profile: one for all test processes, so copy it before you change it."""
    shared = (
        tmp_path_factory.getbasetemp().parent
        if os.environ.get("PYTEST_XDIST_WORKER")
        else tmp_path_factory.getbasetemp()
    )
    folder = shared / "smoke"
    with FileLock(shared / "smoke.lock"):
        if not (folder / "done").exists():
            folder.mkdir(exist_ok=True)
            copy_checkout(folder)
            done = snakemake(folder, "--config", "profile=smoke")
            logs = "\n".join(f"== {p.name}\n{p.read_text()[-1500:]}" for p in folder.glob("results/smoke/logs/*.log"))
            assert done.returncode == 0, done.stderr[-3000:] + logs
            (folder / "done").touch()
    return folder
