"""Benchmark files in each tool's own format, generated: no text of any benchmark, every column that is read.

The columns are those that VLMEvalKit's dataset classes and lm-eval's tasks read; the problems are sums. Small as they
are written; `full_rows` has as many rows as the benchmark.
"""

from __future__ import annotations

import base64
import csv
import io
import json
from pathlib import Path

from PIL import Image

SEVEN = ("math500", "gpqa_diamond", "olympiadbench", "mathvision", "mathverse", "mmstar", "mathvista_mini")

VERSIONS = ("Text Dominant", "Text Lite", "Vision Intensive", "Vision Dominant", "Vision Only")

SUBJECTS = {
    "analytic geometry": 84, "combinatorial geometry": 308, "metric geometry - angle": 173, "metric geometry - area": 500,
    "metric geometry - length": 449, "solid geometry": 244, "counting": 1282,
}  # fmt: skip
"""MathVision's subjects and their sizes; all but geometry in one."""

MMSTAR = {
    "coarse perception": (60, 110, 80), "fine-grained perception": (60, 110, 80), "instance reasoning": (60, 110, 80),
    "logical reasoning": (60, 110, 80), "math": (60, 110, 80), "science & technology": (60, 110, 80),
}  # fmt: skip
"""MM-Star's six categories of 250 items, each with three sub-categories; the sizes of those are invented."""


