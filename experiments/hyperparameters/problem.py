"""What is learned from a row."""

from typing import Literal

from experiments.hyperparameters.declaration import LEARNS_ANSWERS, PROBLEM, Group, Number, ProblemType, _, field


class ProblemGroup(Group):
    """What is learned from a row."""

    problem_type: ProblemType = field(
        "chat", group=PROBLEM, advanced=False, label=_("Kind of problem"),
        choices={
            "chat": _("Answers: text or JSON"),
            "classification": _("Labels: one name out of a fixed list"),
            "regression": _("Numbers: one number per row"),
            "preference": _("Preferences: a better and a worse answer"),
            "pretraining": _("Plain text: learn the language of documents"),
        },
        help=_(
            "What the model learns from a row. Labels and numbers are answered as text, never as anything else. "
            "Preferences need a column with the worse answer. Plain text learns every word and needs no answers."
        ),
    )  # fmt: skip
    preference_loss: Literal["sigmoid", "ipo", "hinge", "simpo", "orpo", "cpo"] = field(
        "sigmoid", group=PROBLEM, label=_("Preference loss"), shown_if=("problem_type", ("preference",)),
        choices={
            "sigmoid": _("DPO (sigmoid)"), "ipo": _("IPO"), "hinge": _("Hinge (SLiC)"),
            "simpo": _("SimPO, without reference"), "orpo": _("ORPO, without reference"),
            "cpo": _("CPO, without reference"),
        },
        help=_("How the two answers are parted. Preferences want about a tenth of the usual learning rate."),
    )  # fmt: skip
    preference_beta: Number = field(
        0.1, limits=(0.001, 10), group=PROBLEM, label=_("Beta"), shown_if=("problem_type", ("preference",)),
        help=_("How strongly the losses hold on to the untuned model, or weigh the comparison. SimPO wants about 2."),
    )  # fmt: skip
    preference_margin: Number = field(
        0.5, limits=(0, 10), group=PROBLEM, label=_("Margin"), shown_if=("preference_loss", ("simpo",)),
        help=_("By how much the better answer has to be ahead in SimPO."),
    )  # fmt: skip
    preference_label_smoothing: Number = field(
        0.0, limits=(0, 0.5), group=PROBLEM, label=_("Label smoothing"), unit=_("share"),
        shown_if=("preference_loss", ("sigmoid",)),
        help=_("Which share of the preferences DPO takes to be noted the wrong way round (conservative DPO). 0: none."),
    )  # fmt: skip
    train_on_prompt: bool = field(
        False, group=PROBLEM, label=_("Learn the prompt too"), shown_if=("problem_type", LEARNS_ANSWERS),
        help=_(
            "Takes loss on every token of a row, not on its answer alone. Slower, since what rows have in common is "
            "learned in each of them; the validation loss then counts prompts too."
        ),
    )  # fmt: skip
