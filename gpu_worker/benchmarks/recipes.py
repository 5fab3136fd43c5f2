"""What the recipes reach on real rows: time, speed and the quality report, beside simple baselines.

Each subject is trained and evaluated by the children that the portal starts, in a folder of its own under the data
directory. What was measured is kept there, and a training that was interrupted goes on from its last checkpoint, so
that the table may grow over days. `manage.py benchmark recipes` calls `run`.

A recipe is measured on the test rows. A trial, a recipe with other values, is measured on validation rows only: values
are chosen from trials, never from test rows.
"""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets_app.rendering import ChatRenderer
from experiments.hyperparameters import Hyperparameters
from experiments.recipes import RECIPES, Situation, advise
from experiments.scoring.answers import AnsweredRow
from experiments.scoring.names import TUNED, UNTUNED
from experiments.scoring.report import score_answers
from gpu_worker.benchmarks.processor_time import Stolen
from gpu_worker.benchmarks.recipes_confidence import calibration_of
from gpu_worker.benchmarks.recipes_page import render, summary
from gpu_worker.benchmarks.serving_workload import answer_schema
from gpu_worker.benchmarks.tables import Pair, conversation, read_pairs
from gpu_worker.benchmarks.training import OWN_ENVIRONMENT
from gpu_worker.compiled import CACHE_VARIABLE

SYSTEM_PROMPT = "You triage support tickets. Answer with one JSON object."
SEED = 7
HELD_ROWS = 400  # of the training rows, never learned from; none where all rows are learned from
LEARNED_ROWS = 2_000
UNTUNED_ROWS = 100  # the untuned model writes long answers; these many tell enough
CALIBRATED_ROWS = 500  # of the test rows, for what is known of confidence
AS_LONG_AS_IT_TAKES = 1000.0  # times what asking took: in a quality report, scoring 77 values on all rows is too slow
CHECKPOINT_EVERY = 100
PROGRESS_EVERY_S = 60
_SUBJECT = re.compile(r"(?P<recipe>[a-z]+)@(?P<rows>\d+|all)(?P<changes>(?:,[a-z_]+=[^,\s]+)*)")


@dataclass(frozen=True)
class Subject:
    """A recipe, how many rows it learns from (None: all), and for a trial the values that replace the recipe's."""

    recipe: str
    rows: int | None
    changes: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Subject":
        """Read `balanced@2000` or `best@all,learning_rate=0.002`. Raises: ValueError with a sentence."""
        found = _SUBJECT.fullmatch(text)
        if found is None or found["recipe"] not in RECIPES:
            raise ValueError(
                f"'{text}' is not RECIPE@ROWS or RECIPE@ROWS,name=value. Recipes: {', '.join(RECIPES)}; rows: a number "
                "or 'all'."
            )
        changes = [part.split("=", 1) for part in found["changes"].split(",") if part]
        unknown = [name for name, _value in changes if name not in Hyperparameters.model_fields]
        if unknown:
            raise ValueError(f"'{text}': there is no hyperparameter '{unknown[0]}'.")
        rows = None if found["rows"] == "all" else int(found["rows"])
        return cls(found["recipe"], rows, tuple((name, _value(value)) for name, value in changes))

    @property
    def name(self) -> str:
        """Return the text that `parse` reads."""
        changes = "".join(f",{name}={value}" for name, value in self.changes)
        return f"{self.recipe}@{self.rows or 'all'}{changes}"


SUBJECTS = (*(f"{name}@{LEARNED_ROWS}" for name in RECIPES), "best@all")


def run(
    *,
    rows: Path | None,
    model_dir: Path,
    quick: bool = False,
    test: Path | None = None,
    subjects: Sequence[str] = (),
    progress: Callable[[str], object] = print,
) -> str:
    """Measure what is not measured yet, and return the Markdown section on all that is.

    `rows`, `test`: CSV files with the columns prompt and response. `subjects`: as `Subject.parse` reads them. `quick`:
    a few rows, in a folder that is emptied first. Raises: RuntimeError if files are missing or a child fails.
    """
    if rows is None or test is None or not test.is_file():
        raise RuntimeError("Recipes are measured on tables of your own: --rows TRAIN.csv --test TEST.csv.")
    bench = Bench(read_pairs(rows), read_pairs(test), model_dir, progress, quick=quick)
    bench.measure_all(subjects or SUBJECTS)
    return render(bench.results(), source=rows.parent.name)


