r"""Plain text, Unicode and sloppy LaTeX to the LaTeX that math-verify parses. Text in, text out; nothing is evaluated.

math-verify reads plain expressions with sympy's `parse_expr`, which runs Python's `eval`; its LaTeX grammar does not.
So everything is brought to LaTeX first, and only the grammar is used (equality.py).
"""

from __future__ import annotations

import re
import unicodedata

from lmmr1.rewards.qualifiers import is_qualifier, signed

_SUPERSCRIPT = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_SYMBOLS = {
    "\u2212": "-", "\u2010": "-", "\u2011": "-", "\u2012": "-", "\u2013": "-", "\u2014": "-",
    "\u00d7": r"\times ", "\u00b7": r"\cdot ", "\u22c5": r"\cdot ",
    "\u00f7": "/", "\u2044": "/", "\u2215": "/", "\u03c0": r"\pi ", "\u221e": r"\infty ", "\u2264": r"\le ",
    "\u2265": r"\ge ", "\u2260": r"\ne ", "\u2248": r"\approx ", "\u00b1": r"\pm ", "\u222a": r"\cup ",
    "\u2229": r"\cap ",
    "\u2208": r"\in ", "\u2205": r"\emptyset ", "\u00b0": r"^{\circ}", "\u00ba": r"^{\circ}", "\u03b8": r"\theta ",
    "\u03b1": r"\alpha ", "\u03b2": r"\beta ", "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u200b": "",
}  # fmt: skip
_ROOT = re.compile(r"√\s*(?:\(([^()]*)\)|(\d+(?:\.\d+)?|[A-Za-z]))")
_SQRT = re.compile(r"(?<![\\A-Za-z])sqrt\s*(?:\(([^()]*)\)|\{([^{}]*)\}|(\d+|[A-Za-z]))")
_WORDS = re.compile(r"(?<![\\A-Za-z])(pi|infinity|inf|sin|cos|tan|log|ln|theta)(?![A-Za-z])")
_POWER = re.compile(r"\^\s*(?:\(([^()]*)\)|([-+]\d+))")
_TEXT_STYLE = re.compile(
    r"\\(?:displaystyle|textstyle|limits|nolimits|boldsymbol|bf|rm|it|[Ll]arge|LARGE|[Hh]uge|small)(?![A-Za-z])\s*"
    r"|\\(?:textcolor|color)\s*\{[^{}]*\}"
)
_SPACING = re.compile(r"(?<!\\)\\(?:[,;:! ]|quad|qquad|thinspace|hspace\{[^{}]*\}|phantom\s*(?:\{[^{}]*\}|\S))|~")
_SIZING = re.compile(
    r"\\(?:left|right|bigl|bigr|Bigl|Bigr|big|Big|bigg|Bigg)(?![A-Za-z])\s*\.?(?=[\s(){}\[\]|\\<>/.]|$)"
)
_THOUSANDS = re.compile(r"(?<![\d.,(\[{])(\d{1,3}(?:(?:,\\!\s*|\{,\}|\\,|,)\d{3})+)(?![\d,])")
_MARKED_THOUSANDS = re.compile(r"(?<!\d)(\d{1,3}(?:(?:,\\!\s*|\{,\})\d{3})+)(?!\d)")
_SPACED_THOUSANDS = re.compile(r"([^\w]*\d{1,3})((?: \d{3})+)(?!\d)(?=\D*(?:\^\{?\d\}?\s*)?\Z)")
_LED = re.compile(r"\A\s*(?:\\therefore|\\Rightarrow|\\implies|\\Longrightarrow|[\u2192\u2234\u21d2\u27f9]|=>?)\s*")
"""A sign of conclusion before an answer."""

_BRACED_POINT = re.compile(r"(?<=\d)\{\.\}(?=\d)")
_CHOOSE = re.compile(r"\{\s*(\w+)\s*\\choose\s*(\w+)\s*\}")
_ROW_SPACE = re.compile(r"\\\\\s*\[[\d.]+\s*[a-z]{2}\]")
_INDEX = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_BARE_FRACTION = re.compile(r"\\frac\s*(\d|\\pi)\s*(\d|[a-z]|\\pi)(?![\dA-Za-z])")
_CIRC = re.compile(
    r"\^\s*(?:\\circ(?![A-Za-z])|\{\s*(?:\\circ|\\text\s*\{\s*o\s*\}|o)\s*\}|\\text\s*\{\s*o\s*\})|\\degree(?![A-Za-z])"
)
_CONSTANT = re.compile(
    r"\\(?:mathrm|mathit|text|textrm|operatorname|mathbf)\s*(?:\{\s*([eid])\s*\}|\s([eid])(?![A-Za-z]))"
)
"""The constants e and i, and the d of a differential, set upright."""

