"""docs/failures.md names every code with which a run can fail, and no other."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from experiments.results import IncompleteAdapter
from gpu_worker.trainer.errors import FailureCode

ROOT = Path(__file__).resolve().parents[2]
RAISERS = {"TrainingError", "JobError"}
KEYWORDS = {"_fail", "fail_run", "emit"}
PLACES = ("gpu_worker/trainer", "gpu_worker/evaluator", "gpu_worker/supervisor.py", "gpu_worker/job_folder.py",
          "experiments/lifecycle.py")  # fmt: skip


def sources() -> Iterator[ast.AST]:
    for place in PLACES:
        path = ROOT / place
        for file in path.rglob("*.py") if path.is_dir() else [path]:
            yield ast.parse(file.read_text(encoding="utf-8"))


def texts(node: ast.AST | None) -> set[str]:
    return {node.value} if isinstance(node, ast.Constant) and isinstance(node.value, str) else set()


def codes_in(tree: ast.AST) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            named = {keyword.arg: keyword.value for keyword in node.keywords}
            if name in RAISERS and node.args:
                found |= texts(node.args[0])
            if name in RAISERS | KEYWORDS:
                found |= texts(named.get("code"))
        if isinstance(node, ast.Dict):
            found |= {
                code for key, value in zip(node.keys, node.values, strict=True) if texts(key) == {"code"}
                for code in texts(value)
            }  # fmt: skip
    return found


def catalogue() -> dict[str, list[str]]:
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", (ROOT / "docs" / "failures.md").read_text(encoding="utf-8"), re.M)
    return {code: [cell.strip() for cell in cells.split("|")] for code, cells in rows}


def test_every_code_in_the_code_is_in_the_catalogue_and_the_other_way_round():
    in_code = set().union(*(codes_in(tree) for tree in sources())) | {IncompleteAdapter.code}
    assert len(in_code) > 8
    assert in_code == set(catalogue())


def test_every_code_of_the_trainer_is_declared_and_used():
    trainer = set().union(*(codes_in(ast.parse(f.read_text())) for f in (ROOT / PLACES[0]).rglob("*.py")))
    assert trainer == set(get_args(FailureCode))


def test_every_code_says_where_from_what_and_what_to_do():
    for code, cells in catalogue().items():
        assert len(cells) == 3, code
        assert all(cells), code
        assert cells[1].endswith("."), code
        assert cells[2].endswith("."), code
