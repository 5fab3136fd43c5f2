"""Importing a table of a million tickets, beside what pandas, pyarrow and the csv module need only to read it.

Every subject reads the same file in a process of its own, in turn, several rounds. Then the page of the imported
version is asked for, in a database made for it. `manage.py benchmark imports` calls `run`.
"""

import csv
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from datasets_app.demo_tickets import generate
from gpu_worker.benchmarks.own_database import empty_database

ROWS: Final = 1_000_000
QUICK_ROWS: Final = 20_000
ROUNDS: Final = 3
SUBJECTS: Final = {
    "csv": "csv module, only reading",
    "pandas": "pandas, only reading",
    "pyarrow": "pyarrow, only reading",
    "tuneport": "Tuneport: detected, parsed, checked, divided, written as Parquet",
}


def run(*, rows: Path | None, model_dir: Path, quick: bool = False, progress: Callable[[str], object] = print) -> str:
    """Measure and return the Markdown section. `rows`: another table with columns prompt and response.

    Raises: RuntimeError with the end of a child's output if it fails.
    """
    with tempfile.TemporaryDirectory() as name, empty_database() as address:
        folder = Path(name)
        table = rows or write_table(folder / "tickets.csv", QUICK_ROWS if quick else ROWS)
        progress(f"{table.stat().st_size / 1e6:.0f} MB")
        measured: dict[str, list[dict[str, Any]]] = {subject: [] for subject in SUBJECTS}
        for _round in range(1 if quick else ROUNDS):
            for subject, found in measured.items():
                found.append(_child("read", subject, str(table), str(folder / "rows")))
                progress(f"{subject}: {found[-1]}")
        environment = {"DATABASE_URL": address, "TUNEPORT_DATA_DIR": str(folder / "var")}
        pages = _child("pages", str(folder / "rows"), **environment)
        progress(str(pages))
        return _section(table, measured, pages)


def write_table(path: Path, count: int) -> Path:
    """Write a CSV of `count` tickets, most of them different; the same count gives the same file."""
    tickets = generate(seed=1, count=5_000)
    draw = random.Random(7).random  # noqa: S311 - not a secret
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "created", "prompt", "response"])
        for number in range(count):
            ticket = tickets[int(draw() * len(tickets))]
            answer = json.loads(ticket.response)
            if number % 2:
                answer["user_id"] = f"user{number * 31 % 700_001}@corp.example"
            created = f"2026-{number % 12 + 1:02}-{number % 28 + 1:02}"
            prompt = f"{ticket.text} Ref {number * 7_919 % 1_000_003}"
            writer.writerow([f"T-{number}", created, prompt, json.dumps(answer, ensure_ascii=False)])
    return path


def _child(*arguments: str, **environment: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "gpu_worker.benchmarks.imports_measure", *arguments]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError("\n".join((done.stdout + done.stderr).splitlines()[-20:]))
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _section(table: Path, measured: dict[str, list[dict[str, Any]]], pages: dict[str, Any]) -> str:
    size_mb = table.stat().st_size / 1e6
    lines = [
        "## Imports",
        "",
        f"A table of {measured['tuneport'][0]['rows']:,} tickets, {size_mb:.0f} MB of CSV; each subject in a process "
        f"of its own, in turn, {len(measured['tuneport'])} rounds. The least CPU time of the rounds is shown: "
        "others at work on the machine only add to it.",
        "",
        "| what | CPU, s | wall clock, s (least–most) | peak resident, MB |",
        "|---|---|---|---|",
    ]
    for subject, found in measured.items():
        walls = [one["wall_s"] for one in found]
        lines.append(
            f"| {SUBJECTS[subject]} | {min(one['cpu_s'] for one in found):.1f} | {min(walls):.1f}–{max(walls):.1f} "
            f"| {max(one['resident_mb'] for one in found):.0f} |"
        )
    lines += [
        "",
        f"The rows take {pages['stored_mb']:.0f} MB on disk. Pages of this version, at the server, without network:",
        "",
        "| page | median, ms | p95, ms |",
        "|---|---|---|",
        *(f"| {name} | {median:.0f} | {p95:.0f} |" for name, (median, p95) in pages["pages"].items()),
    ]
    return "\n".join(lines)