_MIXED = re.compile(r"(?<![\d.}])(\d+)\s+(\d+)\s*/\s*(\d+)(?!\d)")
_LEADING_WORDS = re.compile(r"\A\\text\s*\{[^{}]*[A-Za-z]{2}[^{}]*\}\s*(?=\\?\$?\s*[\\\d(\[+-])")
_LABEL = re.compile(r"\A\s*\\text(?:bf|rm)?\s*\{\s*\(?[A-J][).]\s*\}\s*(?=[\\\d$(\[+-])")
"""The letter of an option before its value."""

_FRACTION = re.compile(r"\\[dtc]frac(?![A-Za-z])")
_PAIRS = (
    ("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("{", "}"), ('"', '"'), ("'", "'"),
    ("\u2018", "\u2019"), ("\u201c", "\u201d"),
    *((rf"\{name}{{", "}") for name in (
        "text", "textbf", "textit", "mathrm", "mathbf", "mbox", "boxed", "fbox", "framebox", "underline", "emph",
    )),
)  # fmt: skip
"""What may enclose a whole answer."""

_VULGAR = re.compile("[¼½¾⅐-⅞]")
_REPEATING = re.compile(r"(\d{0,9})\.(\d{0,9})\\(?:overline|bar|dot)\s*\{?\s*(\d{1,9})\s*\}?")
_COLON = re.compile(r"(?<=\d)\s*(?::|\u2236|\{:\}|\\colon(?![A-Za-z]))\s*(?=\d)")
_EULER = re.compile(r"(?<![A-Za-z\\\d.])e(?![A-Za-z])|(?<=\d)e(?![-+\dA-Za-z])")
_FUNCTION = re.compile(
    r"\\(?:mathrm|text|operatorname)\s*\{\s*(ln|log|sin|cos|tan|cot|sec|csc|exp|gcd|lcm|max|min)\s*\}(?=\s*\S)"
)  # at the end of the text it has no argument: `9 \\text{ min}` is nine minutes
_UNIT_RATIO = re.compile(
    r"\\frac\{\s*\\(?:text|mathrm)\s*\{\s*([A-Za-z]+)\s*\}\s*\}\{\s*\\(?:text|mathrm)\s*\{\s*([A-Za-z]+)\s*\}\s*\}"
)
_SCALES = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_SCALED = re.compile(rf"(?<=\d)\s*(?:\\text\s*\{{\s*)?({'|'.join(_SCALES)})(?![A-Za-z])\s*\}}?")
_ALIGNED = re.compile(
    r"\\begin\{((?:align|gather|equation|eqnarray|multline|split|flalign)\w*\*?)\}(.*?)\\end\{\1\}", re.DOTALL
)
_ASSIGNED = re.compile(r"\s*([A-Za-z])\s*=[^=]+")
_PERCENT_WORD = re.compile(r"(?<=[\d}])\s*(?:per\s?cent|pct)(?![A-Za-z])")
_CONCLUSION = re.compile(r"\\(?:implies|iff|Rightarrow|Longrightarrow|Leftrightarrow)(?![A-Za-z])")
_TO = re.compile(r"(?<=\d)\s*(?:\\text\{\s*to\s*\}|\bto\b)\s*(?=\d)")
_NOON = re.compile(r"(\d)\s*(?:\\text\{\s*)?\b([ap])\.?\s?m\b\.?\s*\}?", re.IGNORECASE)
_EXPONENT = re.compile(r"(?<![\w.])([+-]?\d+(?:\.\d+)?)[eE]([+-]?\d{1,3})(?!\w)")


def to_latex(text: str) -> str:
    """`text` as LaTeX without dollar signs, decoration and spacing commands, a full stop at its end removed."""
    return _plain_forms(_latex_forms(signed(_ascii(text))))


def _ascii(text: str) -> str:
    """Unicode's mathematical signs as LaTeX commands, full-width and styled letters as plain ones."""
    text = re.sub(r"[⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+", lambda m: "^{" + m[0].translate(_SUPERSCRIPT) + "}", text)
    text = re.sub("[₀-₉]+", lambda m: "_{" + m[0].translate(_INDEX) + "}", text)
    text = _VULGAR.sub(
        lambda m: r"\frac{{{}}}{{{}}}".format(*unicodedata.normalize("NFKC", m[0]).split("\u2044")), text
    )
    text = "".join(_SYMBOLS.get(c, c) for c in text)
    text = _ROOT.sub(lambda m: rf"\sqrt{{{m[1] or m[2]}}}", text)
    return "".join(_SYMBOLS.get(c, c) for c in unicodedata.normalize("NFKC", text))


def _latex_forms(text: str) -> str:
    """One spelling of what LaTeX can spell in several ways."""
    text = _ALIGNED.sub(lambda m: _last_value(m[2]), text)
    text = _BRACED_POINT.sub(".", text.replace("{-}", "-")).removesuffix("\\\\")
    text = _CHOOSE.sub(r"\\binom{\1}{\2}", _ROW_SPACE.sub(r"\\\\", text))
    for separated in (_MARKED_THOUSANDS, _THOUSANDS):
        text = separated.sub(lambda m: re.sub(r"\D", "", m[1]), text)
    text = _SIZING.sub("", _SPACING.sub(" ", _TEXT_STYLE.sub("", text)))
    text = _undress(_LED.sub("", _CONCLUSION.split(_undress(text))[-1]))
    text = _BARE_FRACTION.sub(r"\\frac{\1}{\2}", _FRACTION.sub(r"\\frac", text)).replace(r"\varnothing", r"\emptyset")
    exact, _, approximate = text.partition(r"\approx")
    text = exact if re.search(r"\d", exact) else approximate or exact
    text = _FUNCTION.sub(r"\\\1 ", _UNIT_RATIO.sub(r"\\text{\1/\2}", text))
    text = _SCALED.sub(lambda m: rf"\times 10^{{{_SCALES[m[1]]}}}", text)
    text = _CONSTANT.sub(lambda m: m[1] or m[2], text)
    text = _CIRC.sub(r"^{\\circ}", text)
    text = _REPEATING.sub(_repeating, _TO.sub(":", text))
    return _COLON.sub(":", _LABEL.sub("", _LEADING_WORDS.sub(_unless_qualifier, text)))


def _unless_qualifier(match: re.Match[str]) -> str:
    """Nothing for words before a value; `negative` as a sign; what makes another value of it stays."""
    words = match[0].partition("{")[2].rpartition("}")[0]
    if words.strip().lower() in ("negative", "minus"):
        return "-"
    return match[0] if is_qualifier(words) else ""


def _plain_forms(text: str) -> str:
    """Plain-text notation as LaTeX."""
    text = _SQRT.sub(lambda m: rf"\sqrt{{{m[1] or m[2] or m[3]}}}", text)
    text = _WORDS.sub(lambda m: "\\" + {"inf": "infty", "infinity": "infty"}.get(m[1], m[1]) + " ", text)
    text = re.sub(r"(?<=\d)\s+x\s+(?=\d)", r" \\times ", text)
    text = _POWER.sub(lambda m: f"^{{{m[1] or m[2] or ''}}}", text.replace("**", "^"))
    if not _EULER.search(text):  # `2e-3` beside another e is a product
        text = _EXPONENT.sub(r"\1 \\times 10^{\2}", text)
    text = _MIXED.sub(r"\1\\frac{\2}{\3}", text)
    text = _SPACED_THOUSANDS.sub(lambda m: m[1] + m[2].replace(" ", ""), text)
    text = _PERCENT_WORD.sub(r"\\%", text)
    text = _NOON.sub(lambda m: f"{m[1]} {m[2].lower()}m", text)
    return re.sub(r"\s+", " ", text).strip()


def _last_value(rows: str) -> str:
    """What aligned formulas come to: the last row with those that it continues; values of several names as a list."""
    lines = [
        re.sub(r"&|\\n(?:umber|otag)\b", " ", row).strip(" .,;\n") for row in re.split(r"\\\\(?:\[[^\]]*\])?", rows)
    ]
    lines = [line for line in lines if line]
    names = [found[1] for line in lines if (found := _ASSIGNED.fullmatch(line))]
    if len(lines) > 1 and len(set(names)) == len(lines):
        return ", ".join(lines)
    first = max((i for i, line in enumerate(lines) if not line.startswith("=")), default=0)
    return " ".join(lines[first:])


def _repeating(match: re.Match[str]) -> str:
    r"""`0.1\overline{6}` as `\frac{15}{90}`."""
    whole, fixed, period = match[1] or "0", match[2], match[3]
    top = int(whole + fixed + period) - int(whole + fixed)
    return rf"\frac{{{top}}}{{{'9' * len(period)}{'0' * len(fixed)}}}"


def _undress(text: str) -> str:
    """Without enclosing dollar signs, display marks, bold marks and a sentence's full stop."""
    before = None
    while before != text:
        before, text = text, text.strip().strip("`").removeprefix("**").removesuffix("**").strip()
        for left, right in _PAIRS:
            inside = text[len(left) : len(text) - len(right)]
            if (
                len(text) >= len(left) + len(right)
                and text.startswith(left)
                and text.endswith(right)
                and _whole(inside)
            ):
                text = inside
        if text.endswith((".", ",", ";")) and not text.endswith(".."):
            text = text[:-1]
    return text


def _whole(inside: str) -> bool:
    """True where the braces of `inside` are balanced and no dollar sign stands in it: the outer pair is one pair."""
    depth = 0
    for char in inside:
        depth += (char == "{") - (char == "}")
        if depth < 0:
            return False
    return depth == 0 and "$" not in inside.replace(r"\$", "")
