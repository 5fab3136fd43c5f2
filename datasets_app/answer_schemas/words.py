"""What a schema of answers may say: checked when somebody sends one, and written out as JSON Schema.

The words are those that the doctor infers and checks (`doctor/schema.py`), and a description for people.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from django.utils.translation import gettext as _

from datasets_app.doctor.schema import FORMATS, TYPE_ORDER, type_of
from portal.errors import InvalidInput

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
MAX_DEPTH: Final = 8
MAX_FIELDS: Final = 200
MAX_VALUES: Final = 1_000
MAX_TEXT: Final = 1_000
WORDS: Final = frozenset(
    {"type", "enum", "format", "properties", "required", "additionalProperties", "items", "description"}
)
# Of a document as a whole; they are written anew whenever it is sent out.
HEAD: Final = frozenset({"$schema", "$id", "title"})


def checked_schema(given: object) -> dict[str, Any]:
    """Return the schema of an answer as it is kept. Raises: InvalidInput, naming the place."""
    if not isinstance(given, Mapping):
        raise _refusal("schema", _("Send a JSON object."))
    schema = _checked({name: value for name, value in given.items() if name not in HEAD}, "schema", 0)
    if "object" not in _types(schema) or "properties" not in schema:
        raise _refusal("schema.type", _("The answer as a whole must be an object with properties."))
    return schema


def as_document(schema: Mapping[str, Any], title: str) -> dict[str, Any]:
    """Return a schema as a JSON Schema document."""
    return {"$schema": DIALECT, "title": title, **schema}


def _checked(given: object, place: str, depth: int) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise _refusal(place, _("Send a JSON object."))
    if depth > MAX_DEPTH:
        raise _refusal(place, _("The schema is nested too deeply."))
    for name in given:
        if name not in WORDS:
            raise _refusal(
                f"{place}.{str(name)[:40]}",
                _("'%(name)s' is not known here. Known are: %(known)s.")
                % {"name": str(name)[:40], "known": ", ".join(sorted(WORDS))},
            )
    schema: dict[str, Any] = {}
    types = _types(given)
    if "type" in given:
        if not types or not set(types) <= set(TYPE_ORDER):
            raise _refusal(f"{place}.type", _("The types are: %(known)s.") % {"known": ", ".join(TYPE_ORDER)})
        schema["type"] = given["type"] if isinstance(given["type"], str) else types
    schema |= _scalars(given, types, place)
    if "properties" in given:
        schema |= _members(given, place, depth)
    if "additionalProperties" in given:
        if not isinstance(given["additionalProperties"], bool):
            raise _refusal(f"{place}.additionalProperties", _("It must be true or false."))
        schema["additionalProperties"] = given["additionalProperties"]
    if "items" in given:
        schema["items"] = _checked(given["items"], f"{place}.items", depth + 1)
    return schema


def _types(schema: Mapping[str, Any]) -> list[str]:
    types = schema.get("type", [])
    types = [types] if isinstance(types, str) else types
    return list(types) if isinstance(types, list) and all(isinstance(one, str) for one in types) else []


def _scalars(given: Mapping[str, Any], types: list[str], place: str) -> Iterator[tuple[str, Any]]:
    """Yield the words about a value itself."""
    if "description" in given:
        yield "description", _text(given["description"], f"{place}.description")
    if "format" in given:
        if given["format"] not in FORMATS:
            raise _refusal(f"{place}.format", _("The formats are: %(known)s.") % {"known": ", ".join(FORMATS)})
        yield "format", given["format"]
    if "enum" in given:
        values = given["enum"]
        if not isinstance(values, list) or not 0 < len(values) <= MAX_VALUES:
            raise _refusal(f"{place}.enum", _("List 1 to %(limit)d values.") % {"limit": MAX_VALUES})
        for value in values:
            _check_value(value, types, f"{place}.enum")
        yield "enum", values


def _check_value(value: object, types: list[str], place: str) -> None:
    kind = type_of(value)
    if kind in ("object", "array"):
        raise _refusal(place, _("The values must be texts, numbers, true, false or null."))
    if types and kind not in types and not (kind == "integer" and "number" in types):
        raise _refusal(
            place,
            _("The value '%(value)s' is not of the type %(types)s.")
            % {"value": str(value)[:40], "types": ", ".join(types)},
        )
    if isinstance(value, str):
        _text(value, place)


def _text(value: object, place: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT or "\0" in value:
        raise _refusal(place, _("It must be a text of at most %(limit)d characters.") % {"limit": MAX_TEXT})
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _refusal(place, _("The text holds half of a character.")) from None
    return value


def _members(given: Mapping[str, Any], place: str, depth: int) -> dict[str, Any]:
    properties = given["properties"]
    if not isinstance(properties, Mapping) or len(properties) > MAX_FIELDS:
        raise _refusal(
            f"{place}.properties", _("It must be an object with at most %(limit)d fields.") % {"limit": MAX_FIELDS}
        )
    required = given.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) and name in properties for name in required):
        raise _refusal(f"{place}.required", _("It must be a list of the names of properties."))
    fields = {
        _text(name, f"{place}.properties"): _checked(one, f"{place}.properties.{str(name)[:60]}", depth + 1)
        for name, one in properties.items()
    }
    return {"properties": fields, "required": list(dict.fromkeys(required))}


def _refusal(place: str, sentence: str) -> InvalidInput:
    return InvalidInput(sentence, param=place, code="invalid_schema")
