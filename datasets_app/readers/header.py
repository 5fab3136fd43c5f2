"""Check the names of a table's columns."""

from collections.abc import Sequence

from datasets_app.readers.faults import FileRefused
from datasets_app.readers.limits import Limits


def checked_columns(names: Sequence[str], limits: Limits) -> tuple[str, ...]:
    """Return the names as they are, once they are known to serve as columns.

    Raises: FileRefused if there are too many, if one is empty or if two are the same.
    """
    if len(names) > limits.max_columns:
        raise FileRefused("too_many_columns", columns=len(names), limit=limits.max_columns)
    places: dict[str, int] = {}
    for position, name in enumerate(names, 1):
        if not name:
            raise FileRefused("header_empty_name", position=position)
        if name in places:
            raise FileRefused("header_duplicate", column=name, first=places[name], second=position)
        places[name] = position
    return tuple(places)
