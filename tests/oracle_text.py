"""Trees of `oracle.py` as LaTeX and plain text, in the spellings that docs/verifier.md allows."""

from __future__ import annotations

import random

from tests.oracle import Tree, node

VULGAR = {"1/2": "½", "1/3": "⅓", "2/3": "⅔", "1/4": "¼", "3/4": "¾"}
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
SIGNS = {"cm^2": ("cm", "^2"), "m^3": ("m", "^{3}")}
WORDS = ("cm", "km", "kg", "hours", "minutes", "students", "dollars", "degrees")
"""Units that stand after a number without `\\text`, too."""


class Writer:
    r"""Spells trees in LaTeX or plain text, each time another way; one method for each head.

    `plain` is set once something was written that does not belong between dollar marks (`5 cm`, `50%`, `3 and 4`).
    """

    def __init__(self, r: random.Random) -> None:
        self.r, self.plain, self.alone = r, False, True
        self.unicode = r.random() < 0.2

    def __call__(self, tree: Tree, alone: bool = False) -> str:
        """The text of a tree; `alone` where nothing stands beside it, so that `1/2` and `1,000` cannot be misread."""
        outer, self.alone = self.alone, alone
        text: str = getattr(self, tree.head)(*tree.args)
        self.alone = outer
        return text

    def pick(self, *texts: str, plain: tuple[str, ...] = ()) -> str:
        """One of the spellings."""
        text = self.r.choice(texts + plain)
        self.plain |= text in plain
        return text

    def bracketed(self, tree: Tree, heads: tuple[str, ...]) -> str:
        text = self(tree)
        return f"({text})" if tree.head in heads or text[0] in "-−" else text

    def int(self, n: int) -> str:
        text = str(n)
        if not self.alone or abs(n) < 1000:
            return text
        groups = f"{n:,}"
        spaced = [groups.replace(",", " ")] if abs(n) >= 10_000 else []
        return self.pick(text, groups, groups.replace(",", "{,}"), groups.replace(",", r"\,"), *spaced)

    def dec(self, text: str) -> str:
        return self.pick(text, text.removeprefix("0")) if self.alone and text.startswith("0.") else text

    def sci(self, mantissa: str, exponent: int) -> str:
        power = f"10^{exponent}" if 0 <= exponent < 10 else f"10^{{{exponent}}}"
        forms = [rf"{mantissa} \times {power}", rf"{mantissa} \cdot 10^{{{exponent}}}", f"{mantissa}e{exponent}"]
        return self.pick(*forms, f"{mantissa} × {power}")

    def mixed(self, whole: int, n: int, d: int) -> str:
        forms = [rf"{whole}\frac{{{n}}}{{{d}}}", rf"{whole} \frac{{{n}}}{{{d}}}", rf"{whole}\dfrac{{{n}}}{{{d}}}"]
        return self.pick(*forms, *([f"{whole} {n}/{d}"] if self.alone else []))

    def repeat(self, whole: int, fixed: str, cycle: str) -> str:
        return rf"{whole}.{fixed}\overline{{{cycle}}}"

    def var(self, name: str) -> str:
        return name

    label = var

    def const(self, name: str) -> str:
        if name in ("pi", "oo"):
            return {"pi": "π", "oo": "∞"}[name] if self.unicode else {"pi": r"\pi", "oo": r"\infty"}[name]
        return self.pick(name, name, rf"\mathrm{{{name}}}")

    def factorial(self, n: int) -> str:
        return f"{n}!"

    def neg(self, a: Tree) -> str:
        return ("−" if self.unicode else "-") + (f"({self(a)})" if a.head in ("add", "neg") else self(a, self.alone))

    def add(self, *terms: Tree) -> str:
        texts = [self(t) for t in terms]
        gap = self.pick(" ", "")
        return texts[0] + "".join(
            f"{gap}{t[0]}{gap}{t[1:]}" if t[0] in "-−" else f"{gap}+{gap}{t}" for t in texts[1:]
        )  # a term carries its own minus

    def mul(self, *factors: Tree) -> str:
        text = self(factors[0]) if factors[0].head != "add" else f"({self(factors[0])})"
        for factor in factors[1:]:
            following = self.bracketed(factor, ("add",))
            if following[0].isdigit() or (following[0] == "(" and factor.head != "add"):
                text += self.pick(r" \cdot ", r" \times ") + following
            else:
                text += (" " if text[-1].isalpha() and following[0].isalpha() and "\\" in text else "") + following
        return text

    def frac(self, a: Tree, b: Tree) -> str:
        n, d = self(a), self(b)
        forms = [rf"\frac{{{n}}}{{{d}}}", rf"\dfrac{{{n}}}{{{d}}}", rf"\tfrac{{{n}}}{{{d}}}"]
        if len(n) == len(d) == 1 and (n + d).isdigit():
            forms.append(rf"\frac{n}{d}")
        if self.alone and a.head == b.head == "int" and a.args[0] >= 0:
            forms += [f"{n}/{d}", VULGAR.get(f"{n}/{d}", f"{n}/{d}") if self.unicode else f"{n}/{d}"]
        return self.pick(*forms)

    def pow(self, a: Tree, b: Tree) -> str:
        base, exponent = self.bracketed(a, ("add", "mul", "frac", "pow", "root", "factorial", "dec")), self(b)
        if self.unicode and exponent in "23":
            return base + "²³"["23".index(exponent)]
        return base + (self.pick(f"^{exponent}", f"^{{{exponent}}}") if len(exponent) == 1 else f"^{{{exponent}}}")

    def root(self, k: int, a: Tree) -> str:
        text = self(a)
        if k != 2:
            return rf"\sqrt[{k}]{{{text}}}"
        forms = [rf"\sqrt{{{text}}}"] + ([rf"\sqrt{text}"] if len(text) == 1 else [])
        return f"√{text}" if self.unicode and text.isdigit() else self.pick(*forms)

    def percent(self, a: Tree) -> str:
        text = self(a, a.head in ("int", "dec"))
        return text + self.pick(r"\%", r"\%", r" \text{ percent}", plain=("%", " percent"))

    def unit(self, a: Tree, name: str) -> str:
        text, (word, power) = self(a, a.head == "int"), SIGNS.get(name, (name, ""))
        dressed = [rf" \text{{ {word}}}{power}", rf"\,\text{{{word}}}{power}", rf"\ \mathrm{{{word}}}{power}"]
        if name == "degrees":
            dressed += [r"^\circ", r"^{\circ}", "°"]
        if name == "dollars" and a.head in ("int", "dec") and self.r.random() < 0.5:
            self.plain = True  # no dollar marks around a dollar sign
            return rf"\${text}"
        return text + self.pick(*dressed, plain=(f" {name}",) if name in WORDS and a.head != "mul" else ())

    def base(self, digits: str, base: int | None) -> str:
        if base is None:
            return digits
        return digits + self.pick(
            f"_{base}", f"_{{{base}}}", rf"_{{\text{{{DIGITS[base]}}}}}", rf"_{{\text{{{base}}}}}"
        )

    def set(self, *items: Tree) -> str:
        inner = ", ".join(map(self, items))
        return self.pick(rf"\{{{inner}\}}", rf"\left\{{{inner}\right\}}", rf"\{{ {inner} \}}")

    def list(self, *items: Tree) -> str:
        *most, last = map(self, items)
        start, word = ", ".join(most), self.r.choice(("and", "or"))
        joined = (f"{start} {word} {last}", *([f"{start}, {word} {last}"] if len(most) > 1 else []))
        return self.pick(f"{start}, {last}", rf"{start} \text{{ {word} }} {last}", plain=joined)

    def pm(self, centre: Tree, half: Tree) -> str:
        return rf"\pm {self(half)}" if centre == node("int", 0) else rf"{self(centre)} \pm {self(half)}"

    def tuple(self, *items: Tree) -> str:
        inner = ", ".join(map(self, items))
        return self.pick(f"({inner})", rf"\left({inner}\right)", f"( {inner} )")

    def interval(self, left: str, low: Tree, high: Tree, right: str) -> str:
        a, b = self(low), self(high)
        ends = f"{left}{a}, {b}{right}"
        less = {"(": "<", ")": "<", "[": self.pick(r"\le", r"\leq", "≤"), "]": self.pick(r"\le", r"\leq", "≤")}
        from_low, to_high = f"{a} {less[left]} ", f" {less[right]} {b}"
        infinite = [t.args[-1:] == ("oo",) or t == node("neg", node("const", "oo")) for t in (low, high)]
        solved = ("" if infinite[0] else from_low) + "x" + ("" if infinite[1] else to_high)
        return self.pick(
            ends, rf"\left{left}{a}, {b}\right{right}", rf"x \in {ends}", ends if all(infinite) else solved
        )

    def matrix(self, *rows: Tree) -> str:
        kind, end = self.pick("pmatrix", "bmatrix"), self.pick(r"\\", r" \\ ", "\\\\\n")
        body = end.join(" & ".join(map(self, row.args)) for row in rows)
        return rf"\begin{{{kind}}}{body}\end{{{kind}}}"

    def eq(self, left: Tree, right: Tree) -> str:
        return self.pick(" = ", "=").join([self(left), self(right)])

    def chain(self, *values: Tree) -> str:
        return self.pick(" = ", "=").join(map(self, values))


