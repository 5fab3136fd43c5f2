"""Reading the body of a request for decisions: a text or conversation, and typed questions about it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from django.utils.translation import gettext as _

from datasets_app.readers.jsonlines import JsonFault, refuse_depth
from deployments.openai_api import parameters
from portal.errors import InvalidInput

Body = dict[str, Any]
MOST_QUESTIONS: Final = 400
MOST_CHOICES: Final = 255
MOST_INSTRUCTIONS: Final = 20_000
MOST_JSON: Final = 256 * 1024
MOST_JSON_DEPTH: Final = 32
YES, NO = "yes", "no"
CACHE_MODES: Final = ("implicit", "explicit")
CACHE_LIFE: Final = "30m"
LONGEST_CACHE_KEY: Final = 512
ANY_NOTES: Final = ("user", "metadata", "store", "safety_identifier")
"""Fields that are not looked at."""
TEXT_PARTS: Final = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Kinds of parts that are text, and the field in which it stands."""
JSON_PART: Final = "input_json"
PHASES: Final = ("commentary", "final_answer")


@dataclass(frozen=True)
class Question:
    """What is asked: words for the model, and the values that it may answer with, as labels; a name, '' for none."""

    kind: str
    name: str
    instructions: str
    labels: tuple[str, ...]
    values: tuple[Any, ...]
    descriptions: tuple[str, ...]

    @property
    def words(self) -> str:
        """The question as it is put behind the text."""
        lines = [self.instructions or _("What is “%(name)s”?") % {"name": self.name}]
        for label, description in zip(self.labels, self.descriptions, strict=True):
            lines.append(f"- {label}: {description}" if description else f"- {label}")
        return "\n".join(["", *lines, _("Answer with one of these and nothing else.")])


def decision_request(body: Any) -> Body:
    """Return a checked request: `model`, `messages` and `questions`. Raises: InvalidInput naming the parameter."""
    body = parameters.require_object(body)
    for name, value in body.items():
        if name not in ("model", "input", "questions"):
            _check_note(name, value)
    model = parameters.required_text(body, "model", limit=200)
    questions = body.get("questions")
    if not isinstance(questions, list) or not 1 <= len(questions) <= MOST_QUESTIONS:
        raise InvalidInput(_("'questions' has to be a list of 1 to 400 questions."), param="questions")
    read = [_question(f"questions[{place}]", one) for place, one in enumerate(questions)]
    names = [question.name for question in read if question.name]
    if len(set(names)) < len(names):
        raise InvalidInput(_("Two questions have the same name."), param="questions")
    return {"model": model, "messages": _messages(body), "questions": read}


def _check_note(name: str, value: Any) -> None:
    """Accept what concerns the caller or how prompts are kept: it changes no answer. Raises: InvalidInput."""
    if name == "prompt_cache_key":
        parameters.optional_text({name: value}, name, limit=LONGEST_CACHE_KEY)
    elif name == "prompt_cache_options":
        _check_cache_options(name, value)
    elif name not in ANY_NOTES:
        raise parameters.unsupported(name)


def _check_cache_options(path: str, value: Any) -> None:
    if value is None:
        return
    if not isinstance(value, dict):
        raise InvalidInput(_("'%(name)s' has to be an object.") % {"name": path}, param=path)
    allowed: Mapping[str, tuple[str | None, ...]] = {"mode": (*CACHE_MODES, None), "ttl": (CACHE_LIFE,)}
    for name, one in value.items():
        if name not in allowed:
            raise parameters.unsupported(f"{path}.{name}")
        if one not in allowed[name]:
            raise InvalidInput(_("'%(name)s' has an unknown value.") % {"name": name}, param=f"{path}.{name}")


# --- what is decided on ------------------------------------------------------------------------------------------


def _messages(body: Body) -> list[dict[str, str]]:
    given = body.get("input")
    if given is None:
        raise parameters.MissingParameter(_("Say what to decide on in 'input'."), param="input")
    if not isinstance(given, list):
        return [{"role": "user", "content": parameters.required_text(body, "input", limit=parameters.MAX_TEXT)}]
    return parameters.messages_of("input", [_plain(f"input[{place}]", one) for place, one in enumerate(given)])


def _plain(path: str, message: Any) -> Any:
    """Return a message without what says nothing: its type and phase. Its parts become one text."""
    if not isinstance(message, dict):
        return message
    if message.get("type") not in (None, "message"):
        raise parameters.UnsupportedParameter(
            _("Only messages are supported: no calls of tools and no outputs of them."), param=f"{path}.type"
        )
    if message.get("phase") not in (None, *PHASES):
        raise InvalidInput(_("'%(name)s' has an unknown value.") % {"name": "phase"}, param=f"{path}.phase")
    rest = {name: value for name, value in message.items() if name not in ("type", "phase")}
    if isinstance(content := rest.get("content"), list) and content:
        rest["content"] = _joined(f"{path}.content", content)
    return rest


