"""Where a data set lies, as people and programs say it: checked here, kept without any credential."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from portal.errors import InvalidInput
from portal.models import TeamSecret

SECRET_KINDS: Final = {
    "s3": TeamSecret.Kind.STORAGE_KEY,
    "azure": TeamSecret.Kind.AZURE_KEY,
    "huggingface": TeamSecret.Kind.HUB_TOKEN,
    "kaggle": TeamSecret.Kind.KAGGLE_TOKEN,
}


@dataclass(frozen=True)
class Entry:
    """One entry of a source: how it is called on the page, which texts fit, and what to write instead of others."""

    label: Any
    pattern: str
    advice: Any
    required: bool = False
    hint: Any = ""
    default: str = ""


_SECRET: Final = Entry(gettext_lazy("Secret"), r"[-\w]{1,60}", gettext_lazy("Name a secret of the team."))
_ENDPOINT: Final = Entry(
    gettext_lazy("Endpoint"),
    r"https?://[^\s\\@?#]{1,300}",
    gettext_lazy("Write an address such as https://s3.example.org."),
    hint=gettext_lazy("Only for a service of your own; otherwise leave it empty."),
)
ENTRIES: Final[Mapping[str, Mapping[str, Entry]]] = {
    "url": {
        "url": Entry(
            gettext_lazy("Address"),
            r"https?://\S{1,4000}",
            gettext_lazy("Write an address that begins with https://"),
            required=True,
            hint=gettext_lazy("Of a CSV, TSV, JSON Lines, Parquet, Excel or ZIP file, over https."),
        )
    },
    "s3": {
        "bucket": Entry(
            gettext_lazy("Bucket"),
            r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]",
            gettext_lazy("A bucket's name has 3 to 63 lower-case letters, digits, dots and hyphens."),
            required=True,
        ),
        "key": Entry(
            gettext_lazy("Key or folder"),
            r"[^\x00-\x1f\x7f]{1,1000}",
            gettext_lazy("Write the key of a file, or of a folder with a slash at its end."),
            required=True,
            hint=gettext_lazy("Of a file; or of a folder, with a slash at its end, for all tables in it."),
        ),
        "secret": _SECRET,
        "region": Entry(
            gettext_lazy("Region"),
            r"[a-z0-9-]{1,40}",
            gettext_lazy("Write a region such as eu-central-1."),
            default="us-east-1",
        ),
        "endpoint": _ENDPOINT,
    },
    "azure": {
        "account": Entry(
            gettext_lazy("Storage account"),
            r"[a-z0-9]{3,24}",
            gettext_lazy("An account's name has 3 to 24 lower-case letters and digits."),
            required=True,
        ),
        "container": Entry(
            gettext_lazy("Container"),
            r"[a-z0-9$][a-z0-9-]{1,61}[a-z0-9]",
            gettext_lazy("A container's name has 3 to 63 lower-case letters, digits and hyphens."),
            required=True,
        ),
        "blob": Entry(
            gettext_lazy("Blob or folder"),
            r"[^\x00-\x1f\x7f\\]{1,1000}",
            gettext_lazy("Write the name of a blob, or of a folder with a slash at its end."),
            required=True,
            hint=gettext_lazy("Of a file; or of a folder, with a slash at its end, for all tables in it."),
        ),
        "secret": _SECRET,
        "endpoint": _ENDPOINT,
    },
    "huggingface": {
        "dataset": Entry(
            gettext_lazy("Data set"),
            r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?",
            gettext_lazy("Write owner/name as in the address of the data set's page."),
            required=True,
            hint=gettext_lazy("owner/name as in the address of its page."),
        ),
        "config": Entry(
            gettext_lazy("Configuration"),
            r"[\w.+-]{1,100}",
            gettext_lazy("Write the name of a configuration, or nothing."),
            hint=gettext_lazy("Only where the data set has several."),
        ),
        "split": Entry(
            gettext_lazy("Split"),
            r"[\w.-]{1,60}",
            gettext_lazy("Write the name of a split, or nothing."),
            hint=gettext_lazy("Empty: all of train, validation and test."),
        ),
        "revision": Entry(
            gettext_lazy("Revision"),
            r"[\w.-]+(/[\w.-]+){0,3}",
            gettext_lazy("Write a commit, branch or tag."),
            hint=gettext_lazy("A branch or tag is pinned to its commit, which is kept."),
            default="main",
        ),
        "secret": _SECRET,
    },
    "kaggle": {
        "dataset": Entry(
            gettext_lazy("Data set"),
            r"[A-Za-z0-9][\w-]{1,99}/[A-Za-z0-9][\w-]{1,99}",
            gettext_lazy("Write owner/slug as in the address of the data set's page, and nothing else."),
            required=True,
            hint=gettext_lazy("owner/slug as in the address of its page."),
        ),
        "file": Entry(
            gettext_lazy("File"),
            r"[^\x00-\x1f\x7f\\?#]{1,300}",
            gettext_lazy("Write the name of one file of the data set, or nothing."),
            hint=gettext_lazy("Empty: the whole data set."),
        ),
        "version": Entry(
            gettext_lazy("Version"),
            r"[1-9]\d{0,5}",
            gettext_lazy("Write the number of a version, or nothing."),
            hint=gettext_lazy("Empty: the current one, whose number is kept."),
        ),
        "secret": _SECRET,
    },
}
KINDS: Final = tuple(ENTRIES)


def read_source(given: object) -> dict[str, str]:
    """Return a source with all its entries, empty ones included.

    Raises: InvalidInput, naming the entry, for anything that is no source; nothing is repaired or left out.
    """
    if not isinstance(given, Mapping):
        raise InvalidInput(_("Send the source as a JSON object."), param="source")
    kind = given.get("kind")
    if not isinstance(kind, str) or kind not in ENTRIES:
        message = _("There is no source of this kind. The kinds are: %(kinds)s.") % {"kinds": ", ".join(KINDS)}
        raise InvalidInput(message, param="source.kind")
    entries = ENTRIES[kind]
    for name in given:
        if name != "kind" and name not in entries:
            message = _("A source of this kind has no entry of this name. Its entries are: %(names)s.")
            raise InvalidInput(message % {"names": ", ".join(entries)}, param="source")
    return {"kind": kind, **{name: _checked(name, entry, given.get(name)) for name, entry in entries.items()}}


def _checked(name: str, entry: Entry, value: Any) -> str:
    text = "" if value is None else value
    if not isinstance(text, str):
        raise InvalidInput(_("This must be a text."), param=f"source.{name}")
    text = text.strip() if "\n" not in text else text
    if not text and not entry.required:
        return entry.default
    if not re.fullmatch(entry.pattern, text) or ".." in text.split("/"):
        raise InvalidInput(str(entry.advice), param=f"source.{name}")
    return text


def shown_address(source: Mapping[str, str]) -> str:
    """Return where a source lies in one line, without what may be a credential."""
    kind = source["kind"]
    if kind == "url":
        return without_query(source["url"])
    if kind == "s3":
        return f"s3://{source['bucket']}/{source['key']}"
    if kind == "azure":
        return f"{source['account']}/{source['container']}/{source['blob']}"
    parts = [source["dataset"], source.get("config", ""), source.get("split", ""), source.get("file", "")]
    return " · ".join(part for part in parts if part)


def without_query(url: str) -> str:
    """Return an address without its query, which may hold a signature."""
    return re.split(r"[?#]", url, maxsplit=1)[0]
