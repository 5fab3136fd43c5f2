"""Numbers as people read them. Every function takes None, NaN and non-numbers and answers with a dash."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from functools import wraps
from itertools import pairwise
from typing import Any, Concatenate, ParamSpec

from django.utils.formats import number_format
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

UNKNOWN = "–"
NBSP = "\u00a0"
MINUS = "\u2212"

_Options = ParamSpec("_Options")


def _dash_if_unknown(
    write: Callable[Concatenate[float, _Options], str],
) -> Callable[Concatenate[object, _Options], str]:
    """Turn what is not a finite number into a dash, so that templates need no conditions."""

    @wraps(write)
    def guarded(value: object, /, *options: _Options.args, **named: _Options.kwargs) -> str:
        number = _as_number(value)
        return UNKNOWN if number is None else write(number, *options, **named)

    return guarded


def _as_number(value: Any) -> int | float | None:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bool) or value is None:
        return None
    try:
        number = value if isinstance(value, int) else float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


@_dash_if_unknown
def thousands(number: float) -> str:
    """Return a whole number with its thousands grouped as the language does it: 12,345."""
    return _signed(number_format(round(number), use_l10n=True, force_grouping=True))


@_dash_if_unknown
def decimal(number: float, places: int = 2) -> str:
    """Return a number with exactly ``places`` decimals."""
    return _signed(number_format(round(number, places), decimal_pos=places, use_l10n=True, force_grouping=True))


@_dash_if_unknown
def significant(number: float, digits: int = 4) -> str:
    """Return a number with about ``digits`` significant digits, for losses and learning rates: 0.4213, 2e-5."""
    if number == 0:
        return "0"
    if 1e-4 <= abs(number) < 10**6:
        places = max(0, digits - 1 - math.floor(math.log10(abs(number))))
        return _signed(f"{number:.{places}f}")
    mantissa, exponent = f"{number:.{digits - 1}e}".split("e")
    return _signed(f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}")


@_dash_if_unknown
def compact(number: float) -> str:
    """Return a large number in few characters: 940, 12.3k, 1.2M."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size * 0.9995:
            return _signed(f"{_three_digits(number / size)}{letter}")
    return _signed(_three_digits(number))


@_dash_if_unknown
def percent(share: float, places: int = 1) -> str:
    """Return a share between 0 and 1 as a percentage."""
    return percentage(share * 100, places)


@_dash_if_unknown
def percentage(hundredths: float, places: int | None = None) -> str:
    """Return what is counted in hundredths already, with the decimals that it has unless ``places`` says how many."""
    if places is None:
        places = len(f"{hundredths:g}".partition(".")[2])
    return _("%(number)s%%") % {"number": decimal(hundredths, places)}


@_dash_if_unknown
def points(difference: float, places: int = 1) -> str:
    """Return a difference of two shares in percentage points, always with its sign: +4.2."""
    written = decimal(difference * 100, places)
    return written if round(difference * 100, places) <= 0 else f"+{written}"


@_dash_if_unknown
def filesize(size_bytes: float) -> str:
    """Return a size in decimal units, as disks and networks count: 1.4 MB."""
    for size, unit in ((1e12, _("TB")), (1e9, _("GB")), (1e6, _("MB")), (1e3, _("kB"))):
        if abs(size_bytes) >= size * 0.9995:
            return f"{_three_digits(size_bytes / size)}{NBSP}{unit}"
    return ngettext("%(count)d byte", "%(count)d bytes", round(size_bytes)) % {"count": round(size_bytes)}


@_dash_if_unknown
def duration(seconds: float) -> str:
    """Return a time span in its two largest units: 2 d 4 h, 1 h 12 min, 2 min 5 s, 0.8 s, 35 ms."""
    if seconds < 0:
        return UNKNOWN
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f}{NBSP}{_('ms')}"
    if seconds < 9.95:
        return f"{seconds:.1f}{NBSP}{_('s')}"
    whole = round(seconds)
    units = ((86400, _("d")), (3600, _("h")), (60, _("min")), (1, _("s")))
    for (size, unit), (below, unit_below) in pairwise(units):
        if whole >= size:
            rest = whole % size // below
            tail = f" {rest}{NBSP}{unit_below}" if rest else ""
            return f"{whole // size}{NBSP}{unit}{tail}"
    return f"{whole}{NBSP}{_('s')}"


def _three_digits(number: float) -> str:
    places = 0 if abs(number) >= 99.95 or round(float(number), 1).is_integer() else 1
    return f"{number:.{places}f}"


def _signed(written: str) -> str:
    # A hyphen is too short beside digits and may break at the end of a line.
    return written.replace("-", MINUS, 1) if written.startswith("-") else written
