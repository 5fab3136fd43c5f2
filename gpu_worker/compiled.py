"""Small libraries of C++ kernels: compiled once per machine, kept, and called with the addresses of tensors.

Compiling takes a few seconds with g++ and happens at the first use on a machine; later uses load the file in a
millisecond. torch.compile could make the same kernels, but loads its compiler for six seconds at every start.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

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


def load_library(source: Path, signatures: Signatures, *, flags: tuple[str, ...] = ()) -> ctypes.CDLL:
    """Return the compiled source; its functions take what `signatures` says and return nothing.

    Raises: NativeUnavailable.
    """
    flags = (*FLAGS, *flags, *(X86_FLAGS if platform.machine() == "x86_64" else ()))
    cache = os.environ.get(CACHE_VARIABLE)
    if cache:
        path = Path(cache) / "kernels" / f"{_key(source, flags)}.so"
        if not path.exists():
            _compile_into(path, source, flags)
        return _open(path, signatures)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernels.so"
        _compile_into(path, source, flags)
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


def _compile_into(path: Path, source: Path, flags: tuple[str, ...]) -> None:
    """Compile aside and rename, so that runs that start together never load half a file."""
    compiler = shutil.which("g++")
    if compiler is None:
        raise NativeUnavailable("this machine has no C++ compiler (g++)")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            aside = Path(folder) / path.name
            command = [compiler, *flags, str(source), "-o", str(aside)]
            subprocess.run(command, check=True, capture_output=True, timeout=COMPILE_LIMIT_S)
            aside.replace(path)
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
