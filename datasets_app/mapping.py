"""Which columns of a table become the prompt and the answer, and how; with a guess to begin with."""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Final

from datasets_app.cells import date_of, split_named
from datasets_app.readers.faults import DataError, Record
from datasets_app.readers.jsonlines import JsonFault, parse_json
from datasets_app.readers.sentences import MAPPING_SENTENCES

# {{ and }} are braces; {name} is a column; any other brace is a mistake.
TEMPLATE_PART: Final = re.compile(r"\{\{|\}\}|\{([^{}]+)\}|[{}]")

# Words of a column name with the weight of the hint; a name is cut into words at everything that is no letter.
PROMPT_WORDS: Final = {
    "prompt": 10, "question": 9, "query": 9, "instruction": 9, "ticket": 8, "input": 8, "request": 8, "message": 7,
    "body": 7, "description": 7, "complaint": 7, "text": 6, "utterance": 6, "content": 6, "email": 4, "comment": 4,
    "subject": 3, "title": 3, "summary": 3, "source": 2,
    "промпт": 10, "запрос": 9, "вопрос": 9, "обращение": 9, "тикет": 8, "заявка": 8, "задание": 8, "жалоба": 7,
    "сообщение": 7, "описание": 7, "текст": 6, "письмо": 6, "содержание": 6, "комментарий": 4, "тема": 3,
    "заголовок": 3,
}  # fmt: skip
RESPONSE_WORDS: Final = {
    "response": 10, "answer": 10, "chosen": 10,
    "completion": 10, "output": 9, "reply": 9, "target": 9, "expected": 9, "label": 8,
    "labels": 8, "json": 8, "result": 7, "class": 7, "category": 6, "intent": 6, "routing": 6, "queue": 5,
    "solution": 5, "resolution": 5,
    "ответ": 10, "результат": 8, "метка": 8, "решение": 7, "разметка": 7, "класс": 7, "категория": 6, "очередь": 5,
}  # fmt: skip
REJECTED_WORDS: Final = {"rejected": 10, "dispreferred": 10, "loser": 8, "worse": 8}
SYSTEM_WORDS: Final = {"system": 10, "sysprompt": 10, "persona": 6, "система": 10, "системный": 10, "роль": 3}
MESSAGES_WORDS: Final = {"messages": 10, "conversation": 9, "conversations": 9, "dialog": 8, "dialogue": 8, "диалог": 8}
SPLIT_WORDS: Final = {"split": 10, "subset": 9, "partition": 9, "fold": 8, "выборка": 10, "часть": 6}
DATE_WORDS: Final = {
    "created": 10, "opened": 10, "date": 9, "datetime": 9, "timestamp": 9, "received": 8, "sent": 7, "time": 6, "at": 4,
    "дата": 10, "создано": 9, "открыто": 9, "время": 6,
}  # fmt: skip
# Rows of one thread or customer have a key in common; a row's own id is none.
GROUP: Final = re.compile(
    r"^(thread|conversation|dialog|dialogue|session|case|customer|client|requester|account|обращение|клиент)"
    r"[ _-]?(id|key|uuid|guid|number|no|email)$"
)
# Columns that name a row, a time or a person are neither question nor answer.
NEITHER: Final = re.compile(r"(^|_|\b)(id|uuid|guid|date|time|created|updated|номер|дата|время)($|_|\b)")
WORD: Final = re.compile(r"[^\W\d_]+")
CAMEL: Final = re.compile(r"(?<=[a-zа-я])(?=[A-ZА-Я])")
# Share of the sample that must agree before the content of a column counts as a hint.
MOSTLY: Final = 0.9


class MappingError(DataError):
    """The columns that were chosen cannot make rows out of this table."""

    sentences = MAPPING_SENTENCES


