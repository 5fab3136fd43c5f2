"""Set the project up and run or test it: `python3 bootstrap.py run|test|lock`, usually through make.

Standard library only, because it runs before anything is installed. Each step is skipped when what
it makes is there already, so a second start takes seconds. Everything is made below this folder.

Environment: TORCH_SPEC (default torch==2.13.0) and TORCH_INDEX_URL choose the torch build;
TUNEPORT_ACCEPT_CUDA=1 permits a build that brings gigabytes of CUDA libraries;
TUNEPORT_DATA_DIR is where data go (default var); DATABASE_URL is a PostgreSQL server to use instead of our own.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

if sys.version_info < (3, 11):  # noqa: UP036 - this file must be able to say so to an older one
    sys.exit(f"Tuneport needs Python 3.11 or newer; this is {sys.version.split()[0]}. Try: make run PYTHON=python3.11")

import tomllib

PROJECT = Path(__file__).resolve().parent
VENV = PROJECT / ".venv"
PYTHON = VENV / "bin" / "python"
LOCK = PROJECT / "requirements.lock"
DATA = Path(os.environ.get("TUNEPORT_DATA_DIR") or PROJECT / "var").resolve()
LOG = DATA / "logs" / "setup.log"
TORCH = os.environ.get("TORCH_SPEC") or "torch==2.13.0"
TORCH_INDEX = os.environ.get("TORCH_INDEX_URL")
GPU_DEVICE = Path("/dev/nvidia0")
NEWS_EVERY_S = 15
TESTS_FAILED = 1  # pytest's exit code for "tests ran, some failed"

MYPY = ["-m", "mypy", "portal", "datasets_app", "experiments", "deployments", "gpu_worker"]
IMPORT_LAW = ["-c", "from importlinter.cli import lint_imports_command as check; check()"]
# Everything that must hold before a change is handed in; the tests come last, so that their summary does too.
CHECKS: tuple[tuple[str, list[str]], ...] = (
    ("layout", ["-m", "ruff", "format", "--check", "."]),
    ("lint", ["-m", "ruff", "check", "."]),
    ("types", MYPY),
    ("direction of imports", IMPORT_LAW),
    ("migrations", ["manage.py", "makemigrations", "--check", "--dry-run"]),
    ("tests", ["-m", "pytest"]),
)
# All tests share the processors among processes, file by file; a few chosen ones begin sooner in one. One process more
# than processors, because many tests wait for processes of their own; the quick ones do not.
PROCESSORS = len(os.sched_getaffinity(0))
SIDE_BY_SIDE = ["-n", str(PROCESSORS + 1), "--dist", "loadfile"]
FAST_SIDE_BY_SIDE = ["-n", str(PROCESSORS), "--dist", "loadfile"]
FAST = ["-m", "not slow and not browser and not database"]


class SetupError(Exception):
    """A step of the set-up failed; the message says what to do."""


def main() -> int:
    """Do what the command line asks for; return the exit code."""
    what, *arguments = sys.argv[1:] or ["help"]
    os.chdir(PROJECT)
    # Many processes begin here, and each would compile the whole project again.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    try:
        if what == "run":
            return run(arguments)
        if what == "test":
            return test(arguments)
        if what == "lock":
            return write_lock()
    except SetupError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; start again to go on from here.", file=sys.stderr)
        return 130
    print(__doc__)
    return 2


def run(arguments: list[str]) -> int:
    """Set up what is missing and become the portal, which runs until Ctrl-C."""
    set_up(extras=())
    demo = [] if os.environ.get("TUNEPORT_ENV") == "production" else ["--demo"]
    step("database, static files, demo data", [str(PYTHON), "manage.py", "prepare", *demo])
    sys.stdout.flush()
    os.execv(PYTHON, [str(PYTHON), "manage.py", "up", *arguments])  # noqa: S606 - no shell is meant


def test(arguments: list[str]) -> int:
    """Set up, then make all checks; return 1 if any failed. Arguments go to pytest, and then only tests run.

    `--fast` alone leaves out the slow tests and those with a browser or a database.
    """
    set_up(extras=("test",))
    find_programs()
    failed = []
    for name, command in CHECKS:
        if arguments and name != "tests":
            continue
        print(f"\n== {name}", flush=True)
        started = time.monotonic()
        code = check(name, command, arguments)
        print(f"== {name}: {'failed' if code else 'good'} after {time.monotonic() - started:.0f} s", flush=True)
        if code:
            failed.append(name)
    print("\nFailed: " + ", ".join(failed) if failed else "\nEverything is good.", flush=True)
    return 1 if failed else 0


def check(name: str, command: list[str], arguments: list[str]) -> int:
    """Make one check and return its exit code.

    Tests with real processes can miss a deadline on a busy machine, so those that failed get one more try, in the
    open: both summaries are printed, and what fails twice has failed.
    """
    if name != "tests":
        return subprocess.run([str(PYTHON), *command], check=False).returncode
    if arguments == ["--fast"]:
        arguments = FAST
    several = FAST_SIDE_BY_SIDE if arguments == FAST else [] if arguments else SIDE_BY_SIDE
    code = subprocess.run([str(PYTHON), *command, *several, *arguments], check=False).returncode
    if code != TESTS_FAILED:
        return code
    print("\n== tests that failed, once more", flush=True)
    return subprocess.run([str(PYTHON), *command, *arguments, "--last-failed"], check=False).returncode


def set_up(extras: tuple[str, ...]) -> None:
    """Make the virtual environment, install packages and convert the base model, as far as they are missing."""
    LOG.parent.mkdir(parents=True, exist_ok=True)
    make_venv()
    install(extras)
    step("base model", [str(PYTHON), "-m", "gpu_worker.base_models", str(DATA / "models")])


def make_venv() -> None:
    """Make `.venv`, or make it again when its Python is gone, too old or was only half made."""
    if not works([str(PYTHON), "-c", "import sys, pip; sys.exit(sys.version_info < (3, 11))"]):
        try:
            step("virtual environment", [sys.executable, "-m", "venv", "--clear", str(VENV)])
        except SetupError as error:
            raise SetupError(
                f"{error}\nOn Debian and Ubuntu the module is a package of its own: python3-venv."
            ) from None


def install(extras: tuple[str, ...]) -> None:
    """Install what pyproject.toml declares, in the versions of requirements.lock, unless that was done before."""
    wanted = requirements(extras)
    stamp = VENV / f"installed-{'-'.join(('base', *extras))}"
    lock_text = LOCK.read_text() if LOCK.exists() else ""
    content = json.dumps([wanted, lock_text, TORCH, TORCH_INDEX, os.fspath(sys.version)])
    fingerprint = hashlib.sha256(content.encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == fingerprint:
        return
    # not compiled: Python does that on first import, and most modules are never imported
    pip = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--no-compile"]
    if not has_torch():
        source = ["--index-url", TORCH_INDEX] if TORCH_INDEX else []
        refuse_cuda([*pip, "--no-deps", *source, TORCH])
        step("PyTorch", [*pip, "--no-deps", *source, TORCH])
    constraints = VENV / "constraints.txt"
    constraints.write_text("\n".join(line for line in lock_text.splitlines() if not line.startswith("torch==")))
    step(
        "packages",
        [*pip, "--constraint", str(constraints), *(line for line in wanted if not line.startswith("torch="))],
    )
    stamp.write_text(fingerprint)


def requirements(extras: tuple[str, ...]) -> list[str]:
    """Return the requirement lines of pyproject.toml with those of the extras."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines: list[str] = list(project["dependencies"])
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    return lines