def write(tree: Tree, r: random.Random) -> tuple[str, bool]:
    """A text of the tree, and whether it may stand between dollar marks."""
    writer = Writer(r)
    text = writer(tree, alone=True)
    return text, not writer.plain


# ------------------------------------------------------------------------------------------------------------ responses

ANYWHERE = (
    "{}", "{}", r"\boxed{{{}}}", "<answer>{}</answer>", "<think>Let us see.</think><answer>{}</answer>",
    r"<think>I get @.</think>\boxed{{{}}}", "<think>Perhaps @?</think>\n<answer>\n{}\n</answer>",
    r"I first had \boxed{{@}}. Checking it again gives \boxed{{{}}}.",
    r"<think>It is \boxed{{@}}.</think><answer>\boxed{{{}}}</answer>",
)  # fmt: skip
"""Responses around an answer of any kind; `@` is what it must not be mistaken for."""

MATHEMATICS = (
    "${}$", r"\({}\)", r"\[{}\]", "$${}$$", "$$\n{}\n$$", "\\[\n  {}\n\\]", r"$\boxed{{{}}}$", "The answer is ${}$.",
    "**Answer:** ${}$", "### Final answer\n\n${}$", "> **${}$**", "Therefore\n$$\n\\boxed{{{}}}\n$$",
    r"So it is not so easy. The final answer is: $\boxed{{{}}}$.", "Most people get $@$ first. The answer is ${}$.",
    "The answer is ${}$.\nI hope this helps!", "<answer>The answer is\n\\[\\boxed{{{}}}\\]</answer>", r"**\boxed{{{}}}**",
    "<think>Is it $@$?</think>\nThe final answer is ${}$.",
)  # fmt: skip
"""Responses that put a formula between dollar marks, on lines of its own, or into markdown."""

