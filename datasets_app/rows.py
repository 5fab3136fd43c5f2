"""From a record of any accepted table to the canonical row, the one form that everything behind it reads."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from datasets_app.mapping import Mapping as ColumnMapping
from datasets_app.mapping import fill_template
from datasets_app.readers import DEFAULT_LIMITS, Limits, Record, RowFault
from datasets_app.readers.jsonlines import JsonFault, parse_json

Message = Mapping[str, str]

# What the data sets of others call the three roles.
ROLES: Final = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}


@dataclass(frozen=True, slots=True)
class CanonicalRow:
    """One conversation; `row` is the line of the source on which it begins, the last message is the answer.

    `id` names the row within its dataset, in every version; 0 until it is given. `group` is what rows that belong
    together share (a thread, a customer), `at` their time as an ISO date; both are empty where nothing is known.
    """

    row: int
    messages: tuple[Message, ...]
    id: int = 0
    group: str = ""
    at: str = ""

    @property
    def prompt(self) -> str:
        """The user's message that the answer replies to."""
        return self.messages[-2]["content"]

    @property
    def answer(self) -> str:
        """The assistant's last message."""
        return self.messages[-1]["content"]

    def to_json(self) -> str:
        """Return the row as the trainer reads it: one line of JSON, without the line end."""
        return _write_json({"row": self.row, "messages": self.messages})

    @classmethod
    def from_json(cls, line: str) -> "CanonicalRow":
        """Return the row that `to_json` wrote; id, group and time are not in it."""
        stored = json.loads(line)
        return cls(stored["row"], tuple(stored["messages"]))


_write_json: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def to_row(record: Record, mapping: ColumnMapping, limits: Limits = DEFAULT_LIMITS) -> CanonicalRow | RowFault:
    """Return the canonical row of a record, or why there is none. For many records use `RowMaker`."""
    return RowMaker(mapping, limits).make(record)


class _Refused(Exception):
    """A cell cannot be used; becomes a RowFault once the line is known."""

    def __init__(self, column: str | None, code: str, **params: object) -> None:
        super().__init__(code)
        self.column = column
        self.code = code
        self.params = params


class RowMaker:
    """Turns records into canonical rows by one mapping, which has been validated for the table."""

    def __init__(self, mapping: ColumnMapping, limits: Limits = DEFAULT_LIMITS) -> None:
        self._mapping = mapping
        self._limits = limits
        self._fill = fill_template(mapping.template) if mapping.template else None
        self._conversation = self._from_messages if mapping.messages else self._from_columns
        self._prompt_column = mapping.messages or (None if mapping.template else mapping.prompt)
        self._answer_column = mapping.messages or mapping.response

    def make(self, record: Record) -> CanonicalRow | RowFault:
        """Return the canonical row of a record, or why there is none."""
        try:
            messages = self._conversation(record.values)
            self._check(messages)
        except _Refused as refused:
            return RowFault(record.line, refused.column, refused.code, refused.params)
        return CanonicalRow(record.line, messages)

    def _from_columns(self, values: Mapping[str, object]) -> tuple[Message, ...]:
        mapping = self._mapping
        if self._fill:
            prompt = self._fill(lambda column: _text(values, column)).strip()
        else:
            prompt = _text(values, mapping.prompt or "")
        system = mapping.system_prompt
        if mapping.system and values.get(mapping.system) is not None:
            system = _text(values, mapping.system) or system
        user = {"role": "user", "content": prompt}
        assistant = {"role": "assistant", "content": _answer(values, mapping.response or "")}
        if system:
            return {"role": "system", "content": system}, user, assistant
        return user, assistant

    def _from_messages(self, values: Mapping[str, object]) -> tuple[Message, ...]:
        column = self._mapping.messages or ""
        turns = values.get(column)
        if isinstance(turns, str):
            try:
                turns = parse_json(turns, max_depth=self._limits.max_json_depth)
            except JsonFault:
                raise _Refused(column, "bad_messages") from None
        if not isinstance(turns, list) or not turns:
            raise _Refused(column, "bad_messages")
        messages = tuple(_message(turn, column) for turn in turns)
        if messages[0]["role"] != "system" and self._mapping.system_prompt:
            messages = ({"role": "system", "content": self._mapping.system_prompt}, *messages)
        _check_roles(messages, column)
        return messages

    def _check(self, messages: Sequence[Message]) -> None:
        limits = self._limits
        answer = messages[-1]["content"]
        if not messages[-2]["content"]:
            raise _Refused(self._prompt_column, "empty_prompt")
        if not answer:
            raise _Refused(self._answer_column, "empty_answer")
        if len(answer) > limits.max_answer_characters:
            raise _Refused(
                self._answer_column, "answer_too_long", found=len(answer), limit=limits.max_answer_characters
            )
        asked = -len(answer)
        for message in messages:
            content = message["content"]
            asked += len(content)
            if "\0" in content or not _is_writable(content):
                column = self._answer_column if message is messages[-1] else self._prompt_column
                raise _Refused(column, "nul" if "\0" in content else "surrogate")
        if asked > limits.max_prompt_characters:
            raise _Refused(self._prompt_column, "prompt_too_long", found=asked, limit=limits.max_prompt_characters)
        if self._mapping.json_answers:
            self._check_json(answer)

    def _check_json(self, answer: str) -> None:
        try:
            value = parse_json(answer, max_depth=self._limits.max_json_depth)
        except JsonFault as fault:
            reason = fault.params.get("reason", fault.code)
            raise _Refused(self._answer_column, "answer_not_json", reason=reason) from None
        if not isinstance(value, dict):
            raise _Refused(self._answer_column, "answer_not_json", reason="not an object")


def _text(values: Mapping[str, object], column: str) -> str:
    value = values.get(column)
    if isinstance(value, str):
        return value.strip()
    if value is None:
        raise _Refused(column, "missing_column")
    if isinstance(value, (dict, list)):
        raise _Refused(column, "not_text")
    return json.dumps(value)


def _answer(values: Mapping[str, object], column: str) -> str:
    """Return the answer's text; in JSON lines it may stand there as an object instead of as text."""
    value = values.get(column)
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return _text(values, column)


def _message(turn: object, column: str) -> Message:
    if not isinstance(turn, dict):
        raise _Refused(column, "bad_messages")
    role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
    if not isinstance(role, str) or not isinstance(content, str):
        raise _Refused(column, "bad_messages")
    if role not in ROLES:
        raise _Refused(column, "bad_roles")
    return {"role": ROLES[role], "content": content.strip()}


def _check_roles(messages: Sequence[Message], column: str) -> None:
    roles = [message["role"] for message in messages]
    turns = roles[1:] if roles[0] == "system" else roles
    if not turns or turns != ["user", "assistant"] * (len(turns) // 2):
        raise _Refused(column, "bad_roles")


def _is_writable(text: str) -> bool:
    """Tell whether a text can be stored as UTF-8; records need not come from a file that was decoded strictly."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