def _joined(path: str, parts: list[Any]) -> str:
    return "".join(_part(f"{path}[{place}]", part) for place, part in enumerate(parts))


def _part(path: str, part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == JSON_PART:
        return _json_text(f"{path}.data", part.get("data"))
    if not isinstance(kind, str) or kind not in TEXT_PARTS:
        raise parameters.UnsupportedParameter(
            _("Only parts of text and JSON are supported: no images, audio or files."), param=path
        )
    return parameters.text(f"{path}.{TEXT_PARTS[kind]}", part.get(TEXT_PARTS[kind]))


def _json_text(path: str, value: Any) -> str:
    """Return an object, or a list of objects, as the model reads it."""
    if not isinstance(value, dict) and not (isinstance(value, list) and all(isinstance(one, dict) for one in value)):
        raise InvalidInput(_("JSON parts hold an object or a list of objects."), param=path)
    try:
        refuse_depth(value, MOST_JSON_DEPTH)
    except JsonFault:
        raise InvalidInput(_("The JSON of a part has more than 32 levels."), param=path) from None
    written = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if len(parameters.text(path, written).encode()) > MOST_JSON:
        raise InvalidInput(_("The JSON of a part is larger than 256 KB."), param=path)
    return written


# --- questions ---------------------------------------------------------------------------------------------------


def _question(path: str, given: Any) -> Question:
    if not isinstance(given, dict):
        raise InvalidInput(_("A question has to be an object."), param=path)
    kind = given.get("type")
    options = {"choice": "choices", "score": "levels", "predicate": None}
    if not isinstance(kind, str) or kind not in options:
        raise InvalidInput(_("The type of a question is choice, predicate or score."), param=f"{path}.type")
    for name in given:
        if name not in ("type", "name", "instructions", options[kind]):
            raise parameters.unsupported(f"{path}.{name}")
    name = _name(f"{path}.name", given.get("name"))
    instructions = _instructions(f"{path}.instructions", given.get("instructions"))
    if not name and not instructions:
        raise parameters.MissingParameter(
            _("A question without a name needs instructions."), param=f"{path}.instructions"
        )
    if kind == "predicate":
        return Question(kind, name, instructions, (YES, NO), (True, False), ("", ""))
    field = "choices" if kind == "choice" else "levels"
    key = "value" if kind == "choice" else "label"
    return _with_options(Question(kind, name, instructions, (), (), ()), f"{path}.{field}", given.get(field), key)


def _name(path: str, given: Any) -> str:
    if given is None:
        return ""
    if not isinstance(given, str) or not 0 < len(given) <= 200:
        raise InvalidInput(_("The name of a question has 1 to 200 characters."), param=path)
    return given


def _instructions(path: str, given: Any) -> str:
    read = _joined(path, given) if isinstance(given, list) else "" if given is None else given
    if not isinstance(read, str) or len(read) > MOST_INSTRUCTIONS:
        raise InvalidInput(_("Instructions are a text of up to 20,000 characters, or parts of it."), param=path)
    return parameters.text(path, read)


def _with_options(question: Question, path: str, given: Any, key: str) -> Question:
    if not isinstance(given, list) or not 2 <= len(given) <= MOST_CHOICES:
        raise InvalidInput(_("There have to be 2 to 255 to choose from."), param=path)
    labels, values, descriptions = [], [], []
    for place, one in enumerate(given):
        value = one.get(key) if isinstance(one, dict) else None
        is_fine = isinstance(value, str) or (isinstance(value, bool) and key == "value")
        if not is_fine or value == "" or set(one) - {key, "description"}:
            raise InvalidInput(
                _("Each entry has '%(key)s' and may have 'description'.") % {"key": key}, param=f"{path}[{place}]"
            )
        label = json.dumps(value) if isinstance(value, bool) else parameters.text(f"{path}[{place}]", value)
        labels.append(label)
        values.append(value)
        described = one.get("description")
        descriptions.append(parameters.text(f"{path}[{place}].description", "" if described is None else described))
    if len(set(labels)) < len(labels):
        raise InvalidInput(_("The same is offered twice."), param=path)
    return replace(question, labels=tuple(labels), values=tuple(values), descriptions=tuple(descriptions))
