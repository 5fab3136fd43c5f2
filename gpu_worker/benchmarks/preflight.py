"""How near a trial of 20 steps comes to what the whole run then takes: minutes and memory, predicted and real.

Each subject is tried, predicted as the portal does, then trained and evaluated to the end by the children that the
portal starts. What was measured is kept below the data directory. `manage.py benchmark preflight` calls `run`.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments.preflight import TOLERANCE, Prediction, predict
from gpu_worker.benchmarks.bars import Bar, table
from gpu_worker.benchmarks.recipes import Bench, Subject, write_rows
from gpu_worker.benchmarks.tables import read_pairs
from gpu_worker.benchmarks.tiny_model import make_tiny_model

# Short and long runs, exact and 8-bit arithmetic; all of them in less than half an hour on two cores.
SUBJECTS = ("fast@300", "fast@600", "fast@1000", "fast@2000", "balanced@300", "balanced@500")

Result = dict[str, Any]


def run(
    *,
    rows: Path | None,
    model_dir: Path,
    quick: bool = False,
    test: Path | None = None,
    subjects: Sequence[str] = (),
    progress: Callable[[str], object] = print,
) -> str:
    """Try, predict and run what is not measured yet; return the Markdown section on all that is.

    `rows`: a CSV file with the columns prompt and response. `test`: another one, whose rows are asked in the quality
    report; by default rows that are not learned from. `subjects`: as `recipes.Subject.parse` reads them. `quick`: a few
    rows and a tiny model, in a folder that is emptied first.

    Raises: RuntimeError if a file is missing or a child fails.
    """
    if rows is None or (test is not None and not test.is_file()):
        raise RuntimeError("Trials are measured on a table of your own: --rows TRAIN.csv, and maybe --test TEST.csv.")
    if quick:
        model_dir = make_tiny_model(model_dir.parent.parent / "benchmarks" / "tiny")
    bench = Trials(
        read_pairs(rows), read_pairs(test) if test else [], model_dir, progress, quick=quick, kept_in="preflight"
    )
    bench.measure_all(subjects or SUBJECTS)
    return render(bench.results(), source=rows.parent.name)


class Trials(Bench):
    """Trials and whole runs, each in a folder of its own."""

    def _measure(self, subject: Subject, folder: Path) -> Result:
        """Try a subject and run it to the end."""
        learned = (self._rest if subject.rows is None else self._rest[: subject.rows])[: self._most]
        chosen = self._hyperparameters(subject, learned)
        parts = {name: folder / name for name in ("trial", "whole")}
        for part in parts.values():  # nothing of an interrupted measurement: its time would be missing
            shutil.rmtree(part, ignore_errors=True)
            write_rows(part, train=learned, validation=self._held, heldout=self._test)
            if not self._test:
                shutil.copy(part / "data" / "validation.jsonl", part / "data" / "heldout.jsonl")
        self._write_spec(parts["trial"], chosen, preflight=True)
        trial, trial_s = self._timed("gpu_worker.trainer", parts["trial"], subject.name)
        predicted = predict(trial["preflight"], max_minutes=chosen.max_minutes, price_per_hour=0.0)
        if predicted is None:
            raise RuntimeError(f"The trial of {subject.name} told too little: {trial['preflight']}")
        self._progress(f"{subject.name}: {predicted.seconds / 60:.1f} min predicted by {trial_s:.0f} s")
        self._write_spec(parts["whole"], chosen, evaluation={"rows": chosen.evaluation_rows, "untuned": True})
        trained, training_s = self._timed("gpu_worker.trainer", parts["whole"], subject.name)
        evaluated, evaluation_s = self._timed("gpu_worker.evaluator", parts["whole"], subject.name)
        result = {
            "subject": subject.name,
            "rows": len(learned),
            "asked_rows": evaluated["evaluated"]["rows"],
            "steps": trained["finished"]["step"],
            "trial_s": trial_s,
            "measured": trial["preflight"],
            "predicted": predicted.to_dict(),
            "training_s": training_s,
            "evaluation_s": evaluation_s,
            "finished": trained["finished"],
        }
        self._progress(f"{subject.name}: {(training_s + evaluation_s) / 60:.1f} min in fact")
        return result

    def _timed(self, module: str, folder: Path, name: str) -> tuple[dict[str, dict[str, Any]], float]:
        started = time.monotonic()
        return self._child(module, folder, f"{name}, {folder.name}"), round(time.monotonic() - started, 1)


def render(results: Sequence[Result], *, source: str) -> str:
    """Return the section: what trials predicted, what was, and the error of it."""
    lines = [
        "| recipe | rows | steps | trial, s | whole run, min: predicted | real | error "
        "| of it training: predicted | real | quality report: predicted | real "
        "| peak memory, MB: predicted | real | error |",
        "|" + "---|" * 14,
    ]
    for one in sorted(results, key=lambda one: (one["rows"], one["subject"])):
        told = Prediction(**one["predicted"])
        report_s = told.evaluation_s or 0.0
        whole_s = one["training_s"] + one["evaluation_s"]
        memory = one["finished"]["peak_memory_bytes"]
        minutes = [told.seconds, whole_s], [told.seconds - report_s, one["training_s"]], [report_s, one["evaluation_s"]]
        cells = [f"{seconds / 60:.1f}" for pair in minutes for seconds in pair]
        cells.insert(2, _error(told.seconds, whole_s))
        memories = [
            f"{told.peak_memory_bytes / 1e6:,.0f}",
            f"{memory / 1e6:,.0f}",
            _error(told.peak_memory_bytes, memory),
        ]
        head = [one["subject"].split("@")[0], f"{one['rows']:,}", f"{one['steps']:,}", f"{one['trial_s']:.0f}"]
        lines.append(f"| {' | '.join([*head, *cells, *memories])} |")
    return "\n\n".join(
        [
            "## Trials",
            f"What a trial of 20 steps predicts for a whole run, its quality report included, and what the run then "
            f"took, on {source}. The bar is {TOLERANCE:.0%}. An error below zero: less was predicted than it was.",
            "\n".join(lines),
            table([bar for one in results for bar in _bars(one)]),
        ]
    )


def _bars(one: Result) -> list[Bar]:
    """Return the bars of a whole run's time and memory."""
    told = Prediction(**one["predicted"])
    pairs = {
        "minutes": (told.seconds, one["training_s"] + one["evaluation_s"]),
        "memory": (told.peak_memory_bytes, one["finished"]["peak_memory_bytes"]),
    }
    return [
        Bar.at_most(
            f"{one['subject']}: {what}, error", TOLERANCE, abs(predicted / real - 1) if real else None, "{:.0%}"
        )
        for what, (predicted, real) in pairs.items()
    ]


def _error(predicted: float, real: float) -> str:
    return f"{predicted / real - 1:+.0%}" if real else "–"
