"""Which rule scores a benchmark under which protocol, and the rules that ask a judge: the paper's, and VLMEvalKit's.

What compares an extracted answer with the gold one is in evals/scorers, for `lmmr1 score` and `audit` too. The judge's
prompts are VLMEvalKit's own, taken from the installed tool at run time. Where the tool calls `eval` on a model's text
(MathVision), values are compared without it: model text is never run.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from latex2sympy2_extended import latex2sympy

from evals.adapters import LETTERS
from evals.isolate import call_each
from evals.judge import Judge, Question
from evals.problems import Problem
from evals.protocols import JudgeCall, ProtocolSettings
from evals.registry import Benchmark
from evals.scorers import mathvision as mathvision_rule
from evals.scorers import mathvista as mathvista_rule
from evals.scorers import olympiadbench as olympiadbench_rule
from evals.scorers.items import Item, item_of
from evals.scorers.items import Mark as ScorerMark
from evals.scoring import score_responses
from evals.vlmeval_import import (
    build_option_str,
    can_infer,
    mathv,
    mathverse,
    mathvista,
    multiple_choice,
    olympiadbench,
)
from lmmr1.rewards import Verdict, has_format

REVISION = 2
"""Bump when a change here or in evals/scorers may alter a score: records of the old rule are then measured again."""

MAX_EXTRACTED_CHARS = 1000
SYMPY_SECONDS = 30.0
"""For one answer in the tool's own comparisons; the tool has the same limit, by a signal."""

Mark = tuple[float, str, str]
"""(right or wrong, the text that was compared, why)"""

UNREAD: Mark = (0.0, "", "judge_unreadable")
"""No reply of the judge could be read."""

_LETTER_IN_BRACKETS = re.compile(r"\(([A-J])\)")


def judge_prompts(dataset: str) -> list[str]:
    """The judge's prompt templates for a data set, filled with nothing: what their hash is taken over."""
    empty = {"question": "", "prediction": "", "question_for_eval": "", "extract": "", "answer": ""}
    makers: dict[str, list[Callable[[Any], str]]] = {
        "mathvision": [mathv.build_mathv_gpt4_prompt],
        "mathvista": [mathvista.build_mathvista_gpt4_prompt],
        "mathverse": [mathverse.build_mathverse_gpt4_extract_prompt, mathverse.build_mathverse_gpt4_score_prompt],
        "mmstar": [lambda line: multiple_choice.build_prompt("", build_option_str({}), "")],
    }
    return [make(empty) for make in makers[dataset]]


def judge_record(protocol: ProtocolSettings, benchmark: Benchmark) -> dict[str, Any] | None:
    """What a record says of the judge; None where none is asked."""
    asked = protocol.judge_calls(benchmark)
    if asked is None:
        return None
    prompts = "\n".join(judge_prompts(benchmark.dataset))
    return asked | {"prompt_sha256": hashlib.sha256(prompts.encode()).hexdigest()[:16]}


def score_all(
    protocol: ProtocolSettings,
    benchmark: Benchmark,
    problems: Sequence[Problem],
    responses: Sequence[str],
    judge: Judge | None,
) -> list[Verdict]:
    """Scores in order by the protocol's rule. Raises UserError where the judge fails, ValueError without one."""
    rule = RULES.get((protocol.scoring, benchmark.dataset))
    if rule is None:
        return score_responses([(r, p.answer, p.choices) for p, r in zip(problems, responses, strict=True)])
    if judge is None and protocol.judged(benchmark):
        raise ValueError(f"protocol {protocol.name} needs a judge for {benchmark.name}")
    verdicts = rule.marks(list(zip(problems, responses, strict=True)), judge)
    if judge is not None:
        judge.require_readable()
    return [Verdict(v, float(has_format(r)), why, text) for (v, text, why), r in zip(verdicts, responses, strict=True)]


def scorer_name(protocol: ProtocolSettings, benchmark: Benchmark, rule_name: str) -> str:
    """The scorer's name for the record; `rule_name` is that of our verifier."""
    rule = RULES.get((protocol.scoring, benchmark.dataset))
    return rule_name if rule is None else f"{rule.name.format(ours=rule_name)}, revision {REVISION}"


def _extracted(reply: str) -> str | None:
    """The reply to a request for extraction: one short text."""
    text = reply.strip()
    return text if 0 < len(text) <= MAX_EXTRACTED_CHARS else None


def _item(problem: Problem) -> Item:
    """The problem as the scorers know it."""
    return item_of(problem.id, problem.answer, problem.choices, problem.cells)