def has_torch() -> bool:
    """Tell whether the wanted torch is installed; another build of the same version will do."""
    version = TORCH.partition("==")[2].split("+")[0]
    program = f"import importlib.metadata as m, sys; sys.exit(m.version('torch').split('+')[0] != {version!r})"
    return bool(version) and works([str(PYTHON), "-c", program])


def refuse_cuda(command: list[str]) -> None:
    """Stop before a torch build is downloaded that brings CUDA to a machine that has no use for it."""
    if sys.platform != "linux" or os.environ.get("TUNEPORT_ACCEPT_CUDA") or GPU_DEVICE.exists():
        return
    asked = subprocess.run(
        [*command, "--dry-run", "--quiet", "--report", "-"], capture_output=True, text=True, check=False
    )
    if asked.returncode:
        raise SetupError(f"{TORCH} was not found by pip:\n{asked.stderr.strip()}")
    needs = json.loads(asked.stdout)["install"][0]["metadata"].get("requires_dist", [])
    if any(re.match("nvidia|cuda", line) and "extra ==" not in line for line in needs):
        raise SetupError(
            f"pip would take a {TORCH} with several gigabytes of CUDA libraries, and this machine has no NVIDIA GPU.\n"
            "Name an index of CPU builds:  make run TORCH_INDEX_URL=...\n"
            "or take the large one:        make run TUNEPORT_ACCEPT_CUDA=1"
        )


