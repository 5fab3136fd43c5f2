"""Checking the body of a request under /v1: every parameter is understood and passed on, or refused by its name.

What would change the answer and is not supported is refused, never ignored. Values that mean "as usual" are accepted,
since clients send them without being asked.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from django.utils.translation import gettext as _

from deployments import plain_prompts
from deployments.plain_prompts import Prompt
from portal.errors import InvalidInput

Reader = Callable[[str, Any], Any]
Schema = dict[str, Any]

MAX_TEXT = 1_000_000
MOST_PROMPTS = 8
MOST_ANSWERS = 32
MAX_MESSAGES = 1_000
_SCHEMA_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


@dataclass(frozen=True)
class Parameter:
    """One parameter: `read` checks a value that is not null, `schema` says the same in the OpenAPI document.

    `read` gets the name and the value and returns what the engine gets, None to leave it out.
    """

    read: Reader
    schema: Schema


class MissingParameter(InvalidInput):
    """A parameter without which there is nothing to do."""

    code = "missing_required_parameter"


class UnsupportedParameter(InvalidInput):
    """A parameter that nobody knows, or that this server does not do."""

    code = "unsupported_parameter"


def chat_request(body: Any) -> dict[str, Any]:
    """Return the request that the engine gets: `model` (public name), `messages` with plain text, and checked options.

    Raises: InvalidInput naming the parameter.
    """
    body = require_object(body)
    options = _options(body, CHAT_PARAMETERS, besides="messages")
    if options.get("confidence") and options.get("stream"):
        raise InvalidInput(
            _("'confidence' is told with whole answers only, not with 'stream': true."), param="confidence"
        )
    return {"model": _model(body), "messages": _messages(body), **options}


def completion_request(body: Any) -> dict[str, Any]:
    """Return a legacy completion request: what `prompt` has is continued as it stands, without a conversation around.

    Raises: InvalidInput naming the parameter.
    """
    body = require_object(body)
    options = _options(body, COMPLETION_PARAMETERS, besides="prompt")
    prompt = _prompt(body)
    if options.get("n", 1) * len(plain_prompts.each(prompt)) > MOST_ANSWERS:
        raise InvalidInput(_("More than 32 answers in one request: ask for fewer, or in several."), param="n")
    return {"model": _model(body), "prompt": prompt, **options}


def require_object(body: Any) -> dict[str, Any]:
    """Return the body, if it is a JSON object. Raises: InvalidInput."""
    if not isinstance(body, dict):
        raise InvalidInput(_("The body of the request has to be a JSON object."), code="invalid_json")
    return body


def unsupported(name: str) -> UnsupportedParameter:
    """Return the error for a parameter that nobody knows."""
    return UnsupportedParameter(_("The parameter '%(name)s' is not supported.") % {"name": name[:60]}, param=name[:60])


def required_text(body: Mapping[str, Any], name: str, *, limit: int) -> str:
    """Return a text without which there is nothing to do. Raises: InvalidInput."""
    if not body.get(name):
        raise MissingParameter(_("'%(name)s' is missing.") % {"name": name}, param=name)
    return text(name, body[name], limit=limit)


def optional_text(body: Mapping[str, Any], name: str, *, limit: int) -> str:
    """Return a text, '' if it is left out or null. Raises: InvalidInput."""
    return "" if body.get(name) is None else text(name, body[name], limit=limit)


def metadata(value: Any) -> dict[str, str]:
    """Return up to 16 texts that a client keeps with something. Raises: InvalidInput."""
    if value is None:
        return {}
    _metadata("metadata", value)
    for key, kept in value.items():
        text("metadata", key, limit=64)
        text("metadata", kept, limit=512)
        if "\0" in key or "\0" in kept:
            raise InvalidInput(_("'metadata' holds a character that cannot be stored."), param="metadata")
    return dict(value)


def _model(body: Mapping[str, Any]) -> str:
    model = body.get("model")
    if model is None:
        raise MissingParameter(_("Say which model to ask."), param="model")
    return text("model", model, limit=200)


def _options(body: Mapping[str, Any], known: Mapping[str, Parameter], *, besides: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, value in body.items():
        if name in ("model", besides):
            continue
        if name not in known:
            raise unsupported(name)
        if value is not None and (read := known[name].read(name, value)) is not None:
            options[name] = read
    if "max_completion_tokens" in options:
        limit = options.pop("max_completion_tokens")
        if options.setdefault("max_tokens", limit) != limit:
            raise InvalidInput(_("'max_tokens' and 'max_completion_tokens' contradict each other."), param="max_tokens")
    if "stream_options" in options and not options.get("stream"):
        raise InvalidInput(_("'stream_options' goes with 'stream': true only."), param="stream_options")
    if "top_logprobs" in options and not options.get("logprobs"):
        raise InvalidInput(_("'top_logprobs' goes with 'logprobs': true only."), param="top_logprobs")
    # Quality was measured with the likeliest answers, so they are what a caller gets who does not say otherwise.
    options.setdefault("temperature", 0.0)
    return options


# --- Messages ----------------------------------------------------------------------------------------------------


def _messages(body: Mapping[str, Any]) -> list[dict[str, str]]:
    if body.get("messages") is None:
        raise MissingParameter(_("Say what to answer in 'messages'."), param="messages")
    return messages_of("messages", body["messages"])


def messages_of(name: str, messages: Any) -> list[dict[str, str]]:
    """Return a conversation with plain text. Raises: InvalidInput naming the message."""
    if not isinstance(messages, list) or not messages:
        raise InvalidInput(_("'%(name)s' has to be a list with at least one message.") % {"name": name}, param=name)
    if len(messages) > MAX_MESSAGES:
        raise InvalidInput(_("'%(name)s' has more than 1,000 messages.") % {"name": name}, param=name)
    return [_message(f"{name}[{index}]", message) for index, message in enumerate(messages)]


def _message(path: str, message: Any) -> dict[str, str]:
    if not isinstance(message, dict):
        raise InvalidInput(_("A message has to be an object with role and content."), param=path)
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise InvalidInput(
            _("The role of a message has to be one of: %(roles)s.") % {"roles": ", ".join(ROLES)}, param=f"{path}.role"
        )
    for name, value in message.items():
        # Answers of a client's own SDK come back with empty fields such as "refusal": null.
        if name not in ("role", "content") and value not in (None, [], {}):
            raise UnsupportedParameter(
                _("'%(name)s' in a message is not supported.") % {"name": name[:60]}, param=f"{path}.{name[:60]}"
            )
    return {"role": ROLES[role], "content": _content(f"{path}.content", message.get("content"))}


def _content(path: str, content: Any) -> str:
    if isinstance(content, str):
        return text(path, content)
    if not isinstance(content, list) or not content:
        raise InvalidInput(_("The content of a message has to be text or a list of text parts."), param=path)
    return text(path, "".join(_part(f"{path}[{index}]", part) for index, part in enumerate(content)))


def _part(path: str, part: Any) -> str:
    if not isinstance(part, dict) or part.get("type") != "text":
        raise UnsupportedParameter(_("Only text parts are supported: no images, audio or files."), param=path)
    return text(f"{path}.text", part.get("text"))


def _prompt(body: Mapping[str, Any]) -> Prompt:
    prompt = body.get("prompt")
    if prompt is None:
        raise MissingParameter(_("Say what to complete in 'prompt'."), param="prompt")
    if isinstance(prompt, str) or _are_token_ids(prompt):
        return _one_prompt("prompt", prompt)
    if not isinstance(prompt, list) or not 1 <= len(prompt) <= MOST_PROMPTS:
        raise InvalidInput(_("'prompt' is a text, a list of token ids, or a list of 1 to 8 of either."), param="prompt")
    if len({isinstance(one, str) for one in prompt}) > 1:
        raise InvalidInput(_("'prompt' is a list of texts or of lists of token ids, not of both."), param="prompt")
    several = [_one_prompt(f"prompt[{place}]", one) for place, one in enumerate(prompt)]
    return cast(Prompt, several) if len(several) > 1 else several[0]


def _one_prompt(path: str, prompt: Any) -> plain_prompts.One:
    if _are_token_ids(prompt):
        return list(prompt)
    return text(path, prompt)


def _are_token_ids(prompt: Any) -> bool:
    return (
        isinstance(prompt, list)
        and bool(prompt)
        and all(isinstance(one, int) and not isinstance(one, bool) and 0 <= one < 2**31 for one in prompt)
    )


# --- Readers of one parameter: (name, value that is not null) -> value for the engine, None to leave it out ---------


def text(name: str, value: Any, *, limit: int = MAX_TEXT) -> str:
    """Return a text that can be sent on. Raises: InvalidInput."""
    if not isinstance(value, str):
        raise InvalidInput(_("'%(name)s' has to be text.") % {"name": name}, param=name)
    if len(value) > limit:
        raise InvalidInput(
            _("'%(name)s' is longer than %(limit)d characters.") % {"name": name, "limit": limit}, param=name
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidInput(_("'%(name)s' holds half of a character pair.") % {"name": name}, param=name) from None
    return value


def _number(lowest: float, highest: float) -> Parameter:
    def read(name: str, value: Any) -> float:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or not lowest <= value <= highest:
            raise InvalidInput(_range_sentence(name, _("a number"), lowest, highest), param=name)
        return float(value)

    return Parameter(read, {"type": "number", "minimum": lowest, "maximum": highest})


def _integer(lowest: int, highest: int) -> Parameter:
    def read(name: str, value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
            raise InvalidInput(_range_sentence(name, _("a whole number"), lowest, highest), param=name)
        return value

    return Parameter(read, {"type": "integer", "minimum": lowest, "maximum": highest})


def _range_sentence(name: str, kind: str, lowest: float, highest: float) -> str:
    return _("'%(name)s' has to be %(kind)s from %(lowest)s to %(highest)s.") % {
        "name": name,
        "kind": kind,
        "lowest": lowest,
        "highest": highest,
    }


def _boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InvalidInput(_("'%(name)s' has to be true or false.") % {"name": name}, param=name)
    return value


def _wish(name: str, value: Any) -> bool | None:
    return _boolean(name, value) or None


def _stop(name: str, value: Any) -> list[str] | None:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or len(texts) > 4:
        raise InvalidInput(_("'stop' has to be a text or a list of up to four."), param=name)
    if not all(isinstance(one, str) and one for one in texts):
        raise InvalidInput(_("Each 'stop' has to be a text that is not empty."), param=name)
    return [text(name, one, limit=1_000) for one in texts] or None


def _stream_options(name: str, value: Any) -> dict[str, bool]:
    if not isinstance(value, dict):
        raise InvalidInput(_("'stream_options' has to be an object."), param=name)
    known = {"include_usage", "include_obfuscation"}
    for option in value:
        if option not in known:
            raise UnsupportedParameter(
                _("The option '%(name)s' is not supported.") % {"name": option[:60]}, param=f"{name}.{option[:60]}"
            )
    usage = value.get("include_usage")
    return {"include_usage": _boolean(f"{name}.include_usage", usage if usage is not None else False)}


def _only(*usual: Any) -> Parameter:
    """Accept only values that mean "as usual", and leave the parameter out."""

    def read(name: str, value: Any) -> None:
        if not any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in usual):
            raise UnsupportedParameter(_("'%(name)s' is not supported with this value.") % {"name": name}, param=name)

    return Parameter(read, {"enum": list(usual)})


_SIGNED = _number(-2, 2)


def _penalty(name: str, value: Any) -> float | None:
    return _SIGNED.read(name, value) or None


def _response_format(name: str, value: Any) -> dict[str, Any]:
    """Return what an answer has to look like; `json_schema` without a schema means the one of the deployment."""
    if not isinstance(value, dict) or value.get("type") not in ("text", "json_object", "json_schema"):
        raise InvalidInput(
            _("'response_format' has to be an object with type text, json_object or json_schema."), param=name
        )
    for key in value:
        if key != "type" and (key != "json_schema" or value["type"] != "json_schema"):
            raise unsupported(f"{name}.{key}")
    described = value.get("json_schema")
    if value["type"] != "json_schema" or described is None:
        return {"type": value["type"]}
    return {"type": "json_schema", "json_schema": _json_schema(f"{name}.json_schema", described)}


def _json_schema(path: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInput(_("A JSON schema is described by an object with name and schema."), param=path)
    for key in value:
        if key not in ("name", "description", "schema", "strict"):
            raise unsupported(f"{path}.{key}")
    if not isinstance(value.get("name"), str) or not _SCHEMA_NAME.match(value["name"]):
        raise InvalidInput(
            _("The name of a schema has 1 to 64 Latin letters, digits, hyphens or underscores."), param=f"{path}.name"
        )
    if not isinstance(value.get("schema"), dict):
        raise InvalidInput(_("A JSON schema has to be an object."), param=f"{path}.schema")
    return {key: one for key, one in value.items() if one is not None}


def _note(name: str, value: Any) -> None:
    """Accept an identifier that concerns the caller only: it changes no answer and is not kept."""
    text(name, value, limit=512)


def _metadata(name: str, value: Any) -> None:
    if not isinstance(value, dict) or len(value) > 16 or not all(isinstance(one, str) for one in value.values()):
        raise InvalidInput(_("'metadata' has to be an object with up to 16 texts."), param=name)


_TEXTS = {"type": "object", "maxProperties": 16, "additionalProperties": {"type": "string"}}
_NOTE = Parameter(_note, {"type": "string", "maxLength": 512})
_FLAG = Parameter(_boolean, {"type": "boolean"})
_PENALTY = Parameter(_penalty, _SIGNED.schema)
_STOP: Schema = {"type": "string", "minLength": 1, "maxLength": 1_000}
_STREAM_OPTIONS: Schema = {
    "type": "object",
    "properties": {"include_usage": {"type": ["boolean", "null"]}, "include_obfuscation": {}},
    "additionalProperties": False,
}
_NAMED_SCHEMA: Schema = {
    "type": "object",
    "required": ["name", "schema"],
    "properties": {
        "name": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"},
        "description": {},
        "schema": {"type": "object", "description": "A JSON schema; what cannot be enforced is refused."},
        "strict": {},
    },
    "additionalProperties": False,
}
_FORMAT: Schema = {
    "description": "json_schema alone means the schema that the deployment has.",
    "oneOf": [
        {
            "type": "object",
            "required": ["type"],
            "properties": {"type": {"enum": ["text", "json_object"]}},
            "additionalProperties": False,
        },
        {
            "type": "object",
            "required": ["type"],
            "properties": {
                "type": {"const": "json_schema"},
                "json_schema": {"anyOf": [_NAMED_SCHEMA, {"type": "null"}]},
            },
            "additionalProperties": False,
        },
    ],
}
_SHARED: dict[str, Parameter] = {
    "max_tokens": _integer(1, 1_000_000),
    "temperature": _number(0, 2),
    "top_p": _number(0.000001, 1),
    "n": _integer(1, 8),
    "seed": _integer(-(2**63), 2**63 - 1),
    "stop": Parameter(_stop, {"oneOf": [_STOP, {"type": "array", "maxItems": 4, "items": _STOP}]}),
    "stream": _FLAG,
    "stream_options": Parameter(_stream_options, _STREAM_OPTIONS),
    "user": _NOTE,
    "frequency_penalty": _PENALTY,
    "presence_penalty": _PENALTY,
    "logit_bias": _only({}),
}
CHAT_PARAMETERS: dict[str, Parameter] = {
    **_SHARED,
    "max_completion_tokens": _integer(1, 1_000_000),
    "logprobs": _FLAG,
    "top_logprobs": _integer(0, 20),
    "response_format": Parameter(_response_format, _FORMAT),
    "confidence": Parameter(
        _wish, {"type": "boolean", "description": "Ours: say of each closed field how likely it is right."}
    ),
    "tools": _only([]),
    "tool_choice": _only("none"),
    "parallel_tool_calls": _only(True, False),  # without tools it means nothing
    "functions": _only([]),
    "function_call": _only("none"),
    "modalities": _only(["text"]),
    "store": _only(False),
    "service_tier": _only("auto", "default"),
    "safety_identifier": _NOTE,
    "prompt_cache_key": _NOTE,
    "metadata": Parameter(_metadata, _TEXTS),
    **dict.fromkeys(("audio", "prediction", "reasoning_effort", "verbosity", "web_search_options"), _only()),
}
COMPLETION_PARAMETERS: dict[str, Parameter] = {
    **_SHARED,
    "best_of": _only(1),
    "echo": _only(False),
    "suffix": _only(""),
    "logprobs": _integer(0, 5),
}