def _verdict(right: bool, text: str) -> Mark:
    return float(right), text, "equal" if right else "different"


def _scored(mark: ScorerMark) -> Mark:
    """A scorer's mark with the notes that the reports know."""
    return (
        (0.0, "", "no_answer")
        if mark.note == "no answer"
        else _verdict(mark.correct, mark.answer[:MAX_EXTRACTED_CHARS])
    )


# --------------------------------------------------------------------------------- our verifier, within tolerances


def _within(near: Callable[[Item, str], bool]) -> Callable[[Any, Judge | None], list[Mark]]:
    """Our verifier's verdicts, and right also where the answer that it found is as near as the data set allows."""

    def marks(pairs: Sequence[tuple[Problem, str]], judge: Judge | None) -> list[Mark]:
        found = score_responses([(response, p.answer, p.choices) for p, response in pairs])
        return [
            (1.0, v.answer, "equal") if not v.accuracy and near(_item(p), v.answer) else (v.accuracy, v.answer, v.note)
            for (p, _), v in zip(pairs, found, strict=True)
        ]

    return marks


# ---------------------------------------------------------------------------------------- the paper's evaluation


def _each(rule: Callable[[Problem, str, Judge], Mark]) -> Callable[[Any, Judge], list[Mark]]:
    """The rule for one response as a rule for all, several at once."""
    return lambda pairs, judge: judge.map(lambda pair: rule(*pair, judge), pairs)


def paper_olympiadbench(pairs: Sequence[tuple[Problem, str]], judge: Judge | None) -> list[Mark]:
    """The released rule on the whole response, with the data set's tolerances. Bounded: no computer algebra in it."""
    return [_scored(olympiadbench_rule.official(_item(problem), response)) for problem, response in pairs]


def paper_mathvision(problem: Problem, response: str, judge: Judge) -> Mark:
    """The judge extracts, of a choice the letter where it stands in brackets; then the released rule decides."""
    line = {"question": problem.question, "prediction": response}
    found = judge.ask(Question(mathv.build_mathv_gpt4_prompt(line), judge.settings.extract), _extracted)
    if found is None:
        return UNREAD
    letter = _LETTER_IN_BRACKETS.search(found) if problem.choices else None
    return _scored(mathvision_rule.official(_item(problem), letter[1] if letter else found))


def paper_mathvista(problem: Problem, response: str, judge: Judge) -> Mark:
    """The judge extracts, unless the response is a number as it stands; then the released rule decides."""
    kind = problem.cells.get("answer_type", "text")
    found = response.strip() if not problem.choices and _is_number(response, kind) else None
    if found is None:
        line = {"question": problem.question, "prediction": response}
        found = judge.ask(Question(mathvista.build_mathvista_gpt4_prompt(line), judge.settings.extract), _extracted)
    return UNREAD if found is None else _scored(mathvista_rule.official(_item(problem), found))


def _is_number(text: str, kind: str) -> bool:
    try:
        {"integer": int, "float": float}[kind](text)
    except (KeyError, ValueError):
        return False
    return True


def paper_mathverse(problem: Problem, response: str, judge: Judge) -> Mark:
    """The judge sees the last 30 words, extracts an answer, and then says 0 or 1."""
    last_words = " ".join(response.split()[-30:])
    prompt = mathverse.build_mathverse_gpt4_extract_prompt({"prediction": last_words})
    found = judge.ask(Question(prompt, judge.settings.extract), _extracted)
    if found is None:
        return UNREAD
    line = {"question_for_eval": problem.cells["question_for_eval"], "answer": problem.answer, "extract": found}
    prompt = mathverse.build_mathverse_gpt4_score_prompt(line)
    verdict = judge.ask(Question(prompt, judge.settings.compare), lambda reply: {"0": 0.0, "1": 1.0}.get(reply.strip()))
    if verdict is None:
        return 0.0, found, UNREAD[2]
    return _verdict(verdict == 1, found)


def paper_mmstar(problem: Problem, response: str, judge: Judge) -> Mark:
    """The judge matches the response, in lower case, with an option."""
    options = build_option_str(dict(zip(LETTERS, problem.choices, strict=False)))
    prompt = multiple_choice.build_prompt(problem.question, options, response.lower())
    letter = judge.ask(
        Question(prompt, judge.settings.option),
        lambda reply: r if len(r := reply.strip()) == 1 and r in LETTERS else None,
    )
    if letter is None:
        return UNREAD
    return _verdict(letter == problem.answer, letter)


