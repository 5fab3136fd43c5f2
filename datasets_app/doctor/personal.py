"""Which rows hold personal data, and of which kind."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from datasets_app.doctor import pii
from datasets_app.doctor.report import MAX_EXAMPLES, Example
from datasets_app.doctor.table import Batch, Findings, RowTable
from datasets_app.rows import CanonicalRow

FIXES: Final = ("mask_pii", "drop_pii")


class PersonalData:
    """Looks for personal data in every message of every row."""

    def __init__(self) -> None:
        self._positions: dict[str, array[int]] = defaultdict(lambda: array("q"))
        self._values: dict[str, int] = defaultdict(int)
        self._shown: dict[str, list[tuple[int, str, int]]] = defaultdict(list)
        # System prompts are mostly one and the same.
        self._system: tuple[str, list[pii.Span]] = ("", [])

    def add(self, batch: Batch) -> None:
        """Look at the rows of a batch."""
        for position, row in enumerate(batch.rows, start=batch.first):
            found: dict[str, list[str]] = {}
            for part, span in self._spans(row):
                found.setdefault(span.kind, []).append(part)
            for kind, parts in found.items():
                self._positions[kind].append(position)
                self._values[kind] += len(parts)
                if len(self._shown[kind]) < MAX_EXAMPLES:
                    self._shown[kind].append((position, parts[0], len(parts)))

    def report(self, table: RowTable, findings: Findings) -> None:
        """Add one finding per kind."""
        for kind in pii.KINDS:
            findings.add(
                f"pii_{kind}",
                "warning",
                self._positions[kind],
                params={"values": self._values[kind], "kind": kind},
                examples=self._examples(kind, table),
                fixes=FIXES,
            )

    def _examples(self, kind: str, table: RowTable) -> Iterator[Example]:
        for position, part, count in self._shown[kind]:
            yield table.example(position, params={"part": part, "values": count})

    def _spans(self, row: CanonicalRow) -> Iterator[tuple[str, pii.Span]]:
        last = len(row.messages) - 1
        for number, message in enumerate(row.messages):
            content = message["content"]
            if message["role"] == "system":
                if content != self._system[0]:
                    self._system = content, pii.find(content)
                yield from (("system", span) for span in self._system[1])
            else:
                part = "answer" if number == last else "prompt"
                yield from ((part, span) for span in pii.find(content))
