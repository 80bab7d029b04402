"""Records as the reference of `lmmr1 check`: how they were measured, and in what an evaluation would differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evals.expected import Expected
from evals.plan import Options, max_new_tokens
from evals.protocols import READ, ROLES, choose_style, find_protocol, prompts_may_differ
from evals.records import EvalRecord, Protocol, find_records, read_records
from evals.registry import find
from lmmr1.types import UserError
from reports.comparable import OTHER_DATA

OF_PROMPT = ("prompt", "instruction_sha256")
"""What differs where a protocol asks two arms in different words."""


@dataclass(frozen=True, slots=True)
class Reference:
    """What records below a folder say of their measurement."""

    folder: Path
    records: dict[str, EvalRecord]
    """Benchmark -> the headline of its first run; all runs were measured alike."""

    def defaults(self, names: Sequence[str], workspace: Path, own_prompt: bool) -> dict[str, Any]:
        """The options (see `evals.plan.Options`) under which `names` were measured, protocol by name.

        own_prompt: with the prompt, too; else only the texts of styles that have none of their own.
        Raises UserError where no single set of options is that of all.
        """
        protocols = {name: self.records[name].protocol for name in names}
        found: dict[str, Any] = {
            "protocol": self._one(names, "protocol", {n: p.protocol for n, p in protocols.items()}),
            "batch_size": self._one(names, "batch size", {n: p.batch_size for n, p in protocols.items()}),
            "limit": max(self.records[name].n for name in names),
            "any_data": any(p.data_pin == OTHER_DATA for p in protocols.values()),
            "engine": "vllm" if all(p.backend.startswith("VLLMEngine") for p in protocols.values()) else "hf",
            "benchmark_dir": next((p / "benchmarks" for p in self.folder.parents if (p / "benchmarks").is_dir()), None),
        }
        judges = {n: p.judge["model"] for n, p in protocols.items() if p.judge}
        if judges:
            found["judge_model"] = self._one(list(judges), "judge", judges)
        usual = Options.of(found["protocol"])
        limits = {n: p.decoding.get("max_new_tokens") for n, p in protocols.items()}
        if any(limit != max_new_tokens(find(n), usual) for n, limit in limits.items()):
            found["max_new_tokens"] = self._one(names, "token limit", limits)
        return found | self._prompt(protocols, workspace, own_prompt)

    def _one(self, names: Sequence[str], what: str, values: Mapping[str, Any]) -> Any:
        """The value that all have. Raises UserError that names who has which."""
        if len(set(values.values())) > 1:
            raise UserError(
                f"{self.folder}: its benchmarks were measured with more than one {what}: "
                f"{', '.join(f'{n} {values[n]}' for n in names)}; check them one at a time with --benchmarks"
            )
        return values[names[0]]

    def _prompt(self, protocols: dict[str, Protocol], workspace: Path, own_prompt: bool) -> dict[str, Any]:
        """The options that ask in the reference's words; a text that is kept in a file goes to `workspace`."""
        found: dict[str, Any] = {}
        for style in READ:
            texts = {n: p.instruction for n, p in protocols.items() if p.prompt == style and p.instruction}
            if texts:
                text = self._one(list(texts), f"text of prompt {style!r}", texts)
                found |= {"training_prompt": text} if style == "training" else _file_of(text, workspace)
        if not own_prompt:
            return found
        forms = {n: p.prompt for n, p in protocols.items() if find(n).harness == "agents"}
        if len(forms) == len(protocols):  # an agent's form is its prompt
            return found | {"prompt": self._one(list(forms), "prompt", forms)}
        styles = {n: p.prompt for n, p in protocols.items() if find(n).prompt is None and n not in forms}
        for role in ROLES[::-1]:
            if self._is_of_role(styles, role, protocols, found.get("training_prompt")):
                return found | {"role": role}
        return found | {"prompt": self._one(list(styles), "prompt", styles)}

    def _is_of_role(
        self, styles: dict[str, str], role: Any, protocols: dict[str, Protocol], training_prompt: str | None
    ) -> bool:
        """Whether the protocol itself asks a role in just these styles."""
        settings = {n: find_protocol(protocols[n].protocol) for n in styles}
        return all(choose_style(settings[n], find(n), None, role, training_prompt) == s for n, s in styles.items())

    def differences(self, expected: Expected) -> list[str]:
        """In what a record to be would differ, as far as is known: each of these refuses the comparison."""
        record = self.records[expected.benchmark.name]
        found = settings_differences(expected.settings, record.protocol)
        if expected.n is not None and expected.n != record.n:
            found.append(f"n: {expected.n}, reference: {record.n}")
        return found

    def require_readable(self, names: list[str]) -> None:
        """Raise UserError where the reference's answers are damaged, or two arms are mixed in one folder."""
        from reports.folders import common_benchmarks, folder_scores, load_paired

        scores = folder_scores(self.folder, str(self.folder))
        load_paired([scores], common_benchmarks([scores], names))


def _file_of(text: str, workspace: Path) -> dict[str, Path]:
    path = workspace / "system_prompt.txt"
    path.write_text(text, encoding="utf-8")
    return {"system_prompt_file": path}


def read_reference(folder: Path) -> Reference:
    """Read the records below a folder. Raises UserError without any, and for a benchmark measured in two ways."""
    records: dict[str, EvalRecord] = {}
    for path in find_records(folder):
        headline = read_records(path)[0]
        first = records.setdefault(headline.benchmark, headline)
        if first.protocol.hash != headline.protocol.hash:
            texts = settings_differences(asdict(first.protocol), headline.protocol) or ["prompt"]
            raise UserError(
                f"{path}: {headline.benchmark} was measured in two ways below {folder} ({'; '.join(texts)}); "
                "give one arm"
            )
    return Reference(folder, records)


def settings_differences(settings: Mapping[str, Any], protocol: Protocol) -> list[str]:
    """In what settings (see `Expected.settings`) differ from a record's protocol; words that the protocol itself
    chooses for either role are no difference."""
    theirs, found = asdict(protocol), []
    allowed = prompts_may_differ(protocol.protocol, protocol.task) >= {settings["prompt"], protocol.prompt}
    skipped = {"instruction", *(OF_PROMPT if allowed else ())}
    for name, ours in settings.items():
        if name in skipped or ours == theirs[name]:
            continue
        if isinstance(ours, dict) and isinstance(theirs[name], dict):
            # a judge's prompts are known only to its tool, which is not imported yet
            keys = [k for k in {**ours, **theirs[name]} if k != "prompt_sha256" or k in ours]
            pairs = [(f"{name}.{k}", ours.get(k), theirs[name].get(k)) for k in keys]
            found += [f"{key}: {a}, reference: {b}" for key, a, b in pairs if a != b]
        else:
            found.append(f"{name}: {ours}, reference: {theirs[name]}")
    return found
