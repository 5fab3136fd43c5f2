"""From the parameters of a fine-tuning job to our hyperparameters, and back to what its client asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from django.utils.translation import gettext as _
from pydantic import ValidationError

from datasets_app.models import DatasetVersion
from deployments.models import FineTuningJob
from deployments.openai_api import parameters
from experiments.continuing import required_settings
from experiments.hyperparameter_words import refusal_words
from experiments.hyperparameters import Hyperparameters
from experiments.recipes import RECIPES, Situation, advise
from experiments.situations import situation_of
from portal.errors import InvalidInput

AUTO: Final = "auto"
METHODS: Final = ("supervised", "dpo")
USUAL_RECIPE: Final = "balanced"
# OpenAI's own words; every other word is one of ours.
THEIR_NAMES: Final = ("n_epochs", "batch_size", "learning_rate_multiplier", "beta")
KNOWN: Final = frozenset(("model", "training_file", "validation_file", "suffix", "seed", "method", "hyperparameters",
                           "metadata", "integrations", "recipe"))  # fmt: skip
_SUFFIX: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_ROWS_TO_CHECK_WITH: Final = 1_000


@dataclass(frozen=True)
class JobOrder:
    """A checked request for a fine-tuning job. `asked`: hyperparameters as named by the client, 'auto' left out."""

    model: str
    training_file: str
    validation_file: str = ""
    suffix: str = ""
    seed: int | None = None
    method: str = "supervised"
    asked: Mapping[str, Any] = field(default_factory=dict)
    recipe: str = USUAL_RECIPE
    metadata: Mapping[str, str] = field(default_factory=dict)


def read_order(body: Any) -> JobOrder:
    """Return the order that a body holds. Raises: InvalidInput naming the parameter."""
    body = parameters.require_object(body)
    for name, value in body.items():
        if name not in KNOWN:
            raise parameters.unsupported(name)
        if name == "integrations" and value:
            raise parameters.UnsupportedParameter(
                _(
                    "Integrations of single jobs are not supported: Weights & Biases has no published interface. "
                    "A tracker that an admin has set up for the team gets every run."
                ),
                param="integrations",
            )
    method, asked, path = _method(body)
    recipe = _recipe(body.get("recipe"))
    order = JobOrder(
        model=parameters.required_text(body, "model", limit=200),
        training_file=parameters.required_text(body, "training_file", limit=100),
        validation_file=parameters.optional_text(body, "validation_file", limit=100),
        suffix=_suffix(body.get("suffix")),
        seed=_seed(body.get("seed")),
        method=method,
        asked=asked,
        recipe=recipe,
        metadata=parameters.metadata(body.get("metadata")),
    )
    situation = Situation(rows=_ROWS_TO_CHECK_WITH, problem_type=_problem_type(method))
    _checked(order, situation, seed=order.seed or 0, path=path)
    return order


def hyperparameters_for(job: FineTuningJob, version: DatasetVersion) -> Hyperparameters:
    """Return what a job trains with: its recipe for these rows on our nodes, and on top what its client asked for.

    A job that continues from an adapter takes over what that demands. Call it in the team's row scope.
    Raises: InvalidInput.
    """
    situation = situation_of(version, job.base_model, problem_type=_problem_type(job.method))
    required = required_settings(job.continue_from) if job.continue_from is not None else {}
    path = f"method.{job.method}.hyperparameters"
    return _checked(job, situation, seed=job.seed, path=path, required=required)


def _problem_type(method: str) -> str:
    return "preference" if method == "dpo" else "chat"


def _checked(
    order: Any, situation: Situation, *, seed: int, path: str, required: Mapping[str, Any] | None = None
) -> Hyperparameters:
    usual = advise(order.recipe or USUAL_RECIPE, situation).hyperparameters
    changes: dict[str, Any] = {"seed": seed, **(required or {})}
    asked = dict(order.asked)
    if "n_epochs" in asked:
        changes["epochs"] = asked.pop("n_epochs")
    if "beta" in asked:
        changes["preference_beta"] = asked.pop("beta")
    if "learning_rate_multiplier" in asked:
        changes["learning_rate"] = usual.learning_rate * _multiplier(asked.pop("learning_rate_multiplier"), path)
    if "batch_size" in asked and "micro_batch_size" not in asked:
        changes["micro_batch_size"] = _divisor_of(asked["batch_size"], usual.micro_batch_size)
    changes.update(asked)
    try:
        return Hyperparameters.model_validate({**usual.model_dump(), **changes})
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        ours = str(first["loc"][0]) if first["loc"] else ""
        name = {"epochs": "n_epochs", "preference_beta": "beta"}.get(ours, ours)
        raise InvalidInput(
            _("'%(name)s': %(reason)s") % {"name": name, "reason": refusal_words(first)}, param=f"{path}.{name}"
        ) from None


def _divisor_of(batch: Any, usual: int) -> int:
    """Return the largest part, up to the usual one, into which a batch can be cut evenly."""
    if not isinstance(batch, int) or isinstance(batch, bool) or batch < 1:
        return usual  # the batch itself is refused in words
    return max(part for part in range(1, min(usual, batch) + 1) if batch % part == 0)


def _multiplier(value: Any, path: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 100:
        raise InvalidInput(
            _("'learning_rate_multiplier' has to be auto or a number above 0, up to 100."),
            param=f"{path}.learning_rate_multiplier",
        )
    return float(value)


def _method(body: Mapping[str, Any]) -> tuple[str, dict[str, Any], str]:
    """Return the method, its hyperparameters and where they stand in the body."""
    given = body.get("method")
    if given is None:
        return "supervised", _hyperparameters(body.get("hyperparameters"), "hyperparameters"), "hyperparameters"
    if not isinstance(given, dict):
        raise InvalidInput(_("'method' has to be an object."), param="method")
    kind = given.get("type")
    if kind == "reinforcement":
        raise parameters.UnsupportedParameter(
            _("Reinforcement fine-tuning is not supported: use supervised, or dpo with preferred answers."),
            param="method.type",
        )
    if kind not in METHODS:
        raise parameters.UnsupportedParameter(
            _("'method.type' has to be one of: %(known)s.") % {"known": ", ".join(METHODS)}, param="method.type"
        )
    for name in given:
        if name not in ("type", kind):
            raise parameters.unsupported(f"method.{name}")
    inner = given.get(kind) or {}
    if not isinstance(inner, dict) or set(inner) - {"hyperparameters"}:
        raise InvalidInput(_("A method holds 'hyperparameters' and nothing else."), param=f"method.{kind}")
    path = f"method.{kind}.hyperparameters"
    asked = _hyperparameters(inner.get("hyperparameters"), path)
    legacy = _hyperparameters(body.get("hyperparameters"), "hyperparameters")
    if legacy and legacy != asked:
        raise InvalidInput(_("Give hyperparameters in 'method' only."), param="hyperparameters")
    return str(kind), asked, path


def _hyperparameters(given: Any, path: str) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise InvalidInput(_("Hyperparameters have to be an object."), param=path)
    for name in given:
        if name not in THEIR_NAMES and name not in Hyperparameters.model_fields:
            raise parameters.unsupported(f"{path}.{name}")
        if name in ("seed", "problem_type"):
            raise InvalidInput(
                _("'%(name)s' is said elsewhere: 'seed' in the request, the kind of problem by 'method'.")
                % {"name": name},
                param=f"{path}.{name}",
            )
    return {name: value for name, value in given.items() if value != AUTO and value is not None}


def _recipe(given: Any) -> str:
    if given is None:
        return USUAL_RECIPE
    if given not in RECIPES:
        raise InvalidInput(_("'recipe' has to be one of: %(known)s.") % {"known": ", ".join(RECIPES)}, param="recipe")
    return str(given)


def _suffix(given: Any) -> str:
    if given in (None, ""):
        return ""
    if not isinstance(given, str) or not _SUFFIX.match(given):
        raise InvalidInput(
            _("'suffix' has 1 to 64 Latin letters, digits, hyphens or underscores, such as my-triage."), param="suffix"
        )
    return given


def _seed(given: Any) -> int | None:
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int) or not 0 <= given <= 2**31 - 1:
        raise InvalidInput(_("'seed' has to be a whole number from 0 to 2147483647."), param="seed")
    return given


def told(asked: Mapping[str, Any], method: str, chosen: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the hyperparameters as OpenAI's clients expect them: 'auto' until the run has chosen."""
    shown = {
        "n_epochs": asked.get("n_epochs", _whole(chosen["epochs"]) if chosen else AUTO),
        "batch_size": asked.get("batch_size", chosen["batch_size"] if chosen else AUTO),
        "learning_rate_multiplier": asked.get("learning_rate_multiplier", 1 if chosen else AUTO),
    }
    if method == "dpo":
        shown["beta"] = asked.get("beta", chosen["preference_beta"] if chosen else AUTO)
    # What is ours stands beside it: the SDK lets additional fields pass.
    return shown | {name: value for name, value in asked.items() if name not in shown}


def _whole(epochs: float) -> int:
    """Return epochs as the whole number that the SDK's strict model wants; parts count as begun."""
    return max(1, round(epochs))
