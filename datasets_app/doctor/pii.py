"""Personal data that has a form of its own: where it stands in a text, and pseudonyms to put in its place.

Found are e-mail addresses, telephone numbers, payment cards, IBANs, tax and social insurance numbers and Russian
passports. Most numbers carry check digits; those whose form says too little count only after a word that names them
("ИНН", "passport"). Names of people and addresses have no form and are not found.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

import phonenumbers
from stdnum import iban, luhn
from stdnum.de import idnr
from stdnum.es import dni
from stdnum.eu import vat
from stdnum.fr import nir
from stdnum.it import codicefiscale
from stdnum.pl import pesel
from stdnum.ru import inn
from stdnum.us import ssn

from datasets_app.fields import json_object
from datasets_app.rows import CanonicalRow

KINDS: Final = ("email", "phone", "card", "iban", "tax_id", "passport")
# How far before a number a word may stand that names it.
CONTEXT: Final = 40

_ENOUGH_DIGITS: Final = re.compile(r"\d(?:\D{0,3}\d){5}")
_EMAIL: Final = re.compile(r"[\w.+%'-]*[\w+]@[\w-]+(?:\.[\w-]+)*\.\w{2,}")
_IBAN: Final = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?=((?:[ -]?[A-Za-z0-9]){11,30}))")
_CARD: Final = re.compile(r"(?<![\w.,-])\d(?:[ -]?\d){12,18}(?![\w-]|[.,]\d)")
# What stands between the digits of a telephone number.
_GAP: Final = r"[ \u00a0.\u2010-\u2013-]"
_PHONE: Final = re.compile(
    r"(?<![\w.,/#№@-])(?:\+|00)?[(]?\d(?:[ \u00a0().\u2010-\u2013-]{0,3}\d){6,14}(?![\w/:-]|[.,]\d)"
)
_CARD_ISSUERS: Final = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|220[0-4]\d{12,15}"
    r"|3[47]\d{13}|3(?:0[0-5]|[68]\d)\d{11}|35\d{14}|6(?:011|4[4-9]\d|5\d\d)\d{12}|62\d{14,17}|(?:50|5[6-9]|6\d)\d{14,17}"
)
_PHONE_WORDS: Final = re.compile(
    r"phone|\btel\b|telef|mobil|\bcell|\bcall|whats?app|\bfax|\bsms\b|телеф|\bтел\b|моб|звон|ватсап|номер для связи",
    re.I,
)
_NO_PHONE: Final = re.compile(
    r"(?:19|20)\d\d[-. ]\d\d?[-. ]\d\d?(?:\D.*)?|\d\d?[-. ]\d\d?[-. ](?:19|20)\d\d(?:\D.*)?"  # dates
    r"|\d{1,3}(?:[. \u00a0]\d{3})+|\d{1,3}(?:\.\d{1,3}){3}|\d+\.\d+"  # amounts, IP addresses, fractions
)
_GROUPED: Final = re.compile(rf"\(?\d{{2,5}}\)?{_GAP}+\d{{2,4}}{_GAP}?\d{{2,4}}(?:{_GAP}?\d{{2,4}})?")
_RUSSIAN: Final = re.compile(r"[78]9\d{9}")
# Where a number may be from that is written without its country.
REGIONS: Final = ("RU", "US", "GB", "DE", "FR", "ES", "IT", "PL", "NL", "UA", "TR", "BR", "IN")


@dataclass(frozen=True)
class Span:
    """One piece of personal data in a text; `value` is its plain form, equal for every way of writing it."""

    kind: str
    start: int
    end: int
    value: str


@dataclass(frozen=True)
class _Number:
    """A number with a name: its form, what proves it, and the words after which alone it counts."""

    kind: str
    form: re.Pattern[str]
    is_valid: Callable[[str], bool]
    words: re.Pattern[str] | None = None


def _snils(number: str) -> bool:
    """Tell whether the check digits of a Russian insurance number are right."""
    digits = re.sub(r"\D", "", number)
    if len(digits) != 11 or len(set(digits[:9])) == 1:
        return False
    total = sum(int(digit) * weight for digit, weight in zip(digits, range(9, 0, -1), strict=False))
    return total % 101 % 100 == int(digits[9:])


def _any(_number: str) -> bool:
    return True


_TAX_WORDS: Final = re.compile(r"\btax|steuer|\bnip\b|\bnif\b|pesel|\bidnr|\btin\b", re.I)
_SNILS_WORDS: Final = re.compile(r"СНИЛС|SNILS", re.I)
_NUMBERS: Final = (
    _Number("tax_id", re.compile(r"(?<!\d)\d{10}(?:\d\d)?(?!\d)"), inn.is_valid, re.compile(r"ИНН|\bINN\b", re.I)),
    _Number("tax_id", re.compile(r"(?<![\d-])\d{3}-\d{3}-\d{3}[ -]\d\d(?![\d-])"), _snils),
    _Number("tax_id", re.compile(r"(?<!\d)\d{3}[ -]?\d{3}[ -]?\d{3}[ -]?\d\d(?!\d)"), _snils, _SNILS_WORDS),
    _Number("tax_id", re.compile(r"(?<![\d-])\d{3}-\d\d-\d{4}(?![\d-])"), ssn.is_valid),
    _Number("tax_id", re.compile(r"(?<!\d)\d{2}[ ]?\d{3}[ ]?\d{3}[ ]?\d{3}(?!\d)"), idnr.is_valid, _TAX_WORDS),
    _Number("tax_id", re.compile(r"(?<!\d)\d{11}(?!\d)"), pesel.is_valid, _TAX_WORDS),
    _Number("tax_id", re.compile(r"(?<![A-Za-z0-9-])\d{8}-?[A-Z](?![A-Za-z0-9])"), dni.is_valid),
    _Number("tax_id", re.compile(r"(?<!\w)[12] ?\d\d ?[01]\d ?\d\d ?\d{3} ?\d{3} ?\d\d(?!\w)"), nir.is_valid),
    _Number(
        "tax_id", re.compile(r"(?<!\w)[A-Z]{6}\d\d[A-EHLMPRST]\d\d[A-Z]\d{3}[A-Z](?!\w)", re.I), codicefiscale.is_valid
    ),
    _Number("tax_id", re.compile(r"(?<!\w)[A-Z]{2}[A-Z0-9]{8,12}(?!\w)"), vat.is_valid),
    _Number(
        "passport", re.compile(r"(?<!\d)\d\d ?\d\d(?:\s*[№N]?\s*)\d{6}(?!\d)"), _any,
        re.compile(r"паспорт|passport|серия", re.I),
    ),
)  # fmt: skip


def find(text: str, kinds: Collection[str] = KINDS) -> list[Span]:
    """Return the personal data in a text, in order and without overlaps."""
    has_digits = _ENOUGH_DIGITS.search(text) is not None
    if not has_digits and "@" not in text:
        return []
    found: list[Span] = []
    for span in _all(text, has_digits):
        if all(span.end <= other.start or span.start >= other.end for other in found):
            found.append(span)
    return sorted((span for span in found if span.kind in kinds), key=lambda span: span.start)


def _all(text: str, has_digits: bool) -> Iterator[Span]:
    """Yield everything found, the surest kinds first: of what overlaps, the first one counts."""
    if "@" in text:
        for match in _EMAIL.finditer(text):
            yield Span("email", match.start(), match.end(), match.group().casefold())
    if not has_digits:
        return
    for match in _IBAN.finditer(text):
        yield from _iban(match)
    for match in _CARD.finditer(text):
        digits = re.sub(r"\D", "", match.group())
        if _CARD_ISSUERS.fullmatch(digits) and luhn.is_valid(digits):
            yield Span("card", match.start(), match.end(), digits)
    for number in _NUMBERS:
        for match in number.form.finditer(text):
            if (number.words is None or _named(text, match, number.words)) and number.is_valid(match.group()):
                yield Span(number.kind, match.start(), match.end(), re.sub(r"\W", "", match.group()).upper())
    for match in _PHONE.finditer(text):
        if value := _phone(text, match):
            yield Span("phone", match.start(), match.end(), value)


def _named(text: str, match: re.Match[str], words: re.Pattern[str]) -> bool:
    return words.search(text, max(0, match.start() - CONTEXT), match.start()) is not None


def _iban(match: re.Match[str]) -> Iterator[Span]:
    """Yield the IBAN at the beginning of a run of letters and digits: words may follow it without a border."""
    text = match.group() + match.group(1)
    for end in range(len(text), 14, -1):
        if text[end - 1] in " -" or (end < len(text) and text[end].isalnum() and not text[end - 1].isalnum()):
            continue
        value = re.sub(r"[ -]", "", text[:end]).upper()
        if 15 <= len(value) <= 34 and iban.is_valid(value):
            yield Span("iban", match.start(), match.start() + end, value)
            return


def _phone(text: str, match: re.Match[str]) -> str:
    """Return a telephone number in its international form, or nothing if it is none."""
    written = match.group()
    digits = re.sub(r"\D", "", written)
    if written.startswith(("+", "00")):
        return _valid(("+" + digits.removeprefix("00")) if written.startswith("00") else "+" + digits, None)
    if _NO_PHONE.fullmatch(written):
        return ""
    if _RUSSIAN.fullmatch(digits):
        return _valid("+7" + digits[1:], None)
    named = _named(text, match, _PHONE_WORDS)
    if not named and (not _GROUPED.fullmatch(written) or len(digits) < 10):
        return ""
    # Without a word before it, a number must look as numbers are written where it is from.
    for region in REGIONS if named else ("RU", "US", "GB"):
        if value := _valid(written, region):
            return value
    return ""


def _valid(written: str, region: str | None) -> str:
    try:
        number = phonenumbers.parse(written, region)
    except phonenumbers.NumberParseException:
        return ""
    if not phonenumbers.is_valid_number(number):
        return ""
    return str(phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164))


class Pseudonyms:
    """Gives each value a name such as [EMAIL_1]; the same value has the same name as long as the object lives."""

    def __init__(self) -> None:
        self._names: dict[tuple[str, str], str] = {}
        self._counts = dict.fromkeys(KINDS, 0)

    def name(self, span: Span) -> str:
        """Return the name of a value."""
        key = span.kind, span.value
        if key not in self._names:
            self._counts[span.kind] += 1
            self._names[key] = f"[{span.kind.upper()}_{self._counts[span.kind]}]"
        return self._names[key]


def mask_text(text: str, kinds: Collection[str], pseudonyms: Pseudonyms) -> str:
    """Return a text with pseudonyms in the place of personal data."""
    parts: list[str] = []
    end = 0
    for span in find(text, kinds):
        parts += text[end : span.start], pseudonyms.name(span)
        end = span.end
    return "".join((*parts, text[end:]))


def mask(row: CanonicalRow, kinds: Collection[str], pseudonyms: Pseudonyms) -> CanonicalRow:
    """Return a row with pseudonyms in the place of personal data, everywhere; JSON answers stay JSON."""
    messages = tuple({**one, "content": _mask_content(one, kinds, pseudonyms)} for one in row.messages)
    rejected = mask_text(row.rejected, kinds, pseudonyms) if row.rejected else ""
    is_same = messages == row.messages and rejected == row.rejected
    return row if is_same else replace(row, messages=messages, rejected=rejected)


def _mask_content(message: Mapping[str, str], kinds: Collection[str], pseudonyms: Pseudonyms) -> str:
    content = message["content"]
    members = json_object(content) if message["role"] == "assistant" else None
    if members is None:
        return mask_text(content, kinds, pseudonyms)
    masked = _mask_value(members, kinds, pseudonyms)
    return content if masked == members else json.dumps(masked, ensure_ascii=False)


def _mask_value(value: object, kinds: Collection[str], pseudonyms: Pseudonyms) -> object:
    if isinstance(value, dict):
        return {name: _mask_value(one, kinds, pseudonyms) for name, one in value.items()}
    if isinstance(value, list):
        return [_mask_value(one, kinds, pseudonyms) for one in value]
    if isinstance(value, str):
        return mask_text(value, kinds, pseudonyms)
    if isinstance(value, int) and not isinstance(value, bool):
        masked = mask_text(str(value), kinds, pseudonyms)
        return value if masked == str(value) else masked
    return value


def holds(row: CanonicalRow, kinds: Collection[str]) -> bool:
    """Tell whether a row has personal data of some kinds."""
    texts = [message["content"] for message in row.messages]
    return any(find(text, kinds) for text in (*texts, row.rejected))
