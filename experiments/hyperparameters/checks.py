"""How a run is watched, saved and asked."""

from pydantic import field_validator

from experiments.hyperparameters.declaration import CHECKS, Group, Integer, Number, _, field

MOST_STOPS, LONGEST_STOP = 4, 32  # characters; as many as a request to /v1 may name


class ChecksGroup(Group):
    """How a run is watched, saved and asked."""

    evaluations_per_epoch: Number = field(
        2.0, limits=(0, 100), group=CHECKS, label=_("Validation checks per epoch"),
        help=_("How often the validation loss is measured, besides the start and the end. 0: only there."),
    )  # fmt: skip
    validation_rows: Integer = field(
        100, limits=(1, 100_000), group=CHECKS, label=_("Rows per validation check"), unit=_("rows"),
        help=_("At most this many validation rows are used for the validation loss."),
    )  # fmt: skip
    checkpoint_every_steps: Integer = field(
        50, limits=(1, 100_000), group=CHECKS, label=_("Checkpoint every"), unit=_("steps"),
        help=_("How often the state is saved, so that an interrupted run goes on from there."),
    )  # fmt: skip
    sample_rows: Integer = field(
        16, limits=(0, 64), group=CHECKS, label=_("Answers per validation check"), unit=_("rows"),
        shown_if=("problem_type", ("chat", "classification", "regression", "preference")),
        help=_("How many validation rows are answered at each check, if that fits into 15% of the time. 0: none."),
    )  # fmt: skip
    evaluation_rows: Integer = field(
        0, limits=(0, 10_000), group=CHECKS, label=_("Rows in the quality report"), unit=_("rows"),
        help=_(
            "How many held-out rows the untuned and the tuned model answer after training. 0: all of them, as far as "
            "that takes no longer than half of the training."
        ),
    )  # fmt: skip
    max_new_tokens: Integer = field(
        128, limits=(1, 4096), group=CHECKS, label=_("Longest answer"), unit=_("tokens"),
        help=_("Where an answer is cut off in the quality report."),
    )  # fmt: skip
    temperature: Number = field(
        0.0, limits=(0, 2), group=CHECKS, label=_("Temperature of answers"),
        help=_("How freely both models answer in the quality report. 0: always the likeliest word."),
    )  # fmt: skip
    top_p: Number = field(
        1.0, limits=(0.01, 1), group=CHECKS, label=_("Nucleus of answers (top p)"), unit=_("share"),
        help=_("With a temperature above 0: only the likeliest words that together have this probability."),
    )  # fmt: skip
    top_k: Integer = field(
        0, limits=(0, 1000), group=CHECKS, label=_("Candidates of answers (top k)"), unit=_("tokens"),
        help=_("With a temperature above 0: only so many of the likeliest tokens. 0: all of them."),
    )  # fmt: skip
    stop_texts: str = field(
        "", group=CHECKS, label=_("Texts that end an answer"), longest=150, shown_if=("problem_type", ("chat",)),
        help=_(
            "A free answer ends before the first of these, in the quality report and at validation checks. Up to 4, "
            "parted by |; \\n stands for a new line. Empty: it ends where the model ends it."
        ),
    )  # fmt: skip

    @field_validator("stop_texts")
    @classmethod
    def _stops_fit(cls, text: str) -> str:
        """Refuse stop texts that are too many, too long, or hold what cannot be seen."""
        if not text.isprintable():
            raise ValueError("Stop texts must be visible. Write a new line as \\n")
        stops = stops_in(text)
        if len(stops) > MOST_STOPS or any(len(stop) > LONGEST_STOP for stop in stops):
            raise ValueError(f"At most {MOST_STOPS} texts of at most {LONGEST_STOP} characters can end an answer")
        return text

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end an answer."""
        return stops_in(self.stop_texts)


def stops_in(text: str) -> tuple[str, ...]:
    """Return the texts between the bars of `stop_texts`, new lines in place of their backslash and n."""
    return tuple(part.replace("\\n", "\n") for part in text.split("|") if part)