@dataclass(frozen=True)
class Mapping:
    """How a record becomes a row: by a messages column, or by a prompt and an answer.

    `template`, when not empty, makes the prompt out of several columns: "{subject}\\n\\n{body}". It knows fixed
    placeholders only. `system_prompt` is used where the `system` column is unset or its cell empty.
    With `json_answers` an answer that is not a JSON object is a fault. Three columns may tell about a row besides:
    `group` is the key of its thread or customer, `at` its date, `split` the part it belongs to (see `split_named`).
    `rejected` is a worse answer to the same prompt, for preferences. `text` alone makes rows without answers.
    """

    prompt: str | None = None
    response: str | None = None
    system: str | None = None
    messages: str | None = None
    system_prompt: str = ""
    template: str = ""
    json_answers: bool = False
    group: str | None = None
    at: str | None = None
    split: str | None = None
    rejected: str | None = None
    text: str | None = None

    def to_dict(self) -> dict[str, object]:
        """Return a JSON-ready form that `from_dict` reads."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: object) -> "Mapping":
        """Return the mapping that `to_dict` stored. Raises: MappingError if it is something else."""
        if not isinstance(stored, dict):
            raise MappingError("mapping_malformed", reason="not an object")
        for name in stored:
            if name not in FIELD_TYPES:
                raise MappingError("mapping_malformed", reason=f"unknown entry “{name}”")
            if not isinstance(stored[name], FIELD_TYPES[name]):  # type: ignore[arg-type]
                raise MappingError("mapping_malformed", reason=f"“{name}” has the wrong type")
        return cls(**stored)

    @property
    def template_columns(self) -> tuple[str, ...]:
        """The columns that the template mentions, in its order. Raises: MappingError for a stray brace."""
        return tuple(part[1] for part in _template_parts(self.template) if part[1])

    def validate(self, columns: Sequence[str]) -> None:
        """Raise MappingError, naming the column and listing the available ones, unless the table can be mapped."""
        available = ", ".join(columns)
        texts = (self.prompt, self.response, self.system, self.messages, self.rejected, self.text)
        for column in (*texts, self.group, self.at, self.split):
            if column is not None and column not in columns:
                raise MappingError("column_missing", column=column, available=available)
        if self.text is not None:
            others = (self.prompt, self.response, self.template, self.messages, self.rejected, self.system)
            if any(others) or self.json_answers or self.system_prompt:
                raise MappingError("text_and_columns")
            return
        if self.rejected is not None and self.rejected in (self.prompt, self.response, self.messages):
            raise MappingError("rejected_is_text", column=self.rejected)
        if self.split is not None and self.split in (self.prompt, self.response, self.messages):
            raise MappingError("split_is_text", column=self.split)
        if self.messages is not None:
            if self.prompt or self.response or self.template:
                raise MappingError("messages_and_columns")
            return
        if self.prompt is None and not self.template:
            raise MappingError("prompt_unset", available=available)
        if self.response is None:
            raise MappingError("response_unset", available=available)
        if self.prompt == self.response:
            raise MappingError("same_column", column=self.prompt)
        self._validate_template(columns, available)

    def _validate_template(self, columns: Sequence[str], available: str) -> None:
        if not self.template:
            return
        mentioned = self.template_columns
        if not mentioned:
            raise MappingError("template_no_column")
        for column in mentioned:
            if column not in columns:
                raise MappingError("template_placeholder", column=column, available=available)
            if column == self.response:
                raise MappingError("template_mentions_answer", column=column)


FIELD_TYPES: Final = {field.name: field.type for field in fields(Mapping)}


def fill_template(template: str) -> Callable[[Callable[[str], str]], str]:
    """Return a function that makes the prompt from a function giving the text of a column.

    Raises: MappingError for a stray brace.
    """
    parts = _template_parts(template)

    def fill(text_of: Callable[[str], str]) -> str:
        return "".join(text_of(column) if column else literal for literal, column in parts)

    return fill


def _template_parts(template: str) -> list[tuple[str, str]]:
    """Cut a template into (literal, "") and ("", column) pairs."""
    parts: list[tuple[str, str]] = []
    end = 0
    for match in TEMPLATE_PART.finditer(template):
        parts.append((template[end : match.start()], ""))
        if match[0] in ("{", "}"):
            raise MappingError("template_brace", position=match.start() + 1)
        parts.append(("", match[1]) if match[1] else (match[0][0], ""))
        end = match.end()
    parts.append((template[end:], ""))
    return [part for part in parts if part != ("", "")]


def guess_mapping(columns: Sequence[str], sample_records: Sequence[Record]) -> Mapping:
    """Return the most likely mapping; what cannot be guessed stays None, and `Mapping.validate` will say so.

    `sample_records` are a few dozen rows; without any, the names alone decide.
    """
    beside = _guess_beside(columns, sample_records)
    text_columns = [column for column in columns if column not in beside.values()]
    return replace(_guess_texts(text_columns, sample_records), **beside)  # type: ignore[arg-type]


def suggest_template(columns: Sequence[str], mapping: Mapping) -> str:
    """Return a template to begin with: of the columns that look like parts of a prompt, in the table's order."""
    taken = {
        mapping.response,
        mapping.rejected,
        mapping.system,
        mapping.messages,
        mapping.group,
        mapping.at,
        mapping.split,
    }
    free = [column for column in columns if column not in taken and not set("{}") & set(column)]
    texts = [column for column in free if _score(column, PROMPT_WORDS) and not NEITHER.search(column.lower())]
    named = [column for column in free if column == mapping.prompt or column in texts]
    return "\n\n".join(f"{{{column}}}" for column in named[:4])


