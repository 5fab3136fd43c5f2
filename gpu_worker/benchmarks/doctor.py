"""The complete dataset doctor on a version with planted faults: how long it takes and what it finds.

`manage.py benchmark doctor` calls `run`. The examination runs in the capped child that the portal uses.
"""

from __future__ import annotations

import json
import os
import random
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from datasets_app.capped import run_capped
from datasets_app.demo_tickets import DEMO_SYSTEM_PROMPT, generate
from datasets_app.doctor.report import Report, read_ids
from datasets_app.doctor_reports import examination
from datasets_app.rows import CanonicalRow
from datasets_app.store import write_rows

ROWS = 100_000
QUICK_ROWS = 5_000
SEED = 41
# Shares of the rows that get each planted fault.
REPEATED, LEAKED, ALIKE, WITH_PHONE, MISLABELLED = 0.005, 0.002, 0.005, 0.003, 0.05
FIELD = "category"
RANKED = 100
PARTS = {
    "reading": "reading the rows, twice",
    "rows": "what is remembered of each row",
    "answers": "answers, schema, labels",
    "personal_data": "personal data",
    "languages": "languages",
    "neighbours": "near duplicates",
    "label_errors": "suspected labels",
    "tokens": "tokens (beside the others)",
    "duplicates": "repeated, leaked, contradicting rows",
}


@dataclass(frozen=True)
class Planted:
    """One row to be; `planted` names what is wrong with it."""

    split: str
    text: str
    answer: str
    planted: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Measured:
    """One examination: its report, what it cost, and the share of each planted fault that it found.

    `thread_s` is the processor time of the thread that everything waits for: what `wall_s` is on an idle machine.
    """

    report: Report
    wall_s: float
    thread_s: float
    cpu_s: float
    peak_bytes: int
    load: float
    recall: dict[str, tuple[int, int]] = field(default_factory=dict)
    precision: float = 0.0


def run(*, rows: Path | None, model_dir: Path, quick: bool = False, progress: Callable[[str], object] = print) -> str:
    """Measure and return the Markdown section; `rows` is not used, for the faults have to be known."""
    count = QUICK_ROWS if quick else ROWS
    progress(f"making {count:,} rows")
    tickets = list(_tickets(count))
    progress("examining them")
    measured = measure(tickets, model_dir)
    characters = sum(len(ticket.text) for ticket in tickets) // len(tickets)
    return render(measured, rows=len(tickets), characters=characters)


