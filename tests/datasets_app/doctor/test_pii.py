"""Personal data are found in all their spellings, numbers of other kinds are left alone, pseudonyms are consistent."""

import json
import random

import phonenumbers
import pytest
from stdnum import iban, luhn

from datasets_app.doctor import pii
from datasets_app.doctor.pii import Pseudonyms, find, mask
from datasets_app.doctor.report import read_ids
from datasets_app.rows import CanonicalRow

AROUND = [
    "Hello, my {} does not work since Monday.", "{}", "Please write to {} or call back.", "Договор на {} не найден",
    "ref #4711, contact: {}.", "({})", "user={}; retry=3", "Ticket 2024-05-17 10:12, {} , 3 items at 1.299,00",
]  # fmt: skip
LENGTHS = {"DE": 22, "AT": 20, "CH": 21, "DK": 18, "FI": 18, "SE": 24}


def _kinds(text: str) -> list[str]:
    return [span.kind for span in find(text)]


def _emails(dice: random.Random) -> str:
    name = dice.choice(["anna", "j.smith", "o'neil", "first+tag", "иван.петров", "a_b", "x99"])
    place = dice.choice(["mail.com", "my-corp.co.uk", "почта.рф", "a.b.example.ru"])
    return f"{name}{dice.randrange(100)}@{place}"


def _phones(dice: random.Random) -> str:
    region = dice.choice(["RU", "RU", "US", "GB", "DE", "FR", "ES", "IN"])
    example = phonenumbers.example_number_for_type(region, phonenumbers.PhoneNumberType.MOBILE)
    for _ in range(100):  # other last digits, as long as the number stays valid
        number = phonenumbers.PhoneNumber(
            country_code=example.country_code,
            national_number=example.national_number // 10_000 * 10_000 + dice.randrange(10_000),
        )
        if phonenumbers.is_valid_number(number):
            break
    form = dice.choice([phonenumbers.PhoneNumberFormat.INTERNATIONAL, phonenumbers.PhoneNumberFormat.E164])
    written = phonenumbers.format_number(number, form)
    if region == "RU":
        digits = str(number.national_number)
        written = dice.choice([
            written, f"8 ({digits[:3]}) {digits[3:6]}-{digits[6:8]}-{digits[8:]}", f"8{digits}",
            f"+7-{digits[:3]}-{digits[3:6]}-{digits[6:8]}-{digits[8:]}", f"8 {digits[:3]} {digits[3:6]} {digits[6:]}",
        ])  # fmt: skip
    return written


def _ibans(dice: random.Random) -> str:
    while True:
        country, length = dice.choice(list(LENGTHS.items()))
        bban = "".join(dice.choice("0123456789") for _ in range(length - 4))
        value = country + _check_digits(country, bban) + bban
        if iban.is_valid(value):
            return value if dice.random() < 0.5 else " ".join(value[n : n + 4] for n in range(0, len(value), 4))


def _check_digits(country: str, bban: str) -> str:
    digits = "".join(str(int(c, 36)) for c in bban + country + "00")
    return f"{98 - int(digits) % 97:02d}"


def _cards(dice: random.Random) -> str:
    digits = dice.choice(["4276", "5469", "2202", "4111"]) + "".join(dice.choice("0123456789") for _ in range(11))
    digits += luhn.calc_check_digit(digits)
    return digits if dice.random() < 0.5 else " ".join(digits[n : n + 4] for n in range(0, 16, 4))


@pytest.mark.parametrize(("kind", "make"), [("email", _emails), ("phone", _phones), ("iban", _ibans), ("card", _cards)])
def test_two_hundred_of_each_kind_are_found(kind, make):
    dice = random.Random(17)
    missed = []
    for number in range(200):
        text = AROUND[number % len(AROUND)].format(value := make(dice))
        spans = [span for span in find(text) if span.kind == kind]
        if len(spans) != 1 or text[spans[0].start : spans[0].end] != value:
            missed.append(text)
    assert len(missed) <= 0.05 * 200, missed[:10]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("ИНН 7707083893 не принимается", "tax_id"),
        ("инн: 500100732259", "tax_id"),
        ("СНИЛС 112-233-445 95", "tax_id"),
        ("снилс 11223344595", "tax_id"),
        ("мой СНИЛС: 112 233 445 95.", "tax_id"),
        ("паспорт 45 08 123456 выдан", "passport"),
        ("паспорт серия 4508 № 123456", "passport"),
        ("SSN 536-90-4399", "tax_id"),
        ("VAT DE136695976", "tax_id"),
        ("DNI 54362315K", "tax_id"),
        ("codice RCCMNL83S18D969H", "tax_id"),
        ("Steuer-ID 36 574 261 809", "tax_id"),
        ("звоните 8 (495) 739-70-00", "phone"),
        ("tel. 030 901820", "phone"),
        ("call me at 415-555-2671", "phone"),
        ("my mobile: 07400 123456", "phone"),
        ("0044 20 7946 0958 or office", "phone"),
    ],
)
def test_national_forms(text, kind):
    assert _kinds(text) == [kind]


