"""Writes files and folders so that a crash at any moment leaves either the old state or the new one."""

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gpu_worker.trainer.errors import TrainingError

SPARE_BYTES = 64 * 1024 * 1024  # left free for logs and for whoever shares the disk


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_space(folder: Path, needed_bytes: int) -> None:
    """Raise TrainingError (disk_full) unless the disk of `folder` has `needed_bytes` and a little more to spare."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes + SPARE_BYTES:
        raise _disk_full(f"{needed_bytes / 1e6:.0f} MB are needed and {free / 1e6:.0f} MB are free")


@contextmanager
def disk_full_is_an_error_of_ours() -> Iterator[None]:
    """Turn the operating system's "no space left" into TrainingError (disk_full)."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _disk_full(str(error.strerror)) from error
        raise
    except Exception as error:
        # safetensors, written in Rust, reports input/output errors by text only
        if "No space left" in str(error) or "os error 28" in str(error):
            raise _disk_full("no space left") from error
        raise


def publish_folder(target: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a folder beside `target`, make it durable, then put it in place of `target` in one step.

    Raises: TrainingError (disk_full); `target` is then what it was before.
    """
    aside = target.with_name(f".{target.name}.new")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        with disk_full_is_an_error_of_ours():
            aside.mkdir(parents=True)
            write(aside)
            for path in (*sorted(aside.rglob("*")), aside):
                _fsync(path)
            _replace_folder(aside, target)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def publish_text(target: Path, text: str) -> None:
    """Write a text file in one durable step."""
    aside = target.with_name(f".{target.name}.new")
    with disk_full_is_an_error_of_ours():
        aside.write_text(text, encoding="utf-8")
        _fsync(aside)
        aside.replace(target)
        _fsync(target.parent)


def _replace_folder(aside: Path, target: Path) -> None:
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():  # a folder cannot be renamed over a full one
        target.rename(old)
    aside.rename(target)
    _fsync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _disk_full(what: str) -> TrainingError:
    return TrainingError(
        "disk_full", f"The disk is full: {what}. Free space on the node, then resume; the last checkpoint is whole."
    )
