"""One-click fixes: which ones a finding offers, and the changes that they make to the rows.

Fixes become operations of a derived version (`datasets_app.operations`), so the version itself never changes and the
new one says how it was made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from datasets_app.doctor import pii
from datasets_app.doctor.balance import MAX_KEPT
from datasets_app.doctor.duplicates import UNUSUAL
from datasets_app.doctor.report import Finding, Report
from datasets_app.models import Split
from datasets_app.operations import READERS
from datasets_app.options import MAX_HELD_OUT_SHARE
from portal.errors import InvalidInput

Change = dict[str, Any]

EXCLUDE: Final = "exclude"
# What a person may choose for a suspected label error.
VERDICTS: Final = ("keep", "accept", "exclude")

LABELS: Final[Mapping[str, str]] = {
    EXCLUDE: gettext_noop("Leave these rows out"),
    "keep_usual": gettext_noop("Keep the usual answer, leave the others out"),
    "exclude_all": gettext_noop("Leave out all rows that contradict each other"),
    "exclude_training": gettext_noop("Leave them out of training"),
    "exclude_held_out": gettext_noop("Leave out the held-out rows instead"),
    "resplit": gettext_noop("Split the dataset again, alike rows together"),
    "rename": gettext_noop("Write the labels as they are meant"),
    "order": gettext_noop("Bring the keys into the usual order"),
    "mask": gettext_noop("Mask them with pseudonyms"),
    "drop": gettext_noop("Leave these rows out"),
    "keep": gettext_noop("Keep them, and note that it was decided"),
}


@dataclass(frozen=True)
class Fix:
    """One way to mend a finding; `label` says what happens."""

    name: str
    label: str


def fixes_of(finding: Finding) -> tuple[Fix, ...]:
    """Return what can be done about a finding with one click, the best first."""
    return tuple(Fix(name, _(LABELS[name])) for name in _names(finding))


def kind_of(code: str) -> str:
    """Return the kind of personal data that a finding is about, or nothing."""
    kind = code.removeprefix("pii_")
    return kind if kind != code and kind in pii.KINDS else ""


def _names(finding: Finding) -> Iterator[str]:
    if kind_of(finding.code):
        yield from ("mask", "drop", "keep")
        return
    if finding.code == "misspelt_label" and renames(finding):
        yield "rename"
    if finding.code == "key_order":
        yield "order"
    if "resplit" in finding.fixes and "resplit" in READERS:
        yield "resplit"
    if "exclude_found" not in finding.fixes:
        return
    if finding.code in ("leak", "near_leak") and _is_in_training(finding):
        yield "exclude_training"
    elif finding.code == "conflict":
        if finding.params.get("tied", 0) < finding.count:
            yield "keep_usual"
    else:
        yield EXCLUDE
    if finding.code == "leak":
        yield "exclude_held_out"
    if finding.code == "conflict":
        yield "exclude_all"


def _is_in_training(finding: Finding) -> bool:
    """Tell whether training rows are among those of a leak; they come first among the examples."""
    return any(one.split == Split.TRAIN for one in finding.examples)


def changes_for(
    report: Report, report_id: object, chosen: Mapping[str, str], *, options: Mapping[str, Any] | None = None
) -> list[Change]:
    """Return the operations of the chosen fixes, by finding; `options` say how the version was divided.

    Raises: InvalidInput for what is not offered.
    """
    changes: list[Change] = []
    for code, name in chosen.items():
        finding = report.finding(code)
        if finding is None or name not in _names(finding):
            raise InvalidInput(
                _("The report offers no fix '%(fix)s' for '%(code)s'.") % {"fix": name[:40], "code": code[:40]},
                param=f"fixes.{code[:40]}",
                code="unknown_fix",
            )
        changes += (
            [_resplit(report, options or {})] if name == "resplit" else _changes(finding, name, str(report_id), report)
        )
    return _in_order(changes)


def _changes(finding: Finding, name: str, report_id: str, report: Report) -> list[Change]:
    if name == "rename":
        return renames(finding)
    if name == "order":
        return [{"op": "order_keys", "keys": list((report.schema or {}).get("properties", {}))}]
    if kind := kind_of(finding.code):
        return [{"op": f"{name}_pii", "kinds": [kind]}] if name != "keep" else []
    found: Change = {"report": report_id, "code": finding.code}
    if name in ("exclude_all", "exclude_held_out"):
        return [{"op": "exclude_alike", **found, "keep_found": name == "exclude_held_out"}]
    if name == "exclude_training":
        found["split"] = Split.TRAIN.value
    if name == "keep_usual" and "tied" in finding.params:
        found["code"] = UNUSUAL
    return [{"op": "exclude_found", **found}]


def _resplit(report: Report, options: Mapping[str, Any]) -> Change:
    """Return the change that divides the rows anew as before, in about the shares that they have now."""
    total = sum(report.rows.values()) or 1
    shares = {f"{split}_share": round(report.rows.get(split, 0) / total, 3) for split in ("validation", "test")}
    if sum(shares.values()) > MAX_HELD_OUT_SHARE:
        shares = {}
    kept = {name: options[name] for name in ("seed", "split_by", "stratify") if name in options}
    return {"op": "resplit", "options": {**kept, **shares, "keep_together": "near"}}


def renames(finding: Finding) -> list[Change]:
    """Return the renaming of each misspelt label of a finding, once."""
    asked = finding.params.get("renames", [])
    return [
        {"op": "rename_value", "field": one["field"], "from": one["label"], "to": one["meant"]}
        for one in asked
        if max(len(one["label"]), len(one["meant"])) <= MAX_KEPT
    ]


def _in_order(changes: Sequence[Change]) -> list[Change]:
    """Rows go before values change, and the split is made anew last, from what is left.

    One walk masks all kinds of personal data, and so that nothing is left out for a pseudonym, after dropping rows.
    """
    ranks = {"exclude_alike": 0, "exclude_found": 1, "drop_pii": 2, "mask_pii": 4, "resplit": 5}
    ordered: list[Change] = []
    for change in sorted(changes, key=lambda change: ranks.get(change["op"], 3)):
        if change in ordered:  # several findings ask for the same
            continue
        if ordered and change["op"] == ordered[-1]["op"] and "kinds" in change:
            ordered[-1] = {**change, "kinds": sorted(ordered[-1]["kinds"] + change["kinds"])}
        else:
            ordered.append(change)
    return ordered


def verdict_changes(finding: Finding, verdicts: Mapping[int, str]) -> list[Change]:
    """Return the changes of rows whose suspected labels a person has looked at. Raises: InvalidInput."""
    suspects = {(one.id, one.field): one for one in finding.examples}
    known = {row_id for row_id, _field in suspects}
    for row_id, verdict in verdicts.items():
        if row_id not in known or verdict not in VERDICTS:
            raise InvalidInput(
                _("Row %(row)d is not among the suspected ones, or '%(verdict)s' is not one of: %(known)s.")
                % {"row": row_id, "verdict": verdict[:40], "known": ", ".join(VERDICTS)},
                param="labels",
                code="unknown_verdict",
            )
    excluded = sorted(row_id for row_id, verdict in verdicts.items() if verdict == "exclude")
    accepted = [one for one in suspects.values() if verdicts.get(one.id) == "accept"]
    if any(len(one.params["suggested"]) > MAX_KEPT for one in accepted):
        raise InvalidInput(
            _("A suggested label is too long to be taken over here. Edit the row itself."), param="labels"
        )
    changes: list[Change] = [{"op": "exclude", "ids": excluded}] if excluded else []
    if accepted:
        values = [{"id": one.id, "field": one.field, "label": one.params["suggested"]} for one in accepted]
        changes.append({"op": "set_values", "values": values})
    return changes
