"""The values of hyperparameters as people read them."""

from __future__ import annotations

from django.utils.translation import gettext as _

from experiments.hyperparameters import FieldInfo


def value_words(info: FieldInfo, value: object) -> str:
    """Return what a page shows for a value, without its unit."""
    if value is None:
        return _("none")
    if isinstance(value, bool):
        return _("Yes") if value else _("No")
    words = dict(info.choices).get(str(value))
    return _(words) if words else str(value)
