"""LLaMA-Factory as a peer in the training benchmark: installed in an environment of its own, run on our job folder.

Its parts need other versions than ours, so nothing of it is ever imported here; `llamafactory_child.py` runs inside
its environment and knows nothing of ours.
"""

import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

PACKAGE = "llamafactory==0.9.5"
INSTALL_LIMIT_S = 600
_EMPTY_MODULE = "import pathlib, sysconfig; pathlib.Path(sysconfig.get_path('purelib'), 'torchaudio.py').touch()"
CHILD = Path(__file__).with_name("llamafactory_child.py")


def install(folder: Path, *, progress: Callable[[str], object]) -> tuple[Path, str]:
    """Make the environment if it is not there; return its Python, and why it cannot be used or an empty text.

    torch stays our build: no package may bring another one, least of all one with CUDA.
    """
    python, done = folder / "bin" / "python", folder / "installed"
    if done.exists():
        return python, ""
    progress(f"installing {PACKAGE} into {folder}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    keep = folder.with_name("torch.txt")
    keep.write_text(f"torch=={version('torch')}\n", encoding="utf-8")
    commands: tuple[Sequence[str], ...] = (
        [sys.executable, "-m", "venv", str(folder)],
        [str(python), "-m", "pip", "install", "-q", "-c", str(keep), "torch"],
        [str(python), "-m", "pip", "install", "-q", "-c", str(keep), PACKAGE],
        # PyPI's builds of these load nothing beside a torch without CUDA; text needs neither, but audio is imported.
        [str(python), "-m", "pip", "uninstall", "-q", "-y", "torchvision", "torchaudio"],
        [str(python), "-c", _EMPTY_MODULE],
        [str(python), "-c", "import llamafactory.train.tuner"],
    )
    for command in commands:
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_LIMIT_S)
        except subprocess.TimeoutExpired:
            return python, f"installing took more than {INSTALL_LIMIT_S // 60} minutes"
        except (OSError, subprocess.CalledProcessError) as error:
            words = str(getattr(error, "stderr", "") or error).strip().splitlines()
            return python, words[-1][:200] if words else type(error).__name__
    done.write_text(PACKAGE, encoding="utf-8")
    return python, ""


def command(python: str, job_dir: Path) -> list[str]:
    """Return the command that trains a job folder with it and prints our kind of events."""
    return [python, str(CHILD), str(job_dir)]
