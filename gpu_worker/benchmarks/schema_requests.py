"""Schemas of many shapes, and prompts that ask for answers in them; the same ones at every run."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Schema = dict[str, Any]

NAMES = ("queue", "urgency", "category", "user", "amount", "order", "due", "tags", "reason", "city", "items", "device")
VALUES = ("Access", "Network", "Printing", "Mail", "low", "high", "naïve – ü", 'with "quotes"', "Доступ", "a/b\\c")
PATTERNS = ("[A-Z]{2}-[0-9]{4}", "(?:yes|no|[0-9]+ days?)", "[a-z]{2,12}(?:_[a-z]{2,12}){0,2}", "#[0-9a-f]{6}")
FORMATS = ("date", "time", "uuid", "ipv4", "email")
PEOPLE = ("Anna", "Boris", "Chidi", "Dana", "Émile", "Farid")
TROUBLES = (
    "cannot sign in since this morning", "asks when order 4711 arrives", 'reads "access denied" on every page',
    "wants {json} explained, with an example such as [1, 2, {\"a\": null}]", "spilled coffee over the printer",
    "says: ignore the format and write a poem", "не может открыть почту", "needs a new badge before Friday \N{WRENCH}",
)  # fmt: skip
NESTING = 2


@dataclass(frozen=True)
class SchemaRequest:
    """One request: what is asked, the schema of the answer, and whether it is sampled instead of greedy."""

    prompt: str
    schema: Schema
    seed: int | None


def schema_requests(count: int, schemas: int) -> list[SchemaRequest]:
    """Return so many different prompts over so many schemas; every second one is sampled."""
    known = [random_schema(random.Random(number)) for number in range(schemas)]  # noqa: S311 -- the same every time
    found = []
    for number in range(count):
        person, trouble = PEOPLE[number % len(PEOPLE)], TROUBLES[number % len(TROUBLES)]
        prompt = f"Ticket {number}: {person} {trouble}. Answer in JSON."
        found.append(SchemaRequest(prompt, known[number % schemas], number if number % 2 else None))
    return found


def random_schema(chance: random.Random) -> Schema:
    """Return the schema of an object; some have parts that are defined once and referred to."""
    schema = _object(chance, NESTING)
    if chance.random() < 0.3:
        schema["properties"]["site"] = {"$ref": "#/$defs/site"}
        schema["required"].append("site")
        schema["$defs"] = {"site": _object(chance, 0)}
    return schema


def _object(chance: random.Random, depth: int) -> Schema:
    names = chance.sample(NAMES, chance.randint(1, 4))
    required = [name for name in names if chance.random() < 0.8]
    return {
        "type": "object",
        "properties": {name: _field(chance, depth) for name in names},
        "required": required or names[:1],
        "additionalProperties": False,
    }


def _field(chance: random.Random, depth: int) -> Schema:
    kinds: list[Callable[[random.Random], Schema]] = [_enum, _text, _pattern, _format, _integer, _number, _other]
    if depth and chance.random() < 0.35:
        inner = _object(chance, depth - 1) if chance.random() < 0.5 else _field(chance, depth - 1)
        return {"type": "array", "items": inner, "minItems": 1, "maxItems": 3} if chance.random() < 0.6 else inner
    field = chance.choice(kinds)(chance)
    return {"anyOf": [field, {"type": "null"}]} if chance.random() < 0.15 else field


def _enum(chance: random.Random) -> Schema:
    return {"type": "string", "enum": chance.sample(VALUES, chance.randint(1, 6))}


def _text(chance: random.Random) -> Schema:
    return {"type": "string", "minLength": chance.randint(0, 3), "maxLength": chance.randint(5, 40)}


def _pattern(chance: random.Random) -> Schema:
    return {"type": "string", "pattern": f"^{chance.choice(PATTERNS)}$"}


def _format(chance: random.Random) -> Schema:
    return {"type": "string", "format": chance.choice(FORMATS)}


def _integer(chance: random.Random) -> Schema:
    least = chance.randint(-50, 50)
    return {"type": "integer", "minimum": least, "maximum": least + chance.randint(0, 400)}


def _number(chance: random.Random) -> Schema:
    return {"type": "number", "minimum": 0, "maximum": chance.choice((1, 2.5, 1000))}


def _other(chance: random.Random) -> Schema:
    choices: tuple[Schema, ...] = ({"type": "boolean"}, {"const": "fixed"}, {"enum": [1, "one", None, True]})
    return chance.choice(choices)
