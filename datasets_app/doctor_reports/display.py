"""A stored report as its page shows it: a verdict, findings in words with excerpts of their rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop, ngettext

from datasets_app.doctor import sentences
from datasets_app.doctor.report import Finding, Report
from datasets_app.doctor_reports import lifecycle
from datasets_app.models import DatasetVersion, DoctorReport
from datasets_app.reports import OWN_SENTENCES

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


@dataclass(frozen=True)
class ShownFinding:
    """One finding in words."""

    code: str
    severity: str
    count: int
    title: str
    meaning: str
    advice: str


@dataclass(frozen=True)
class ShownReport:
    """A report in words; `tone` is that of its verdict: danger, warning or success."""

    verdict: str
    tone: str
    findings: tuple[ShownFinding, ...]
    timings: Mapping[str, float]


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


def failure_in_words(report: DoctorReport) -> str:
    """Return why an examination failed."""
    code, params = report.error.get("code", "work_crashed"), report.error.get("params", {})
    sentence = FAILURES.get(code) or OWN_SENTENCES.get(code) or FAILURES["work_crashed"]
    return str(_(sentence) % params)


def shown_report(version: DatasetVersion, stored: DoctorReport) -> ShownReport:
    """Return a ready report as its page shows it."""
    report = Report.from_dict(stored.report)
    tone, verdict = verdict_of(report.findings)
    return ShownReport(verdict, tone, tuple(_shown(one) for one in report.findings), report.timings)


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


def _shown(finding: Finding) -> ShownFinding:
    return ShownFinding(
        code=finding.code,
        severity=finding.severity,
        count=finding.count,
        title=sentences.title(finding, _),
        meaning=sentences.meaning(finding, _),
        advice=sentences.advice(finding, _),
    )
