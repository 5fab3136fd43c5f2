"""Recipes: named starting points, chosen from the rows, their lengths, the kind of problem and the hardware.

How they were decided is written in docs/recipes.md. Pure, like `hyperparameters`: what is known about a dataset
and the machines comes in as a `Situation`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from experiments.hyperparameters import Hyperparameters


def _(text: str) -> str:
    """Mark a text for the translation catalogue; the web side translates it when it shows it."""
    return text


# Useful tokens per second, times parameters: what a core (in 8 bit) or a GPU gets through while it learns. Measured on
# two AVX-512 cores with SmolLM2-135M by `benchmark training` and `benchmark recipes`; for GPUs a cautious guess that
# a trial corrects.
CORE_PACE, GPU_PACE = 4.1e10, 5e12
# A typical ticket, where nobody has counted.
USUAL_ROW_TOKENS = 85.0
USUAL_PARAMETERS = 135_000_000
SHORT_ANSWER_TOKENS = 64
SMALL_PARAMETERS = 400e6
# bf16 weights, and a quarter more for activations and what CUDA itself occupies.
ROOM_FOR_WEIGHTS = 2.5
LEAST_MAX_LENGTH, USUAL_MAX_LENGTH, MOST_MAX_LENGTH = 256, 1024, 4096


@dataclass(frozen=True)
class Situation:
    """What a recipe is chosen for. `rows`: training rows. None: nobody knows.

    `row_tokens`: mean tokens of a row; `longest_row`, `longest_answer`: tokens of the longest ones, `answer_tokens` of
    the usual one, where every answer counts that is learned. `counted`: they were counted by the base model's
    tokenizer, not guessed from letters. `memory_bytes`: of one GPU.
    """

    rows: int
    row_tokens: float | None = None
    longest_row: int | None = None
    answer_tokens: float | None = None
    longest_answer: int | None = None
    counted: bool = False
    problem_type: str = "chat"
    parameters: int = USUAL_PARAMETERS
    context_tokens: int = MOST_MAX_LENGTH
    device: Literal["cpu", "cuda"] = "cpu"
    cores: int = 2
    memory_bytes: int | None = None

    @property
    def tokens(self) -> float:
        """Tokens of all rows."""
        return max(self.rows, 1) * (self.row_tokens or USUAL_ROW_TOKENS)

    @property
    def has_short_answers(self) -> bool:
        """Whether answers are labels, numbers or small JSON objects, as far as anybody knows."""
        if self.problem_type in ("classification", "regression"):
            return True
        return self.problem_type == "chat" and (self.answer_tokens or 0) <= SHORT_ANSWER_TOKENS

    @property
    def pace(self) -> float:
        """About how many useful tokens per second are learned from."""
        return (GPU_PACE if self.device == "cuda" else self.cores * CORE_PACE) / self.parameters


@dataclass(frozen=True)
class Reason:
    """Why some hyperparameters have the values that they have: a sentence to be translated, and what stands in it."""

    names: tuple[str, ...]
    text: str
    facts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Advice:
    """The hyperparameters of a recipe for a situation, and the reasons."""

    hyperparameters: Hyperparameters
    reasons: tuple[Reason, ...]


@dataclass(frozen=True)
class Recipe:
    """A named starting point. `minutes`: what it aims at; `epochs`: least and most readings of every row."""

    name: str
    label: str
    description: str
    minutes: float
    epochs: tuple[float, float]
    own: Callable[[Situation], dict[str, Any]]
    keeps_best: bool = False


def _fast(situation: Situation) -> dict[str, Any]:
    # Few visits have to make many steps, so the batch is small.
    return {
        "batch_size": 16 if situation.device == "cuda" and situation.rows > 2_000 else 4,
        "evaluations_per_epoch": 1.0,
        "validation_rows": 32,
        "evaluation_rows": 30,
        "sample_rows": 4,
    }


def _balanced(situation: Situation) -> dict[str, Any]:
    return {
        "batch_size": 16 if situation.device == "cuda" else 8,
        "evaluations_per_epoch": 1.0,
        "validation_rows": 100,
    }


def _best(situation: Situation) -> dict[str, Any]:
    return {
        "batch_size": 16 if situation.device == "cuda" or situation.rows >= 5_000 else 8,
        "lora_r": 32,
        "lora_alpha": 64.0,
        "evaluations_per_epoch": 1.0,
        "validation_rows": 200,
    }


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("fast", _("Fast"), _("A first look in minutes: few passes over the rows."), 2, (0.2, 4), _fast),
        Recipe(
            "balanced", _("Balanced"), _("Good quality in reasonable time; right for most tables."), 8, (1, 6),
            _balanced,
        ),
        Recipe(
            "best", _("Best"), _("Highest quality: many passes and a larger adapter."), 90, (3, 6),
            _best, keeps_best=True,
        ),
    )
}  # fmt: skip


def advise(name: str, situation: Situation) -> Advice:
    """Return a recipe's hyperparameters for a situation, with the reasons. Raises: KeyError on an unknown recipe."""
    recipe = RECIPES[name]
    chosen: dict[str, Any] = {"problem_type": situation.problem_type, **recipe.own(situation)}
    reasons: list[Reason] = []
    for decide in (_epochs, _batch, _learning_rate, _lengths, _kept, _arithmetic, _memory):
        values, reason = decide(recipe, situation, chosen)
        chosen |= values
        if reason is not None:
            reasons.append(reason)
    chosen["micro_batch_size"] = min(256, chosen["batch_size"])
    return Advice(Hyperparameters(**chosen), tuple(reasons))


Decision = tuple[dict[str, Any], Reason | None]


