"""The table of errors in docs/api.md has exactly the codes that answers under /v1 can have."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from deployments.engine_client import EngineTimeout, _timed_out
from portal.views import errors

ROOT = Path(__file__).parents[2]
TABLE = re.compile(r"^\| status \| `code` \|.*?\n\n", re.DOTALL | re.MULTILINE)
# Whatever raises an error that a program under /v1 is told; engines' refusals are passed on.
SOURCES = (
    "deployments/openai_api/*.py",
    "deployments/webhooks/services.py",
    *(f"deployments/{name}.py" for name in (
        "targets", "tuned_models", "inference", "admission", "engine_client", "engine_scoring", "slots", "placing",
    )),
    "experiments/holding.py",
    "experiments/services.py",
    *(f"portal/{name}.py" for name in ("errors", "quotas", "authentication", "maintenance", "api/errors")),
    "portal/views/errors.py",
    "gpu_worker/engine/errors.py",
    "gpu_worker/engine/grammar.py",
    "gpu_worker/engine/server/*.py",
)  # fmt: skip
NOT_TOLD = {
    "client_closed_request": "nobody is there any more",
    "csrf_failed": "of pages",
    "invalid_file": "of pages; a job's error says more",
    "invalid_adapter": "told to the node's agent",
    "dataset_not_ready": "of pages and /api; a job under /v1 waits for its data",
    "adapter_exists": "told to the node's agent",
    "adapter_room_full": "told to the node's agent",
}
POSITIONAL = {"AuthenticationFailed", "NotAuthenticated"}


def codes_in(path: Path) -> set[str]:
    """Return the texts that a module gives to something called `code`."""
    found: list[ast.expr] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.keyword) and node.arg == "code":
            found.append(node.value)
        if isinstance(node, ast.Assign) and any(isinstance(to, ast.Name) and to.id == "code" for to in node.targets):
            found.append(node.value)
        if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in POSITIONAL:
            found += node.args[1:2]
    return {one.value for one in found if isinstance(one, ast.Constant) and isinstance(one.value, str)}


def codes_told() -> set[str]:
    files = [path for pattern in SOURCES for path in ROOT.glob(pattern)]
    assert len(files) > len(SOURCES)
    told = set[str]().union(*map(codes_in, files)) | set(errors._CODES.values())
    assert set(NOT_TOLD) <= told, "nothing is excused that is not there"
    return told - set(NOT_TOLD)


def rows() -> dict[str, str]:
    """Return the row of the table that has a code, by the code."""
    (table,) = TABLE.findall((ROOT / "docs" / "api.md").read_text())
    lines = table.strip().splitlines()[2:]
    return {code: line for line in lines for code in re.findall(r"`([a-z_]+)`", line.split("|")[2])}


def test_every_code_is_told_and_every_told_code_is_there():
    documented, told = set(rows()), codes_told()
    assert sorted(told - documented) == []
    assert sorted(documented - told) == []


def test_what_is_promised_of_a_timeout_is_sent():
    error = _timed_out()
    assert isinstance(error, EngineTimeout)
    assert "504" in rows()[error.code]
    assert "Retry-After" in rows()[error.code]
    assert 0 < int(error.headers["Retry-After"]) <= 120
