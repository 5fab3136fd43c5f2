"""In what two versions of a deployment differ, as people read it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from deployments.models import DeploymentVersion

_MOST_VALUES = 12  # of a closed field; a schema has its own page for all of them


@dataclass(frozen=True)
class Difference:
    """One setting with both values; '' where a version has none."""

    label: str
    ours: str
    theirs: str


def differences(version: DeploymentVersion, live: DeploymentVersion) -> list[Difference]:
    """Return the settings in which a version differs from the one that answers; equal ones are left out."""
    ours, theirs = _settings(version), _settings(live)
    return [Difference(label, ours[label], theirs[label]) for label in ours if ours[label] != theirs[label]]


def _settings(version: DeploymentVersion) -> dict[str, str]:
    adapter = version.adapter
    learned = _("%(run)s, step %(step)d") % {"run": adapter.run, "step": adapter.step}
    return {
        _("Learned in"): learned,
        _("Base model"): str(adapter.base_model),
        _("System prompt"): version.system_prompt,
        _("Schema of answers"): _as_lines(version.response_schema),
        _("Abstain below"): "\n".join(f"{name} = {least:g}" for name, least in sorted(version.thresholds.items())),
        _("Calibrated"): ", ".join(f"{name} ({one:.2f})" for name, one in sorted(version.temperatures.items())),
        _("Most tokens of an answer"): str(version.max_tokens or ""),
    }


def _as_lines(schema: dict[str, Any] | None) -> str:
    """Return a line for each field of a schema, with its values where they are closed."""
    if not schema:
        return ""
    fields = schema.get("properties")
    if not isinstance(fields, dict) or not fields:
        return json.dumps(schema, ensure_ascii=False)
    return "\n".join(f"{name}: {_in_words(field)}" for name, field in fields.items())


def _in_words(field: Any) -> str:
    values = field.get("enum") if isinstance(field, dict) else None
    if values:
        words = [value if isinstance(value, str) else json.dumps(value) for value in values]
        more = len(words) - _MOST_VALUES
        rest = [ngettext("%(count)d more", "%(count)d more", more) % {"count": more}] if more > 0 else []
        return ", ".join([*words[:_MOST_VALUES], *rest])
    return json.dumps(field, ensure_ascii=False)
