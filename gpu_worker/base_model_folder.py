"""What a base model folder may contain, and the manifest that pins it.

A base model is a folder of safetensors weights, JSON and a chat template.  Its `manifest.json` names
the hash of each file; the `revision` is the hash of that list, so two nodes that show the same
revision hold the same bytes.  Nothing here executes or unpickles what it reads.
"""

import hashlib
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
SMALL_FILE_BYTES = 16 * 1024 * 1024
LARGEST_HEADER_BYTES = 100 * 1024 * 1024

DATA_SUFFIXES = frozenset({".safetensors", ".json", ".jinja", ".txt", ".model", ".md"})
PLAIN_NAMES = frozenset({"LICENSE", "NOTICE", ".gitattributes"})
# Their keys are words, and any word may be in them.
VOCABULARIES = frozenset({"tokenizer.json", "vocab.json"})
CODE_KEYS = frozenset({"auto_map", "custom_pipelines", "trust_remote_code"})


class BaseModelError(ValueError):
    """A base model cannot be fetched or must not be used; the message says why."""


@dataclass(frozen=True)
class BaseModelFolder:
    """What is known of a folder that passed `verify_folder`."""

    path: Path
    revision: str
    model_type: str
    size_bytes: int
    context_length: int | None


def verify_folder(path: Path) -> BaseModelFolder:
    """Read every byte of a base model folder and return what it is.

    The revision is computed from the files themselves; a manifest, where there is one, must agree.
    Raises: BaseModelError for anything that could execute (pickles, Python, `auto_map`), for links,
    damaged weights or content that differs from the manifest.
    """
    if not path.is_dir():
        raise BaseModelError(f"{path.name}: there is no such folder.")
    files = list(content_files(path))
    for file in files:
        check_file(path, file)
    config = read_json_object(path / "config.json")
    if not any(file.suffix == ".safetensors" for file in files):
        raise BaseModelError(f"{path.name}: there are no safetensors weights.")
    check_index(path)
    hashes = file_hashes(path)
    check_manifest(path, hashes)
    return BaseModelFolder(
        path=path,
        revision=revision_of(hashes),
        model_type=str(config.get("model_type", "unknown")),
        size_bytes=sum(size for size, _ in hashes.values()),
        context_length=config.get("max_position_embeddings"),
    )


def is_intact(path: Path) -> bool:
    """Tell quickly whether a folder is as its manifest says: all sizes, and hashes of small files."""
    try:
        listed = read_json_object(path / MANIFEST)["files"]
        present = {str(file.relative_to(path)): file for file in content_files(path)}
        return present.keys() == listed.keys() and all(
            file.stat().st_size == listed[name]["size_bytes"]
            and (file.stat().st_size > SMALL_FILE_BYTES or sha256_of(file) == listed[name]["sha256"])
            for name, file in present.items()
        )
    except (OSError, KeyError, TypeError, BaseModelError):
        return False


def write_manifest(path: Path, *, source: dict[str, str]) -> str:
    """Write `manifest.json` for the files in `path` and return the revision it pins."""
    hashes = file_hashes(path)
    revision = revision_of(hashes)
    listed = {name: {"size_bytes": size, "sha256": digest} for name, (size, digest) in hashes.items()}
    manifest = {"format": 1, "revision": revision, "source": source, "files": listed}
    (path / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return revision


def manifest_revision(path: Path) -> str:
    """Return the revision that a folder's manifest pins, without reading the weights."""
    revision = read_json_object(path / MANIFEST).get("revision")
    if not isinstance(revision, str):
        raise BaseModelError(f"{path.name}: the manifest names no revision.")
    return revision


def content_files(path: Path) -> Iterator[Path]:
    """Yield each file below `path` except the manifest. Raises: BaseModelError for links."""
    for entry in sorted(path.rglob("*")):
        if entry.is_symlink():
            raise BaseModelError(f"{entry.name}: links are not allowed in a base model folder.")
        if entry.is_file() and entry != path / MANIFEST:
            yield entry


def check_file(root: Path, file: Path) -> None:
    """Refuse a file of a kind that may execute, and one that is not what its name says."""
    name = file.relative_to(root)
    if file.suffix not in DATA_SUFFIXES and file.name not in PLAIN_NAMES:
        raise BaseModelError(f"{name}: only safetensors weights, JSON, text and chat templates are allowed.")
    if file.suffix == ".safetensors":
        check_safetensors(name, file)
    elif file.suffix == ".json" and file.name not in VOCABULARIES:
        found = CODE_KEYS & keys_within(parse_json(file))
        if found:
            raise BaseModelError(
                f"{name}: {', '.join(sorted(found))} asks for code of the model's own, which is never run."
            )


def check_safetensors(name: Path, file: Path) -> None:
    """Refuse weights whose header is damaged or does not account for every byte of the file."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        prefix = stream.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
        if length > min(size - 8, LARGEST_HEADER_BYTES):
            raise BaseModelError(f"{name}: this is not a complete safetensors file.")
        try:
            header = json.loads(stream.read(length))
            end = max((entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"), default=0)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise BaseModelError(f"{name}: the safetensors header is damaged.") from error
    if end != size - 8 - length:
        raise BaseModelError(f"{name}: the safetensors file is cut short or has bytes that belong to no tensor.")


def check_index(path: Path) -> None:
    """Refuse an index of weight files that names files elsewhere or files that are missing."""
    index = path / "model.safetensors.index.json"
    if not index.exists():
        return
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise BaseModelError(f"{index.name}: there is no weight map.")
    for shard in sorted(set(map(str, weight_map.values()))):
        if Path(shard).name != shard or not (path / shard).is_file():
            raise BaseModelError(f"{index.name}: the weight file {shard} is not in the folder.")


def check_manifest(path: Path, hashes: dict[str, tuple[int, str]]) -> None:
    """Refuse content that differs from the manifest. A folder without one is fine."""
    if (path / MANIFEST).exists() and manifest_revision(path) != revision_of(hashes):
        raise BaseModelError(f"{path.name}: the files differ from those that were approved (see {MANIFEST}).")


def file_hashes(path: Path) -> dict[str, tuple[int, str]]:
    """Return {relative name: (size in bytes, SHA-256)} of each file but the manifest."""
    return {str(file.relative_to(path)): (file.stat().st_size, sha256_of(file)) for file in content_files(path)}


def revision_of(hashes: dict[str, tuple[int, str]]) -> str:
    """Return the hash over names, sizes and hashes of all files."""
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in `path`. Raises: BaseModelError when it is missing or no object."""
    if not path.is_file():
        raise BaseModelError(f"{path.name}: the file is missing.")
    content = parse_json(path)
    if not isinstance(content, dict):
        raise BaseModelError(f"{path.name}: this is not a JSON object.")
    return content


def parse_json(path: Path) -> Any:
    """Return the JSON value in `path`. Raises: BaseModelError when it is no valid JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BaseModelError(f"{path.name}: this is not valid JSON.") from error


def keys_within(value: Any) -> set[str]:
    """Return every key of every object in a parsed JSON value, however deep."""
    keys: set[str] = set()
    waiting = [value]
    while waiting:
        current = waiting.pop()
        if isinstance(current, dict):
            keys |= current.keys()
            waiting += current.values()
        elif isinstance(current, list):
            waiting += current
    return keys
