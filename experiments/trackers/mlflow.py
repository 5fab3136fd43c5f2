"""MLflow's tracking server over its REST API 2.0, as far as a run that is copied there needs it.

Source: https://mlflow.org/docs/latest/api_reference/rest-api.html. No client library: six requests are all there is.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

import httpx
from django.utils.translation import gettext as _

from experiments.storable import storable_text
from portal import outbound
from portal.reachable import OutboundFailed

MOST_METRICS: Final = 1000  # in one request; the server's limits
MOST_PARAMS: Final = 100
LONGEST_VALUE: Final = 500
MOST_REPLY_BYTES: Final = 1_000_000
READ_TIMEOUT_S: Final = 15.0
RUN_TAG: Final = "tuneport.run"
MISSING: Final = "RESOURCE_DOES_NOT_EXIST"
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")

Metric = dict[str, Any]


class TrackerFailed(OutboundFailed):
    """The tracker did not take what it was sent; the message says what it answered."""

    code = "tracker_failed"


def headers_of(secret: str) -> dict[str, str]:
    """Return what proves who we are: `name:password` for basic authentication, anything else as a bearer token."""
    if not secret:
        return {}
    if ":" in secret:
        return {"Authorization": f"Basic {base64.b64encode(secret.encode()).decode()}"}
    return {"Authorization": f"Bearer {secret}"}


class Server:
    """One tracking server. Every method raises OutboundRefused, OutboundFailed or TrackerFailed."""

    def __init__(self, http: httpx.Client, address: str) -> None:
        self._http = http
        self._base = f"{address.rstrip('/')}/api/2.0/mlflow"

    def experiment(self, name: str) -> str | None:
        """Return the id of the experiment of this name, None if there is none."""
        url = f"{self._base}/experiments/get-by-name?experiment_name={quote(name, safe='')}"
        answer = outbound.get(self._http, url, max_bytes=MOST_REPLY_BYTES, follow_redirects=False)
        content = _content(answer)
        if answer.status_code == 404 and content.get("error_code") == MISSING:
            return None
        return _id(_required(answer, content), "experiment", "experiment_id")

    def make_experiment(self, name: str) -> str:
        """Make an experiment and return its id."""
        return _id(self._post("experiments/create", {"name": name}), "experiment_id")

    def find_run(self, experiment_id: str, key: str) -> str | None:
        """Return the id of the run that carries our key, None if it was never made."""
        asked = {"experiment_ids": [experiment_id], "filter": f"tags.`{RUN_TAG}` = '{key}'", "max_results": 1}
        found = self._post("runs/search", asked).get("runs") or []
        if not isinstance(found, list) or not found:
            return None
        return _id(found[0], "info", "run_id")

    def make_run(self, experiment_id: str, key: str, *, name: str, started_ms: int) -> str:
        """Make a run that carries our key and return its id. `started_ms`: since 1970."""
        tags = [{"key": RUN_TAG, "value": key}, {"key": "mlflow.source.name", "value": "Tuneport"}]
        asked = {"experiment_id": experiment_id, "run_name": name, "start_time": started_ms, "tags": tags}
        return _id(self._post("runs/create", asked), "run", "info", "run_id")

    def log_params(self, run_id: str, params: Mapping[str, object]) -> None:
        """Tell what a run was made with; values that say nothing are left out."""
        told = [
            {"key": key, "value": str(value)[:LONGEST_VALUE]}
            for key, value in params.items()
            if value not in (None, "")
        ]
        for start in range(0, len(told), MOST_PARAMS):
            self._post("runs/log-batch", {"run_id": run_id, "params": told[start : start + MOST_PARAMS]})

    def log_metrics(self, run_id: str, metrics: Sequence[Metric]) -> None:
        """Tell figures, at most MOST_METRICS of them."""
        if metrics:
            self._post("runs/log-batch", {"run_id": run_id, "metrics": list(metrics)})

    def end_run(self, run_id: str, *, status: str, ended_ms: int) -> None:
        """End a run. `status`: FINISHED, FAILED or KILLED."""
        self._post("runs/update", {"run_id": run_id, "status": status, "end_time": ended_ms})

    def _post(self, method: str, body: Mapping[str, object]) -> dict[str, Any]:
        url = f"{self._base}/{method}"
        answer = outbound.post(self._http, url, json=body, max_bytes=MOST_REPLY_BYTES, read_timeout_s=READ_TIMEOUT_S)
        return _required(answer, _content(answer))


def metrics_of(step: int, at_ms: int, values: Mapping[str, object]) -> Iterable[Metric]:
    """Yield one point's figures as the server takes them; what is no number is left out."""
    for key, value in values.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield {"key": key, "value": value, "timestamp": at_ms, "step": step}


def _content(answer: httpx.Response) -> dict[str, Any]:
    try:
        found = json.loads(answer.content or b"{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _required(answer: httpx.Response, content: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a good answer. Raises: TrackerFailed with what the server says."""
    if 200 <= answer.status_code < 300:
        return content
    if answer.status_code in (401, 403):
        message = _("The tracker refuses access (HTTP %(status)d). Check its key.")
        raise TrackerFailed(message % {"status": answer.status_code}, code="access_refused")
    why = storable_text(str(content.get("message") or ""))[:150].strip() or _("no reason given")
    message = _("The tracker answers HTTP %(status)d: %(why)s")
    raise TrackerFailed(message % {"status": answer.status_code, "why": why})


def _id(content: object, *path: str) -> str:
    """Return the id at a path of an answer. Raises: TrackerFailed if there is none that could be one."""
    for name in path:
        content = content.get(name) if isinstance(content, dict) else None
    if not isinstance(content, str) or not _ID.fullmatch(content):
        raise TrackerFailed(_("This address does not answer like an MLflow tracking server. Check it."))
    return content