class Bench:
    """The rows, the base model, and the folder with everything that was measured."""

    def __init__(
        self,
        train: list[Pair],
        test: list[Pair],
        model_dir: Path,
        progress: Callable[[str], object],
        *,
        quick: bool,
        kept_in: str = "recipes",
    ) -> None:
        """`quick`: 8 rows of each kind to be asked, 32 to learn from. `kept_in`: the folder of what was measured."""
        self._all = random.Random(SEED).sample(train, len(train))  # noqa: S311 -- no secret
        held = 8 if quick else HELD_ROWS
        self._held, self._rest = self._all[:held], self._all[held:]
        self._test = test[:8] if quick else test
        self._most = 32 if quick else None
        self._model_dir = model_dir
        self._progress = progress
        data_dir = model_dir.parent.parent
        self._cache = data_dir / "cache"
        self.folder = data_dir / "benchmarks" / (f"{kept_in}-quick" if quick else kept_in)
        if quick:
            shutil.rmtree(self.folder, ignore_errors=True)

    def results(self) -> list[dict[str, Any]]:
        """Return everything that was measured, in this run and earlier ones."""
        return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(self.folder.glob("*/result.json"))]

    def measure_all(self, subjects: Sequence[str]) -> None:
        """Measure what is not measured yet, and keep it. `subjects`: as `Subject.parse` reads them.

        Raises: RuntimeError on a subject that cannot be read, before anything is measured, and if a child fails.
        """
        try:
            chosen = [Subject.parse(text) for text in subjects]
        except ValueError as error:
            raise RuntimeError(str(error)) from error
        for subject in chosen:
            folder = self.folder / subject.name
            kept = folder / "result.json"
            if kept.exists():
                self._progress(f"{subject.name}: measured before")
                result = json.loads(kept.read_text(encoding="utf-8"))
            else:
                result = self._measure(subject, folder)
                kept.write_text(json.dumps(result, indent=1), encoding="utf-8")
            # results of earlier releases lack it, but not their adapters; without validation rows nothing can be fitted
            parts = (folder / "adapter" / "adapter_config.json", folder / "data" / "validation.jsonl")
            if not subject.changes and all(part.exists() for part in parts):
                result["calibration"] = self._calibration(subject, folder, result["hyperparameters"])
                kept.write_text(json.dumps(result, indent=1), encoding="utf-8")

    def _measure(self, subject: Subject, folder: Path) -> dict[str, Any]:
        """Train and evaluate a subject."""
        learned = (self._all if subject.rows is None else self._rest[: subject.rows])[: self._most]
        asked = self._held if subject.changes else self._test
        validation = [] if subject.rows is None else self._held
        chosen = self._hyperparameters(subject, learned)
        write_rows(folder, train=learned, validation=validation, heldout=asked)
        report = folder / "report.json"
        stolen = folder / "stolen.json"
        if not report.exists():
            stolen.write_text(json.dumps(self._train(folder, subject.name, chosen)), encoding="utf-8")
        finished = json.loads(report.read_text(encoding="utf-8"))
        untuned = self._untuned(folder, subject.name, chosen) if subject.recipe == "fast" else None
        seconds = self._evaluate(folder, subject.name, chosen, rows=len(asked), untuned=False)
        result = {
            "subject": subject.name,
            "recipe": subject.recipe,
            "is_trial": bool(subject.changes),
            "changes": dict(subject.changes),
            "learned_rows": len(learned),
            "asked_rows": len(asked),
            "hyperparameters": chosen.model_dump(),
            "training": finished,
            "stolen_share": json.loads(stolen.read_text(encoding="utf-8")) if stolen.exists() else None,
            "evaluation_s": seconds,
            "report": _report(folder, answer_schema([response for _prompt, response in self._all])),
            "untuned": untuned,
        }
        self._progress(f"{subject.name}: {summary(result)}")
        return result

    def _hyperparameters(self, subject: Subject, learned: Sequence[Pair]) -> Hyperparameters:
        """Return what the recipe chooses for these rows on this machine, as the form of a new run does."""
        renderer = ChatRenderer.load(self._model_dir)
        rows = [renderer.row(conversation(SYSTEM_PROMPT, pair)) for pair in learned]
        lengths = [len(row.token_ids) for row in rows]
        answers = [len(row.token_ids) - row.prompt_length for row in rows]
        situation = Situation(
            rows=len(rows),
            row_tokens=sum(lengths) / len(rows),
            longest_row=max(lengths),
            answer_tokens=sum(answers) / len(rows),
            longest_answer=max(answers),
            counted=True,
            cores=os.cpu_count() or 1,
        )
        chosen = advise(subject.recipe, situation).hyperparameters.model_dump() | dict(subject.changes)
        if "batch_size" in dict(subject.changes):
            chosen["micro_batch_size"] = chosen["batch_size"]
        return Hyperparameters(**{**chosen, "checkpoint_every_steps": CHECKPOINT_EVERY})

    def _train(self, folder: Path, name: str, chosen: Hyperparameters) -> float | None:
        """Train to the end, from the last checkpoint if there is one.

        Returns the share of the processors that other machines took, None of a training in several parts.
        """
        resume = any((folder / "checkpoints").glob("step-*"))
        self._write_spec(folder, chosen, resume=resume)
        self._progress(f"{name}: {'training goes on' if resume else 'training'} in {folder}")
        stolen = Stolen()
        self._child("gpu_worker.trainer", folder, name)
        return None if resume else stolen.share()

    def _evaluate(
        self, folder: Path, name: str, chosen: Hyperparameters, *, rows: int, untuned: bool, **more: float
    ) -> float:
        """Let the adapter answer; return the seconds that took, with the start. `more`: what else is ordered."""
        self._write_spec(folder, chosen, evaluation={"rows": rows, "untuned": untuned, **more})
        started = time.monotonic()
        self._child("gpu_worker.evaluator", folder, name)
        return round(time.monotonic() - started, 1)

    def _calibration(self, subject: Subject, folder: Path, values: dict[str, Any]) -> list[dict[str, Any]]:
        """Let the adapter score the allowed values of some test rows, if it has not; return how sure it is of them.

        What it scored is kept and its figures are made anew, so that they are those of today's rules.
        """
        chosen = Hyperparameters(**{name: values[name] for name in values if name in Hyperparameters.model_fields})
        # a job of its own: what the whole evaluation has written stays
        job = folder / "confidence"
        if not _is_asked(job, CALIBRATED_ROWS):
            self._progress(f"{subject.name}: how sure it is")
            shutil.rmtree(job / "evaluation", ignore_errors=True)
            for part in ("adapter", "data"):
                shutil.copytree(folder / part, job / part, dirs_exist_ok=True)
            asked = {"rows": CALIBRATED_ROWS, "untuned": False, "scoring_share": AS_LONG_AS_IT_TAKES}
            self._write_spec(job, chosen, evaluation=asked)
            self._child("gpu_worker.evaluator", job, subject.name)
        return calibration_of(job / "evaluation")

    def _untuned(self, folder: Path, name: str, chosen: Hyperparameters) -> dict[str, Any]:
        """Return how the untuned model does on some of the rows."""
        self._evaluate(folder, name, chosen, rows=UNTUNED_ROWS, untuned=True)
        untuned: dict[str, Any] = _report(folder, None)[UNTUNED]
        return untuned

    def _write_spec(
        self,
        folder: Path,
        chosen: Hyperparameters,
        *,
        resume: bool = False,
        evaluation: dict[str, Any] | None = None,
        preflight: bool = False,
    ) -> None:
        spec = {
            "format": 1,
            "run": "benchmark",
            "base_model": {"slug": self._model_dir.name, "path": str(self._model_dir), "revision": "local"},
            "hyperparameters": chosen.model_dump(),
            "resume": resume,
            "preflight": preflight,
            "evaluation": {"max_new_tokens": chosen.max_new_tokens, "seed": chosen.seed, **(evaluation or {})},
        }
        (folder / "spec.json").write_text(json.dumps(spec), encoding="utf-8")

    def _child(self, module: str, folder: Path, name: str) -> dict[str, dict[str, Any]]:
        """Run one of the portal's children, telling of its progress now and then; return its last event of each kind.

        Raises: RuntimeError if it fails.
        """
        last: dict[str, dict[str, Any]] = {}
        with (folder / "stderr").open("w+", encoding="utf-8") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", module, str(folder)],
                env={**os.environ, **OWN_ENVIRONMENT, CACHE_VARIABLE: str(self._cache), "TUNEPORT_STANDALONE": "1"},
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
            told = time.monotonic()
            for line in process.stdout or ():
                if not line.startswith('{"event"'):
                    continue
                event = json.loads(line)
                last[event["event"]] = event
                if time.monotonic() - told > PROGRESS_EVERY_S:
                    self._progress(f"{name}: {_shortened(event)}")
                    told = time.monotonic()
            if process.wait():
                errors.seek(0)
                raise RuntimeError(f"{name} failed ({process.returncode}): {errors.read()[-2000:]}")
        return last