NUMBERS = (
    "The answer is {}.", "**{}**", "The answer is **{}**.", "Final Answer: **{}**", "### Final answer\n\n{}",
    "Most people get @ first. The answer is {}.", "**The answer is {}.**",
)  # fmt: skip
"""Sentences around a number as plain text."""


def dressed(tree: Tree, r: random.Random, distractor: str) -> str:
    """A response whose answer is the tree; the distractor is another formula, which it mentions where it does not count."""
    if tree.head == "list" and r.random() < 0.3:
        return _one_by_one(tree, r)
    text, formula = write(tree, r)
    number = tree.head == "int" or (tree.head == "dec" and tree.args[0] == text)
    frames = ANYWHERE + (MATHEMATICS * 2 if formula else ()) + (NUMBERS if number else ())
    return r.choice(frames).replace("@", distractor.replace("{", "{{").replace("}", "}}")).format(text)


def _one_by_one(tree: Tree, r: random.Random) -> str:
    """A list as several boxes or formulas joined by commas and `and`."""
    *most, last = (Writer(r)(item) for item in tree.args)
    frame, sentence = r.choice(((r"\boxed{{{}}}", "{} and {}"), ("${}$", "The solutions are {} and {}.")))
    return sentence.format(", ".join(map(frame.format, most)), frame.format(last))
