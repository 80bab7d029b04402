"""Rule-based rewards: format and accuracy (paper section 3.2). Hostile text in, numbers and reasons out.

One hop each: the text that is judged (response.py, sentence.py), the rule (judge.py, equality.py, options.py; in words
in docs/verifier.md), what is refused unread (limits.py), the bound on time and memory (pool.py, worker.py), the sum
(total.py, terms.py), the authors' own rule (released.py). A gold that cannot be parsed is never rewarded; it is dropped
and counted where data are built (`VerifierPool.parses`).
"""

from lmmr1.rewards.judge import Question, Verdict
from lmmr1.rewards.pool import VerifierPool
from lmmr1.rewards.response import extract_answer, final_answer, has_format, has_strict_format, judged_text
from lmmr1.rewards.total import score, verifier_pool

__all__ = [
    "Question",
    "Verdict",
    "VerifierPool",
    "extract_answer",
    "final_answer",
    "has_format",
    "has_strict_format",
    "judged_text",
    "score",
    "verifier_pool",
]
