"""Support tickets of an invented cloud company with the JSON that a perfect dispatcher would have filled in.

The same seed makes the same tickets. The dispatcher's rules, which a model has to find out from the examples:
the service follows from what the customer works with, whether it is named or not; the category from what is said
about it; the urgency from the category, unless the ticket says something else; the user id is the e-mail address or
login in the text, or null. A quarter of the tickets is in Russian.
"""

import csv
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from datasets_app import demo_phrases as phrases
from datasets_app.mapping import Mapping

DEMO_SYSTEM_PROMPT: Final = "Route the support ticket: answer with JSON."
MAPPING: Final = Mapping(prompt="prompt", response="response", system_prompt=DEMO_SYSTEM_PROMPT, json_answers=True)

RUSSIAN_SHARE: Final = 0.25
CATEGORY_WEIGHTS: Final = {"Incident": 16, "Bug": 32, "Performance": 14, "Request": 20, "Question": 18}


@dataclass(frozen=True)
class Ticket:
    """One ticket and how it is to be routed; `user_id` is None when the text names nobody."""

    text: str
    service: str
    category: str
    urgency: str
    user_id: str | None

    @property
    def response(self) -> str:
        """The routing as the JSON text that the model shall answer with."""
        routing = {
            "service": self.service,
            "category": self.category,
            "urgency": self.urgency,
            "user_id": self.user_id,
        }
        return json.dumps(routing, ensure_ascii=False)


def generate(seed: int, count: int) -> list[Ticket]:
    """Return `count` tickets with different texts; a longer list begins with the shorter one."""
    return list(islice(_tickets(seed), count))


def write_files(folder: Path, seed: int, *, train: int, validation: int, test: int) -> dict[str, Path]:
    """Write train.csv, validation.csv and test.csv in the import format, sharing no ticket; return their paths."""
    tickets = _tickets(seed)
    paths: dict[str, Path] = {}
    for part, count in (("train", train), ("validation", validation), ("test", test)):
        paths[part] = folder / f"{part}.csv"
        with paths[part].open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n")
            writer.writerow(("prompt", "response"))
            writer.writerows((ticket.text, ticket.response) for ticket in islice(tickets, count))
    return paths


def _tickets(seed: int) -> Iterator[Ticket]:
    dice = random.Random(seed)  # noqa: S311 - not a secret
    seen: set[str] = set()
    while True:
        ticket = _ticket(dice)
        if ticket.text not in seen:
            seen.add(ticket.text)
            yield ticket


def _ticket(dice: random.Random) -> Ticket:
    is_russian = dice.random() < RUSSIAN_SHARE
    service = dice.choice(tuple(phrases.ENGLISH))
    category = dice.choices(tuple(CATEGORY_WEIGHTS), tuple(CATEGORY_WEIGHTS.values()))[0]
    urgency = phrases.USUAL_URGENCY[category]
    # Sometimes the usual urgency is said aloud, too.
    says_urgency = dice.random() < 0.4
    if says_urgency and dice.random() < 0.8:
        urgency = dice.choice(phrases.OTHER_URGENCIES[category])
    user_id, first_name = _user(dice)
    cue = urgency if says_urgency else None
    write = _russian_text if is_russian else _english_text
    text = write(dice, service, category, cue, user_id, first_name)
    return Ticket(text, service, category, urgency, user_id)


def _user(dice: random.Random) -> tuple[str | None, str]:
    """Return the e-mail address or login that the ticket mentions, if any, and the writer's first name."""
    first, last = dice.choice(phrases.FIRST_NAMES), dice.choice(phrases.LAST_NAMES)
    domain = dice.choice(phrases.DOMAINS)
    kind = dice.random()
    if kind < 0.35:
        return None, first
    if kind < 0.6:
        return f"{first}.{last}@{domain}", first
    if kind < 0.75:
        return f"{dice.choice(phrases.MAILBOXES)}@{domain}", first
    if kind < 0.9:
        return f"{first[0]}{last}{dice.randrange(1, 100)}", first
    return f"{first}_{last}", first


