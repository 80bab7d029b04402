"""A tool's own message in the place of an answer: the request failed, and the model said nothing.

Only a text that is such a message from its first word to its last counts; one that an answer quotes does not.
"""

from __future__ import annotations

import json
import re

STATUS = (
    r"(?:Client Error|Server Error|Bad Request|Unauthorized|Forbidden|Not Found|Payload Too Large|Too Many Requests|"
    r"Internal Server Error|Bad Gateway|Service (?:Temporarily )?Unavailable|Gateway Time-?out)"
)
END = r"(?:\.?$|[.,:;]? ?[-(\[{<:]| for url\b)"
CODE = rf"[45]\d\d\b(?: {STATUS})?\]?{END}"
"""A status, and after it nothing or more of the message; no sentence about it."""

PARTY = (
    r"(?: (?:an?|the))?(?: [\w-]+)? (?:API|model|server|endpoint|host|service|backend)\b"
    r"(?:\.?$|:| ?[(\[<{]| (?:at|after|due to)\b)"
)
"""Who did not answer, and after it nothing or why."""

CLIENT = re.compile(
    r"(?:\w+\.)*(?-i:[A-Z]\w*)(?:Error|Exception|Timeout)\b(?:\(|: )|<Response \[[45]\d\d\]>|"
    rf"(?:Error code:|(?:HTTP(?: error)?|status(?: code)?)[ :/]*(?:1\.1 )?) ?{CODE}|\[?Error:? {CODE}|"
    rf"[45]\d\d {STATUS}{END}|{STATUS}\.?$|HTTPS?ConnectionPool\(|"
    r"Max retries exceeded|Connection (?:error|refused|reset|aborted|timed out)\b[^.]*\.?$|"
    r"(?:(?:The )?(?:read |write )?(?:read|write|connect|connection|request|operation|call|gateway|upstream|server) )?"
    r"(?:timed out|time-?out)(?: error)?[.!]?$|upstream (?:request timeout|connect error)(?:\W*$| or disconnect)|"
    rf"(?:API |Server )?(?:call|request) (?:has )?failed with (?:status(?: code)?|code|error):? {CODE}|"
    rf"(?:failed|unable) to (?:call|reach|connect to|contact|query|invoke|access){PARTY}|"
    r"(?-i:(?:\w+\.)*(?:API\w*|Read|Connect|Connection|RateLimit|ServiceUnavailable|InternalServer|Overloaded|HTTP)"
    r"(?:Error|Timeout|TimeoutError))$|overloaded(?:_error)?\.?$|"
    r"(?:<urlopen error )?\[Errno -?\d+\] |\(?'Connection aborted\.'|Cannot connect to host \S+:\d|"
    r"(?:Server disconnected|(?:Remote end|Peer) closed connection)(?: without .{0,60})?\.?$|"
    r"All connection attempts failed\.?$|(?:Client|Server) error '[45]\d\d\b|"
    r"CUDA (?:out of memory|error:)|Traceback \(most recent call last\):|"
    r"\[?(?:API|Request|Server|Generation|Inference|Rate ?limit)[ _-](?:call )?(?:error|failed|timeout|exceeded)\b"
    r"(?:\]|:|\.?$)",
    re.I,
)  # fmt: skip
"""What HTTP clients, servers and PyTorch say of a call that failed."""

LABEL = re.compile(r"^\[?error\]?(?: ?:|(?<=\])) *", re.I)
"""What a tool puts before the message of its client."""

TOOL = re.compile(
    r"(?:error:? )?(?:[1-5]\d\d[ :,-]*)?fail(?:ed|ure)? to (?:obtain|get|generate)(?: an?| the)? (?:answer|response)\b"
    r"(?:(?: (?:via|from|using|with|by))?(?: [\w-]+)? (?:API|model|server|endpoint)\b)?",
    re.I,
)
"""VLMEvalKit's message, whichever of its models wrote it; a status code may stand before it."""

REASON = re.compile(
    r"<class '|<\w+ \[|after \d+ (?:tries|retries|attempts)|[45]\d\d\b|time[d ]*out|"
    r"(?:RetCode|code|status|error|exception|log|reason|message)\b ?[:=]",
    re.I,
)
"""What follows it where it says why."""

ANSWERS = re.compile(r"\\boxed|<answer>|\banswer (?:is|:)|(?<!\.)\b(?:so|hence|therefore|thus)\b", re.I)
"""An answer follows after all."""

LONGEST = 4000
"""Characters; a longer text is no message."""


def failure(text: str) -> str:
    """The message of a failed request that all of a stored text is; empty for what a model can have said.

    >>> failure("404 Failed to obtain answer via API. <Response [404]>")
    '404 Failed to obtain answer via API. <Response [404]>'
    >>> failure("The log says: Failed to obtain answer via API. The answer is B.")
    ''
    """
    message = " ".join(text[: LONGEST + 1].split())
    if len(text) > LONGEST or ANSWERS.search(message):
        return ""
    tool = TOOL.match(message)
    said = message[tool.end() :].lstrip(" .:;,-(!") if tool else message
    failed = bool(CLIENT.match(said) or CLIENT.match(LABEL.sub("", said))) or _error_object(said) or _error_page(said)
    failed |= bool(tool) and (not said or bool(REASON.match(said)))
    return message if failed else ""


def _error_object(text: str) -> bool:
    """Whether a server's JSON reply says what went wrong."""
    try:
        reply = json.loads(text) if text.startswith("{") else None
    except (ValueError, RecursionError):
        return False
    return isinstance(reply, dict) and "choices" not in reply and ("error" in reply or reply.get("object") == "error")


def _error_page(text: str) -> bool:
    """Whether it is the page of a proxy."""
    return bool(re.match(r"<(?:!doctype )?html\b.*<(?:title|h1)>\s*[45]\d\d\b", text, re.I))
