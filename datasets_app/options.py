"""How an import treats its rows: what happens to faulty ones, and what is kept apart from training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Final

from django.utils.translation import gettext as _

from datasets_app.models import Split
from datasets_app.splits import AUTO, SplitPlan
from portal.errors import InvalidInput

# Validation and test together may take at most this share: the rest is what the model learns from.
MAX_HELD_OUT_SHARE: Final = 0.8
MAX_SEED: Final = 2**31 - 1
MAX_FIELD_CHARACTERS: Final = 200
SPLIT_BY: Final = ("random", "time")
KEEP_TOGETHER: Final = ("near", "exact", "none")


@dataclass(frozen=True)
class ImportOptions:
    """Choices of one import; how rows are divided (see `SplitPlan`) matters only when one file holds all of them."""

    skip_faulty: bool = False
    validation_share: float = 0.1
    test_share: float = 0.1
    seed: int = 1
    split_by: str = "random"
    stratify: str = AUTO
    keep_together: str = "near"

    def to_dict(self) -> dict[str, object]:
        """Return the form that the version's row keeps."""
        return asdict(self)

    @property
    def plan(self) -> SplitPlan:
        """How one file is to be divided."""
        return SplitPlan(
            shares=self.shares,
            seed=self.seed,
            by=self.split_by,  # type: ignore[arg-type]
            stratify=self.stratify,
            together=self.keep_together,  # type: ignore[arg-type]
        )

    @property
    def shares(self) -> dict[str, float]:
        """The share of each split when one file is divided."""
        held_out = self.validation_share + self.test_share
        return {
            Split.TRAIN.value: 1 - held_out,
            Split.VALIDATION.value: self.validation_share,
            Split.TEST.value: self.test_share,
        }

    @classmethod
    def from_dict(cls, given: Mapping[str, object]) -> ImportOptions:
        """Return the options, defaults filled in.

        Raises: InvalidInput, naming the option, for unknown names, wrong types and shares out of range.
        """
        known = [field.name for field in fields(cls)]
        for name in given:
            if name not in known:
                raise InvalidInput(
                    _("There is no option '%(name)s'. The options are: %(known)s.")
                    % {"name": name, "known": ", ".join(known)},
                    param="options",
                )
        defaults = cls()
        options = cls(
            skip_faulty=_flag(given.get("skip_faulty", defaults.skip_faulty)),
            validation_share=_share("validation_share", given.get("validation_share", defaults.validation_share)),
            test_share=_share("test_share", given.get("test_share", defaults.test_share)),
            seed=_seed(given.get("seed", defaults.seed)),
            split_by=_choice("split_by", given.get("split_by", defaults.split_by), SPLIT_BY),
            stratify=_field(given.get("stratify", defaults.stratify)),
            keep_together=_choice("keep_together", given.get("keep_together", defaults.keep_together), KEEP_TOGETHER),
        )
        if options.validation_share + options.test_share > MAX_HELD_OUT_SHARE:
            raise InvalidInput(
                _("Validation and test together take more than 80% of the rows. Leave at least 20% for training."),
                param="options.validation_share",
            )
        return options


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidInput(_("'skip_faulty' must be true or false."), param="options.skip_faulty")
    return value


def _share(name: str, value: object) -> float:
    # NaN fails the comparison too.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= MAX_HELD_OUT_SHARE:
        raise InvalidInput(_("'%(name)s' must be a number from 0 to 0.8.") % {"name": name}, param=f"options.{name}")
    return float(value)


def _choice(name: str, value: object, known: Sequence[str]) -> str:
    if value not in known:
        raise InvalidInput(
            _("'%(name)s' must be one of: %(known)s.") % {"name": name, "known": ", ".join(known)},
            param=f"options.{name}",
        )
    return str(value)


def _field(value: object) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_FIELD_CHARACTERS or "\0" in value:
        raise InvalidInput(
            _("'stratify' must be 'auto', 'none' or the name of a field of the answers."), param="options.stratify"
        )
    return value


def _seed(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_SEED:
        raise InvalidInput(
            _("'seed' must be a whole number from 0 to %(highest)d.") % {"highest": MAX_SEED}, param="options.seed"
        )
    return value