# ------------------------------------------------------------------------------------------- VLMEvalKit as it comes


class ToolJudge:
    """What VLMEvalKit's scorers expect of a judge model, on top of ours."""

    def __init__(self, judge: Judge, call: JudgeCall) -> None:
        self.judge, self.call = judge, call

    def generate(self, prompt: str, temperature: float = 0.0) -> str:
        """The reply. Raises UserError where the server fails; the tool itself would score its error message."""
        return self.judge.answer(Question(prompt, self.call.model_copy(update={"temperature": temperature}))).strip()


def _each_of_tool(rule: Callable[[Problem, str, Judge], Mark]) -> Callable[[Any, Judge], list[Mark]]:
    """As `_each`. The tools ask without knowing of late replies: a late one leaves them, and the response is unread."""
    return lambda pairs, judge: judge.map(lambda pair: judge.count(lambda: rule(*pair, judge)) or UNREAD, pairs)


def tool_mathvision(pairs: Sequence[tuple[Problem, str]], judge: Judge) -> list[Mark]:
    """Rule first, judge for what the rule cannot read. The tool's steps, but not its code, which runs `eval`."""
    read = _read_mathvision(pairs)
    unread = [pair for pair, text in zip(pairs, read, strict=True) if not text]
    call = judge.settings.extract
    asked = [
        Question(mathv.build_mathv_gpt4_prompt({"question": p.question, "prediction": r}), call) for p, r in unread
    ]
    replies = iter(judge.map(lambda question: judge.count(lambda: judge.answer(question).strip()), asked))
    found = [(problem, text or next(replies)) for (problem, _), text in zip(pairs, read, strict=True)]
    named = iter(_read_mathvision([(problem, text) for problem, text in found if text is not None]))
    return [
        UNREAD
        if text is None
        else _short((float(_names_gold(problem, next(named))), text, "prefetch" if first else "judge"))
        for (problem, text), first in zip(found, read, strict=True)
    ]


def _read_mathvision(pairs: Sequence[tuple[Problem, str]]) -> list[str]:
    """Of a choice the option that the tool's rule sees; of a free answer the text if it equals the gold; else empty."""
    free = [(text, problem.answer) for problem, text in pairs if not problem.choices]
    equal = iter(call_each(tool_equal, free, SYMPY_SECONDS, False))
    return [
        str(can_infer(text, dict(zip(LETTERS, problem.choices, strict=False))) or "")
        if problem.choices
        else text * next(equal)
        for problem, text in pairs
    ]


def _names_gold(problem: Problem, name: str) -> bool:
    return name == problem.answer if problem.choices else bool(name)


def tool_equal(pair: tuple[str, str]) -> bool:
    """MathVision's comparison as the tool means it: equal texts, or values within 1e-6, of numbers or of LaTeX.

    The tool gets values by `eval`; this one by float and sympy alone. sympy can take for ever: call it in a child.
    """
    answer, gold = (text.lower().strip() for text in pair)
    if answer == gold:
        return True
    for value in (_number, latex2sympy):
        try:
            return bool(abs(value(answer) - value(gold)) < 1e-6)
        except Exception:  # parsers raise whatever they like; the tool, too, goes on to the next
            continue
    return False


def _number(text: str) -> float:
    over, line, under = text[:100].partition("/")
    return float(over) / float(under) if line else float(over)


def tool_mathvista(problem: Problem, response: str, judge: Judge) -> Mark:
    """Rule first, judge for what the rule cannot read, then compared."""
    columns = ("question_type", "answer_type", "answer_option", "choices", "answer")
    line = {column: problem.cells.get(column, "") for column in columns} | {"question": problem.question}
    result = mathvista.MathVista_auxeval(ToolJudge(judge, judge.settings.extract), line | {"prediction": response})
    right = mathvista.post_check(line | {"res": result["res"]})
    return _short((float(bool(right)), str(result["res"]), result["log"]))


def tool_mathverse(problem: Problem, response: str, judge: Judge) -> Mark:
    """The judge extracts from the whole response; an equal text is right, the rest is for the judge."""
    line = {"question_for_eval": problem.cells["question_for_eval"], "answer": problem.answer, "prediction": response}
    found = mathverse.MathVerse_auxeval_extract(ToolJudge(judge, judge.settings.extract), line)
    line["extract"] = found["extract"]
    result = mathverse.MathVerse_auxeval_score(ToolJudge(judge, judge.settings.compare), line)
    return _short((float(bool(result["score"])), str(found["extract"]), result["log_score"]))


