"""Graders: how good one answer is, by rules that need no model. Pure.

Texts of a grader may hold placeholders, `{{item.…}}` of the row and `{{sample.output_text}}` or
`{{sample.output_json.…}}` of the answer. They are looked up, never evaluated: there is no language in them.
"""

from __future__ import annotations

import functools
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from django.utils.translation import gettext as _

from deployments.openai_api import formulas, parameters
from deployments.openai_api.formulas import Formula
from experiments.scoring.answers import WORD
from portal.errors import InvalidInput

MOST_GRADERS: Final = 20
MOST_TEXT: Final = 100_000
MOST_FILLED: Final = 1_000_000
MOST_PLACEHOLDERS: Final = 100
OPERATIONS: Final = ("eq", "ne", "like", "ilike")
ROUGE: Final = {f"rouge_{size}": size for size in range(1, 6)}
_ANY_PLACEHOLDER: Final = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_PATH: Final = re.compile(r"(item|sample)((?:\.[\w-]+)*)\Z")
_SAMPLE_TEXT: Final = "output_text"
_SAMPLE_JSON: Final = "output_json"


class CannotGrade(Exception):
    """An answer that a grader cannot look at; `kind` is the name of the error in OpenAI's answer."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


@dataclass(frozen=True)
class Sample:
    """What is graded: an answer of a model, and the row that it belongs to."""

    text: str
    item: Any = None

    def fill(self, template: str) -> str:
        """Return a text with its placeholders replaced. Raises: CannotGrade if one leads nowhere, or to too much."""
        room = MOST_FILLED

        def value(found: re.Match[str]) -> str:
            nonlocal room
            text = self._value(found[1].strip())
            room -= len(text)
            if room < 0:
                raise CannotGrade("other_error")
            return text

        return _ANY_PLACEHOLDER.sub(value, template)

    def _value(self, path: str) -> str:
        root, *keys = path.split(".")
        value = self.item if root == "item" else self._own(keys.pop(0))
        for key in keys:
            value = _member(value, key)
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    def _own(self, name: str) -> Any:
        if name == _SAMPLE_TEXT:
            return self.text
        if self._json is None:
            raise CannotGrade("sample_parse_error")
        return self._json[0]

    @functools.cached_property
    def _json(self) -> tuple[Any] | None:
        """The value of an answer that is JSON, alone in a tuple, since it may be null."""
        try:
            return (json.loads(self.text),)
        except (ValueError, RecursionError):
            return None


def _member(value: Any, key: str) -> Any:
    if isinstance(value, Mapping) and key in value:
        return value[key]
    if isinstance(value, list) and key.isdecimal() and int(key[:9]) < len(value):
        return value[int(key[:9])]
    raise CannotGrade("invalid_variable_error")


@dataclass(frozen=True)
class Grade:
    """What came out: the reward, that of each part of several graders, and the kind of error if there was one."""

    reward: float
    parts: Mapping[str, float] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True)
class StringCheck:
    """1 if two texts compare as wanted, else 0."""

    kind = "string_check"
    name: str
    input: str
    reference: str
    operation: str

    def score(self, sample: Sample) -> float:
        """Return the score of an answer. Raises: CannotGrade."""
        given, wanted = sample.fill(self.input), sample.fill(self.reference)
        if self.operation == "ilike":
            return float(wanted.casefold() in given.casefold())
        holds = {"eq": given == wanted, "ne": given != wanted, "like": wanted in given}
        return float(holds[self.operation])


@dataclass(frozen=True)
class TextSimilarity:
    """How many runs of words two texts share: F1 of ROUGE-n (Lin 2004, ACL), 0 to 1."""

    kind = "text_similarity"
    name: str
    input: str
    reference: str
    evaluation_metric: str

    def score(self, sample: Sample) -> float:
        """Return the score of an answer. Raises: CannotGrade."""
        given, wanted = (WORD.findall(sample.fill(text).lower()) for text in (self.input, self.reference))
        ours, theirs = (_runs(words, ROUGE[self.evaluation_metric]) for words in (given, wanted))
        total = ours.total() + theirs.total()
        # where both are too short for such runs, only equal words are alike
        return 2 * (ours & theirs).total() / total if total else float(given == wanted)


def _runs(words: Sequence[str], size: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[place : place + size]) for place in range(len(words) - size + 1))


@dataclass(frozen=True)
class Multi:
    """A formula over the scores of several graders."""

    kind = "multi"
    name: str
    graders: Mapping[str, StringCheck | TextSimilarity]
    calculate_output: Formula

    def grade(self, sample: Sample) -> Grade:
        """Return the reward and its parts."""
        parts: dict[str, float] = {}
        try:
            for name, grader in self.graders.items():
                parts[name] = grader.score(sample)
            return Grade(self.calculate_output.value(parts), parts)
        except CannotGrade as error:
            return Grade(0.0, parts, error.kind)
        except ArithmeticError:
            return Grade(0.0, parts, "formula_parse_error")


Grader = StringCheck | TextSimilarity | Multi


def grade(grader: Grader, sample: Sample) -> Grade:
    """Return how good an answer is; what cannot be looked at gets 0 and the kind of error."""
    if isinstance(grader, Multi):
        return grader.grade(sample)
    try:
        return Grade(grader.score(sample))
    except CannotGrade as error:
        return Grade(0.0, error=error.kind)


# --- reading -----------------------------------------------------------------------------------------------------


def read_grader(path: str, given: Any) -> Grader:
    """Return the grader that an object describes. Raises: InvalidInput naming the parameter."""
    if not isinstance(given, dict):
        raise InvalidInput(_("A grader has to be an object with a type."), param=path)
    if given.get("type") != Multi.kind:
        return _read_single(path, given)
    _refuse_unknown(path, given, "graders", "calculate_output")
    graders = _read_several(f"{path}.graders", given.get("graders"))
    written = _text(f"{path}.calculate_output", given.get("calculate_output"))
    try:
        formula = Formula.read(written, frozenset(graders))
    except formulas.BadFormula as error:
        raise InvalidInput(str(error), param=f"{path}.calculate_output") from None
    return Multi(_text(f"{path}.name", given.get("name")), graders, formula)


def _read_several(path: str, given: Any) -> dict[str, StringCheck | TextSimilarity]:
    """Return graders by name. The SDK's types have a single grader here, OpenAI's guide an object of them."""
    if not isinstance(given, dict) or not 1 <= len(given) <= MOST_GRADERS:
        raise InvalidInput(_("'graders' holds 1 to 20 graders by name."), param=path)
    if isinstance(given.get("type"), str):
        single = _read_single(path, given)
        return {single.name: single}
    return {name: _read_single(f"{path}.{name[:60]}", one) for name, one in given.items()}


def _read_single(path: str, given: Any) -> StringCheck | TextSimilarity:
    kind = given.get("type") if isinstance(given, dict) else None
    if kind not in (StringCheck.kind, TextSimilarity.kind):
        raise parameters.UnsupportedParameter(
            _("Graders of the type '%(kind)s' are not supported: string_check, text_similarity and multi are.")
            % {"kind": str(kind)[:60]},
            param=f"{path}.type",
        )
    option, known = ("operation", OPERATIONS) if kind == StringCheck.kind else ("evaluation_metric", (*ROUGE,))
    _refuse_unknown(path, given, "input", "reference", option)
    chosen = given.get(option)
    if chosen not in known:
        raise parameters.UnsupportedParameter(
            _("'%(name)s' has to be one of: %(known)s.") % {"name": option, "known": ", ".join(known)},
            param=f"{path}.{option}",
        )
    name, given_text, reference = (_text(f"{path}.{one}", given.get(one)) for one in ("name", "input", "reference"))
    _check_placeholders(f"{path}.input", given_text)
    _check_placeholders(f"{path}.reference", reference)
    if kind == StringCheck.kind:
        return StringCheck(name, given_text, reference, chosen)
    return TextSimilarity(name, given_text, reference, chosen)


def _refuse_unknown(path: str, given: Mapping[str, Any], *known: str) -> None:
    for name in given:
        if name not in ("type", "name", *known):
            raise parameters.unsupported(f"{path}.{name}")


def _text(path: str, given: Any) -> str:
    if given is None:
        raise parameters.MissingParameter(_("'%(name)s' is missing.") % {"name": path}, param=path)
    return parameters.text(path, given, limit=MOST_TEXT)


def _check_placeholders(path: str, template: str) -> None:
    found_all = _ANY_PLACEHOLDER.findall(template)
    if len(found_all) > MOST_PLACEHOLDERS:
        raise InvalidInput(_("A text has up to 100 placeholders."), param=path)
    for found in found_all:
        match = _PATH.match(found.strip())
        names = match[2].split(".")[1:] if match else []
        if match is None or (match[1] == "sample" and names != [_SAMPLE_TEXT] and names[:1] != [_SAMPLE_JSON]):
            raise InvalidInput(
                _("Placeholders are {{item.…}}, {{sample.output_text}} and {{sample.output_json.…}}."), param=path
            )