def png(number: int, size: tuple[int, int] = (56, 56)) -> str:
    """A picture in base64, another one for every number."""
    buffer = io.BytesIO()
    image = Image.new("RGB", size, (number * 7 % 256, 20, 200 - number % 200))
    image.putpixel((number % size[0], 3), (255, 255, 255))
    image.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def write_all(folder: Path) -> Path:
    """All seven under `folder`, as --data-root expects them."""
    for name in ("math500", "gpqa"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    math500(folder / "math500" / "test.jsonl")
    gpqa(folder / "gpqa" / "gpqa_diamond.csv")
    for name, rows in {
        "OlympiadBench_EN": olympiadbench(),
        "MathVision": mathvision(),
        "MathVision_MINI": mathvision(),
        "MathVerse_MINI": mathverse(),
        "MMStar": mmstar(),
        "MathVista_MINI": mathvista(),
    }.items():
        table(folder / f"{name}.tsv", rows)
    return folder


def table(path: Path, rows: list[dict], delimiter: str = "\t") -> Path:
    """`rows` as a table with the columns of all rows."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, delimiter=delimiter, lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def full_rows(dataset: str) -> list[dict]:
    """As many rows as the benchmark has, with its subjects, versions and categories in their sizes."""
    makers = {
        "math500": lambda: math500_rows(500),
        "gpqa": lambda: gpqa_rows(198),
        "olympiadbench": lambda: olympiadbench(1513),
        "mathvision": lambda: mathvision(sizes=SUBJECTS),
        "mathverse": lambda: mathverse(788),
        "mmstar": lambda: mmstar(categories=MMSTAR),
        "mathvista": lambda: mathvista(250),
    }
    return makers[dataset]()


def math500(path: Path, n: int = 4) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in math500_rows(n)), encoding="utf-8")


def math500_rows(n: int) -> list[dict]:
    return [
        {
            "problem": f"What is ${i} + {i}$?",
            "solution": f"Adding gives $\\boxed{{{2 * i}}}$.",
            "answer": str(2 * i),
            "subject": "Algebra" if i % 2 else "Geometry",
            "level": 1,
            "unique_id": f"test/{'algebra' if i % 2 else 'geometry'}/{i}.json",
        }
        for i in range(n)
    ]


def gpqa(path: Path, n: int = 6, reverse: bool = False) -> Path:
    rows = gpqa_rows(n)
    return table(path, rows[::-1] if reverse else rows, ",")


def gpqa_rows(n: int) -> list[dict]:
    return [
        {
            "Record ID": f"rec{i}",
            "Question": f"Which number is {i} times ten?",
            "Correct Answer": str(10 * i),
            "Incorrect Answer 1": str(10 * i + 1),
            "Incorrect Answer 2": str(10 * i + 2),
            "Incorrect Answer 3": str(10 * i + 3),
            "High-level domain": ("Physics", "Chemistry", "Biology")[i % 3],
        }
        for i in range(n)
    ]


def olympiadbench(more: int = 0) -> list[dict]:
    """Four that are asked and two that are not, then so many more without an image."""

    def row(index: int, source: str, **cells: str) -> dict:
        usual = {
            "index": index,
            "image": png(index),
            "question": f"Find the sum of {index} and 1.",
            "final_answer": f"['{index + 1}']",
            "answer_type": "Numerical",
            "error": "",
            "unit": "",
            "is_multiple_answer": "False",
            "context": "",
            "source": source,
        }
        return usual | cells

    several = {"final_answer": "['3,4']", "is_multiple_answer": "True", "image": str([png(91), png(92)])}
    return [
        row(1, "OE_MM_maths_en_COMP", **several),
        row(2, "OE_MM_physics_en_COMP", unit="m", error="1e-1,", context="A body falls."),
        row(3, "OE_TO_maths_en_COMP", image=""),
        row(4, "OE_TO_physics_en_COMP"),
        row(5, "OE_MM_maths_zh_CEE"),
        row(6, "TP_MM_maths_en_COMP"),
        *(row(7 + i, "OE_TO_maths_en_COMP", image="") for i in range(more)),
    ]


def mathvision(times: int = 1, sizes: dict[str, int] | None = None) -> list[dict]:
    """Every subject in turn, so many `times`; with `sizes` so many rows of each subject."""
    subjects = [subject for subject in SUBJECTS for _ in range((sizes or {}).get(subject, 1))]
    rows = []
    for i, subject in enumerate(subjects * times):
        choices = ["one", "two", "three"] if i % 2 else []
        text = "\n".join(f"({letter}) {choice}" for letter, choice in zip("ABC", choices, strict=False))
        rows.append(
            {
                "index": i,
                "image": png(i),
                "question": f"Hint: how to answer.\nQuestion: How many in\n<image1>\nof {i}?"
                + (f"\nChoices:\n{text}" if text else ""),
                "choices": str(choices),
                "answer": "B" if choices else str(i),
                "category": subject,
            }
        )
    return rows


def mathverse(problems: int = 2) -> list[dict]:
    """So many problems, each in five versions, every other one with options."""
    rows = []
    for problem in range(problems):
        for version in VERSIONS:
            asked = f"In the figure, what is the angle {problem}?"
            choices = "\nChoices:\nA:10\nB:20\nC:30\nD:40" if problem % 2 else ""
            rows.append(
                {
                    "index": len(rows),
                    "image": png(len(rows)),
                    "question": f"Asked directly. {'' if version == 'Vision Only' else asked}{choices}",
                    "query_wo": f"Asked without reasoning. {asked}{choices}",
                    "query_cot": f"Asked step by step. {asked}{choices}",
                    "question_for_eval": asked + choices,
                    "question_type": "multi-choice" if choices else "free-form",
                    "answer": "ABCD"[problem // 2 % 4 - 3] if choices else "20",
                    "problem_version": version,
                    "problem_index": problem,
                    "metadata": "{'split': 'testmini', 'source': 's', 'subject': 'Plane Geometry', 'subfield': 'Angle'}",
                }
            )
    return rows


def mmstar(per_category: tuple[int, ...] = (3, 1), categories: dict[str, tuple[int, ...]] | None = None) -> list[dict]:
    """Sub-categories of these sizes, `sub 0`, `sub 1`, ..., the first of coarse perception, the others of math; with
    `categories` those of each category."""
    given = categories or {"coarse perception": per_category[:1], "math": per_category[1:]}
    parts = [(category, n) for category, sizes in given.items() for n in sizes]
    rows = []
    for number, (category, n) in enumerate(parts):
        for _ in range(n):
            i = len(rows)
            options = {letter: f"thing {letter.lower()}{i}" for letter in "ABCD"}
            rows.append(
                {
                    "index": i,
                    "image": png(i),
                    "question": f"What is shown in place {i}?",
                    **options,
                    "answer": "ABCD"[i % 4],
                    "category": category,
                    "l2_category": f"sub {number}",
                }
            )
    return rows


def mathvista(times: int = 1) -> list[dict]:
    """Four kinds of answers in turn."""

    def row(index: int, **cells: str) -> dict:
        usual = {
            "index": index,
            "image": png(index),
            "question": f"Hint: how to answer.\nQuestion: What is value {index}?",
            "choices": "",
            "answer_option": "",
            "precision": "",
            "question_type": "free_form",
            "task": "figure question answering",
            "skills": "['arithmetic reasoning']",
        }
        return usual | cells

    kinds = (
        {"answer": "7", "answer_type": "integer"},
        {"answer": "1.45", "answer_type": "float", "precision": "2"},
        {"answer": "[2007, 2008]", "answer_type": "list"},
        {
            "answer": "Yes",
            "answer_type": "text",
            "question_type": "multi_choice",
            "choices": "['Yes', 'No']",
            "answer_option": "A",
        },
    )
    return [row(i, **kinds[i % 4]) for i in range(4 * times)]
