"""A judge model on any OpenAI-compatible server: every reply is kept, so the same question is never sent twice.

Replies are text from a model: hostile by assumption, parsed strictly by the caller, never evaluated.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from evals.generation import encodable
from evals.judge_server import CONNECT_SECONDS, Body, JudgeServer, said, spoken
from evals.protocols import JudgeCall, JudgeSettings
from lmmr1.types import UserError

RETRY_SECONDS = 10.0
"""A server that refuses or fails for this long is given up."""

PATIENCE = (1, 2, 4, 8, 16, 32)
"""How long each try of a late reply may take, in multiples of `JudgeServer.timeout`: 15 s to 8 minutes, 16 in all."""

MAX_REPLY_CHARS = 10_000

LEAST_UNREAD = 10
"""So many questions without a readable reply, and more than half of all or all of the last ones late, and the judge is
refused."""

LEAST_THOUGHTS = 3
"""So many replies that are nothing but thoughts, and none that says something, and the judge is refused."""

Parsed = TypeVar("Parsed")


@dataclass(frozen=True, slots=True)
class Question:
    """One question to the judge."""

    prompt: str
    call: JudgeCall


class LateReplyError(Exception):
    """No reply within the longest time that one may take: the question counts as one without a readable reply."""


class ReplyStore:
    """Replies by content: a SQLite file, safe to kill at any time and to share between processes.

    Every reply has its sha256 beside it; one that is not what it was is an error.
    """

    def __init__(self, path: Path) -> None:
        """Open or create `path`. Raises UserError where it is something else than such a file."""
        self.path, self._lock = path, threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = sqlite3.connect(path, check_same_thread=False, timeout=30)
            with self._db:
                self._db.execute("CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT, model TEXT)")
                self._db.execute("CREATE TABLE IF NOT EXISTS sums (key TEXT PRIMARY KEY, sha256 TEXT)")
        except sqlite3.Error as e:
            raise UserError(
                f"{path}: cannot be used to keep the judge's replies ({e}); delete it or name another"
            ) from None

    def get(self, key: str) -> str | None:
        """The reply kept under `key`. Raises UserError where the file is damaged."""
        query = "SELECT reply, sha256 FROM replies LEFT JOIN sums USING (key) WHERE key = ?"
        with self._lock, self._mendable():
            row = self._db.execute(query, (key,)).fetchone()
        if row and row[1] not in (None, _sum(key, row[0])):
            raise UserError(f"{self.path}: a kept reply is damaged; delete it and run the same command again")
        return row[0] if row else None

    def put(self, key: str, reply: str, model: str) -> None:
        """Keep a reply; the first one stays. Raises UserError where the file is damaged or cannot be written."""
        with self._lock, self._mendable(), self._db:
            self._db.execute("INSERT OR IGNORE INTO replies VALUES (?, ?, ?)", (key, reply, model))
            self._db.execute("INSERT OR IGNORE INTO sums VALUES (?, ?)", (key, _sum(key, reply)))

    def forget(self, keys: Iterable[str]) -> None:
        """Drop replies, so that they are asked for again."""
        dropped = [(key,) for key in keys]
        with self._lock, self._mendable(), self._db:
            for table in ("replies", "sums"):
                self._db.executemany(f"DELETE FROM {table} WHERE key = ?", dropped)

    @contextlib.contextmanager
    def _mendable(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as e:
            fix = "free some space, or make it writable, and run the same command again"
            raise UserError(f"{self.path}: cannot keep the judge's replies ({e}); {fix}") from None
        except sqlite3.DatabaseError as e:
            raise UserError(f"{self.path}: damaged ({e}); delete it and run the same command again") from None

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def _sum(key: str, reply: str) -> str:
    return hashlib.sha256(f"{key}\n{reply}".encode("utf-8", "surrogatepass")).hexdigest()


class Judge:
    """Asks a judge model; `requests` counts what was really sent."""

    def __init__(self, settings: JudgeSettings, server: JudgeServer, store: ReplyStore) -> None:
        import openai

        self.settings, self.server, self.store = settings, server, store
        self.requests = 0
        self.asked = 0
        """Questions put by `count`."""
        self.unread: list[tuple[str, ...]] = []
        """Of them those without a readable reply: the keys of all their replies."""
        self.late = 0
        """Questions given up as late since the last reply."""
        self.thoughts: int | None = 0
        """Replies that were nothing but thoughts; None once one said something."""
        self._body = Body()
        self._count = threading.Lock()
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        # Retries are ours: the client's own would have the same patience each time.
        self._client = openai.OpenAI(base_url=server.url, api_key=server.key, max_retries=0)

    def key(self, question: Question, attempt: int) -> str:
        """What a reply is kept under: the prompt and everything about how it is asked, not where."""
        content = {"prompt": question.prompt, "model": self.settings.model, **self._parameters(question.call, attempt)}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def _parameters(self, call: JudgeCall, attempt: int) -> dict[str, Any]:
        parameters: dict[str, Any] = {
            "temperature": call.temperature,
            "max_tokens": call.max_tokens,
            "seed": self.settings.seed + attempt,
        }
        if call.options:
            choices = list(call.options)
            # vLLM's name for it, before and since version 0.12; a server that refuses them is asked without (`Body`).
            parameters["extra_body"] = {"guided_choice": choices, "structured_outputs": {"choice": choices}}
        return parameters

    def reply(self, question: Question, attempt: int = 0) -> str:
        """The reply to a question, from the store or from the server, as it is.

        Raises UserError where the server fails, LateReplyError where it is there and does not answer.
        """
        question = Question(encodable(question.prompt), question.call)
        key = self.key(question, attempt)
        with self._count:
            lock = self._locks[key]
        with lock:  # of two that ask the same at once, the second waits for the first's reply
            kept = self.store.get(key)
            if kept is not None:
                return kept
            text, model = self._send(question, attempt)
            self._hear(text, question.call)
            if spoken(text) or not text:  # thoughts alone say more about the server than about the question
                self.store.put(key, text, model)
            return text

    def answer(self, question: Question, attempt: int = 0) -> str:
        """What the reply says after its thoughts, perhaps nothing. Raises as `reply`."""
        return spoken(self.reply(question, attempt))

    def _hear(self, text: str, call: JudgeCall) -> None:
        """Raise UserError where the first replies are thoughts that were cut off: so would all others be."""
        with self._count:
            self.thoughts = None if self.thoughts is None or spoken(text) else self.thoughts + bool(text)
            hopeless = self.thoughts is not None and self.thoughts >= LEAST_THOUGHTS
        if hopeless:
            raise self._failed(
                f"thinks, and is cut off at {call.max_tokens} tokens before it says anything",
                "; serve it so that it does not think, or raise max_tokens of the protocol",
            )

    def _send(self, question: Question, attempt: int) -> tuple[str, str]:
        """Text and model of a reply, asked for with growing patience: a busy server is not a broken one."""
        import openai

        for times in PATIENCE:
            try:
                done = self._answered(question, attempt, times * self.server.timeout)
                text = encodable(said(done.choices[0].message))
                start = text[:MAX_REPLY_CHARS]
                return start if spoken(start) else spoken(text)[:MAX_REPLY_CHARS] or start, str(done.model)
            except openai.APITimeoutError:
                continue
            except openai.APIStatusError as e:
                guided = "does it know guided decoding? else drop `options` of the protocol"
                advice = f" ({guided})" if e.status_code == 400 else ""
                raise self._failed(f"HTTP {e.status_code} {' '.join(str(e).split())[:200]}", advice) from None
            except (openai.OpenAIError, AttributeError, IndexError, TypeError, ValueError) as e:
                raise self._failed(" ".join(f"{type(e).__name__} {e}".split())[:200]) from None
        raise self._given_up()

    def _answered(self, question: Question, attempt: int, seconds: float) -> Any:
        """The server's answer, asked for again for a while where it refuses or fails, but not where it is late."""
        import openai
        import tenacity

        passing = (openai.RateLimitError, openai.InternalServerError, openai.APIConnectionError)
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(
                lambda e: isinstance(e, passing) and not isinstance(e, openai.APITimeoutError)
            ),
            wait=tenacity.wait_exponential(max=4),
            stop=lambda state: state.idle_for >= RETRY_SECONDS,  # of waiting: the request itself may have been long
            reraise=True,
        )
        answer = retrying(self._request, question, attempt, seconds)
        self.late = 0
        return answer

    def _request(self, question: Question, attempt: int, seconds: float) -> Any:
        import openai

        with self._count:
            self.requests += 1
        messages: list[Any] = [{"role": "user", "content": question.prompt}]
        sent = self._body.fitted(self._parameters(question.call, attempt))
        patience = openai.Timeout(seconds, connect=CONNECT_SECONDS)
        try:
            return self._client.chat.completions.create(
                model=self.settings.model, messages=messages, timeout=patience, **sent
            )
        except (openai.BadRequestError, openai.UnprocessableEntityError) as e:
            if not self._body.yields(str(e), sent):
                raise
        except openai.APITimeoutError as e:
            # Nobody is there: as good as refused. By the name, since the class is httpx's or httpx2's.
            if type(e.__cause__).__name__ == "ConnectTimeout":
                raise openai.APIConnectionError(message="no connection in time", request=e.request) from None
            raise
        return self._request(question, attempt, seconds)  # without what was refused: there is less each time

    def _given_up(self) -> Exception:
        """A late reply, unless so many in a row were late that the server must be hanging."""
        with self._count:
            self.late += 1
            late = self.late
        if late < LEAST_UNREAD:
            return LateReplyError()
        longest = PATIENCE[-1] * self.server.timeout
        return self._failed(f"{late} questions in a row got no reply, even within {longest:g} s")

    def _failed(self, why: str, advice: str = "") -> UserError:
        return UserError(
            f"judge {self.settings.model} at {self.server.url}: {why}{advice}; start the server and run the same "
            f"command again: what it said so far is kept in {self.store.path}"
        )

    def ask(self, question: Question, parse: Callable[[str], Parsed | None]) -> Parsed | None:
        """The first reply that `parse` accepts, at most `call.tries` of them; None where there is none."""
        question = Question(encodable(question.prompt), question.call)
        attempts = range(question.call.tries)
        replies = (parse(self.answer(question, attempt)) for attempt in attempts)
        keys = tuple(self.key(question, attempt) for attempt in attempts)
        return self.count(lambda: next((parsed for parsed in replies if parsed is not None), None), keys)

    def count(self, read: Callable[[], Parsed | None], keys: tuple[str, ...] = ()) -> Parsed | None:
        """What `read` makes of replies, whose keys are given; None, counted as unread, where one was late, too."""
        try:
            found = read()
        except LateReplyError:
            found = None
        with self._count:
            self.asked += 1
            if found is None:
                self.unread.append(keys)
        return found

    def require_readable(self) -> None:
        """Raise UserError where most questions since the last call got no readable reply; those are forgotten."""
        asked, unread = self.asked, self.unread
        self.asked, self.unread = 0, []
        if len(unread) >= LEAST_UNREAD and 2 * len(unread) > asked:
            self.store.forget(key for keys in unread for key in keys)
            raise UserError(
                f"judge {self.settings.model} at {self.server.url}: {len(unread)} of {asked} questions "
                "got no reply that can be read; serve the right model there and run the same command again"
            )
        if unread:
            print(
                f"note: judge {self.settings.model}: {len(unread)} of {asked} questions got no reply that can be read; "
                "they count as wrong, with note judge_unreadable",
                file=sys.stderr,
            )

    def map(self, function: Callable[[Any], Parsed], items: Sequence[Any]) -> list[Parsed]:
        """`function` of every item, several at once, in order. The first error ends it; what waits is not begun."""
        with ThreadPoolExecutor(self.server.workers) as pool:
            futures = [pool.submit(function, item) for item in items]
            try:
                return [future.result() for future in futures]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
