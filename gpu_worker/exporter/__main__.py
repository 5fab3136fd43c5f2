"""`python -m gpu_worker.exporter JOB_DIR`: make the file that JOB_DIR/export.json asks for, telling how far it is."""

from __future__ import annotations

import json
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

from gpu_worker.exporter.errors import ExportError
from gpu_worker.exporter.merge import merged, write_folder

_EVERY_S = 1.0


def main(job: Path) -> int:
    """Make the file; return the exit code. The last line tells {"done": name} or {"error": code, "message": …}."""
    try:
        _say({"done": make(job, _teller())})
    except ExportError as error:
        _say({"error": error.code, "message": str(error)})
        return 1
    return 0


def make(job: Path, done: Callable[[float], None]) -> str:
    """Make the file in `job` and return its name. Raises: ExportError."""
    asked = json.loads((job / "export.json").read_text(encoding="utf-8"))
    model = merged(Path(asked["base"]), Path(asked["adapter"]))
    if asked["kind"] == "gguf":
        from gpu_worker.exporter.gguf_file import write_gguf

        name = f"{asked['name']}-{asked['weights']}.gguf"
        write_gguf(model, job / name, weights=asked["weights"], name=asked["name"], done=done)
        return name
    folder = job / asked["name"]
    write_folder(model, folder, done=lambda share: done(0.8 * share))
    (folder / "README.md").write_text(asked["card"], encoding="utf-8")
    if asked.get("as_folder"):
        done(1.0)
        return str(folder.name)
    name = f"{asked['name']}.zip"
    _zip(folder, job / name)
    done(1.0)
    return name


def _zip(folder: Path, target: Path) -> None:
    """Put a folder into an archive, file by file, and remove each; stored, since weights do not compress."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as bundle:
        for file in sorted(folder.iterdir()):
            bundle.write(file, f"{folder.name}/{file.name}")
            file.unlink()
    folder.rmdir()


def _say(fact: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(fact) + "\n")
    sys.stdout.flush()


def _teller() -> Callable[[float], None]:
    told = [0.0]

    def tell(share: float) -> None:
        if time.monotonic() - told[0] > _EVERY_S:
            told[0] = time.monotonic()
            _say({"progress": round(share, 3)})

    return tell


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
