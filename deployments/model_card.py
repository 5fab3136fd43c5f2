"""The model card of a run: what it learned from, how, how well it answers, and where its limits are. Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from django.utils.text import slugify
from django.utils.translation import gettext as _

from datasets_app.models import Split
from experiments.hyperparameters import Hyperparameters, form_fields
from experiments.models import Evaluation, Run
from experiments.verdicts import subject_label, verdict_of
from portal.display import numbers


def file_stem(run: Run) -> str:
    """Return the name that files of a run's model have: support-tickets-3."""
    return f"{slugify(run.experiment.name)[:60] or 'model'}-{run.number}"


def card_of(run: Run) -> str:
    """Return the model card of a finished run, with the head that model hubs read. Call it in the team's scope."""
    parts = [*_head(run), *_what(run), *_data(run), *_figures(run), *_settings(run), *_limits(run)]
    return "\n".join(parts) + "\n"


def _head(run: Run) -> Iterator[str]:
    yield "---"
    yield f"base_model: {json.dumps(_base_name(run))}"
    yield "library_name: peft"
    yield "pipeline_tag: text-generation"
    yield "tags:\n- lora\n- text-generation"
    yield "---"
    yield ""


def _base_name(run: Run) -> str:
    model = run.base_model
    return str(model.location or model.slug) if model.source == model.Source.HUB else str(model.slug)


def _what(run: Run) -> Iterator[str]:
    yield f"# {_plain(str(run))}"
    yield ""
    yield _("A LoRA adapter for %(base)s (revision %(revision)s).") % {
        "base": _plain(run.base_model.name), "revision": run.base_revision[:12] or "–",
    }  # fmt: skip
    if run.experiment.notes:
        yield ""
        yield _plain(run.experiment.notes)
    yield ""
    adapter = getattr(run, "adapter", None)
    if adapter is not None:
        yield _("Weights after step %(step)d, SHA-256 %(digest)s.") % {"step": adapter.step, "digest": adapter.sha256}
        yield ""


def _data(run: Run) -> Iterator[str]:
    version = run.dataset_version
    yield f"## {_('Data')}"
    yield ""
    yield _("Dataset “%(name)s”, version %(number)d.") % {
        "name": _plain(version.dataset.name), "number": version.number,
    }  # fmt: skip
    yield ""
    for split in Split:
        yield f"- {split.label}: {numbers.thousands(version.row_count(split))}"
    if version.content_hash:
        yield f"- SHA-256: `{version.content_hash}`"
    yield ""


def _figures(run: Run) -> Iterator[str]:
    evaluation: Evaluation | None = getattr(run, "evaluation", None)
    yield f"## {_('Quality')}"
    yield ""
    if evaluation is None:
        yield _("Not measured.")
        yield ""
        return
    report = evaluation.report
    if report.get("verdict"):
        yield verdict_of(report["verdict"]).sentence
        yield ""
    yield _("Measured on %(rows)d held-out rows (%(split)s), which it has not learned from.") % {
        "rows": evaluation.rows, "split": evaluation.get_split_display(),
    }  # fmt: skip
    yield ""
    yield from _table(report)
    yield from _fields(report)


def _table(report: dict[str, Any]) -> Iterator[str]:
    shown: dict[str, Any] = {"tuned": report.get("tuned"), **(report.get("others") or {})}
    shown["untuned"] = report.get("untuned")
    yield f"| | {_('Exact match')} | {_('Valid JSON')} |"
    yield "|---|---:|---:|"
    for name, figures in shown.items():
        if figures:
            exact, valid = figures.get("exact_match"), figures.get("json_valid")
            yield f"| {subject_label(name)} | {_share(exact)} | {_share(valid)} |"
    yield ""


def _fields(report: dict[str, Any]) -> Iterator[str]:
    fields = (report.get("tuned") or {}).get("fields") or []
    if not fields:
        return
    yield f"| {_('Field')} | {_('Accuracy')} | {_('Macro-F1')} |"
    yield "|---|---:|---:|"
    for field in fields:
        yield f"| {_plain(field['name'])} | {_share(field.get('accuracy'))} | {_share(field.get('f1'))} |"
    yield ""


def _share(value: float | None) -> str:
    return numbers.percent(value) if value is not None else "–"


def _settings(run: Run) -> Iterator[str]:
    yield f"## {_('Hyperparameters')}"
    yield ""
    usual = Hyperparameters().model_dump(mode="json")
    yield f"| | {_('Value')} |"
    yield "|---|---|"
    for info in form_fields():
        value = run.hyperparameters.get(info.name, usual.get(info.name))
        if value not in (None, ""):
            yield f"| {_(info.label)} (`{info.name}`) | {_plain(json.dumps(value, ensure_ascii=False))} |"
    yield ""


def _limits(run: Run) -> Iterator[str]:
    yield f"## {_('Limits')}"
    yield ""
    yield "- " + _("It answers in the way of its training rows; other tasks and languages were not measured.")
    yield "- " + _("Its licence follows the base model's, and the rights of the data that it learned from.")
    yield "- " + _("It can be wrong. Let people check answers that matter, above all rare classes with few rows.")
    if not getattr(run, "evaluation", None):
        yield "- " + _("Its quality was not measured on held-out rows.")


def _plain(text: str) -> str:
    """Return a text that changes nothing around it: one line, no cells, no markup of HTML."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
