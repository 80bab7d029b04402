"""The report in a real browser: nothing on the console, no request, filters that count right, hostile text that stays text.

Chromium is the system's (Debian: `apt-get install chromium`), driven by Playwright, which downloads nothing.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests import canned
from tests.report_tree import HOSTILE, NAMES, SKILL, build, write_tree

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright (extra `dev`)")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)")
ITEMS, WINDOW = 40, 10
ATTACKS = [
    "<script>window.canary = 1</script>",
    "</script><script>window.canary = 2</script><!--<script>",
    '<img src="http://evil.example/x.png" onerror="window.canary = 3">',
    '"><svg onload="window.canary = 4"></svg></template></style></dialog></textarea>',
    '<iframe srcdoc="<script>parent.canary = 5</script>"></iframe>',
    '<a id="target" href="javascript:window.canary = 6">look</a>',
    "<details open ontoggle=\"alert('7'); window.canary = 7\">x</details>",
]
QUIET = ["javascript:window.canary = 8", "\u2028window.canary = 9\u2029", "{{constructor.constructor('canary = 9')()}}"]


@dataclass
class Seen:
    """What a page did that it should not."""

    requests: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """index.html of a synthetic tree in which questions, answers, golds, ids and categories are hostile."""
    root = tmp_path_factory.mktemp("browser")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        results = write_tree(root, n=ITEMS)
        for arm in SKILL:
            poison(results / arm / "0/eval/micro_chain")
        return build(results) / "index.html"


def poison(folder: Path) -> None:
    """Put an attack into every text of the first items of an evaluation; ids stay those of the other seeds."""
    attacks = iter([*ATTACKS, *QUIET, HOSTILE])

    def attacked(row: dict) -> None:
        if (attack := next(attacks, None)) is None:
            return
        row["doc"]["question"] = f"{attack} question"
        row |= {
            "resps": [[f"{attack} answer"]],
            "target": f"{attack} gold",
            "category": attack.replace("\ud800", ""),
            "note": attack,
        }

    canned.change_rows(folder, attacked)


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses to run as root with its sandbox
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield launched
        launched.close()


@pytest.fixture
def opened(browser: sync_api.Browser, report: Path) -> Iterator[tuple[sync_api.Page, Seen]]:
    page, seen = visit(browser, report)
    yield page, seen
    page.context.close()


def visit(browser: sync_api.Browser, file: Path, **options: object) -> tuple[sync_api.Page, Seen]:
    """Open a file from disk and wait until its answers are unpacked."""
    page, seen = watched(browser, **options)
    page.goto(file.as_uri())
    page.wait_for_selector("html[data-ready]", state="attached")
    return page, seen


def watched(browser: sync_api.Browser, **options: object) -> tuple[sync_api.Page, Seen]:
    """A page whose requests (but for data: URLs), console messages, errors and dialogs are noted."""
    page, seen = browser.new_context(**options).new_page(), Seen()
    page.on("request", lambda r: None if r.url.startswith("data:") else seen.requests.append(r.url))
    page.on("console", lambda m: seen.problems.append(f"console: {m.text}"))
    page.on("pageerror", lambda e: seen.problems.append(f"error: {e}"))
    page.on("dialog", lambda d: (seen.problems.append(f"dialog: {d.message}"), d.dismiss()))
    return page, seen


def shown(page: sync_api.Page) -> list[tuple[str, str, int]]:
    """(question card, arm, right) of every answer in the window."""
    found = []
    for card in page.query_selector_all("#list article"):
        title = card.query_selector("header").inner_text()
        found += [
            (title, a.get_attribute("data-arm"), int(a.get_attribute("data-right")))
            for a in card.query_selector_all(".answer")
        ]
    return found


def choose(page: sync_api.Page, **values: str) -> str:
    """Set menus of the filter; returns what it says is found."""
    for name, value in values.items():
        page.select_option(f"#filter [name={name}]", value)
    return page.inner_text("#count")


def accuracies(report: Path, arm: str, benchmark: str) -> list[int]:
    return [r["accuracy"] for r in read(report.parents[1] / arm / "0/eval" / benchmark / "samples.jsonl")]


# ------------------------------------------------------------------------------------------------ loading


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_from_disk_without_a_word_and_without_the_network(browser, report, scheme):
    page, seen = visit(browser, report, color_scheme=scheme, offline=True)
    page.mouse.wheel(0, 20_000)
    choose(page, benchmark="micro_scene")
    page.wait_for_timeout(200)
    assert seen == Seen(requests=[report.as_uri()])
    colour, ground = page.evaluate(
        "(({color, backgroundColor}) => [color, backgroundColor])(getComputedStyle(document.body))"
    )
    light = [sum(map(int, re.findall(r"\d+", c)[:3])) for c in (colour, ground)]
    assert (light[0] < 200 and light[1] > 600) if scheme == "light" else (light[0] > 600 and light[1] < 200)
    page.context.close()


def test_the_verdict_comes_first(opened):
    page, _ = opened
    headings = page.eval_on_selector_all("main h2", "all => all.map((h) => h.textContent)")
    assert headings[0] == "Verdict" and headings[1] == "Table 1" and "Sample answers" in headings
    assert page.is_visible(".claim") and page.locator(".card").count() == len(SKILL) - 1
    assert page.locator("figure svg").count() == 2


@pytest.mark.parametrize("width", [390, 320])
def test_a_phone_never_scrolls_sideways(browser, report, width):
    page, _ = visit(browser, report, viewport={"width": width, "height": 800}, is_mobile=True, has_touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.tap("#means tbody tr:nth-child(2) td a")
    assert page.is_visible("#origin")
    assert page.eval_on_selector("#origin", "(d) => d.scrollWidth - d.clientWidth") == 0
    page.context.close()


def test_print_is_light_and_without_controls(browser, report):
    page, _ = visit(browser, report, color_scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.querySelector('#verdict')).color") == "rgb(27, 28, 30)"
    assert not any(map(page.is_visible, ("nav", "#filter", "[data-go=on]")))
    assert page.is_visible("#means") and page.is_visible("#list article")
    assert page.pdf().startswith(b"%PDF")
    page.context.close()


# ------------------------------------------------------------------------------------------------ answers


def test_filters_show_what_the_sample_files_say(opened, report):
    page, seen = opened
    assert page.inner_text("#count") == f"{5 * 7 * ITEMS:,} answers to {7 * ITEMS} questions"
    wrong = accuracies(report, "two_stage", "micro_table").count(0)
    assert (
        choose(page, benchmark="micro_table", arm="two_stage", verdict="0") == f"{wrong} answers to {wrong} questions"
    )
    found = shown(page)
    assert len(found) == min(wrong, WINDOW) and {(a, r) for _, a, r in found} == {("two_stage", 0)}
    assert all(title.startswith("Table") for title, *_ in found)
    page.click("#filter button[type=reset]")
    sync_api.expect(page.locator("#count")).to_have_text(re.compile("^1,400 "))
    right = sum(accuracies(report, "fre", name).count(1) for name in NAMES)
    assert choose(page, arm="fre", verdict="1") == f"{right} answers to {right} questions"
    assert not seen.problems


@pytest.mark.parametrize(("change", "before", "after"), [("gained", 0, 1), ("lost", 1, 0)])
def test_changes_between_arms(opened, report, change, before, after):
    page, _ = opened
    pair = zip(accuracies(report, "fre", "micro_most"), accuracies(report, "two_stage", "micro_most"), strict=True)
    changed = sum((a, b) == (before, after) for a, b in pair)
    said = choose(page, benchmark="micro_most", arm="two_stage", change=change, against="fre")
    assert changed and said == f"{2 * changed} answers to {changed} questions"
    found = shown(page)
    assert [(a, r) for _, a, r in found] == [("fre", before), ("two_stage", after)] * min(changed, WINDOW)
    both = choose(page, change="any")
    assert int(both.split()[-2]) > changed


def test_text_search_reads_questions_and_answers(opened, report):
    page, _ = opened
    folder = report.parents[1] / "fre/0/eval"
    questions = [r["doc"]["question"] for name in NAMES for r in read(folder / name / "samples.jsonl")]
    asked = read(folder / "micro_table/samples.jsonl")[27]
    text, gold = asked["doc"]["question"], asked["target"]
    same = sum(text.lower() in question.lower() for question in questions)
    page.fill("#filter [name=text]", text.upper())
    sync_api.expect(page.locator("#count")).to_have_text(f"{5 * same} answers to {same} questions")
    assert page.inner_text("#list mark >> nth=0") == text
    page.fill("#filter [name=text]", f"<ANSWER>THE answer is {gold},")  # the right answer to it, and to others
    sync_api.expect(page.locator("#list mark").first).to_have_text(f"<answer>The answer is {gold},")
    assert {r for *_, r in shown(page)} == {1}
    page.fill("#filter [name=text]", "no such text anywhere")
    sync_api.expect(page.locator("#list article")).to_have_count(0)
    assert page.inner_text(".pager output >> nth=0") == "nothing matches"


def test_only_a_window_of_the_list_is_in_the_document(opened):
    page, _ = opened
    seen = []
    for at in range(0, 7 * ITEMS, WINDOW):
        assert page.inner_text(".pager output >> nth=0") == f"questions {at + 1} to {at + WINDOW} of {7 * ITEMS}"
        assert page.locator("#list article").count() == WINDOW
        seen += page.eval_on_selector_all("#list article > header", "all => all.map((h) => h.textContent)")
        last = at + WINDOW >= 7 * ITEMS
        assert page.is_disabled("[data-go=on] >> nth=0") == last
        if not last:
            page.click("[data-go=on] >> nth=0")
    assert len(set(seen)) == 7 * ITEMS


def test_images_are_shown_with_their_questions(opened):
    page, _ = opened
    choose(page, benchmark="micro_scene")
    page.evaluate("Promise.all([...document.querySelectorAll('#list img')].map((i) => i.decode()))")
    sizes = page.eval_on_selector_all("#list img", "all => all.map((i) => [i.naturalWidth, i.naturalHeight])")
    assert sizes == [[84, 56]] * WINDOW  # as the micro world draws a scene
    choose(page, benchmark="micro_table")
    assert page.locator("#list img").count() == 0


# ------------------------------------------------------------------------------------------------ hostile text


def test_the_attacks_do_work_where_text_is_markup(browser, tmp_path):
    """Otherwise the next test could not fail."""
    for attack in ATTACKS:
        (tmp_path / "open.html").write_text(
            f"<!doctype html><body>{attack.replace('evil.example', '127.0.0.1:9')}", encoding="utf-8"
        )
        page, _ = watched(browser)
        page.goto((tmp_path / "open.html").as_uri())
        if page.query_selector("#target"):
            page.click("#target")
        page.wait_for_function("window.canary !== undefined")
        assert page.evaluate("window.canary !== undefined"), attack
        page.context.close()


def test_hostile_text_stays_text(opened, report):
    page, seen = opened
    choose(page, benchmark="micro_chain")
    texts = "\n".join(page.eval_on_selector_all("#list pre", "all => all.map((p) => p.textContent)"))
    page.click("[data-go=on] >> nth=0")
    texts += "\n".join(page.eval_on_selector_all("#list pre", "all => all.map((p) => p.textContent)"))
    for attack in [*ATTACKS, *QUIET]:
        assert texts.count(f"{attack} answer") == len(SKILL) and texts.count(f"{attack} question") == 1
    page.fill("#filter [name=text]", ATTACKS[0])
    page.wait_for_selector("#list mark")
    for summary in page.query_selector_all("#training ~ details summary"):
        summary.click()
    page.wait_for_timeout(300)
    assert page.evaluate("window.canary") is None
    inside = page.eval_on_selector_all(
        "#list *, .training *", "all => [...new Set(all.map((e) => e.localName))].sort()"
    )
    assert set(inside) <= {"article", "b", "code", "div", "header", "mark", "p", "pre", "span"}
    assert seen == Seen(requests=[report.as_uri()])


@pytest.mark.parametrize(
    ("attempt", "refused"),
    [
        ("document.body.innerHTML = '<b>x</b>'", "TrustedHTML"),
        ("document.body.setAttribute('onclick', 'window.canary = 1')", "TrustedScript"),
        ("document.body.append(Object.assign(document.createElement('script'), {text: 'window.canary = 1'}))", "TrustedScript"),
        ("new Image().src = 'http://127.0.0.1:9/x.png'", "img-src"),
        ("location = 'javascript:window.canary = 1'", ""),
    ],
)  # fmt: skip
def test_the_policy_refuses_what_the_page_never_does(opened, attempt, refused):
    """The second line of defence, in the page's head: even its own script could not do this."""
    page, seen = opened
    page.evaluate(f"() => {{ try {{ {attempt}; }} catch {{ }} }}")
    page.wait_for_timeout(200)
    assert page.evaluate("window.canary") is None and page.locator("body > b").count() == 0
    assert seen.problems and all(refused in problem for problem in seen.problems)