def _guess_beside(columns: Sequence[str], records: Sequence[Record]) -> dict[str, str]:
    """Return the columns that hold no text to learn: the part a row belongs to, its thread, its date."""
    found = {
        "rejected": next((column for column in columns if _score(column, REJECTED_WORDS)), None),
        "split": _best(columns, SPLIT_WORDS, lambda column: _mostly(column, records, _names_a_split)),
        "group": next((column for column in columns if GROUP.match(CAMEL.sub("_", column).lower())), None),
        "at": _best(columns, DATE_WORDS, lambda column: _mostly(column, records, _is_date)),
    }
    return {name: column for name, column in found.items() if column is not None}


def _best(columns: Sequence[str], words: dict[str, int], fits: Callable[[str], bool]) -> str | None:
    named = [column for column in columns if _score(column, words) and fits(column)]
    return max(named, key=lambda column: _score(column, words), default=None)


def _guess_texts(columns: Sequence[str], sample_records: Sequence[Record]) -> Mapping:
    for column in columns:
        is_named = _score(column, MESSAGES_WORDS) >= 8 and _mostly(column, sample_records, _is_messages)
        # preferences often have whole conversations under "chosen"
        if is_named or (_score(column, RESPONSE_WORDS) >= 10 and _mostly(column, sample_records, _is_conversation)):
            return Mapping(messages=column)
    if {"instruction", "input", "output"} <= set(columns):
        return Mapping(
            template="{instruction}\n\n{input}", response="output", json_answers=_has_json("output", sample_records)
        )
    system = next((column for column in columns if _score(column, SYSTEM_WORDS) >= 6), None)
    eligible = [column for column in columns if column != system and not NEITHER.search(column.lower())]
    response = _guess_response(eligible, sample_records)
    prompt = _guess_prompt([column for column in eligible if column != response], sample_records)
    return Mapping(
        prompt=prompt,
        response=response,
        system=system,
        json_answers=response is not None and _has_json(response, sample_records),
    )


def _guess_response(columns: Sequence[str], records: Sequence[Record]) -> str | None:
    """The answer is the column named so; a column full of JSON objects counts as much as a good name."""
    if len(columns) < 2:
        return None
    scores = {
        column: _score(column, RESPONSE_WORDS) - _score(column, PROMPT_WORDS) + 7 * _has_json(column, records)
        for column in columns
    }
    best = max(columns, key=lambda column: scores[column])
    if scores[best] > 0:
        return best
    # Without any hint: the shorter of texts that repeat themselves.
    return min(columns, key=lambda column: _mean_length(column, records)) if records else None


def _guess_prompt(columns: Sequence[str], records: Sequence[Record]) -> str | None:
    """The prompt is the column named so; of equally good names the one with the longer texts."""
    if not columns:
        return None
    best = max(columns, key=lambda column: (_score(column, PROMPT_WORDS), _mean_length(column, records)))
    if _score(best, PROMPT_WORDS) == 0 and not records and len(columns) > 1:
        return None
    return best


def _score(column: str, words: dict[str, int]) -> int:
    """Return how strongly a column's name hints at a role: the best of its words."""
    found = WORD.findall(CAMEL.sub(" ", column).lower())
    return max((words.get(word, 0) for word in found), default=0)


def _mean_length(column: str, records: Sequence[Record]) -> float:
    return sum(len(str(record.values.get(column, ""))) for record in records) / max(len(records), 1)


def _has_json(column: str, records: Sequence[Record]) -> bool:
    return _mostly(column, records, _is_json_object)


def _mostly(column: str, records: Sequence[Record], claim: Callable[[object], bool]) -> bool:
    found = sum(claim(record.values.get(column)) for record in records)
    return bool(records) and found >= MOSTLY * len(records)


def _is_messages(cell: object) -> bool:
    return isinstance(cell, list) or (isinstance(cell, str) and cell.lstrip().startswith("["))


def _is_conversation(cell: object) -> bool:
    """Tell whether a cell holds messages for sure: an answer may be a JSON array, too."""
    if isinstance(cell, str):
        try:
            cell = parse_json(cell, max_depth=64) if cell.lstrip().startswith("[") else None
        except JsonFault:
            return False
    return (
        isinstance(cell, list)
        and len(cell) > 1
        and all(isinstance(turn, dict) and ("role" in turn or "from" in turn) for turn in cell)
    )


def _is_json_object(cell: object) -> bool:
    if not isinstance(cell, str):
        return isinstance(cell, dict)
    try:
        return isinstance(parse_json(cell, max_depth=64), dict)
    except JsonFault:
        return False


def _names_a_split(cell: object) -> bool:
    return split_named(cell) is not None


def _is_date(cell: object) -> bool:
    return date_of(cell) is not None