def measure(tickets: Sequence[Planted], model_dir: Path) -> Measured:
    """Write the rows, examine them in a capped child, and compare the report with what was planted."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        paths = {}
        for split in ("train", "validation", "test"):
            paths[split] = str(folder / f"{split}.parquet")
            write_rows(Path(paths[split]), _rows(tickets, split))
        before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        found = run_capped(
            "gpu_worker.benchmarks.doctor_child:examine_and_clock",
            {"folder": place, "rows_paths": paths, "tokenizer_folder": str(model_dir), "options": {}},
            memory_bytes=examination.MEMORY_BYTES,
            cpu_seconds=examination.CPU_SECONDS,
        )
        after, wall_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - begun
        report = Report.from_dict(found["report"])
        return Measured(
            report=report,
            wall_s=wall_s,
            thread_s=float(found["thread_s"]),
            cpu_s=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
            peak_bytes=after.ru_maxrss * 1024,
            load=os.getloadavg()[0] / (os.cpu_count() or 1),
            recall={code: _recall(tickets, folder, report, code) for code in ("duplicate", "leak", "near_duplicate")}
            | {"pii_phone": _recall(tickets, folder, report, "pii_phone")},
            precision=_precision(tickets, report),
        )


def render(measured: Measured, *, rows: int, characters: int) -> str:
    """Return the Markdown section."""
    seconds = measured.report.timings
    recall = ", ".join(f"{code} {found:,} of {planted:,}" for code, (found, planted) in measured.recall.items())
    lines = [
        "## Dataset doctor",
        "",
        f"The complete examination of {rows:,} demo tickets of {characters} characters on average with planted faults, "
        "tokens counted with SmolLM2's tokenizer, in the capped child that the portal uses. Parts are wall time; "
        f"{measured.load:.1f} processes were at work per core (alone it would be about 1).",
        "",
        "| part | s |",
        "|---|---|",
        *(f"| {words} | {seconds.get(part, 0.0):.1f} |" for part, words in PARTS.items()),
        f"| **all, with the start of the child** | **{measured.wall_s:.1f}** |",
        "",
        f"**{measured.thread_s:.0f} s** of processor time in the thread that everything waits for: about the wall "
        f"time of an idle machine with two cores; {measured.cpu_s:.0f} s in all threads. "
        f"Resident at most {measured.peak_bytes / 1e6:,.0f} MB.",
        "",
        f"Found of what was planted: {recall}; of the {RANKED} most suspected labels, {measured.precision:.0%} are "
        f"planted ({MISLABELLED:.0%} of the labels of one field are wrong).",
    ]
    return "\n".join(lines)


def _tickets(count: int) -> Iterator[Planted]:
    """Yield tickets of the usual length, nine tenths for training, then the copies that are faults."""
    dice = random.Random(SEED)  # noqa: S311 - not a secret
    texts = generate(SEED, count)
    categories = sorted({source.category for source in texts})
    made = []
    for number, source in enumerate(texts):
        earlier, other = (texts[dice.randrange(count)].text for _ in range(2))
        split = "train" if number < 0.9 * count else "validation" if number < 0.95 * count else "test"
        made.append(Planted(split, f"{source.text}\n\nEarlier: {earlier}\n{other}", source.response))
    for number in dice.sample(range(count), int(MISLABELLED * count)):
        made[number] = _mislabelled(made[number], categories, dice)
    for number in dice.sample(range(count), int(WITH_PHONE * count)):
        text = f"{made[number].text}\nCall me: +7 9{dice.randrange(10, 20)} {dice.randrange(100, 999)}-12-34"
        made[number] = replace(made[number], text=text, planted=made[number].planted | {"pii_phone"})
    train, test = made[: int(0.9 * count)], [ticket for ticket in made if ticket.split == "test"]
    yield from made
    chosen = dice.sample(train, int((REPEATED + ALIKE) * count))
    for ticket in chosen[: int(REPEATED * count)]:
        yield replace(ticket, planted=ticket.planted | {"duplicate"})
    for ticket in chosen[int(REPEATED * count) :]:
        words = ticket.text.split(" ")
        words[dice.randrange(len(words))] = "somewhat"
        yield replace(ticket, text=" ".join(words), planted=ticket.planted | {"near_duplicate"})
    for ticket in dice.sample(test, int(LEAKED * count)):
        yield replace(ticket, split="train", planted=ticket.planted | {"leak"})


def _mislabelled(ticket: Planted, categories: Sequence[str], dice: random.Random) -> Planted:
    answer: dict[str, Any] = json.loads(ticket.answer)
    answer[FIELD] = dice.choice([one for one in categories if one != answer[FIELD]])
    return replace(ticket, answer=json.dumps(answer, ensure_ascii=False), planted=frozenset({"label_error"}))


def _rows(tickets: Sequence[Planted], split: str) -> Iterator[CanonicalRow]:
    system = {"role": "system", "content": DEMO_SYSTEM_PROMPT}
    for number, ticket in enumerate(tickets, start=1):
        if ticket.split == split:
            asked = {"role": "user", "content": ticket.text}
            yield CanonicalRow(number + 1, (system, asked, {"role": "assistant", "content": ticket.answer}), number)


def _recall(tickets: Sequence[Planted], folder: Path, report: Report, code: str) -> tuple[int, int]:
    """Return how many of the rows with a planted fault were found, and how many there are."""
    planted = {number for number, ticket in enumerate(tickets, start=1) if code in ticket.planted}
    found = set(read_ids(folder, code).tolist()) if report.finding(code) else set()
    return len(planted & found), len(planted)


def _precision(tickets: Sequence[Planted], report: Report) -> float:
    finding = report.finding("label_error")
    ranked = finding.examples[:RANKED] if finding else ()
    planted = [one.field == FIELD and "label_error" in tickets[one.id - 1].planted for one in ranked]
    return sum(planted) / len(planted) if planted else 0.0
