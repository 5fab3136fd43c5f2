"""From a record of any accepted table to the canonical row, the one form that everything behind it reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

from datasets_app.cells import date_of, split_named
from datasets_app.mapping import Mapping as ColumnMapping
from datasets_app.mapping import fill_template
from datasets_app.readers import DEFAULT_LIMITS, Limits, Record, RowFault
from datasets_app.readers.json_reasons import NO_OBJECT
from datasets_app.readers.jsonlines import JsonFault, parse_json

# `role` and `content`, both texts. An assistant's message that is not learned has a `weight` of 0, as OpenAI says it;
# others have none.
Message = Mapping[str, Any]
# System prompt, prompt, answer, and the turns between.
_Conversation = tuple[str | None, str, str, Sequence[Message] | None]
MAX_KEY_CHARACTERS: Final = 200
# Answers that are remembered, and the length up to which they are.
MAX_KNOWN: Final = 10_000
KNOWN_CHARACTERS: Final = 500

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
    rejected: str = ""
    """A worse answer to the same prompt, where the rows are preferences."""

    @property
    def prompt(self) -> str:
        """The user's message that the answer replies to."""
        return str(self.messages[-2]["content"])

    @property
    def answer(self) -> str:
        """The assistant's last message."""
        return str(self.messages[-1]["content"])

    def to_json(self) -> str:
        """Return the row as the trainer reads it: one line of JSON, without the line end."""
        worse = {"rejected": self.rejected} if self.rejected else {}
        return _write_json({"row": self.row, "messages": self.messages, **worse})

    @classmethod
    def from_json(cls, line: str) -> CanonicalRow:
        """Return the row that `to_json` wrote; id, group and time are not in it."""
        stored = json.loads(line)
        return cls(stored["row"], tuple(stored["messages"]), rejected=stored.get("rejected", ""))


_write_json: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def row_digest(messages: Sequence[Message], rejected: str = "") -> bytes:
    """Return 32 bytes that stand for what a conversation says and who says it, and for a worse answer if there is one.

    Raises: ValueError for a text that cannot be stored as UTF-8.
    """
    parts = [str(len(messages))]
    for message in messages:
        parts += _told_role(message), message["content"]
    return _digest("\0".join(parts) + "\0" + _told_rejected(rejected))


def _told(system: str | None, earlier: Sequence[Message]) -> str:
    """Return what stands in the text of a digest before the last question."""
    parts = [str(2 + (system is not None) + len(earlier))]
    parts += [] if system is None else ["system", system]
    for message in earlier:
        parts += _told_role(message), message["content"]
    return "\0".join(parts) + "\0"


def _told_role(message: Message) -> str:
    """Return who says a message, and whether it is not learned: the same words learned otherwise are another row."""
    return f"{message['role']}, not learned" if is_unlearned(message) else str(message["role"])


def is_unlearned(message: Message) -> bool:
    """Tell whether a message is the assistant's and not to be learned from."""
    return bool(message.get("weight", 1) == 0)


def _told_rejected(rejected: str) -> str:
    # Nothing at all for the rows of every version from before there were preferences: their hashes stay.
    return f"rejected\0{rejected}\0" if rejected else ""


def _digest(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=32).digest()


