"""What a version can decide, and how sure it may say it is: taken from its run once, when the version is made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from deployments.fitted import Fitted
from deployments.models import DeploymentVersion, Engine
from deployments.prompts import schema_of, system_prompts
from experiments.models import Adapter, Evaluation
from experiments.problem_file import read_problem
from experiments.scoring.calibration import EXACT
from experiments.scoring.choosing import LABEL, ClosedFields

LEAST_FITTED_ROWS: Final = 20
"""A temperature of fewer rows says little: if all of them are right, it makes everything certain."""


@dataclass(frozen=True)
class Decidable:
    """The schema whose closed fields are scored, the labels of a classification, and temperatures by field.

    `fitted_under`: under what they were fitted, see `fitted`.
    """

    schema: dict[str, Any] | None = None
    labels: list[str] = field(default_factory=list)
    temperatures: dict[str, float] = field(default_factory=dict)
    fitted_under: dict[str, Any] | None = None

    @classmethod
    def of(cls, version: DeploymentVersion) -> Decidable:
        """Return what a version has."""
        return cls(version.decision_schema, version.labels, version.temperatures, version.fitted_under)


def decidable(adapter: Adapter, response_schema: dict[str, Any] | None) -> Decidable:
    """Return what can be decided by an adapter whose answers are held to a schema, or to none.

    Without one, the fields are those of the dataset that it learned from: it writes them unbound, too.
    """
    labels = _labels(adapter)
    schema = None if labels else response_schema or schema_of(adapter.run.dataset_version)
    known = {LABEL: tuple(labels)} if labels else ClosedFields(schema or {}).labels
    temperatures = dict(_temperatures(adapter.evaluation, known))
    return Decidable(schema, labels, temperatures, _fitted_under(adapter) if temperatures else None)


def _fitted_under(adapter: Adapter) -> dict[str, Any]:
    report = adapter.evaluation.report if adapter.evaluation is not None else {}
    return Fitted.under(report.get("weights", EXACT), system_prompts(adapter.run.dataset_version)).to_json()


def fitted_of(version: DeploymentVersion) -> Fitted:
    """Return under what the temperatures of a version were fitted."""
    if version.fitted_under is not None:
        return Fitted.kept(version.fitted_under)
    # Versions of before this was kept: nearly all have the prompt of the rows.
    return Fitted.under(EXACT, {version.system_prompt})


def holds_where_loaded(version: DeploymentVersion) -> bool:
    """Whether temperatures hold for requests without a system prompt of their own, by all engines that are asked."""
    asked = [{"role": "system", "content": version.system_prompt}]
    engines = Engine.objects.filter(
        base_model_id=version.adapter.base_model_id, node__placements__adapter_id=version.adapter_id
    )
    weights = set(engines.values_list("weights", flat=True)) or {EXACT}
    return all(fitted_of(version).holds_for(one, asked) for one in weights)


def _labels(adapter: Adapter) -> list[str]:
    try:
        problem = read_problem(adapter.folder)
    except ValueError:  # loading it says what is wrong
        return []
    return list(problem.labels) if problem is not None else []


def _temperatures(evaluation: Evaluation | None, known: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, float]]:
    """Yield the temperatures of a report that fit the fields: those of the same values, behind the same fields."""
    learned = evaluation.report.get("calibration") or [] if evaluation is not None else []
    order = [one["name"] for one in learned if one["name"] in known]
    if order != [name for name in known if name in order]:
        return
    for one in learned:
        name, fitted_for = one["name"], one.get("labels")
        is_same = name in known and (fitted_for is None or set(fitted_for) == set(known[name]))
        if is_same and one["fitted_rows"] >= LEAST_FITTED_ROWS:
            yield name, one["temperature"]