# ------------------------------------------------------------------------------------------------ provenance


@pytest.mark.parametrize(
    ("cell", "title", "arms"),
    [
        ("#means tbody tr:nth-child(2) td:nth-of-type(1) a", "FRE-Text · Chain & sum", ["fre"]),
        ("#differences tbody tr:nth-child(3) td:nth-of-type(2) a", "Two-stage (FRE → MGT) · Table", ["two_stage", "baseline"]),
        ("#contrasts tbody tr:nth-child(1) td:nth-of-type(2) a", "Two-stage (FRE → MGT) − MGT-only (direct RL) · Table", ["two_stage", "mgt_only"]),
        (".card:nth-child(1) a >> nth=0", "FRE-Text · MM avg", ["fre", "baseline"]),
    ],
)  # fmt: skip
def test_a_click_on_a_number_shows_where_it_comes_from(opened, report, cell, title, arms):
    page, seen = opened
    page.click(cell)
    assert page.inner_text("#origin-title") == title
    rows = page.eval_on_selector_all("#origin-rows tr", "all => all.map((r) => [...r.cells].map((c) => c.textContent))")
    per_arm = 5 if "avg" in title else 1
    assert len(rows) == sum(per_arm * (1 if arm == "baseline" else 3) for arm in arms)
    for _, value, n, file, checkpoint, weights, commit, protocol in rows:
        path = report.parents[3] / file
        record = next(r for r in json.loads(path.read_text()) if r["subset"] == "all")
        manifest = json.loads((path.parents[2] / "manifest.json").read_text())
        assert [value, n] == [f"{100 * record['value']:.1f} %", str(record["n"])]
        assert [checkpoint, protocol] == [record["checkpoint"], record["protocol_hash"]]
        assert [checkpoint, weights, commit] == [manifest["key"], manifest["weights_sha256"][:12], manifest["code"]]
        assert path.parents[3].name in arms
    fields = page.inner_text("#origin-protocols")
    assert "Protocol" in fields and ("scorer_version" in fields or per_arm > 1)
    page.keyboard.press("Escape")
    assert not page.is_visible("#origin") and not seen.problems


