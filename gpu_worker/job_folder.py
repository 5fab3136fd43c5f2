"""The folder in which one run is trained: what it is given, where it leaves what, and who may write in it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.utils.translation import gettext as _

from datasets_app.answer_schemas.origins import current_schema
from datasets_app.models import DatasetVersion, Split
from datasets_app.store import RowsHash, WrittenRows, content_hash, read_all_ids, read_jsonl
from datasets_app.stored_rows import count_storage, exported, tokens_folder
from experiments.models import Adapter, Run
from experiments.results import ADAPTER_FILES, adapter_files
from gpu_worker.base_model_folder import MANIFEST, is_intact, manifest_revision, sha256_of
from portal.process_table import mentions, signal_group
from portal.rls import all_teams

# Runs of one experiment are compared, so all are asked the same rows, whatever seed they were trained with.
_EVALUATION_SEED = 1
# The splits that the trainer may read: the first to learn from, the second to watch itself.
LEARNED_FROM = (Split.TRAIN, Split.VALIDATION)
# How long the children of a killed supervisor may take to write a checkpoint before they are killed.
_ORPHAN_LIMIT_S = 45.0
_ORPHAN_KILL_LIMIT_S = 15.0
_POLL_S = 0.2
_MOST_KEPT_TOKENS = 6  # files per dataset version: training and validation rows for three base models or lengths


class JobError(Exception):
    """A run cannot be prepared; the message tells people what to do."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class FolderBusy(Exception):
    """Another machine still works in this folder."""


