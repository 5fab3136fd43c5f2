"""What the benchmark of the doctor does in the capped child; knows no Django."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from datasets_app.doctor_reports import work


def examine_and_clock(say: Callable[[dict[str, Any]], None], **arguments: Any) -> dict[str, Any]:
    """Do what the portal does there; add the processor time of the examining thread."""
    return {"report": work.examine_rows(say, **arguments), "thread_s": time.thread_time()}
