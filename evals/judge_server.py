"""Where a judge is, what it takes and what it says: an OpenAI-compatible server, of which no two are quite alike."""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from lmmr1.types import UserError

CONNECT_SECONDS = 5.0
PROBE_SECONDS = 30.0
"""For a reply of one token; a server that takes longer is busy, not wrong."""

ENDPOINTS = re.compile(r"(?:/chat/completions|/completions|/models)?/*$")
"""What people copy behind the base of an address."""

GUIDED = ("guided_choice", "structured_outputs")
"""vLLM's fields for the only replies that may be decoded; strict servers refuse them. Replies are read strictly."""

THOUGHTS = (("<think>", "</think>"), ("<thinking>", "</thinking>"), ("[THINK]", "[/THINK]"), ("◁think▷", "◁/think▷"))
"""How models mark what they say to themselves."""


@dataclass(frozen=True, slots=True)
class JudgeServer:
    """Where the judge is. No part of it is recorded: the model and its settings are."""

    url: str
    """Base URL, e.g. http://localhost:8000/v1."""
    key: str = "none"
    timeout: float = 15.0
    """Seconds that a reply may take at first; one that is late is asked for again, with more patience each time."""
    workers: int = 16
    """Questions that are asked at once."""


def base_url(url: str) -> str:
    """The base of an OpenAI-compatible API from any address of it. Raises UserError for what is none.

    >>> base_url("http://localhost:8000"), base_url("http://h:1/v1/chat/completions"), base_url("https://h/api/v1/")
    ('http://localhost:8000/v1', 'http://h:1/v1', 'https://h/api/v1')
    """
    parts = urlsplit(url.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise UserError(f"--judge-url {url!r}: expected http://HOST:PORT/v1")
    return urlunsplit(parts._replace(path=ENDPOINTS.sub("", parts.path) or "/v1"))


class Body:
    """The fields that a server takes: one that it refuses by name is left out, or renamed, from then on."""

    def __init__(self) -> None:
        self._refused: set[str] = set()

    def fitted(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """`parameters` of the client without what was refused."""
        kept = {name: value for name, value in parameters.items() if name not in self._refused}
        extra = {k: v for k, v in kept.pop("extra_body", {}).items() if k not in self._refused}
        if "max_tokens" in self._refused and "max_tokens" in parameters:
            kept["max_completion_tokens"] = parameters["max_tokens"]  # what models that think call it
        return kept | ({"extra_body": extra} if extra else {})

    def yields(self, refusal: str, sent: dict[str, Any]) -> bool:
        """Whether to ask again after a refusal with that text: it names a field that can be spared.

        One that names none may mean the fields that are not in the API's specification. The temperature decides what
        is said and is in the record: it is never spared.
        """
        extra = [name for name in GUIDED if name in sent.get("extra_body", {})]
        sparable = [*extra, *(name for name in ("seed", "max_tokens") if name in sent)]
        named = [name for name in sparable if re.search(rf"\b{name}\b", refusal)]
        spared = named or ([] if re.search(r"\b(?:temperature|model|messages)\b", refusal) else extra)
        self._refused.update(spared)
        return bool(spared)


def said(message: Any) -> str:
    """The text of a reply; one that is nothing but thoughts, in a field of their own, is those with their mark.

    Content may be a list of parts, of which those of text count.
    """
    content = message.content
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict) and part.get("type") in ("text", "output_text")]
        content = "".join(str(part.get("text") or "") for part in parts)
    thoughts = getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)
    return content or (f"{THOUGHTS[0][0]}{thoughts}" if isinstance(thoughts, str) else "")


def spoken(text: str) -> str:
    """What a reply says after its thoughts; nothing where they do not end.

    >>> spoken("<think>0 or 1?</think>\\n1"), spoken("0 or 1?</think>1"), spoken("<think>0 or"), spoken("1")
    ('1', '1', '', '1')
    """
    for opening, closing in THOUGHTS:
        if closing in text:
            return text.rpartition(closing)[2].strip()
        if text.lstrip().startswith(opening):
            return ""
    return text


def check_reachable(server: JudgeServer, model: str) -> None:
    """See that the judge is there, under its name. Raises UserError: a wrong one must not cost an evaluation.

    A server that lists its models is sent no request; another one is asked for one token.
    """
    _connect(server, model)
    import openai

    client = openai.OpenAI(base_url=server.url, api_key=server.key, max_retries=0, timeout=PROBE_SECONDS)
    served = _served(client)
    if served is None:
        _probe(client, server, model)
    elif served and not {model, f"{model}:latest"} & set(served):
        raise UserError(
            f"--judge-url {server.url}: serves {', '.join(served)[:200]}, not the judge {model}; serve it under that "
            "name, or name another with --judge-model (it is recorded: scores by two judges are not compared)"
        )


def _connect(server: JudgeServer, model: str) -> None:
    parts = urlsplit(server.url)
    try:
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        with socket.create_connection((parts.hostname or "", port), timeout=CONNECT_SECONDS):
            return
    except KeyError:
        raise UserError(f"--judge-url {server.url!r}: expected http://HOST:PORT/v1") from None
    except (OSError, ValueError) as e:
        raise UserError(
            f"--judge-url {server.url}: no server answers there ({e}); start one that serves {model} over the OpenAI "
            "API, or choose --protocol rule, which needs no judge"
        ) from None


def _served(client: Any) -> list[str] | None:
    """The models that a server lists; None where it does not list any."""
    import openai

    try:
        return [str(found.id) for found in client.models.list().data]
    except (openai.OpenAIError, AttributeError, TypeError, ValueError):
        return None


def _probe(client: Any, server: JudgeServer, model: str) -> None:
    """Ask for one token. A server that is late or busy may be the right one."""
    import openai

    body, wrong = Body(), f"--judge-url {server.url}: no judge {model} answers there"
    fix = "give the address as http://HOST:PORT/v1, the model with --judge-model, a key in $OPENAI_API_KEY"
    while True:
        sent = body.fitted({"max_tokens": 1})
        try:
            done = client.chat.completions.create(model=model, messages=[{"role": "user", "content": "1"}], **sent)
            done.choices[0].message  # noqa: B018  an answer in another form is another server's
            return
        except (openai.APITimeoutError, openai.RateLimitError, openai.InternalServerError):
            return
        except (openai.BadRequestError, openai.UnprocessableEntityError) as e:
            if not body.yields(str(e), sent):
                raise UserError(f"{wrong} ({_brief(e)}); {fix}") from None
        except (openai.OpenAIError, AttributeError, IndexError, TypeError, ValueError) as e:
            raise UserError(f"{wrong} ({_brief(e)}); {fix}") from None


def _brief(error: Exception) -> str:
    return " ".join(f"{error}".split())[:200] or type(error).__name__


def judge_server(url: str | None, timeout: float | None = None) -> JudgeServer | None:
    """The judge's server at `url`, with the key from $OPENAI_API_KEY if there is one. Raises UserError for no URL."""
    if url is None:
        return None
    key = os.environ.get("OPENAI_API_KEY") or "none"
    return JudgeServer(base_url(url), key, timeout) if timeout else JudgeServer(base_url(url), key)
