"""What the processes write to their logs: one line for each event, with ids and numbers, never with anybody's data.

Whatever is logged passes here. Credentials are blanked by their shape, mail addresses are shortened, control
characters are escaped (so that nobody can forge a line), and of an exception only its kind and its place are written:
its words may quote a ticket. Kinds whose words come from the machine and not from data keep them.
"""

from __future__ import annotations

import json
import logging
import re
import time
import traceback
from contextvars import ContextVar, Token
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from django.conf import settings

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponseBase

access = logging.getLogger("portal.access_log")
_current: ContextVar[HttpRequest | None] = ContextVar("current_request", default=None)

# Nobody reads more of one text, and everything beyond is only somebody's try to fill the disk.
LONGEST_TEXT = 4096

# The words of these come from the operating system, the database's connection or the interpreter.
_WITH_WORDS = (OSError, AttributeError, NameError, ImportError, MemoryError, RecursionError)
_CONNECTION_ERRORS = ("OperationalError", "InterfaceError")

_SECRETS = [
    (re.compile(r"tnp_[0-9a-f]{16}_[A-Za-z0-9_-]*"), "tnp_…"),
    (re.compile(r"\bhf_[A-Za-z0-9]{8,}"), "hf_…"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9+/=._~-]{6,}"), r"\1 …"),
    (re.compile(r"(?i)\b((?:set-)?cookie|authorization|proxy-authorization)(['\"]?\s*[:=]\s*).+"), r"\1\2…"),
    (
        re.compile(
            r"(?i)(?<![a-z_-])([a-z_-]*(?:passw(?:or)?d|passwd|secret|pepper|api_?key|access_?key|sessionid|csrftoken"
            r"|csrfmiddlewaretoken|recovery_?code)[a-z_]*)(['\"]?\s*[:=]\s*['\"]?)[^\s'\",;&}]+"
        ),
        r"\1\2…",
    ),
    (re.compile(r"(://[^\s/:@]+:)[^\s/@]+@"), r"\1…@"),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"), "eyJ…"),
]
_EMAIL = re.compile(r"\b([A-Za-z0-9])[A-Za-z0-9._%+-]*@([A-Za-z0-9-]+\.[A-Za-z0-9.-]+)")
# Looking behind lets each word be tried once, from its beginning: trying it anew from each of its letters would take
# seconds for one line of a stranger's making. The same holds for names of passwords above.
_QUERY = re.compile(r"(?<![^\s?\"'])([^\s?\"'/]*/[^\s?\"']*)\?[^\s\"']+")
_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)')
_KIND = re.compile(r"(?m)^([A-Za-z_][\w.]{0,200}(?:Error|Exception|Exit|Interrupt|Warning|[A-Z]\w{1,200}))(?::|$)")


# --- One request -------------------------------------------------------------------------------------------------


def begin(request: HttpRequest) -> Token[HttpRequest | None]:
    """Have everything that this thread logs from now on carry the request's facts; hand the answer to `end`."""
    request.began_at = time.monotonic()  # type: ignore[attr-defined]
    return _current.set(request)


def end(mark: Token[HttpRequest | None], response: HttpResponseBase | None) -> None:
    """Write the request's own line: method, route, status, duration; no address, no query, no body."""
    request = _current.get()
    if request is not None and response is not None and request.resolver_match is not None:
        duration_ms = round((time.monotonic() - request.began_at) * 1000)  # type: ignore[attr-defined]
        level = logging.ERROR if response.status_code >= 500 else logging.INFO
        facts = {"method": request.method, "status": response.status_code, "duration_ms": duration_ms}
        access.log(level, "%(method)s %(status)s in %(duration_ms)s ms", facts, extra={"facts": facts})
    _current.reset(mark)


def facts_of(request: HttpRequest | None) -> dict[str, str]:
    """Return what is known of a request without asking the database anything."""
    if request is None:
        return {}
    token = getattr(request, "api_token", None)
    team = getattr(request, "team", None)
    user = getattr(request, "_cached_user", None)
    team_id = team.pk if team is not None else getattr(token, "team_id", None)
    found = {
        "request_id": getattr(request, "request_id", ""),
        "route": request.resolver_match.view_name if request.resolver_match else "",
        "team_id": team_id,
        "user_id": getattr(user, "pk", None),
        "seen_as": getattr(getattr(request, "impersonation", None), "person_id", None),
        "token_id": getattr(token, "pk", None),
    }
    return {name: str(value) for name, value in found.items() if value}