def _is_asked(job: Path, rows: int) -> bool:
    """Tell whether a job has answered as many rows as are wanted today."""
    if not (job / "evaluation" / "predictions.jsonl").exists():
        return False
    spec = json.loads((job / "spec.json").read_text(encoding="utf-8"))
    return bool(spec["evaluation"]["rows"] == rows)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def write_rows(folder: Path, **parts: Sequence[Pair]) -> None:
    """Write the job's rows, numbered through all parts; a part without rows has no file."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    number = 0
    for name, pairs in parts.items():
        lines = []
        for pair in pairs:
            number += 1
            lines.append(json.dumps({"row": number, "messages": conversation(SYSTEM_PROMPT, pair)}) + "\n")
        if lines:
            (folder / "data" / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def _report(folder: Path, schema: dict[str, Any] | None) -> dict[str, Any]:
    """Return the figures of everybody who answered, without classes and confusions."""
    text = (folder / "evaluation" / "predictions.jsonl").read_text(encoding="utf-8")
    found = [json.loads(line) for line in text.split("\n") if line]
    rows = [AnsweredRow.of_prediction(item) for item in found]
    report: dict[str, Any] = score_answers(rows, schema=schema).to_dict()
    subjects = {TUNED: report[TUNED], UNTUNED: report[UNTUNED], **report["others"]}
    for one in subjects.values():
        for field in one["fields"] if one else ():
            field["classes"] = field["confusion"] = None
    return subjects


def _shortened(event: dict[str, Any]) -> str:
    names = ("phase", "subject", "done", "total", "step", "total_steps", "loss", "exact_match", "tokens_per_s", "eta_s")
    return ", ".join(f"{name} {event[name]}" for name in names if event.get(name) is not None)
