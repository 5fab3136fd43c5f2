"""Schemas of many shapes, half of them of answers that datasets have, and prompts that want to break them.

They are the same at every run.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gpu_worker.benchmarks.answer_examples import EXAMPLES
from gpu_worker.benchmarks.hostile_prompts import hostile_prompts

Schema = dict[str, Any]

NAMES = ("queue", "urgency", "category", "user", "amount", "order", "due", "tags", "reason", "city", "items", "device")
VALUES = ("Access", "Network", "Printing", "Mail", "low", "high", "naïve – ü", 'with "quotes"', "Доступ", "a/b\\c")
PATTERNS = ("[A-Z]{2}-[0-9]{4}", "(?:yes|no|[0-9]+ days?)", "[a-z]{2,12}(?:_[a-z]{2,12}){0,2}", "#[0-9a-f]{6}")
FORMATS = ("date", "time", "uuid", "ipv4", "email")
NESTING = 2
TWICE = "slips are no rules"  # has the schema of another example


@dataclass(frozen=True)
class SchemaRequest:
    """One request: what is asked, the schema of the answer, and whether it is sampled instead of greedy."""

    prompt: str
    schema: Schema
    seed: int | None
    kind: str
    """Of what kind the prompt is."""
    is_known: bool
    """Whether the schema is one of answers that datasets have."""


def schema_requests(count: int, schemas: int) -> list[SchemaRequest]:
    """Return so many different prompts, half of them over schemas of datasets, the rest over so many others.

    Of each half every second one is sampled.
    """
    known = [schema for name, (_answers, schema) in EXAMPLES.items() if name != TWICE]
    others = [random_schema(random.Random(number)) for number in range(schemas)]  # noqa: S311 -- the same every time
    found = []
    for number, prompt in enumerate(hostile_prompts(count)):
        turn, is_known = number // 2, number % 2 == 0
        chosen = known[turn % len(known)] if is_known else others[turn % schemas]
        # a schema meets greedy and sampled requests in turn, however many schemas there are
        sampled = (turn + turn // len(known if is_known else others)) % 2
        found.append(SchemaRequest(prompt.text, chosen, number if sampled else None, prompt.kind, is_known))
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