def test_the_record_file_opens_and_the_answers_are_one_click_away(opened, report):
    page, _ = opened
    page.click("#means tbody tr:nth-child(2) td:nth-of-type(2) a")
    page.click("#origin-answers")
    assert page.inner_text("#count") == f"{ITEMS} answers to {ITEMS} questions"
    assert {arm for _, arm, _ in shown(page)} == {"fre"}
    page.click("#means tbody tr:nth-child(2) td:nth-of-type(2) a")
    page.click("#origin-rows a >> nth=0")
    page.wait_for_url("**/record.json")
    assert page.url == (report.parents[1] / "fre/0/eval/micro_table/record.json").as_uri()


def test_a_printed_value_names_its_table(opened):
    page, _ = opened
    page.click("summary:has-text('Table 2')")
    page.click("details.paper[open] a.cell >> nth=0")
    assert "table2.qwen.analytic" in page.inner_text("#origin-facts") and page.is_visible("#origin-none")


def test_without_javascript_a_cell_leads_to_its_record(browser, report):
    page, _ = watched(browser, java_script_enabled=False)
    page.goto(report.as_uri())
    assert not page.is_visible("#records table")
    page.click("#means tbody tr:nth-child(2) td:nth-of-type(1) a")
    target = page.locator(f"#{page.url.partition('#')[2]}")
    assert target.is_visible() and "results/micro/fre/0/eval/micro_chain/record.json" in target.inner_text()
    page.context.close()


