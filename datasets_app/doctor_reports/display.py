"""A stored report as its page shows it: a verdict, findings in words with excerpts of their rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, overload

from django.urls import NoReverseMatch, reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop, ngettext

from datasets_app import store
from datasets_app.doctor import pii, sentences
from datasets_app.doctor.balance import shown
from datasets_app.doctor.report import LEARNED, READ, Example, Finding, Report, read_ids
from datasets_app.doctor_reports import figures, lifecycle
from datasets_app.doctor_reports.excerpts import REVIEWED, Excerpt, read_excerpts, shown_examples
from datasets_app.doctor_reports.fixes import Fix, fixes_of, kind_of
from datasets_app.models import DatasetVersion, DoctorReport, PersonalDataDecision, Split
from datasets_app.reports import OWN_SENTENCES
from datasets_app.stored_rows import pretty_answer
from portal.display.numbers import percentage, thousands

TITLES_IN_SUMMARY: Final = 4

FAILURES: Final[Mapping[str, str]] = {
    "doctor_gave_up": gettext_noop(
        "The examination stopped %(attempts)d times without an end. Divide the dataset and examine its parts."
    ),
    "doctor_failed": gettext_noop("The examination failed: %(reason)s"),
    "rows_missing": gettext_noop(
        "The files with the rows of this version are missing on this server. Ask a platform admin to bring them back."
    ),
    "work_memory": gettext_noop(
        "The examination needs more than %(memory_mib)d MiB of memory. Divide the dataset and examine its parts."
    ),
    "work_too_long": gettext_noop(
        "The examination took more than %(seconds)d seconds of computing, so it was stopped. "
        "Divide the dataset and examine its parts."
    ),
    "work_file_too_large": gettext_noop("The examination found too much to write down. Divide the dataset."),
    "work_crashed": gettext_noop(
        "The examination broke off. Try again; if it happens again, tell a platform admin, "
        "who finds the reason in the log."
    ),
}


# A text in pieces, each with whether it is to be marked.
Pieces = tuple[tuple[str, bool], ...]


@dataclass(frozen=True)
class ShownRow:
    """One row of a finding: its place, the beginning of its texts, and what there is to say about it."""

    id: int
    split: Split
    line: int
    url: str
    prompt: Pieces
    answer: Pieces
    fields: tuple[tuple[str, Pieces, bool], ...]
    detail: str
    suggested: str = ""


@dataclass(frozen=True)
class ShownFinding:
    """One finding in words; `before` is its count in the version that this one was made from, if that is known."""

    code: str
    severity: str
    count: int
    title: str
    meaning: str
    advice: str
    rows: tuple[ShownRow, ...]
    more: int
    fixes: tuple[Fix, ...]
    is_reviewed: bool
    before: int | None
    decision: PersonalDataDecision | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class ShownReport:
    """A report in words; `tone` is that of its verdict: danger, warning or success."""

    verdict: str
    tone: str
    findings: tuple[ShownFinding, ...]
    mended: tuple[str, ...]
    parent: DatasetVersion | None
    seconds: float
    balances: tuple[figures.Balance, ...]
    tokens: Mapping[str, Any] | None
    length_bars: list[dict[str, Any]]
    length_steps: list[dict[str, Any]]
    languages: list[dict[str, Any]]
    schema: tuple[figures.SchemaLine, ...]


@dataclass(frozen=True)
class Summary:
    """What other pages say about a version's report: a verdict, and the gravest findings by their titles."""

    verdict: str
    tone: str
    titles: tuple[str, ...] = ()


def summary(version: DatasetVersion) -> Summary:
    """Return the verdict on a version, or how far its examination is."""
    latest = version.doctor_reports.first()
    if latest is not None and latest.is_open:
        return Summary(_("The doctor is examining this version."), "info")
    found = latest if latest is not None and latest.status == latest.Status.READY else lifecycle.newest_report(version)
    if found is None:
        return Summary(_("The doctor has not examined this version yet."), "info")
    report = Report.from_dict(found.report)
    tone, verdict = verdict_of(report.findings)
    grave = [one for one in report.findings if one.severity != "info"]
    return Summary(verdict, tone, tuple(sentences.title(one, _) for one in grave[:TITLES_IN_SUMMARY]))


