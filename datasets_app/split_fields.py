"""The fields of a form that say how the rows of one file are divided."""

from __future__ import annotations

from typing import Any, Final

from django import forms
from django.core.validators import MaxValueValidator, MinValueValidator
from django.utils.translation import gettext_lazy as _

from datasets_app.options import MAX_HELD_OUT_SHARE, MAX_SEED, ImportOptions
from datasets_app.splits import AUTO, NONE

MAX_PERCENT: Final = round(MAX_HELD_OUT_SHARE * 100)


class SplitFields(forms.Form):
    """Shares, seed, and what the division has to respect."""

    validation_percent = forms.IntegerField(label=_("Validation"), min_value=0, max_value=MAX_PERCENT)
    test_percent = forms.IntegerField(label=_("Test"), min_value=0, max_value=MAX_PERCENT)
    seed = forms.IntegerField(
        label=_("Seed"),
        # As validators and not as bounds: nobody needs to read "0 to 2,147,483,647" beside the field.
        validators=[MinValueValidator(0), MaxValueValidator(MAX_SEED)],
        help_text=_("Same seed, same division."),
    )
    split_by = forms.ChoiceField(
        label=_("Drawn"),
        choices=(("random", _("By chance")), ("time", _("By time: the newest rows for the test"))),
        required=False,
    )
    stratify = forms.ChoiceField(
        label=_("Proportions of the answers"),
        choices=((AUTO, _("The same in every part")), (NONE, _("As they fall"))),
        required=False,
    )
    keep_together = forms.ChoiceField(
        label=_("Repeated questions"),
        choices=(
            ("near", _("Equal or similar ones stay in one part")),
            ("exact", _("Equal ones stay in one part")),
            (NONE, _("May be in several parts")),
        ),
        required=False,
        help_text=_("A question that stands in training and test makes the quality look better than it is."),
    )

    def clean(self) -> dict[str, Any]:
        """Leave enough rows for training."""
        cleaned = super().clean() or self.cleaned_data
        held_out = (cleaned.get("validation_percent") or 0) + (cleaned.get("test_percent") or 0)
        if held_out > MAX_PERCENT:
            self.add_error("test_percent", _("Leave at least 20% of the rows for training."))
        return cleaned

    def split_options(self) -> dict[str, Any]:
        """Return the options of the division, none if the form does not ask for them. Call on a valid form."""
        given, defaults = self.cleaned_data, ImportOptions()
        if "seed" not in self.fields:
            return {}
        return {
            "validation_share": given["validation_percent"] / 100,
            "test_share": given["test_percent"] / 100,
            "seed": given["seed"] if given["seed"] is not None else defaults.seed,
            "split_by": given["split_by"] or defaults.split_by,
            "stratify": given["stratify"] or defaults.stratify,
            "keep_together": given["keep_together"] or defaults.keep_together,
        }


SPLIT_FIELDS: Final = tuple(SplitFields.base_fields)


def initial_of_split(options: ImportOptions) -> dict[str, Any]:
    """Return what the fields show first."""
    return {
        "validation_percent": round(options.validation_share * 100),
        "test_percent": round(options.test_share * 100),
        "seed": options.seed,
        "split_by": options.split_by,
        "stratify": options.stratify,
        "keep_together": options.keep_together,
    }
