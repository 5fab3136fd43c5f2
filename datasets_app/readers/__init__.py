"""Read uploaded tables row by row, in constant memory, and say exactly what is wrong with them."""

from datasets_app.readers.detection import ENCODINGS, Candidate, Detection, detect
from datasets_app.readers.faults import DataError, FileRefused, Record, RowFault
from datasets_app.readers.limits import DEFAULT_LIMITS, Limits
from datasets_app.readers.table import Table, open_table

__all__ = [
    "DEFAULT_LIMITS",
    "ENCODINGS",
    "Candidate",
    "DataError",
    "Detection",
    "FileRefused",
    "Limits",
    "Record",
    "RowFault",
    "Table",
    "detect",
    "open_table",
]