def stage_in_words(report: DoctorReport | None, rows: int) -> str:
    """Return what an examination that runs is at; empty for one that waits."""
    if report is None or report.status != DoctorReport.Status.RUNNING:
        return ""
    if report.progress < 100 * LEARNED:
        return _("Learning what is usual")
    if report.progress < 100 * READ:
        return ngettext("Looking at one row", "Looking at each of %(count)s rows", rows) % {"count": thousands(rows)}
    return _("Comparing the rows")


def stored_report(report: DoctorReport) -> Report | None:
    """Return what a report found, None unless it is ready."""
    return Report.from_dict(report.report) if report.status == DoctorReport.Status.READY else None


def failure_in_words(report: DoctorReport) -> str:
    """Return why an examination failed."""
    code, params = report.error.get("code", "work_crashed"), report.error.get("params", {})
    sentence = FAILURES.get(code) or OWN_SENTENCES.get(code) or FAILURES["work_crashed"]
    return str(_(sentence) % params)


def shown_report(version: DatasetVersion, stored: DoctorReport, *, raw: bool) -> ShownReport:
    """Return a ready report as its page shows it; unless `raw`, personal data in the excerpts are masked."""
    report = Report.from_dict(stored.report)
    tone, verdict = verdict_of(report.findings)
    tokens, parent = report.tokens, version.parent
    earlier = lifecycle.newest_report(parent) if parent else None
    before = Report.from_dict(earlier.report) if earlier else None
    show = _Shower(version, read_excerpts(stored.folder), before, raw=raw)
    return ShownReport(
        verdict=verdict,
        tone=tone,
        findings=tuple(show.finding(one) for one in report.findings),
        mended=tuple(sentences.title(one, _) for one in _mended(report, before)),
        parent=parent if before else None,
        seconds=sum(report.timings.values()),
        balances=figures.balances(report),
        tokens=tokens,
        length_bars=figures.length_bars(tokens) if tokens else [],
        length_steps=figures.length_steps(tokens) if tokens else [],
        languages=figures.language_bars(report.languages),
        schema=figures.schema_lines(report.schema),
    )


def verdict_of(findings: tuple[Finding, ...]) -> tuple[str, str]:
    """Return the tone and the sentence that sums a report up."""
    counts = {severity: sum(one.severity == severity for one in findings) for severity in ("error", "warning")}
    if counts["error"]:
        return "danger", ngettext(
            "One thing to mend before training.", "%(count)d things to mend before training.", counts["error"]
        ) % {"count": counts["error"]} + _to_look_at(counts["warning"])
    return ("warning" if counts["warning"] else "success"), _("Ready to train.") + _to_look_at(counts["warning"])


def _to_look_at(warnings: int) -> str:
    if not warnings:
        return ""
    return " " + ngettext("One thing to look at.", "%(count)d things to look at.", warnings) % {"count": warnings}


def _mended(report: Report, before: Report | None) -> list[Finding]:
    """Return what was found in the parent version and is found no more."""
    return [one for one in before.findings if report.finding(one.code) is None] if before else []


