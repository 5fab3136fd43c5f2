"""How well a run's model answers rows it has never seen, next to the untuned model."""

from __future__ import annotations

import uuid
from typing import Any

from django.http import Http404, HttpResponse, QueryDict, StreamingHttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _

from datasets_app.models import Split
from experiments.models import Evaluation
from experiments.problem_words import problem_words
from experiments.scoring.names import OTHERS, SUBJECTS
from experiments.slice_words import slice_tables
from experiments.verdicts import short_label, subject_label, verdict_of
from experiments.views.answers import answers_context, cell_query, table_anchor
from experiments.views.judge import judgement_context
from experiments.views.runs import run_of
from portal import audit
from portal.access import TeamRequest, team_view
from portal.actors import Actor
from portal.csv_export import csv_response
from portal.impersonation import refuse_while_impersonating
from portal.rls import team_scope

_MOST_CONFUSED = 6  # what a table of many classes hides is told before it


@team_view()
def report(request: TeamRequest, pk: uuid.UUID) -> HttpResponse:
    """Show the quality report and the worst of the rows behind it."""
    run = run_of(request, pk)
    evaluation: Evaluation | None = getattr(run, "evaluation", None)
    context: dict[str, Any] = {"run": run, "evaluation": evaluation, "adapter": getattr(run, "adapter", None)}
    if evaluation is not None:
        context |= {
            "report": evaluation.report,
            "rows_of_split": run.dataset_version.row_count(Split(evaluation.split)),
            "verdict": verdict_of(evaluation.report["verdict"]),
            "difference_tone": _tone((evaluation.report.get("difference") or {}).get("exact_match")),
            "field_bars": _field_bars(evaluation.report),
            "subjects": _subjects(evaluation.report),
            "field_table": _field_table(evaluation.report),
            "tables": [
                _table(field["name"], field) for field in evaluation.report["tuned"]["fields"] if field["confusion"]
            ],
            **_problem(evaluation.report),
            "slice_tables": _slice_tables(evaluation.report),
            "text_rows": _text_rows(evaluation.report),
            **answers_context(evaluation, QueryDict()),
            **judgement_context(request, evaluation),
        }
        audit.read(request.team, Actor.of(request), "run.answers_read", run)
    return render(request, "experiments/quality.html", context)


def _tone(difference: float | None) -> str:
    """Return the tone of a difference from the untuned model: what got worse is not shown as a gain."""
    return "success" if difference and difference > 0 else "danger" if difference and difference < 0 else "neutral"


def _slice_tables(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the figures by parts of the rows; none where an answer is not right or wrong, as a number is not."""
    problem = figures.get("problem")
    if problem is not None and not problem_words(problem).learns_answers:
        return []
    return slice_tables(figures.get("slices", []))


def _subjects(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """Return everybody who answered with their figures: the ways to ask the tuned model, the untuned one, baselines."""
    known = {"tuned": figures["tuned"], **figures.get("others", {}), "untuned": figures["untuned"]}
    return [
        {"name": name, "label": subject_label(name), "short": short_label(name), "figures": known[name]}
        for name in SUBJECTS
        if known.get(name)
    ]


def _field_table(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """Return for each field how often each of `_subjects` is right, with intervals where the report has them."""
    everybody = _subjects(figures)
    bounds = {one["name"]: {field["name"]: field for field in one["figures"]["fields"]} for one in everybody}
    rows = []
    for field in figures["fields"]:
        known = {"tuned": field["tuned_accuracy"], "untuned": field["untuned_accuracy"], **field.get("others", {})}
        cells = [
            {"label": one["short"], "accuracy": known[one["name"]], "sure": bounds[one["name"]].get(field["name"], {})}
            for one in everybody
        ]
        rows.append({"field": field, "cells": cells, "sure": bounds["tuned"].get(field["name"], {})})
    return rows


def _field_bars(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one bar for each field: right answers of the tuned model, compared with the untuned one."""
    return [
        {"label": field["name"], "value": field["tuned_accuracy"], "compared": field["untuned_accuracy"]}
        for field in figures["fields"]
    ]


def _problem(figures: dict[str, Any]) -> dict[str, Any]:
    """Return what the page shows of the run's problem type: its words, and which label is answered for which."""
    problem = figures.get("problem")
    if problem is None:
        return {}
    table = _table(None, problem) if problem.get("confusion") else None
    return {"problem": problem_words(problem), "problem_table": table}


def _text_rows(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the figures of free text of everybody who answered, nothing where none was expected."""
    texts = figures.get("texts")
    if not texts:
        return []
    return [
        {"label": subject_label(name), "overlap": texts["overlaps"][name], "perplexity": texts["perplexity"].get(name)}
        for name in SUBJECTS
        if name in texts["overlaps"]
    ]


def _table(field: str | None, figures: dict[str, Any]) -> dict[str, Any]:
    """Return a closed field's confusion matrix by row, with the class's own figures at the end of each.

    A cell is how many rows are in it, and what asks for them (nothing where there is none).
    """
    confusion = figures["confusion"]
    scores = {known["label"]: known for known in figures["classes"]}
    answers = confusion["answers"]
    rows = [
        (label, cell_query(field, label), _cells(field, label, counts, answers), scores[label])
        for label, counts in zip(confusion["labels"], confusion["counts"], strict=True)
    ]
    most = max((max(counts, default=0) for counts in confusion["counts"]), default=0)
    name = _("label") if field is None else field
    confused = [
        (label, answer, count, query)
        for label, _query, cells, _scores in rows
        for count, answer, query in cells
        if count and answer != label
    ]
    return {
        "name": name,
        "answers": answers,
        "rows": rows,
        "most": most,
        "anchor": table_anchor(field),
        "confused": sorted(confused, key=lambda cell: -cell[2])[:_MOST_CONFUSED],
    }


def _cells(field: str | None, label: str, counts: list[int], answers: list[str]) -> list[tuple[int, str, str]]:
    return [
        (count, answer, cell_query(field, label, answer) if count else "")
        for count, answer in zip(counts, answers, strict=True)
    ]


@team_view(streams=True)
@refuse_while_impersonating
def predictions(request: TeamRequest, pk: uuid.UUID) -> StreamingHttpResponse:
    """Download the held-out rows with both answers as CSV; cells that a spreadsheet would run are made harmless."""
    with team_scope(request.team.pk):
        evaluation = getattr(run_of(request, pk), "evaluation", None)
        if evaluation is None:
            raise Http404
        rows = list(evaluation.answers.order_by("row"))
        audit.read(request.team, Actor.of(request), "run.predictions_downloaded", evaluation.run, rows=len(rows))
    others = [name for name in OTHERS if rows and name in rows[0].others]
    header = ["row", "prompt", "expected", "untuned", "tuned", "exact", *others]
    cells = (
        [
            row.row,
            row.prompt,
            row.expected,
            row.untuned,
            row.tuned,
            row.is_exact,
            *(row.others[name] for name in others),
        ]
        for row in rows
    )
    return csv_response(f"predictions-{pk}.csv", header, cells)
