"""A report as Markdown, for terminals and documents; the page of the portal shows it in its own way."""

from __future__ import annotations

from collections.abc import Iterator

from datasets_app.doctor import sentences
from datasets_app.doctor.balance import shown
from datasets_app.doctor.report import Report
from datasets_app.doctor.sentences import Translate

SHOWN_EXAMPLES = 3
SHOWN_LABELS = 10


def as_markdown(report: Report, gettext: Translate) -> str:
    """Return a report as Markdown text; examples are named by split and line, their texts are not shown."""
    return "\n".join([*_rows(report), *_findings(report, gettext), *_tokens(report), *_balance(report)]) + "\n"


def _rows(report: Report) -> Iterator[str]:
    yield "Rows: " + (", ".join(f"{split} {count:,}" for split, count in report.rows.items()) or "none") + "."
    if report.languages:
        shares = ", ".join(f"{name} {percent:g}%" for name, percent in report.languages["percent"].items())
        yield f"Languages (of {report.languages['examined']:,} prompts): {shares}."


def _findings(report: Report, gettext: Translate) -> Iterator[str]:
    yield ""
    if not report.findings:
        yield "Nothing found."
    for finding in report.findings:
        yield f"* **{sentences.title(finding, gettext)}** ({finding.severity}). {sentences.meaning(finding, gettext)}"
        for example in finding.examples[:SHOWN_EXAMPLES]:
            field = f" `{example.field}`:" if example.field else ""
            yield (
                f"    * {example.split}, line {example.row}:{field} {sentences.detail(finding, example, gettext)}"
            ).rstrip(": ")


def _tokens(report: Report) -> Iterator[str]:
    if report.tokens is None:
        return
    row = report.tokens["row"]
    at = row["percentiles"]
    yield ""
    yield (
        f"Tokens of a row: half have at most {at['50']:,}, 95% at most {at['95']:,}, the longest {row['max']:,}; "
        f"{row['sum']:,} in all."
    )
    cut = [f"{one['percent']:g}% at {one['limit']:,}" for one in report.tokens["truncated"] if one["rows"]]
    yield f"Cut: {', '.join(cut)}." if cut else "No row would be cut."


def _balance(report: Report) -> Iterator[str]:
    for field, table in report.balance.items():
        splits = [split for split in report.rows if split in table]
        yield ""
        yield f"| {field or 'answer'} | {' | '.join(splits)} |"
        yield "|---" * (1 + len(splits)) + "|"
        labels = table["labels"]
        for number, label in enumerate(labels[:SHOWN_LABELS]):
            yield f"| {shown(label)} | {' | '.join(f'{table[split][number]:,}' for split in splits)} |"
        if len(labels) > SHOWN_LABELS:
            rest = [sum(table[split][SHOWN_LABELS:]) for split in splits]
            yield f"| {len(labels) - SHOWN_LABELS} more | {' | '.join(f'{count:,}' for count in rest)} |"