# Not frozen: millions are made in one pass, and freezing makes each twice as dear.
@dataclass(slots=True)
class FlatRow:
    """A row before it has its id, as the columns of the store; `system` and `earlier` are None if there are none.

    `split` is the part that a cell of the table names, "" where no column does.
    """

    row: int
    system: str | None
    prompt: str
    answer: str
    earlier: Sequence[Message] | None
    digest: bytes
    group: str = ""
    at: str = ""
    split: str = ""
    rejected: str = ""

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation."""
        system = () if self.system is None else ({"role": "system", "content": self.system},)
        asked = {"role": "user", "content": self.prompt}
        return (*system, *(self.earlier or ()), asked, {"role": "assistant", "content": self.answer})


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


class JsonAnswers:
    """Parses answers; the latest one is remembered, because its check and its count follow each other."""

    def __init__(self, max_depth: int) -> None:
        self._max_depth = max_depth
        self._text: str | None = None
        self._value: object = None

    def parse(self, answer: str) -> object:
        """Return the value of an answer. Raises: JsonFault."""
        if answer is not self._text:
            self._text, self._value = None, parse_json(answer, max_depth=self._max_depth)
            self._text = answer
        return self._value


class RowMaker:
    """Turns records into canonical rows by one mapping, which has been validated for the table."""

    def __init__(
        self, mapping: ColumnMapping, limits: Limits = DEFAULT_LIMITS, answers: JsonAnswers | None = None
    ) -> None:
        self._answers = answers or JsonAnswers(limits.max_json_depth)
        # Labels repeat: what is known to be JSON is not parsed again.
        self._json_answers: set[str] = set()
        self._mapping = mapping
        self._limits = limits
        self._fill = fill_template(mapping.template) if mapping.template else None
        self._conversation = self._from_columns
        if mapping.messages or mapping.text:
            self._conversation = self._from_messages if mapping.messages else self._from_text
        self._prompt_column = mapping.messages or mapping.text or (None if mapping.template else mapping.prompt)
        self._answer_column = mapping.messages or mapping.text or mapping.response
        self._has_places = bool(mapping.group or mapping.at or mapping.split)
        # Most tables: two columns, and for each row the same system prompt or none.
        others = (mapping.template, mapping.system, mapping.messages, mapping.text, mapping.rejected, self._has_places)
        self._is_plain = not any(others)
        self._system = mapping.system_prompt or None
        self._room = limits.max_prompt_characters - len(mapping.system_prompt)
        self._told = _told(self._system, ())

    def make(self, record: Record) -> CanonicalRow | RowFault:
        """Return the canonical row of a record, or why there is none."""
        flat = self.flat(record)
        if isinstance(flat, RowFault):
            return flat
        return CanonicalRow(flat.row, flat.messages, group=flat.group, at=flat.at, rejected=flat.rejected)

    def flat(self, record: Record) -> FlatRow | RowFault:
        """Return a record as a row of the store, or why there is none."""
        return (self._plain(record) if self._is_plain else None) or self._looked_at(record)

    def _plain(self, record: Record) -> FlatRow | None:
        """Return what `_looked_at` would, in half the time, or None for a row that is not beyond doubt."""
        values, mapping = record.values, self._mapping
        prompt, answer = values.get(mapping.prompt), values.get(mapping.response)  # type: ignore[arg-type]
        if type(prompt) is not str or type(answer) is not str:
            return None
        prompt, answer = prompt.strip(), answer.strip()
        if not 0 < len(prompt) <= self._room or not 0 < len(answer) <= self._limits.max_answer_characters:
            return None
        told = f"{self._told}user\0{prompt}\0assistant\0{answer}\0"
        if told.count("\0") != (7 if self._system else 5):
            return None
        try:
            if mapping.json_answers and answer not in self._json_answers:
                self._check_json(answer)
            digest = blake2b(told.encode(), digest_size=32).digest()
        except (_Refused, UnicodeEncodeError):
            return None
        return FlatRow(record.line, self._system, prompt, answer, None, digest)

    def _looked_at(self, record: Record) -> FlatRow | RowFault:
        try:
            system, prompt, answer, earlier = self._conversation(record.values)
            rejected = ""
            if self._mapping.rejected:
                rejected = self._rejected(
                    record.values, answer, [*(earlier or ()), {"role": "user", "content": prompt}]
                )
            digest = self._checked(system, prompt, answer, earlier, rejected)
            flat = FlatRow(record.line, system, prompt, answer, earlier, digest, rejected=rejected)
            if self._has_places:
                self._place(flat, record.values)
        except _Refused as refused:
            return RowFault(record.line, refused.column, refused.code, refused.params)
        return flat

    def _from_columns(self, values: Mapping[str, object]) -> _Conversation:
        mapping = self._mapping
        if self._fill:
            prompt = self._fill(lambda column: _text(values, column)).strip()
        else:
            prompt = _text(values, mapping.prompt or "")
        system = mapping.system_prompt
        if mapping.system and values.get(mapping.system) is not None:
            system = _text(values, mapping.system) or system
        return system or None, prompt, _answer(values, mapping.response or ""), None

    def _from_text(self, values: Mapping[str, object]) -> _Conversation:
        """Return a text as a question that nobody answers; so it is compared, divided and searched as questions are."""
        return None, _text(values, self._mapping.text or ""), "", None

    def _rejected(self, values: Mapping[str, object], answer: str, asked: Sequence[Message]) -> str:
        """Return the worse answer, which has to be there and another one. `asked`: what both answers follow."""
        column = self._mapping.rejected or ""
        rejected = self._worse_turn(values, column, asked) if self._mapping.messages else _answer(values, column)
        if not rejected:
            raise _Refused(column, "empty_answer")
        if rejected == answer:
            raise _Refused(column, "rejected_is_answer")
        if len(rejected) > self._limits.max_answer_characters:
            limit = self._limits.max_answer_characters
            raise _Refused(column, "answer_too_long", found=len(rejected), limit=limit)
        if "\0" in rejected or not _is_writable(rejected):
            raise _Refused(column, "nul" if "\0" in rejected else "surrogate")
        return rejected

    def _worse_turn(self, values: Mapping[str, object], column: str, asked: Sequence[Message]) -> str:
        """Return the worse answer where it is a text, an answer alone, or a whole conversation as the better one is."""
        value = values.get(column)
        if not isinstance(value, list) and not (isinstance(value, str) and value.lstrip().startswith("[{")):
            return _answer(values, column)
        *before, answered = (_without_weight(turn) for turn in self._turns(value, column))
        if before and before[0]["role"] == "system":
            del before[0]
        if answered["role"] != "assistant":
            raise _Refused(column, "bad_roles")
        if before and before != [_without_weight(turn) for turn in asked]:
            raise _Refused(column, "rejected_asks_else")
        return str(answered["content"])

    def _turns(self, turns: object, column: str) -> list[Message]:
        """Return the messages that stand in a cell, as a list or as JSON."""
        if isinstance(turns, str):
            try:
                turns = parse_json(turns, max_depth=self._limits.max_json_depth)
            except JsonFault:
                raise _Refused(column, "bad_messages") from None
        if not isinstance(turns, list) or not turns:
            raise _Refused(column, "bad_messages")
        return [_message(turn, column) for turn in turns]

    def _from_messages(self, values: Mapping[str, object]) -> _Conversation:
        column = self._mapping.messages or ""
        messages = self._turns(values.get(column), column)
        _check_roles(messages, column)
        system = messages.pop(0)["content"] if messages[0]["role"] == "system" else self._mapping.system_prompt or None
        # What comes after the last answer that is learned teaches nothing: no answer that is learned sees it.
        while messages and is_unlearned(messages[-1]):
            del messages[-2:]
        if not messages:
            raise _Refused(column, "nothing_learned")
        *earlier, asked, answered = messages
        return system, asked["content"], answered["content"], earlier or None

    def _checked(
        self, system: str | None, prompt: str, answer: str, earlier: Sequence[Message] | None, rejected: str
    ) -> bytes:
        """Return the digest of a conversation that keeps to the limits."""
        limits = self._limits
        if not prompt:
            raise _Refused(self._prompt_column, "empty_prompt")
        if not answer and not self._mapping.text:
            raise _Refused(self._answer_column, "empty_answer")
        if len(answer) > limits.max_answer_characters:
            raise _Refused(
                self._answer_column, "answer_too_long", found=len(answer), limit=limits.max_answer_characters
            )
        asked = len(prompt) + len(system or "")
        if earlier:
            asked += sum(len(message["content"]) for message in earlier)
        if asked > limits.max_prompt_characters:
            raise _Refused(self._prompt_column, "prompt_too_long", found=asked, limit=limits.max_prompt_characters)
        digest = self._digest(system, prompt, answer, earlier, rejected)
        if self._mapping.json_answers and answer not in self._json_answers:
            self._check_json(answer)
        return digest

    def _digest(
        self, system: str | None, prompt: str, answer: str, earlier: Sequence[Message] | None, rejected: str
    ) -> bytes:
        """Return `row_digest` of the conversation; making it shows whether the texts can be stored."""
        count = 2 + (system is not None) + len(earlier or ())
        text = f"{_told(system, earlier or ())}user\0{prompt}\0assistant\0{answer}\0"
        if text.count("\0") != 2 * count + 1:
            raise _Refused(self._answer_column if "\0" in answer else self._prompt_column, "nul")
        try:
            return _digest(text + _told_rejected(rejected))
        except UnicodeEncodeError:
            raise _Refused(self._prompt_column if _is_writable(answer) else self._answer_column, "surrogate") from None

    def _check_json(self, answer: str) -> None:
        try:
            value = self._answers.parse(answer)
        except JsonFault as fault:
            raise _Refused(self._answer_column, "answer_not_json", reason=fault.reason) from None
        if not isinstance(value, dict):
            raise _Refused(self._answer_column, "answer_not_json", reason=NO_OBJECT)
        if len(answer) <= KNOWN_CHARACTERS:
            if len(self._json_answers) >= MAX_KNOWN:
                self._json_answers.clear()
            self._json_answers.add(answer)

    def _place(self, flat: FlatRow, values: Mapping[str, object]) -> None:
        """Note to what a row belongs and when it was written, as far as cells say so."""
        mapping = self._mapping
        if mapping.group:
            flat.group = _key(values.get(mapping.group), mapping.group)
        if mapping.at:
            flat.at = date_of(values.get(mapping.at)) or ""
        if mapping.split:
            split = split_named(values.get(mapping.split))
            if split is None:
                raise _Refused(mapping.split, "unknown_split")
            flat.split = split


def _key(value: object, column: str) -> str:
    """Return the key of a thread or customer; a number stands for itself, nothing for none."""
    key = value.strip() if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)
    if "\0" in key or not _is_writable(key):
        raise _Refused(column, "nul" if "\0" in key else "surrogate")
    return key[:MAX_KEY_CHARACTERS]


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
    message = {"role": ROLES[role], "content": content.strip()}
    weight = turn.get("weight")
    if weight is None or message["role"] != "assistant":
        return message
    if isinstance(weight, bool) or weight not in (0, 1):
        raise _Refused(column, "bad_weight")
    return message if weight else {**message, "weight": 0}


def _without_weight(message: Message) -> Message:
    return {"role": message["role"], "content": message["content"]}


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