def tool_mmstar(problem: Problem, response: str, judge: Judge) -> Mark:
    """Letter or option text by rule, then by the judge; what neither can read gets a guess, drawn from the id."""
    choices = dict(zip(LETTERS, problem.choices, strict=False))
    letter, why = can_infer(response, dict(choices)), "Prefetch succeed"
    if not letter:
        item = pd.Series({"question": problem.question, "prediction": response, "answer": problem.answer, **choices})
        model = ToolJudge(judge, judge.settings.option)
        # The tool guesses with the global random generator: every run would have its own score.
        guess = random.Random(problem.id).choice([*choices, "Z"])
        reply = _matched(model, item, choices)
        letter, why = (reply, "judge") if reply else (guess, "guessed")
    return float(letter == problem.answer), str(letter), why


def _matched(model: ToolJudge, item: pd.Series, choices: dict[str, str]) -> str:
    """The option that the judge names, asked as often as the tool does; an empty text where it names none."""
    prompt = multiple_choice.build_prompt(item["question"], build_option_str(choices), item["prediction"])
    for attempt in range(model.call.tries):
        letter = can_infer(model.judge.answer(Question(prompt, model.call), attempt), dict(choices))
        if letter:
            return str(letter)
    return ""


def tool_olympiadbench(pairs: Sequence[tuple[Problem, str]], judge: Judge | None) -> list[Mark]:
    """The tool's sympy judge, in a child process: model text can keep sympy busy for ever."""
    return call_each(_tool_olympiadbench_one, pairs, SYMPY_SECONDS, (0.0, "", "timeout"))


def _tool_olympiadbench_one(pair: tuple[Problem, str]) -> Mark:
    problem, response = pair
    try:
        answer = olympiadbench.extract_answer(False, response, is_deepseek=False)
        gold, error = problem.cells["final_answer"][2:-2], str(problem.cells["error"])
        precision: Any = 1e-8
        if error != "nan" and "Tuple" not in str(problem.cells["answer_type"]):
            parts = [float(part) if part else 1e-8 for part in error.split(",")]
            precision = parts if len(parts) > 1 else parts[0]
        right = olympiadbench.MathJudger().judge(answer, gold, precision)
        return _short(_verdict(bool(right), str(answer)))
    except Exception as e:  # the tool's parser raises whatever it likes; a wrong answer is what the tool then reports
        return 0.0, "", f"parser_error:{type(e).__name__}"


def _short(verdict: Mark) -> Mark:
    """The verdict with texts of bounded length: the tool's logs repeat the whole response."""
    value, text, why = verdict
    return value, text[:MAX_EXTRACTED_CHARS], " ".join(str(why).split())[:80]


@dataclass(frozen=True, slots=True)
class Rule:
    """How the responses of one data set are scored under one kind of protocol."""

    name: str
    """For the record; `{ours}` stands for the name of our verifier."""
    marks: Callable[[Any, Any], list[Mark]]
    """(pairs of problem and response, judge or None) -> a mark for each."""


_TOOL = "VLMEvalKit's own rules, without eval"
_NEAR = "{ours}, or within the data set's"

RULES: dict[tuple[str, str], Rule] = {
    ("rule", "olympiadbench"): Rule(f"{_NEAR} error", _within(olympiadbench_rule.within_tolerance)),
    ("rule", "mathvista"): Rule(f"{_NEAR} precision", _within(mathvista_rule.within_precision)),
    ("paper", "olympiadbench"): Rule("olympiadbench_official", paper_olympiadbench),
    ("paper", "mathvision"): Rule("extracted by the judge, then mathvision_official", _each(paper_mathvision)),
    ("paper", "mathvista"): Rule("extracted by the judge, then mathvista_official", _each(paper_mathvista)),
    ("paper", "mathverse"): Rule("judge as in the paper's evaluation", _each(paper_mathverse)),
    ("paper", "mmstar"): Rule("judge as in the paper's evaluation", _each(paper_mmstar)),
    ("harness", "mathvision"): Rule(_TOOL, tool_mathvision),
    ("harness", "mathvista"): Rule(_TOOL, _each_of_tool(tool_mathvista)),
    ("harness", "mathverse"): Rule(_TOOL, _each_of_tool(tool_mathverse)),
    ("harness", "mmstar"): Rule(_TOOL, _each_of_tool(tool_mmstar)),
    ("harness", "olympiadbench"): Rule(_TOOL, tool_olympiadbench),
}
"""(scoring of the protocol, data set) -> its rule; anything else is our verifier's."""
