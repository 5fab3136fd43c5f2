"""The first sentence of the quality report, in plain words."""

from __future__ import annotations

from django.utils.translation import gettext as _

from experiments.models import Evaluation


def verdict_of(evaluation: Evaluation) -> str:
    """Return one sentence that says what tuning brought, with its numbers."""
    return _("Measured on %(rows)d rows.") % {"rows": evaluation.rows}