def _epochs(recipe: Recipe, situation: Situation, _chosen: Mapping[str, Any]) -> Decision:
    """As many readings as fit into the recipe's minutes: time follows the visits, so a small table affords more."""
    least, most = recipe.epochs
    pace = situation.pace
    epochs = round(min(most, max(least, recipe.minutes * 60 * pace / situation.tokens)), 2)
    facts = {
        "rows": situation.rows,
        "tokens": round(situation.row_tokens or USUAL_ROW_TOKENS),
        "epochs": f"{epochs:g}",
        "minutes": max(1, round(epochs * situation.tokens / pace / 60)),
        "cores": situation.cores,
    }
    where = {
        "cuda": _("%(rows)s rows of about %(tokens)s tokens, read %(epochs)s times, take about %(minutes)s min."),
        "cpu": _(
            "%(rows)s rows of about %(tokens)s tokens, read %(epochs)s times, take about %(minutes)s min on "
            "%(cores)s quiet cores."
        ),
    }  # fmt: skip
    return {"epochs": epochs}, Reason(("epochs",), where[situation.device], facts)


def _batch(_recipe: Recipe, situation: Situation, chosen: Mapping[str, Any]) -> Decision:
    # Tiny tables would otherwise get so few steps that nothing is learned.
    batch = min(chosen["batch_size"], 4) if situation.rows < 64 else chosen["batch_size"]
    steps = max(1, round(chosen["epochs"] * -(-max(situation.rows, 1) // batch)))
    said = _("Batches of %(batch)s rows make %(steps)s steps: enough to learn from, few enough to be quick.")
    return {"batch_size": batch}, Reason(("batch_size",), said, {"batch": batch, "steps": steps})


def _learning_rate(_recipe: Recipe, situation: Situation, _chosen: Mapping[str, Any]) -> Decision:
    size = situation.parameters
    rate = 1e-3 if size <= SMALL_PARAMETERS else 5e-4 if size <= 2e9 else 2e-4
    facts = {"millions": f"{size / 1e6:,.0f}"}
    if situation.problem_type == "preference":
        said = _("Preferences want a tenth of the rate that suits a model of %(millions)s million parameters.")
        return {"learning_rate": rate / 10}, Reason(("learning_rate",), said, facts)
    if size <= SMALL_PARAMETERS and situation.has_short_answers:
        said = _(
            "Small base models (this one: %(millions)s million parameters) learn short answers best in large steps."
        )
        return {"learning_rate": 2 * rate}, Reason(("learning_rate",), said, facts)
    said = _("The smaller the base model, the larger its steps; this one has %(millions)s million parameters.")
    return {"learning_rate": rate}, Reason(("learning_rate",), said, facts)


def _lengths(_recipe: Recipe, situation: Situation, _chosen: Mapping[str, Any]) -> Decision:
    """Room for the longest row and answer, and no more than they need: shorter limits end runaway answers sooner."""
    values: dict[str, Any] = {}
    if situation.longest_answer and situation.problem_type == "chat":
        values["max_new_tokens"] = min(4096, max(32, _rounded_up(1.25 * situation.longest_answer + 8, 16)))
    room = max(16, min(MOST_MAX_LENGTH, situation.context_tokens))
    if not situation.longest_row:
        return {**values, "max_length": min(USUAL_MAX_LENGTH, room)}, None
    # A guess from letters is no reason to cut what may well fit.
    needed = situation.longest_row if situation.counted else max(USUAL_MAX_LENGTH, 2 * situation.longest_row)
    values["max_length"] = max(min(LEAST_MAX_LENGTH, room), min(room, _rounded_up(needed, 64)))
    facts = {"longest": situation.longest_row, "limit": values["max_length"]}
    if situation.longest_row > values["max_length"]:
        said = _("The longest row has about %(longest)s tokens; prompts are cut so that memory lasts.")
    else:
        said = _("The longest row has about %(longest)s tokens, so no row is cut.")
    return values, Reason(("max_length",), said, facts)


def _kept(recipe: Recipe, situation: Situation, _chosen: Mapping[str, Any]) -> Decision:
    if not recipe.keeps_best:
        return {}, None
    if situation.has_short_answers:
        said = _(
            "Short answers go on getting more exact after the validation loss has turned, so the last state is kept, "
            "where the learning rate has come to rest."
        )
        return {"keep_weights": "last"}, Reason(("keep_weights",), said)
    said = _("Many readings of long answers overfit at some point, so the state with the lowest loss is kept.")
    return {"keep_weights": "best"}, Reason(("keep_weights",), said)


def _arithmetic(_recipe: Recipe, situation: Situation, _chosen: Mapping[str, Any]) -> Decision:
    if situation.device == "cuda":
        return {}, Reason(("precision",), _("GPUs compute in 16 bit."))
    said = _("8-bit arithmetic is much faster on CPUs that have it, at nearly the same loss.")
    return {"precision": "fastest"}, Reason(("precision",), said)


def _memory(_recipe: Recipe, situation: Situation, _chosen: Mapping[str, Any]) -> Decision:
    memory = situation.memory_bytes
    if situation.device != "cuda" or memory is None or ROOM_FOR_WEIGHTS * situation.parameters <= memory:
        return {}, None
    facts = {"gigabytes": f"{memory / 2**30:.0f}"}
    said = _("The base model does not fit into the GPU's %(gigabytes)s GB with 16 bit, so it is compressed to 4 bit.")
    return {"quantization": "nf4"}, Reason(("quantization",), said, facts)


def _rounded_up(number: float, step: int) -> int:
    return int(-(-number // step) * step)
