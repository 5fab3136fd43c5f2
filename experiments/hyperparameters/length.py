"""How long a run is, and which of its states is kept."""

from typing import Literal

from experiments.hyperparameters.declaration import LENGTH, Group, Integer, Number, _, field


class LengthGroup(Group):
    """How long a run is, and which of its states is kept."""

    epochs: Number = field(
        3.0, limits=(0.01, 100), group=LENGTH, advanced=False, label=_("Epochs"),
        help=_("How many times the model reads every training row. Parts of an epoch are allowed."),
    )  # fmt: skip
    max_steps: Integer | None = field(
        None, limits=(1, 1_000_000), group=LENGTH, label=_("Most steps"), unit=_("steps"),
        help=_("Stop after this many optimizer steps even if epochs are left. Empty: no limit."),
    )  # fmt: skip
    max_minutes: Number | None = field(
        None, limits=(0.1, 10_080), group=LENGTH, label=_("Most time"), unit=_("minutes"),
        help=_("Stop training after this time and keep what was learned. Empty: no limit."),
    )  # fmt: skip
    early_stopping_patience: Integer = field(
        0, limits=(0, 100), group=LENGTH, label=_("Early stopping patience"), unit=_("checks"),
        help=_("Stop when this many validation checks brought nothing better. 0: never stop early."),
    )  # fmt: skip
    keep_weights: Literal["last", "best", "every"] = field(
        "last", group=LENGTH, label=_("Weights to keep"),
        choices={
            "last": _("Last step"), "best": _("Best validation check"), "every": _("Last step, and every checkpoint"),
        },
        help=_("Which state becomes the result. Every: the run's folder keeps those of all checkpoints too."),
    )  # fmt: skip
    early_stopping_metric: Literal["validation_loss", "exact_match", "macro_f1"] = field(
        "validation_loss", group=LENGTH, label=_("What counts as better"),
        choices={
            "validation_loss": _("Lower validation loss"), "exact_match": _("More exact answers"),
            "macro_f1": _("Higher macro-F1 of the closed fields"),
        },
        help=_(
            "For early stopping and for the best weights. Where no answers are sampled, or none has a closed field "
            "for the macro-F1, the loss counts."
        ),
    )  # fmt: skip
