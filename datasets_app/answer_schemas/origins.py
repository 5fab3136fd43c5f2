"""Where a version's first schema comes from: the doctor, or the version that it was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from datasets_app.fields import label_of, renamed_value
from datasets_app.models import AnswerSchema, DatasetVersion

Origin = AnswerSchema.Origin


def current_schema(version: DatasetVersion) -> AnswerSchema | None:
    """Return the revision that counts, None as long as the doctor has found no schema."""
    return version.schemas.select_related("created_by").first()


def confirmed_schema(version: DatasetVersion) -> AnswerSchema | None:
    """Return the schema that a person wrote, if there is one: the doctor checks against it instead of inferring."""
    return version.schemas.exclude(origin=Origin.INFERRED).first()


def inherit(version: DatasetVersion) -> None:
    """Give a version that was made from another one the schema that a person wrote for that, with renamed labels."""
    if version.parent is None or version.schemas.exists():
        return
    confirmed = confirmed_schema(version.parent)
    if confirmed is not None:
        _add(version, Origin.INHERITED, renamed(confirmed.schema, version.changes))


def note_inferred(version: DatasetVersion, schema: Mapping[str, Any] | None) -> None:
    """Keep what the doctor inferred as the first revision; a schema that is there already stays."""
    if schema and not version.schemas.exists():
        _add(version, Origin.INFERRED, dict(schema))


def _add(version: DatasetVersion, origin: str, schema: dict[str, Any]) -> None:
    version.team.answerschemas.create(version=version, number=1, origin=origin, schema=schema)


def renamed(schema: Mapping[str, Any], changes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a schema as it is after the changes that make a version: with labels renamed, and merged."""
    properties = dict(schema.get("properties", {}))
    for change in changes:
        field = change.get("field")
        if change.get("op") == "rename_value" and "enum" in properties.get(field, {}):
            values = [
                renamed_value(value, change["to"]) if label_of(value) == change["from"] else value
                for value in properties[field]["enum"]
            ]
            after = {label_of(value): value for value in values}
            properties[field] = {**properties[field], "enum": list(after.values())}
    return {**schema, "properties": properties}
