"""JSON in the database whose objects keep the order of their keys, which PostgreSQL's jsonb does not."""

from __future__ import annotations

import json
from typing import Any

from django.db import models


class OrderedJSONField(models.JSONField):
    """A JSON value, kept as text: it comes back as it was written, but cannot be searched."""

    def db_type(self, connection: Any) -> str:
        """Keep it as text."""
        return "text"

    def get_db_prep_value(self, value: Any, connection: Any, prepared: bool = False) -> str | None:
        """Return the text of a value."""
        return None if value is None else json.dumps(value, ensure_ascii=False)

    def from_db_value(self, value: str | None, expression: Any, connection: Any) -> Any:
        """Return the value of a text."""
        return None if value is None else json.loads(value)