# --- Formatters --------------------------------------------------------------------------------------------------


class LineFormatter(logging.Formatter):
    """One line for a person: time, level, logger, words, and the request's facts as name=value."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; the places of an exception follow, indented."""
        at = datetime.fromtimestamp(record.created, UTC).strftime("%F %T")
        facts = "".join(f" {name}={value}" for name, value in facts_of(_current.get()).items())
        line = f"{at} {record.levelname} {record.name} {words_of(record)}{facts}"
        failure = failure_of(record)
        return line if not failure else line + "".join(f"\n    {part}" for part in failure)


class JsonFormatter(logging.Formatter):
    """One JSON object a line, for a log store."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the object."""
        entry: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": words_of(record),
            **facts_of(_current.get()),
            **getattr(record, "facts", {}),
        }
        if failure := failure_of(record):
            entry["failure"] = failure
        return json.dumps(entry, ensure_ascii=False, default=str)


def words_of(record: logging.LogRecord) -> str:
    """Return a record's message in one line, without credentials or anybody's data."""
    if record.name == "django.request":
        # Its own words are the address, and addresses carry keys of mails and invitations.
        return str(record.args[0]) if isinstance(record.args, tuple) and record.args else "request failed"
    if record.name.startswith("django.security.") and record.name != "django.security.DisallowedHost":
        return _refusal(record)
    try:
        text = record.getMessage()
    except (TypeError, ValueError):
        text = str(record.msg)
    if record.name == "django-q" and " - " in text:
        # "Failed 'name' (function) - result": the result quotes the exception.
        head, _dash, rest = text.partition(" - ")
        return _joined(head, *_places(rest))
    if "Traceback (most recent call last)" in text:
        return _joined(text.partition("Traceback (most recent call last)")[0].strip(), *_places(text))
    return _joined(text)


def _refusal(record: logging.LogRecord) -> str:
    """Return why a request was refused, without its address or referrer: addresses carry keys of invitations."""
    if record.name == "django.security.csrf" and isinstance(record.args, tuple) and record.args:
        # "Referer checking failed - https://… does not match any trusted origins."
        return _joined(str(record.args[0]).partition(" - ")[0])
    return "suspicious request refused"


def _joined(*parts: str) -> str:
    return escaped(" - ".join(redacted(part) for part in parts))


def failure_of(record: logging.LogRecord) -> list[str]:
    """Return an exception's kind and places, outermost first; its words only where they cannot quote data."""
    if not record.exc_info or record.exc_info[1] is None:
        return []
    parts: list[str] = []
    error: BaseException | None = record.exc_info[1]
    while error is not None and len(parts) < 100:
        places = [f"{one.filename}:{one.lineno} in {one.name}" for one in traceback.extract_tb(error.__traceback__)]
        parts += [escaped(redacted(_kind_and_words(error))), *(f"  {place}" for place in places)]
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return parts


def _kind_and_words(error: BaseException) -> str:
    kind = type(error).__name__
    if kind in _CONNECTION_ERRORS or isinstance(error, _WITH_WORDS):
        return f"{kind}: {error}"
    code = getattr(error, "code", None)  # of our own errors: a word of the code, never of data
    return f"{kind} ({code})" if isinstance(code, str) and code.isidentifier() else kind


def _places(text: str) -> list[str]:
    kinds = _KIND.findall(text)
    return [*kinds[-1:], *(f"{file}:{line} in {name}" for file, line, name in _FRAME.findall(text))]


def redacted(text: str) -> str:
    """Return a text without credentials, queries of addresses, and (unless wanted) people's mail addresses.

    Of a long text the beginning is kept, up to the end of a word: half of a credential has not its shape.
    """
    if len(text) > LONGEST_TEXT:
        text = " ".join([*text[:LONGEST_TEXT].rsplit(maxsplit=1)[:-1], "…"])
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    text = _QUERY.sub(r"\1?…", text)
    return text if settings.LOG_EMAILS else _EMAIL.sub(r"\1…@\2", text)


def escaped(text: str) -> str:
    """Return a text as one line: characters that a terminal or a reader of lines would obey become visible."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