@dataclass(frozen=True)
class JobFolder:
    """The places inside a run's folder."""

    root: Path

    @property
    def data(self) -> Path:
        """The rows: train.jsonl, validation.jsonl, heldout.jsonl."""
        return self.root / "data"

    @property
    def tokens(self) -> Path:
        """Rows as the trainer encoded them, now or in an earlier run (see `trainer/token_cache.py`)."""
        return self.root / "tokens"

    @property
    def events(self) -> Path:
        """What the children said, one JSON object per line."""
        return self.root / "events.jsonl"

    @property
    def adapter(self) -> Path:
        """The adapter that the trainer leaves."""
        return self.root / "adapter"

    @property
    def start(self) -> Path:
        """The adapter that the run starts from, if it continues another one."""
        return self.root / "start"

    @property
    def checkpoints(self) -> Path:
        """Folder of `step-<n>` folders."""
        return self.root / "checkpoints"

    @property
    def evaluation(self) -> Path:
        """What the evaluator reads and writes besides the rows."""
        return self.root / "evaluation"

    @property
    def predictions(self) -> Path:
        """The answers of both models to the held-out rows."""
        return self.evaluation / "predictions.jsonl"

    @property
    def untuned_cache(self) -> Path:
        """Answers of the untuned model that an earlier run has asked for already."""
        return self.evaluation / "untuned-cache.jsonl"

    @property
    def spec(self) -> Path:
        """What was ordered."""
        return self.root / "spec.json"

    @contextlib.contextmanager
    def locked(self, while_waiting: Callable[[], None]) -> Iterator[int]:
        """Hold the folder alone; yield the lock's descriptor, for children to inherit.

        The lock lasts until supervisor *and* children are gone, so after kill -9 of a supervisor the next one waits
        here until its orphans have saved their state; orphans that take too long are killed.
        Raises: FolderBusy, and whatever `while_waiting` raises.
        """
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not _take(descriptor, while_waiting, _ORPHAN_LIMIT_S):
                self._kill_orphan()
                if not _take(descriptor, while_waiting, _ORPHAN_KILL_LIMIT_S):
                    raise FolderBusy(str(self.root))
            yield descriptor
        finally:
            os.close(descriptor)

    def note_child(self, pid: int) -> None:
        """Remember the running child for the case that its supervisor is killed."""
        (self.root / "child.pid").write_text(str(pid))

    def _kill_orphan(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            pid = int((self.root / "child.pid").read_text())
            if mentions(pid, str(self.root)):
                signal_group(pid, signal.SIGKILL)

    def tidy(self) -> None:
        """Remove what nobody needs after the end: rows, checkpoints, and the copy of the adapter."""
        for folder in (self.data, self.tokens, self.checkpoints, self.start, self.adapter, self.root / "tmp"):
            shutil.rmtree(folder, ignore_errors=True)


def _take(descriptor: int, while_waiting: Callable[[], None], limit_s: float) -> bool:
    deadline = time.monotonic() + limit_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            while_waiting()
            time.sleep(_POLL_S)
        else:
            return True


# --- preparing ---------------------------------------------------------------------------------------------------


def prepare(folder: JobFolder, run: Run, *, keep_adapter: bool = False) -> None:
    """Fill the folder with everything that trainer and evaluator need; checkpoints of an earlier attempt stay.

    `keep_adapter`: the adapter that is there is finished and only has to be evaluated.

    Raises: JobError if rows or base model are not those that were ordered; OSError.
    """
    _require_base_model(run)
    _bring_rows(folder, run.dataset_version, asked_split(run))
    _offer_tokens(folder, run.dataset_version)
    if not keep_adapter:
        shutil.rmtree(folder.adapter, ignore_errors=True)  # what an interrupted attempt had learned so far
    folder.evaluation.mkdir(exist_ok=True)
    _bring_start(folder, run)
    if run.is_evaluation:
        _bring_measured(folder, run)
    write_spec(folder, run)


def write_spec(folder: JobFolder, run: Run, *, keep_only: bool = False) -> None:
    """Write spec.json; it says `resume` as soon as there is a checkpoint to go on from.

    `keep_only`: the checkpoint is to become the result, and nothing more is learned.
    """
    content = {
        "format": 1,
        "run": str(run.pk),
        "base_model": {
            "slug": run.base_model.slug,
            "path": str(run.base_model.folder),
            "revision": run.base_revision,
        },
        "hyperparameters": run.hyperparameters,
        "resume": any(folder.checkpoints.glob("step-*")),
        "start_adapter": folder.start.name if run.continue_from_id else None,
        "evaluation": _evaluation_spec(run),
        "preflight": run.is_preflight,
        "keep_only": keep_only,
        "schema": _schema_of(run.dataset_version),
    }
    _write_whole(folder.spec, json.dumps(content, indent=2))


def _schema_of(version: DatasetVersion) -> dict[str, Any] | None:
    """Return the schema that the answers follow: the one a person wrote, else what the doctor found, if it did."""
    with all_teams("a supervisor prepares the run of any team"):
        known = current_schema(version)
    return known.schema if known else None


def _evaluation_spec(run: Run) -> dict[str, float | str]:
    chosen = run.hyperparameters
    # Greedy answers and chats are not mentioned, so that those of runs from before these choices are found again.
    asked: dict[str, float | str] = {
        name: float(chosen[name]) for name in ("temperature", "top_p") if chosen.get("temperature")
    }
    if run.is_evaluation:
        asked["split"] = Split.VALIDATION.value  # answers to these rows are of no use where test rows are asked
    if chosen.get("temperature") and chosen.get("top_k"):
        asked["top_k"] = int(chosen["top_k"])
    if (kind := chosen.get("problem_type", "chat")) != "chat":
        asked["problem_type"] = kind
    elif chosen.get("stop_texts"):
        asked["stop_texts"] = str(chosen["stop_texts"])
    return asked | {
        "rows": int(chosen["evaluation_rows"]),
        "max_new_tokens": int(chosen["max_new_tokens"]),
        "seed": _EVALUATION_SEED,
    }


def _require_base_model(run: Run) -> None:
    model, path = run.base_model, run.base_model.folder
    if not (path / "config.json").is_file():
        raise JobError("bad_base_model", _("The base model '%(model)s' is not on this node.") % {"model": model.slug})
    known = model.revision
    if (path / MANIFEST).is_file():
        known = manifest_revision(path) if is_intact(path) else ""
    if known != run.base_revision or model.revision != run.base_revision:
        raise JobError(
            "bad_base_model",
            _("The base model '%(model)s' has changed since the run was submitted. Submit it again.")
            % {"model": model.slug},
        )


def asked_split(run: Run) -> Split | None:
    """Return the split whose rows both models are asked: the test rows if there are any, else the validation rows.

    The test rows are for a run's result alone: kept weights are measured, and chosen, on validation rows.
    """
    splits = (Split.VALIDATION,) if run.is_evaluation else (Split.TEST, Split.VALIDATION)
    return next((split for split in splits if run.dataset_version.row_count(split)), None)


def _bring_rows(folder: JobFolder, version: DatasetVersion, heldout: Split | None) -> None:
    shutil.rmtree(folder.data, ignore_errors=True)
    folder.data.mkdir()
    present = [split for split in Split if version.row_count(split)]
    try:
        paths = {split: exported(version, split) for split in present}
        # What is checked are the very files that are trained on, not those that they were made from.
        written = {split.value: _describe(path) for split, path in paths.items()}
        intact = content_hash(written) == version.content_hash
        _assert_untouched_test_set(version)
        for split in LEARNED_FROM:
            if split in present:
                _link(paths[split], folder.data / f"{split.value}.jsonl")
        if heldout:
            _link(paths[heldout], folder.data / "heldout.jsonl")
    except (OSError, ValueError, LookupError, TypeError):
        intact = False
    if not intact:
        # A damaged export must not outlive this run; the next one makes it again.
        shutil.rmtree(version.export_path(Split.TRAIN).parent, ignore_errors=True)
        raise JobError(
            "bad_data",
            _("The rows of %(version)s are not those that were imported. Import the dataset again.")
            % {"version": version},
        )


def _assert_untouched_test_set(version: DatasetVersion) -> None:
    """Make sure that no row that the trainer is given is also a test row; only a bug could bring one there."""
    assert Split.TEST not in LEARNED_FROM
    if version.row_count(Split.TEST):
        tested = read_all_ids(version.rows_path(Split.TEST))
        for split in LEARNED_FROM:
            if version.row_count(split):
                assert tested.isdisjoint(read_all_ids(version.rows_path(split))), "a test row is in training"


def _describe(path: Path) -> WrittenRows:
    known, rows = RowsHash(), 0
    for row in read_jsonl(path):
        known.add(row.messages, row.rejected)
        rows += 1
    return WrittenRows(rows, known.hexdigest(), path.stat().st_size)


def _bring_start(folder: JobFolder, run: Run) -> None:
    """Bring the adapter that the run starts from. Raises: JobError if it is not there as it was."""
    shutil.rmtree(folder.start, ignore_errors=True)
    if run.continue_from is None:
        return
    adapter = run.start_adapter or run.continue_from.adapter
    if not _copy_adapter(adapter, ADAPTER_FILES, folder.start):
        message = _("The adapter of %(run)s, from which this run starts, is missing or damaged on this node.")
        raise JobError("bad_settings", message % {"run": run.continue_from})


def _bring_measured(folder: JobFolder, run: Run) -> None:
    """Bring the adapter that is to be evaluated. Raises: JobError if it is not there as it was."""
    adapter = run.start_adapter
    shutil.rmtree(folder.adapter, ignore_errors=True)
    if adapter is None or not _copy_adapter(adapter, adapter_files(adapter.folder), folder.adapter):
        raise JobError("bad_settings", _("The adapter that is to be evaluated is missing or damaged on this node."))


def _copy_adapter(adapter: Adapter, names: Iterable[str], target: Path) -> bool:
    """Copy an adapter's files; return whether they are those that were recorded."""
    target.mkdir()
    try:
        for name in names:
            shutil.copyfile(adapter.folder / name, target / name)
        return sha256_of(target / ADAPTER_FILES[1]) == adapter.sha256
    except FileNotFoundError:
        return False


def _link(source: Path, target: Path) -> None:
    """Put a file at a second place without copying it, where the file system can do that."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)


# --- encoded rows of earlier runs --------------------------------------------------------------------------------


def _offer_tokens(folder: JobFolder, version: DatasetVersion) -> None:
    """Bring the rows that earlier runs have encoded; the trainer takes those whose name fits."""
    folder.tokens.mkdir(exist_ok=True)
    with contextlib.suppress(OSError):  # it only costs time
        for kept in tokens_folder(version).glob("*.safetensors"):
            if not (folder.tokens / kept.name).exists():
                _link(kept, folder.tokens / kept.name)


def keep_tokens(folder: JobFolder, version: DatasetVersion) -> None:
    """Keep with the dataset version what the trainer has encoded, the newest few; they go when the version goes."""
    kept = tokens_folder(version)
    with contextlib.suppress(OSError):
        kept.mkdir(exist_ok=True)  # not its parents: the version may be deleted meanwhile
        for made in folder.tokens.glob("*.safetensors"):
            if not (kept / made.name).exists():
                aside = kept / f".{made.name}.{folder.root.name}"
                _link(made, aside)
                aside.replace(kept / made.name)
        newest_first = sorted(kept.glob("*.safetensors"), key=lambda path: path.stat().st_mtime, reverse=True)
        for old in newest_first[_MOST_KEPT_TOKENS:]:
            old.unlink(missing_ok=True)
        count_storage(version)


# --- the untuned answers of earlier runs -------------------------------------------------------------------------


def offer_untuned_answers(folder: JobFolder, run: Run, earlier: list[Run]) -> bool:
    """Reuse what the untuned model answered in an earlier run that asked the same rows in the same way.

    It answers greedily, so it would say the same again. Return whether there was one.
    """
    for candidate in earlier:
        found = JobFolder(candidate.folder)
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
            if json.loads(found.spec.read_text())["evaluation"] == _evaluation_spec(run):
                answers = [
                    json.loads(line) for line in found.predictions.read_text(encoding="utf-8").split("\n") if line
                ]
                lines = [json.dumps(_untuned_part(answer), ensure_ascii=False) for answer in answers]
                _write_whole(folder.untuned_cache, "".join(line + "\n" for line in lines))
                return bool(lines)
    return False


def _untuned_part(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: answer[name] for name in ("row", "prompt", "expected", "untuned", "untuned_finish")}


def _write_whole(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.new")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)
