"""Bars that a benchmark holds its figures against, and whether they were reached: computed, never typed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Bar:
    """One bar: what is measured, what is wanted, what was found. `is_reached` None: it was not measured in this run."""

    what: str
    wanted: str
    measured: str
    is_reached: bool | None

    @classmethod
    def at_least(cls, what: str, wanted: float, measured: float | None, form: str = "{:.2f}") -> "Bar":
        """Return a bar for a figure that should not be smaller. `form` writes both figures."""
        return cls._held(what, f"at least {form.format(wanted)}", measured, form, lambda found: found >= wanted)

    @classmethod
    def at_most(cls, what: str, wanted: float, measured: float | None, form: str = "{:.2f}") -> "Bar":
        """Return a bar for a figure that should not be larger."""
        return cls._held(what, f"at most {form.format(wanted)}", measured, form, lambda found: found <= wanted)

    @classmethod
    def more_than(cls, what: str, wanted: float, measured: float | None, form: str = "{:.2f}") -> "Bar":
        """Return a bar for a figure that should be larger."""
        return cls._held(what, f"more than {form.format(wanted)}", measured, form, lambda found: found > wanted)

    @classmethod
    def less_than(cls, what: str, wanted: float, measured: float | None, form: str = "{:.2f}") -> "Bar":
        """Return a bar for a figure that should be smaller."""
        return cls._held(what, f"less than {form.format(wanted)}", measured, form, lambda found: found < wanted)

    @classmethod
    def _held(cls, what: str, wanted: str, measured: float | None, form: str, holds: Callable[[float], bool]) -> "Bar":
        if measured is None:
            return cls(what, wanted, "–", None)
        return cls(what, wanted, form.format(measured), holds(measured))

    def row(self) -> str:
        """Return the bar's line of the table."""
        said = {True: "reached", False: "**missed**", None: "not measured"}[self.is_reached]
        return f"| {self.what} | {self.wanted} | {self.measured} | {said} |"


def table(bars: Sequence[Bar]) -> str:
    """Return the table of bars, in Markdown."""
    return "\n".join(["| bar | wanted | measured | |", "|---|---|---|---|", *(bar.row() for bar in bars)])
