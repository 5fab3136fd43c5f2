"""What a run leaves: the adapter's files at their lasting place, and the judged answers to the held-out rows."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from django.utils.translation import gettext as _

from datasets_app.fields import Field
from datasets_app.models import DatasetVersion, Split
from experiments.models import Adapter, EvaluatedRow, Evaluation, Run
from experiments.problem_file import PROBLEM_FILE
from experiments.problem_results import calibrate_labels, score_problem_file
from experiments.scoring import AnsweredRow, row_score, score_answers
from experiments.scoring.against import measure_of
from experiments.scoring.calibration import EXACT
from experiments.scoring.confidence import calibrate_fields
from experiments.scoring.names import OTHERS, TUNED, UNTUNED
from experiments.scoring.slices import BANDS, OTHER, Slicing, length_bands, slice_by
from experiments.scoring.texts import TextReport, score_texts
from experiments.storable import storable_json, storable_text
from portal.errors import PortalError

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


class IncompleteAdapter(PortalError):
    """The folder that a trainer left is not a whole adapter."""

    code = "incomplete_adapter"


@dataclass(frozen=True)
class PlacedAdapter:
    """An adapter's files at their lasting place, not yet known to the database."""

    id: uuid.UUID
    sha256: str
    size_bytes: int


def is_whole_adapter(folder: Path) -> bool:
    """Tell whether a folder holds a configuration and a safetensors file that is as long as its header says."""
    try:
        json.loads((folder / ADAPTER_FILES[0]).read_text(encoding="utf-8"))
        with (folder / ADAPTER_FILES[1]).open("rb") as file:
            header_length = int.from_bytes(file.read(8), "little")
            if header_length > 100_000_000:
                return False
            header = json.loads(file.read(header_length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            return bool(ends) and file.seek(0, os.SEEK_END) == 8 + header_length + max(ends)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False


def place_adapter(run: Run, source: Path, *, checkpoint: int | None = None) -> PlacedAdapter:
    """Bring the adapter in `source` to its lasting place, in one step; repeating it after a crash does no harm.

    The adapter's id follows from the run's, so that a second attempt finds the same place. `source` stays as it is.
    `checkpoint`: the step, if it is not the run's result.
    Raises: IncompleteAdapter.
    """
    if not is_whole_adapter(source):
        raise IncompleteAdapter(_("The trainer left no complete adapter. Start the run again."))
    name = "adapter" if checkpoint is None else f"checkpoint {checkpoint}"
    adapter = Adapter(id=uuid.uuid5(run.pk, name), team=run.team)
    target = adapter.folder
    aside = target.with_name(f".{target.name}.unfinished")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    for name in adapter_files(source):
        shutil.copyfile(source / name, aside / name)
        _sync(aside / name)
    _sync(aside)
    shutil.rmtree(target, ignore_errors=True)  # left by an attempt that died before the database knew of it
    aside.rename(target)
    _sync(target.parent)
    weights = target / ADAPTER_FILES[1]
    with weights.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return PlacedAdapter(adapter.pk, sha256, sum((target / name).stat().st_size for name in adapter_files(target)))


def adapter_files(folder: Path) -> tuple[str, ...]:
    """Return the names of an adapter's files: one that answers labels or numbers says so in a third."""
    return (*ADAPTER_FILES, PROBLEM_FILE) if (folder / PROBLEM_FILE).is_file() else ADAPTER_FILES


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def record_adapter(run: Run, placed: PlacedAdapter, *, step: int, is_result: bool = True) -> Adapter:
    """Make the adapter known; the result in the transaction that ends its run."""
    adapter = Adapter(
        id=placed.id,
        team=run.team,
        run=run,
        result_of=run if is_result else None,
        base_model=run.base_model,
        step=step,
        sha256=placed.sha256,
        size_bytes=placed.size_bytes,
    )
    adapter.save(force_insert=True)
    return adapter


# --- quality -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judged:
    """The answers of both models to the held-out rows, scored."""

    split: Split
    report: dict[str, Any]
    answers: tuple[EvaluatedRow, ...]


def judge(predictions: Path, split: Split, version: DatasetVersion, origins: Sequence[str] = ()) -> Judged:
    """Score the evaluator's predictions file; which fields are closed is known from all rows of the version.

    `origins`: from which file each row of the split came; nothing is said by source without them.
    Raises: OSError, ValueError, LookupError or TypeError if it is not what an evaluator writes.
    """
    found = list(_predictions(predictions))
    answered = map(AnsweredRow.of_prediction, found)
    ways = _ways(predictions)
    report = score_answers(answered, fields=_known_fields(version), schema=ways.get("schema")).to_dict()
    calibration = [asdict(one) for one in calibrate_fields(found, ways.get("calibration") or {})]
    report["ranking"] = ways.get("ranking") or []
    report["weights"] = ways.get("weights") or EXACT
    report["slices"] = [asdict(one) for one in _slices(found, origins)]
    texts = _texts(found)
    if texts is not None:
        report["texts"] = asdict(texts)
    of_labels = calibrate_labels(predictions.with_name(PROBLEM_FILE), found)
    if of_labels is not None:
        calibration.append(asdict(of_labels))
    report["calibration"] = calibration
    scored = score_problem_file(predictions.with_name(PROBLEM_FILE), found)
    if scored is not None:
        report["problem"] = scored.to_dict()
    storable: Any = storable_json(report)  # models may answer with anything, and reports quote answers
    rows = tuple(_evaluated(item) for item in found)
    for place, (tuned, untuned) in scored.row_scores.items() if scored else ():
        rows[place].tuned_score, rows[place].untuned_score = tuned, untuned
    return Judged(split, storable, rows)


def _slices(found: Sequence[dict[str, Any]], origins: Sequence[str]) -> Iterator[Slicing]:
    """Yield the tuned model's figures by length, language and source of the rows, beside those of everybody else."""
    expected, answers = [item["expected"] for item in found], [item[TUNED] for item in found]
    others = {name: texts for name, texts in _answers(found).items() if name != TUNED}
    measure = measure_of(expected)
    bands, bounds = length_bands([len(item["prompt"]) for item in found])
    yield slice_by("length", bands, expected, answers, others=others, measure=measure, order=BANDS, bounds=bounds)
    yield slice_by("language", _languages(found), expected, answers, others=others, measure=measure)
    if origins and all(item.get("place", len(origins)) < len(origins) for item in found):
        sources = [origins[item["place"]] for item in found]
        yield slice_by("source", sources, expected, answers, others=others, measure=measure)


def _languages(found: Sequence[dict[str, Any]]) -> list[str]:
    """Return the language of each prompt; rare ones are mostly mistakes of the guess, and stand together."""
    from datasets_app.doctor.languages import MIN_SHARE, language_of  # late: its model takes a second

    guessed = [language_of(item["prompt"]) for item in found]
    counts = Counter(guessed)
    return [one if counts[one] >= MIN_SHARE * len(found) else OTHER for one in guessed]


def _texts(found: Sequence[dict[str, Any]]) -> TextReport | None:
    """Return the figures of free text, of everybody who answered all rows."""
    return score_texts([item["expected"] for item in found], _answers(found), [item.get("nats") for item in found])


def _answers(found: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """Return the answers of everybody who answered all rows, by name."""
    names = [name for name in (TUNED, UNTUNED, *OTHERS) if all(item.get(name) is not None for item in found)]
    return {name: [item[name] for item in found] for name in names}


def _ways(predictions: Path) -> dict[str, Any]:
    """Return what the answers were bound to and what was learned about confidence; older evaluators say nothing."""
    path = predictions.with_name("ways.json")
    ways: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return ways


def _known_fields(version: DatasetVersion) -> list[Field] | None:
    """Return the fields that the import found, or None if its report does not tell."""
    try:
        return [
            Field(**{**field, "values": tuple(field["values"]), "counts": tuple(field["counts"])})
            for field in version.report["fields"]
        ]
    except (LookupError, TypeError):
        return None


def _predictions(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def _evaluated(item: dict[str, Any]) -> EvaluatedRow:
    untuned, tuned = row_score(item["expected"], item.get(UNTUNED)), row_score(item["expected"], item[TUNED])
    names = ("prompt", "expected", UNTUNED, TUNED)
    texts = {name: storable_text(str(item.get(name) or "")) for name in names}
    others = {name: storable_text(item[name]) for name in OTHERS if name in item}
    return EvaluatedRow(
        row=item["row"],
        **texts,
        others=others,
        confidence={name: sure[1] for name, sure in item.get("confidence", {}).items()},
        untuned_score=untuned.score,
        tuned_score=tuned.score,
        is_exact=tuned.exact,
    )


def record_evaluation(run: Run, judged: Judged) -> Evaluation:
    """Keep the quality report and the answers behind it."""
    evaluation = Evaluation(team=run.team, run=run, split=judged.split, rows=len(judged.answers), report=judged.report)
    evaluation.save(force_insert=True)
    for answer in judged.answers:
        answer.team, answer.evaluation = run.team, evaluation
    EvaluatedRow.unscoped.bulk_create(judged.answers, batch_size=500)
    return evaluation
