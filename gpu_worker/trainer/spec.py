"""What was ordered: the job folder's `spec.json`, checked before any weight is loaded."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from experiments.hyperparameters import Hyperparameters
from gpu_worker.trainer.errors import TrainingError

SPEC_FORMAT = 1


@dataclass(frozen=True)
class BaseModel:
    """The frozen model a run starts from; `revision` pins its exact files."""

    slug: str
    path: Path
    revision: str


@dataclass(frozen=True)
class TrainSpec:
    """One run's order, complete and checked."""

    run: str
    base_model: BaseModel
    hyperparameters: Hyperparameters
    resume: bool
    start_adapter: Path | None = None  # a PEFT folder to go on from, instead of a fresh adapter
    path: Literal["auto", "general"] = "auto"  # "general": not by hand even if it could be; for comparisons
    keep_only: bool = False  # the newest checkpoint becomes the result, and nothing more is learned
    preflight: bool = False  # a few steps to tell time and memory; nothing is kept
    schema: Mapping[str, Any] | None = None  # what the dataset's answers follow


@dataclass(frozen=True)
class JobFolder:
    """The places inside a job folder."""

    root: Path

    @property
    def train_rows(self) -> Path:
        """Rows to learn from."""
        return self.root / "data" / "train.jsonl"

    @property
    def validation_rows(self) -> Path:
        """Rows for the validation loss; the file may be missing."""
        return self.root / "data" / "validation.jsonl"

    @property
    def tokens(self) -> Path:
        """Encoded rows, of this run and of earlier ones (see `token_cache`)."""
        return self.root / "tokens"

    @property
    def checkpoints(self) -> Path:
        """Folder of `step-<n>` folders."""
        return self.root / "checkpoints"

    @property
    def adapter(self) -> Path:
        """The result: a PEFT folder."""
        return self.root / "adapter"

    @property
    def kept(self) -> Path:
        """Folder of `step-<n>` PEFT folders, one for each checkpoint, where every one is kept."""
        return self.root / "kept"

    @property
    def report(self) -> Path:
        """What happened, in figures."""
        return self.root / "report.json"


def read_spec(job: JobFolder) -> TrainSpec:
    """Read and check `spec.json`. Raises: TrainingError (internal) naming what is wrong with it."""
    try:
        content = json.loads((job.root / "spec.json").read_text(encoding="utf-8"))
        return _parse(content, job)
    except ValidationError as error:
        fields = ", ".join(".".join(str(part) for part in item["loc"]) for item in error.errors())
        raise TrainingError("internal", f"spec.json has hyperparameters that are not allowed: {fields}.") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError("internal", f"spec.json cannot be used: {type(error).__name__}: {error}.") from error


def _parse(content: dict[str, Any], job: JobFolder) -> TrainSpec:
    if content["format"] != SPEC_FORMAT:
        raise ValueError(f"format {content['format']!r} is not {SPEC_FORMAT}")
    base = content["base_model"]
    return TrainSpec(
        run=str(content["run"]),
        base_model=BaseModel(slug=base["slug"], path=Path(base["path"]), revision=str(base["revision"])),
        hyperparameters=Hyperparameters.model_validate(content["hyperparameters"]),
        resume=bool(content.get("resume", False)),
        # A name inside the job folder, never a path: the order must not reach other teams' files.
        start_adapter=job.root / Path(content["start_adapter"]).name if content.get("start_adapter") else None,
        path="general" if content.get("path") == "general" else "auto",
        keep_only=bool(content.get("keep_only", False)),
        preflight=bool(content.get("preflight", False)),
        schema=content["schema"] if isinstance(content.get("schema"), dict) else None,
    )