@pytest.mark.parametrize(
    "text",
    [
        "Order 1234567890 from 2024-05-17 10:12:33 has not arrived",
        "ticket INC0012345678 and CHG-2024-0012345",
        "Die Rechnung 2023/0004711 über 1.299.500,00 EUR",
        "IP 192.168.100.200, port 8080, build 10.0.19045.4291",
        "17.05.2024 12:30 и 2024.05.17",
        "uuid 550e8400-e29b-41d4-a716-446655440000",
        "timestamp 1715940000 and 1715940000123",
        "commit 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b",
        "ISBN 978-3-16-148410-0 costs 12 345 678 рублей",
        "tracking 00340434161094015902",
        "error 0x80070005 at line 123456, @mention and user@localhost",
        "id=79161234567890, v=1.2.3.4567890",
        "serial 4508123456 and article 500100732259",
        "Rows 1000000 2000000 3000000",
        "1000 2000 3000 4000",
        "GPS 55.7558260, 37.6172999",
        "версия 8.3.24.1667 платформы",
    ],
)
def test_other_numbers_are_left_alone(text):
    assert find(text) == []


def test_ticket_numbers_and_dates_are_seldom_taken_for_persons():
    dice = random.Random(3)
    forms = ["INC{:08d}", "#{:07d}", "order {:010d}", "{:d},50 EUR", "id {:012d}", "SR-{:05d}-{:04d}", "{} / {}"]
    texts = [form.format(*(dice.randrange(10**9) for _ in range(3))) for form in forms for _ in range(300)]
    texts += [
        f"2024-{dice.randrange(1, 13):02d}-{dice.randrange(1, 29):02d} 11:{dice.randrange(60)}" for _ in range(300)
    ]
    wrong = [text for text in texts if find(f"Please look at {text} again")]
    assert len(wrong) <= 0.005 * len(texts), wrong


def test_the_same_value_has_the_same_pseudonym_however_written():
    names = Pseudonyms()
    rows = [
        _row("From Anna@mail.com, phone +7 916 123-45-67", '{"user": "anna@mail.com", "phone": 79161234567, "n": 5}'),
        _row("8 (916) 123-45-67 wrote; bob@mail.com too", "Call +79161234567."),
    ]
    masked = [mask(row, pii.KINDS, names) for row in rows]
    assert masked[0].prompt == "From [EMAIL_1], phone [PHONE_1]"
    assert json.loads(masked[0].answer) == {"user": "[EMAIL_1]", "phone": "[PHONE_1]", "n": 5}
    assert masked[1].prompt == "[PHONE_1] wrote; [EMAIL_2] too"
    assert masked[1].answer == "Call [PHONE_1]."


def test_only_chosen_kinds_are_masked_and_other_rows_stay_the_same():
    row = _row("bob@mail.com, +7 916 123-45-67", '{"a":  1}')
    assert mask(row, {"email"}, Pseudonyms()).prompt == "[EMAIL_1], +7 916 123-45-67"
    assert mask(row, {"iban"}, Pseudonyms()) is row
    assert pii.holds(row, {"phone"})
    assert not pii.holds(row, {"card"})


def test_masked_rows_have_nothing_left():
    dice = random.Random(1)
    for make in (_emails, _phones, _ibans, _cards):
        row = _row(f"Write to {make(dice)} or {make(dice)}", json.dumps({"contact": make(dice)}))
        assert not pii.holds(mask(row, pii.KINDS, Pseudonyms()), pii.KINDS)


def test_findings_name_kind_row_and_part(diagnose, tmp_path):
    rows = [("train", f"Nothing to hide {n}", f"Answer {n}.") for n in range(60)]
    rows[10] = ("train", "I am ann@mail.com and bob@mail.com", "Fine then.")
    rows[20] = ("train", "Who is it?", "Call +7 916 123-45-67.")
    report = diagnose(rows)
    email, phone = report.finding("pii_email"), report.finding("pii_phone")
    assert email is not None
    assert phone is not None
    assert [(one.row, dict(one.params)) for one in email.examples] == [(12, {"part": "prompt", "values": 2})]
    assert [(one.row, dict(one.params)) for one in phone.examples] == [(22, {"part": "answer", "values": 1})]
    assert email.fixes == ("mask_pii", "drop_pii")
    assert read_ids(tmp_path, "pii_phone").tolist() == [21]
    assert "ann@mail.com" not in json.dumps(report.to_dict())


def _row(prompt: str, answer: str) -> CanonicalRow:
    return CanonicalRow(2, ({"role": "user", "content": prompt}, {"role": "assistant", "content": answer}), 1)
