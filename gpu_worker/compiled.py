"""Small libraries of C++ kernels: compiled once per machine, kept, and called with the addresses of tensors.

Compiling takes a few seconds with g++ and happens at the first use on a machine; later uses load the file in a
millisecond. torch.compile could make the same kernels, but loads its compiler for six seconds at every start.

Trainers and evaluators only read what is kept: whoever breaks one of them could otherwise leave a library there that an
engine, or another team's trainer, loads. `python -m gpu_worker.compiled FOLDER` compiles for them what is missing; it
is started before them and sees no rows.
"""

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

CACHE_VARIABLE = "TUNEPORT_CACHE"  # a folder that only we can write to; without it every start compiles anew
COMPILE_LIMIT_S = 120
# Sums and maxima may be reordered, as vector instructions do. A NaN still spreads to where it is noticed.
FLAGS = (
    "-std=c++17", "-O3", "-march=native", "-fopenmp", "-fPIC", "-shared", "-fno-math-errno", "-fno-trapping-math",
    "-fassociative-math", "-fno-signed-zeros", "-freciprocal-math",
)  # fmt: skip
X86_FLAGS = ("-mprefer-vector-width=512",)

Signatures = Mapping[str, tuple[type, ...]]


class NativeUnavailable(Exception):
    """There are no compiled kernels on this machine; the text says why."""


@dataclass(frozen=True)
class Library:
    """A source of kernels, and what the compiler is told besides `FLAGS`."""

    source: Path
    flags: tuple[str, ...] = ()

    def kept_in(self, cache: Path) -> Path:
        """Return where it is kept, compiled for this machine."""
        return cache / "kernels" / f"{_key(self.source, self.all_flags)}.so"

    @property
    def all_flags(self) -> tuple[str, ...]:
        """What the compiler is told."""
        return (*FLAGS, *self.flags, *(X86_FLAGS if platform.machine() == "x86_64" else ()))


_HERE = Path(__file__).parent
# Nothing there is allowed to be infinite; a NaN still spreads to the loss, where it is noticed.
TRAINER = Library(_HERE / "trainer" / "fast" / "kernels.cpp", ("-ffinite-math-only",))
# The exponential is exact only in the order in which it is written; what may be summed in any order says so.
ENGINE = Library(_HERE / "engine" / "kernels.cpp", ("-fno-associative-math",))


def cache_in(data: Path) -> Path:
    """Return where an installation with this data folder keeps what it has compiled."""
    return data / "compiled"


def missing(cache: Path) -> list[Library]:
    """Return the libraries that are not kept yet and could be compiled here."""
    if shutil.which("g++") is None:
        return []
    return [library for library in (TRAINER, ENGINE) if not library.kept_in(cache).exists()]


def load_library(library: Library, signatures: Signatures) -> ctypes.CDLL:
    """Return a compiled library; its functions take what `signatures` says and return nothing.

    Raises: NativeUnavailable.
    """
    cache = os.environ.get(CACHE_VARIABLE)
    if cache:
        path = library.kept_in(Path(cache))
        if not path.exists():
            _compile_into(path, library)
        return _open(path, signatures)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernels.so"
        _compile_into(path, library)
        return _open(path, signatures)  # stays mapped when the file is gone


def _open(path: Path, signatures: Signatures) -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise NativeUnavailable("the compiled kernels cannot be loaded") from error
    for name, arguments in signatures.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, None
    return library


def _compile_into(path: Path, library: Library) -> None:
    """Compile aside and rename, so that runs that start together never load half a file."""
    compiler = shutil.which("g++")
    if compiler is None:
        raise NativeUnavailable("this machine has no C++ compiler (g++)")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            aside = Path(folder) / path.name
            command = [compiler, *library.all_flags, str(library.source), "-o", str(aside)]
            subprocess.run(command, check=True, capture_output=True, timeout=COMPILE_LIMIT_S)
            aside.replace(path)
    except PermissionError as error:
        raise NativeUnavailable("they have not been compiled on this machine") from error
    except (OSError, subprocess.SubprocessError) as error:
        raise NativeUnavailable(f"compiling them failed with {type(error).__name__}") from error


def _key(source: Path, flags: tuple[str, ...]) -> str:
    """Return a name that differs wherever the compiled file would: source, options, kind of processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        features = sorted({line for line in lines if line.lower().startswith(("flags", "features", "model name"))})
    except OSError:
        features = [platform.processor()]
    parts = (source.read_text(encoding="utf-8"), *flags, platform.machine(), *features)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def main(cache: Path) -> int:
    """Compile what is missing; return 1 if something cannot be."""
    failed = 0
    for library in missing(cache):
        try:
            _compile_into(library.kept_in(cache), library)
        except NativeUnavailable as reason:
            failed = 1
            logger.warning("%s: %s", library.source, reason)
    return failed


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