def find_programs() -> None:
    """Install what tests run beside Python where that is possible; without it they are skipped and say so."""
    chromium = ("chromium", "chromium-browser", "google-chrome")
    if not os.environ.get("CHROMIUM"):
        find_program("Chromium", chromium, package="chromium", tests="the browser tests")
    find_program("Node.js", ("node",), package="nodejs", tests="the JavaScript examples")


def find_program(title: str, names: tuple[str, ...], *, package: str, tests: str) -> None:
    """Install a program of which none of the names is found; if that fails, say which tests are skipped."""
    if any(shutil.which(name) for name in names):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        print(f"{title} was not found: {tests} will be skipped. To run them: apt-get install {package}", flush=True)
        return
    try:
        step("package lists", ["apt-get", "update", "-q"])
        step(title, ["apt-get", "install", "-q", "-y", "--no-install-recommends", package])
    except SetupError as error:
        print(f"{error}\n{tests.capitalize()} will be skipped.", file=sys.stderr, flush=True)


def write_lock() -> int:
    """Write requirements.lock: the versions of everything that pyproject.toml needs, as installed in `.venv`."""
    names = closure_command(requirements(("test", "benchmark")))
    found = subprocess.run(names, capture_output=True, text=True, check=False)
    if found.returncode:
        raise SetupError(f"Install all extras first (make test). {found.stderr.strip().splitlines()[-1]}")
    heading = "# Versions that were tried together; constraints for pip. Made by `make lock`.\n"
    LOCK.write_text(heading + found.stdout)
    print(f"{LOCK.name}: {len(found.stdout.splitlines())} packages")
    return 0


def closure_command(lines: list[str]) -> list[str]:
    """Return a command, for the environment's Python, that prints `name==version` of all that `lines` need."""
    program = """
import sys
from importlib.metadata import distribution
from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.utils import canonicalize_name

versions, seen, waiting = {}, set(), [Requirement(line) for line in sys.argv[1:]]
while waiting:
    wanted = waiting.pop()
    key = (canonicalize_name(wanted.name), tuple(sorted(wanted.extras)))
    if key in seen or not (wanted.marker is None or wanted.marker.evaluate({"extra": ""})):
        continue
    seen.add(key)
    found = distribution(wanted.name)
    versions[key[0]] = found.version.split("+")[0]  # a local build such as +cpu has no meaning elsewhere
    for line in found.requires or ():
        needed = Requirement(line)
        marker, needed.marker = needed.marker, None
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *wanted.extras)):
            waiting.append(needed)
for name in sorted(versions):
    print(f"{name}=={versions[name]}")
"""
    return [str(PYTHON), "-c", program, *lines]


def works(command: list[str]) -> bool:
    """Tell whether a command can be run and succeeds."""
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def step(title: str, command: list[str]) -> None:
    """Run a command quietly, showing that it goes on and how long it took. Raises: SetupError when it fails."""
    started = time.monotonic()
    lively = sys.stdout.isatty()
    next_news = NEWS_EVERY_S
    with LOG.open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                time.sleep(0.1)
                elapsed = time.monotonic() - started
                if lively and elapsed > 0.5:
                    print(f"\r\x1b[K{title} … {elapsed:.0f} s  {last_line()[:70]}", end="", flush=True)
                elif not lively and elapsed > next_news:
                    print(f"{title} … {elapsed:.0f} s", flush=True)
                    next_news += NEWS_EVERY_S
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if lively:
        print("\r\x1b[K", end="")
    if process.returncode:
        tail = "\n".join(LOG.read_text(errors="replace").splitlines()[-30:])
        raise SetupError(f"{title}: failed. The end of {LOG.name}:\n{tail}")
    print(f"{title}: {time.monotonic() - started:.1f} s", flush=True)


def last_line() -> str:
    """Return the last line that the running step wrote."""
    with LOG.open("rb") as log:
        log.seek(max(0, LOG.stat().st_size - 400))
        lines = log.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


if __name__ == "__main__":
    sys.exit(main())
