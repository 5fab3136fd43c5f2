"""Files as people upload them."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Iterable

from django.core.files.uploadedfile import SimpleUploadedFile

Rows = Iterable[tuple[str, ...]]


def csv_bytes(rows: Rows, header: tuple[str, ...] = ("prompt", "response"), encoding: str = "utf-8") -> bytes:
    """Return a CSV file."""
    out = io.StringIO(newline="")
    csv.writer(out).writerows([header, *rows])
    return out.getvalue().encode(encoding)


def jsonl_bytes(objects: Iterable[object]) -> bytes:
    """Return a JSON Lines file."""
    return "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in objects).encode()


def zip_bytes() -> bytes:
    """Return a ZIP archive without a table inside."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("tickets.docx", csv_bytes(tickets(3)))
    return out.getvalue()


def tickets(count: int) -> list[tuple[str, str]]:
    """Return rows of the kind this portal is for."""
    services = ["VPN", "Mail", "Printer", "Wiki"]
    return [
        (
            f"Ticket {number}: {services[number % 4]} is broken, please help",
            json.dumps({"service": services[number % 4], "urgency": ("Low", "High")[number % 2]}),
        )
        for number in range(count)
    ]


def upload(content: bytes, name: str = "tickets.csv") -> SimpleUploadedFile:
    """Return the content as Django hands over an upload."""
    return SimpleUploadedFile(name, content)


def csv_upload(rows: Rows, name: str = "tickets.csv", **options: object) -> SimpleUploadedFile:
    """Return an uploaded CSV file."""
    return upload(csv_bytes(rows, **options), name)  # type: ignore[arg-type]
