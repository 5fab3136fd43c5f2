"""What a dataset may be called."""

from django.utils.translation import gettext as _

from portal.errors import InvalidInput


def clean_name(name: str) -> str:
    """Return a name as it is kept. Raises: InvalidInput."""
    cleaned = " ".join(name.split())
    if not cleaned or len(cleaned) > 120 or not cleaned.isprintable():
        raise InvalidInput(_("Give the dataset a name of 1 to 120 characters."), param="name", code="invalid_name")
    return cleaned
