"""How much of a row is learned."""

from typing import Literal

from experiments.hyperparameters.declaration import TEXT, Group, Integer, _, field


class TextGroup(Group):
    """How much of a row is learned."""

    max_length: Integer = field(
        1024, limits=(16, 32_768), group=TEXT, label=_("Longest row"), unit=_("tokens"),
        help=_("Longer rows are cut. The prompt is cut first; the answer is kept."),
    )  # fmt: skip
    truncation: Literal["start", "end"] = field(
        "end", group=TEXT, label=_("Cut the prompt at"),
        choices={"end": _("Its end"), "start": _("Its beginning")},
        help=_("Which part of a prompt that is too long is left out."),
    )  # fmt: skip
    long_answers: Literal["refuse", "skip", "cut"] = field(
        "refuse", group=TEXT, label=_("Answers that do not fit"),
        choices={"refuse": _("Refuse the run"), "skip": _("Leave the row out"), "cut": _("Cut the answer")},
        help=_("What happens to a row whose answer alone is longer than the longest row."),
    )  # fmt: skip
    learned_turns: Literal["every", "last"] = field(
        "every", group=TEXT, label=_("Answers to learn"), shown_if=("problem_type", ("chat",)),
        choices={"every": _("Every answer of a conversation"), "last": _("The last answer only")},
        help=_(
            "What is learned of conversations of several turns. Answers with the weight 0 in the imported file count "
            "as prompt."
        ),
    )  # fmt: skip