# ------------------------------------------------------------------------------------------------ size


def test_a_report_of_ten_thousand_answers_is_small_and_loads(browser, tmp_path, monkeypatch):
    """35 sample files of 300 items with answers of about a thousand characters: more than are taken."""
    monkeypatch.chdir(tmp_path)
    results = write_tree(tmp_path, n=300, seeds=(0,), steps=6)
    words = [
        f"{a}{b}" for a in ("sum", "angle", "so", "we", "get", "thus") for b in ("", "s", "ly", "12", " = x^2", ".\n")
    ]
    rng = random.Random(1)

    def longer(row: dict) -> None:
        row["resps"] = [[" ".join(rng.choices(words, k=180)) + row["resps"][0][0]]]

    for path in results.glob("*/0/eval/*/samples.jsonl"):
        canned.change_rows(path.parent, longer)
    file = build(results, seeds=(0,)) / "index.html"
    assert file.stat().st_size < 20_000_000
    page, seen = visit(browser, file)
    assert "10,000 of the 10,500 answers" in page.inner_text("main")
    assert page.inner_text("#count") == "10,000 answers to 2,000 questions"
    page.fill("#filter [name=text]", "angle12 thus = x^2")
    page.wait_for_selector("#list mark")
    assert not seen.problems
    page.context.close()