def _english_text(
    dice: random.Random, service: str, category: str, cue: str | None, user_id: str | None, first_name: str
) -> str:
    speech = phrases.ENGLISH[service]
    cues = phrases.ENGLISH_TROUBLE_CUES if category in phrases.TROUBLE else phrases.ENGLISH_WISH_CUES
    core = _core(dice, phrases.ENGLISH_CORES[category], speech)
    if not core.endswith("?") and dice.random() < 0.45:
        core += f" in {dice.choice(speech.names)}"
    elif dice.random() < 0.4:
        core = f"{dice.choice(speech.names)}: {core}"
    sentences = [_sentence(core)]
    if user_id:
        _mention(dice, sentences, user_id, ("User {id}.", "Login: {id}", "My account is {id}.", "Affected user: {id}"))
    if dice.random() < 0.12:
        sentences.insert(1, dice.choice(phrases.ENGLISH_CONTEXTS))
    if cue:
        sentences.append(_sentence(dice.choice(cues[cue])))
    return _letter(dice, sentences, phrases.ENGLISH_GREETINGS, phrases.ENGLISH_CLOSINGS, first_name)


def _russian_text(
    dice: random.Random, service: str, category: str, cue: str | None, user_id: str | None, first_name: str
) -> str:
    speech = phrases.RUSSIAN[service]
    cues = phrases.RUSSIAN_TROUBLE_CUES if category in phrases.TROUBLE else phrases.RUSSIAN_WISH_CUES
    core = _core(dice, phrases.RUSSIAN_CORES[category], speech)
    if dice.random() < 0.6:
        core = f"{dice.choice(speech.names)}: {core}"
    sentences = [_sentence(core)]
    if user_id:
        _mention(dice, sentences, user_id, ("Логин {id}", "Почта: {id}") if "@" in user_id else ("Логин {id}",))
    if cue:
        sentences.append(_sentence(dice.choice(cues[cue])))
    return _letter(dice, sentences, phrases.RUSSIAN_GREETINGS, phrases.RUSSIAN_CLOSINGS, first_name)


def _core(dice: random.Random, cores: tuple[str, ...], speech: phrases.Speech) -> str:
    base, _, gerund = dice.choice(speech.actions).partition("|")
    return dice.choice(cores).format(
        do=base,
        doing=gerund,
        thing=dice.choice(speech.things),
        request=dice.choice(speech.requests),
        code=dice.choice(phrases.ERROR_CODES),
        minutes=dice.randrange(5, 60),
    )


def _mention(dice: random.Random, sentences: list[str], user_id: str, forms: tuple[str, ...]) -> None:
    """Put the user id into the ticket: in a sentence of its own, or in front of the first one."""
    if dice.random() < 0.25:
        sentences[0] = f"{user_id}: {sentences[0]}"
    else:
        sentences.append(dice.choice(forms).format(id=user_id))


def _sentence(core: str) -> str:
    ended = core if core.endswith("?") else f"{core}."
    return ended[0].upper() + ended[1:]


def _letter(
    dice: random.Random, sentences: list[str], greetings: tuple[str, ...], closings: tuple[str, ...], first_name: str
) -> str:
    """Add greeting, closing and slips of the pen to the sentences of a ticket."""
    sentences[0] = _with_slip(dice, sentences[0])
    text = " ".join(sentences)
    if dice.random() < 0.25:
        text = f"{dice.choice(greetings)}\n{text}"
    if dice.random() < 0.25:
        text = f"{text}\n{dice.choice(closings).format(first=first_name.title())}"
    return text.lower() if dice.random() < 0.1 else text


def _with_slip(dice: random.Random, sentence: str) -> str:
    """Swap two neighbouring letters now and then, never in an address or a login."""
    words = sentence.split(" ")
    long_words = [place for place, word in enumerate(words) if len(word) > 5 and word.isalpha()]
    if not long_words or dice.random() > 0.08:
        return sentence
    place = dice.choice(long_words)
    cut = dice.randrange(1, len(words[place]) - 2)
    word = words[place]
    words[place] = word[:cut] + word[cut + 1] + word[cut] + word[cut + 2 :]
    return " ".join(words)
