"""Make what training and evaluation start from: prompts, benchmark files, and the manifest of the base checkpoint.

python -m reproduce.prepare prompts --spec '{"mix": {"chain": 1.0}, "n": 100}' --seed 0 --out results/x/data/fre.jsonl
python -m reproduce.prepare benchmark --name micro_chain --items 500 --out results/x/benchmarks/micro_chain.jsonl
python -m reproduce.prepare benchmark --name micro_sokoban --items 100 --out results/x/benchmarks/micro_sokoban.txt
python -m reproduce.prepare checkpoint --spec '{"adopt": "Qwen/Qwen2.5-VL-3B-Instruct"}' --out results/x/base.json
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmmr1.exits import run_cli
from lmmr1.files import verify_folder
from lmmr1.lock import owned
from lmmr1.types import UserError
from reproduce import sokoban_data
from reproduce.micro import build

if TYPE_CHECKING:
    from reproduce.hub import PromptCheck


def prompts(spec: dict[str, Any], seed: int, out: Path, checkpoint: Path | None = None) -> None:
    """Training prompts of one stage, checked, with a card of what was kept and dropped.

    `checkpoint` is the manifest of the model whose processor says how long a prompt of a data set is.
    """
    if "hub" in spec:
        from reproduce import hub  # and torch, which the micro world's eleven files are drawn without

        hub.write_prompts(spec["hub"], out, _check(spec, checkpoint), spec.get("gold", True))
    elif "sokoban" in spec:
        sokoban_data.write_stage(spec["sokoban"], spec["n"], seed, out)
    else:
        build.write_prompts(spec["mix"], spec["n"], seed, out)


def _check(spec: dict[str, Any], checkpoint: Path | None) -> PromptCheck | None:
    if checkpoint is None:
        return None
    from lmmr1.checkpoint import load_processor
    from lmmr1.store import read_manifest
    from reproduce.hub import PromptCheck

    limits = spec["limits"]
    model = read_manifest(checkpoint)
    processor = load_processor(model.weights, model.revision, limits["min_pixels"], limits["max_pixels"])
    return PromptCheck(processor, limits["max_prompt_length"])


def benchmark(name: str, items: int, out: Path) -> None:
    """The file of a micro benchmark: problems, or levels to play."""
    if name == "micro_sokoban":
        sokoban_data.write_levels(sokoban_data.micro_levels(items), sokoban_data.MICRO_SEED, out)
    else:
        build.write_benchmark(name, items, 0, out)


def checkpoint(spec: dict[str, Any], checkpoints: Path, out: Path) -> None:
    """The manifest of a checkpoint that no stage trains: an adopted one, or the micro world's pretrained base.

    Pretraining is content-addressed: the same settings find the folder that an earlier run made, unless it is damaged.
    """
    from lmmr1.store import adopt, write_manifest

    if "adopt" in spec:
        write_manifest(out, adopt(spec["adopt"], "adopted"))
        return
    from reproduce.micro.pretrain import PretrainConfig, pretrain

    known = {f.name for f in dataclasses.fields(PretrainConfig)}
    for key in spec["pretrain"]:
        if key not in known:
            raise UserError(f"config, key micro.pretrain: unknown key {key!r}; allowed: {', '.join(sorted(known))}")
    cfg = PretrainConfig(**spec["pretrain"])
    facts = json.dumps({"pretrain": dataclasses.asdict(cfg), "numerics": spec["numerics"]}, sort_keys=True)
    folder = checkpoints / hashlib.sha256(facts.encode()).hexdigest()[:16] / "final"
    with owned(folder.parent, "pretraining the micro base"):
        if not folder.exists():
            pretrain(cfg, folder)
    verify_folder(folder, f"delete {folder.parent} and run the same command again")
    write_manifest(out, adopt(str(folder), "micro base"))


def main(argv: list[str] | None = None) -> None:
    """The command line shown at the top of this file."""
    parser = argparse.ArgumentParser(description="Prepare prompts, benchmark files and the base checkpoint.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, keys in {
        "prompts": ("spec", "seed", "checkpoint"),
        "benchmark": ("name", "items"),
        "checkpoint": ("spec", "checkpoints"),
    }.items():
        sub = commands.add_parser(name)
        for key in keys:
            sub.add_argument(f"--{key}", required=key in ("spec", "name"))
        sub.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    if args.command == "prompts":
        model = Path(args.checkpoint) if args.checkpoint else None
        prompts(json.loads(args.spec), int(args.seed or 0), args.out, model)
    elif args.command == "benchmark":
        benchmark(args.name, int(args.items or 500), args.out)
    else:
        checkpoint(json.loads(args.spec), Path(args.checkpoints or "checkpoints"), args.out)


if __name__ == "__main__":
    run_cli(main)