class _Shower:
    """Turns findings and their examples into words, and into rows to be shown."""

    def __init__(
        self, version: DatasetVersion, excerpts: Mapping[int, Excerpt], before: Report | None, *, raw: bool
    ) -> None:
        self._version = version
        self._excerpts = excerpts
        self._before = before
        self._raw = raw
        self._decisions = {
            one.kind: one for one in version.personal_data_decisions.select_related("decided_by", "made")
        }

    def finding(self, finding: Finding) -> ShownFinding:
        """Return a finding in words with its first rows."""
        rows = tuple(self.row(finding, one) for one in shown_examples(finding.code, finding.examples))
        same = self._before.finding(finding.code) if self._before else None
        return ShownFinding(
            code=finding.code,
            severity=finding.severity,
            count=finding.count,
            title=sentences.title(finding, _),
            meaning=sentences.meaning(finding, _),
            advice=sentences.advice(finding, _),
            rows=rows,
            more=finding.count - len(rows) if finding.examples else 0,
            fixes=fixes_of(finding),
            is_reviewed=finding.code in REVIEWED,
            before=(same.count if same else 0) if self._before else None,
            decision=self._decisions.get(kind_of(finding.code)),
            notes=_notes(finding),
        )

    def row(self, finding: Finding, example: Example) -> ShownRow:
        """Return one row of a finding."""
        excerpt = self._excerpts.get(example.id)
        answer = excerpt.answer if excerpt else ""
        return ShownRow(
            id=example.id,
            split=Split(example.split),
            line=example.row,
            url=row_url(self._version, example.id),
            prompt=pieces(excerpt.prompt if excerpt else "", raw=self._raw),
            answer=pieces(answer, raw=self._raw),
            fields=tuple(
                (name, pieces(value, raw=self._raw), name == example.field) for name, value in pretty_answer(answer)
            ),
            detail=sentences.detail(finding, example, _) if example.params else "",
            suggested=shown(str(example.params.get("suggested", ""))),
        )


class FoundRows(Sequence[ShownRow]):
    """All rows of a finding, for paginators; only those of a page are read."""

    def __init__(self, version: DatasetVersion, stored: DoctorReport, finding: Finding, *, raw: bool) -> None:
        self._version = version
        self._finding = finding
        self._raw = raw
        try:
            self._ids = read_ids(stored.folder, finding.code).tolist()
        except FileNotFoundError:
            self._ids = [one.id for one in finding.examples]
        self._examples = {one.id: one for one in reversed(finding.examples)}

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, index: int) -> ShownRow: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ShownRow]: ...
    def __getitem__(self, index: int | slice) -> ShownRow | Sequence[ShownRow]:
        """Return a row, or the rows of a slice."""
        if isinstance(index, int):
            return self._read(self._ids[index : index + 1])[0]
        return self._read(self._ids[index])

    def _read(self, ids: list[int]) -> list[ShownRow]:
        excerpts = read_rows_by_id(self._version, ids)
        show = _Shower(self._version, excerpts, None, raw=self._raw)
        places = ((row_id, excerpts[row_id]) for row_id in ids if row_id in excerpts)
        return [
            show.row(self._finding, self._examples.get(row_id) or Example(one.split, row_id, one.row))
            for row_id, one in places
        ]


def read_rows_by_id(version: DatasetVersion, ids: Sequence[int]) -> dict[int, Excerpt]:
    """Return the beginnings of some rows by their id, from whichever split they stand in."""
    found: dict[int, Excerpt] = {}
    for split in Split:
        if version.row_count(split) and len(found) < len(ids):
            rows = store.read_ids(version.rows_path(split), ids)
            found |= {row.id: Excerpt.of(split.value, row) for row in rows}
    return found


def _notes(finding: Finding) -> tuple[str, ...]:
    """Return what a finding names that is not about certain rows: labels, or fields with their labels."""
    named = finding.params.get("labels") or finding.params.get("fields")
    if finding.examples or not isinstance(named, list):
        return ()
    return tuple(
        " ".join(
            filter(None, [one["field"], f"“{one['label']}”", percentage(one["percent"]) if "percent" in one else ""])
        )
        for one in named
    )


def pieces(text: str, *, raw: bool) -> Pieces:
    """Return a text with its personal data marked; unless `raw`, only their kind is written in their place."""
    cut: list[tuple[str, bool]] = []
    end = 0
    for span in pii.find(text):
        cut += [(text[end : span.start], False), (text[span.start : span.end] if raw else f"[{span.kind}]", True)]
        end = span.end
    return tuple(piece for piece in [*cut, (text[end:], False)] if piece[0])


def row_url(version: DatasetVersion, row_id: int) -> str:
    """Return the address of a row's page."""
    try:
        return reverse("datasets:row", args=[version.team.slug, version.pk, row_id])
    except NoReverseMatch:
        return ""
