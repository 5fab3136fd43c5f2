"""The figures by length, language and source in words, as the quality page shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from datasets_app.row_origins import ADDED, UNKNOWN
from experiments.scoring.names import CONSTRAINED, TFIDF, UNTUNED
from experiments.scoring.slices import BANDS, OTHER
from experiments.verdicts import short_label

# The table has a column for each field already, so of all who answered only these are shown.
_BESIDE = (CONSTRAINED, UNTUNED, TFIDF)


def slice_tables(slicings: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a table for each property by which the rows are cut: what it is called, its fields, its rows."""
    return [_table(one) for one in slicings]


def _table(slicing: Mapping[str, Any]) -> dict[str, Any]:
    names = list(dict.fromkeys(field["name"] for part in slicing["slices"] for field in part["fields"]))
    measure = _("Mean score") if slicing["measure"] == "score" else _("Exact match")
    return {
        "title": _titles()[slicing["by"]],
        "measure": measure,
        "fields": names,
        "others": [short_label(name) for name in _others(slicing)],
        "rows": [_row(slicing, part, names) for part in slicing["slices"]],
    }


def _row(slicing: Mapping[str, Any], part: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    known = {field["name"]: field for field in part["fields"]}
    cells = [{"name": name, "field": known.get(name)} for name in names]
    others = [{"name": short_label(name), "reached": part["others"][name]} for name in _others(slicing)]
    return {"label": _label(slicing, part["label"]), "figures": part, "cells": cells, "others": others}


def _others(slicing: Mapping[str, Any]) -> list[str]:
    """Return whom to show beside the tuned model; reports of older versions know nobody."""
    return [name for name in _BESIDE if all(name in part.get("others", ()) for part in slicing["slices"])]


def _titles() -> dict[str, str]:
    return {"length": _("By length of the prompt"), "language": _("By language"), "source": _("By source")}


def _label(slicing: Mapping[str, Any], label: str) -> str:
    if slicing["by"] == "length":
        return _band(label, slicing["bounds"])
    return {
        OTHER: _("all others"),
        UNKNOWN: _("too short to tell") if slicing["by"] == "language" else _("not known any more"),
        ADDED: _("written in the portal") if slicing["by"] == "source" else ADDED,
    }.get(label, label)


def _band(label: str, bounds: Sequence[int]) -> str:
    low, high = bounds
    if label == BANDS[0]:
        return ngettext("up to %(n)d character", "up to %(n)d characters", low) % {"n": low}
    if label == BANDS[1]:
        return _("%(low)d to %(high)d characters") % {"low": low + 1, "high": high}
    return ngettext("more than %(n)d character", "more than %(n)d characters", high) % {"n": high}
