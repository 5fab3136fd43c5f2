"""The kernel's wall around a child: native code, which no rule of Python's holds, meets it too."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpu_worker import compiled, landlock, private_network, socket_filter, wall
from gpu_worker.child_process import ChildProcess, Surroundings
from tests.gpu_worker.trainer.jobs import ROOT

pytestmark = pytest.mark.slow

needs_landlock = pytest.mark.skipif(
    landlock.offered_version() < landlock.OLDEST_VERSION, reason="this kernel offers no Landlock (Linux 5.19)"
)
needs_network = pytest.mark.skipif(
    not private_network.is_offered(), reason="this kernel gives processes no network of their own"
)
needs_seccomp = pytest.mark.skipif(not socket_filter.is_offered(), reason="this kernel offers no seccomp filters")

# What a child tries, with the C library's functions; 0 or more is success, else the error's name is noted.
TRY = """
import ctypes, errno, json, os, pathlib, socket, subprocess, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
job, port = pathlib.Path(sys.argv[-1]), int(sys.argv[1])
outside, base_model = job.parent / "outside", job.parent / "base"

def attempt(function, *arguments):
    arguments = [os.fsencode(a) if isinstance(a, pathlib.Path) else a for a in arguments]
    result = getattr(libc, function)(*arguments)
    return "done" if result >= 0 else errno.errorcode[ctypes.get_errno()]

def connect(family, address, kind=socket.SOCK_STREAM):
    made = libc.socket(family, kind, 0)
    return attempt("connect", made, address, len(address)) if made >= 0 else errno.errorcode[ctypes.get_errno()]

def send(address):
    pair = (ctypes.c_int * 2)()
    made = attempt("socketpair", socket.AF_UNIX, socket.SOCK_DGRAM, 0, pair)
    return attempt("sendto", pair[0], b"row", 3, 0, address, len(address)) if made == "done" else made

def start_as_cuda_does():
    made = libc.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC, 0)
    address = socket.AF_UNIX.to_bytes(2, "little") + b"\\0cuda-uvmfd-" + str(os.getpid()).encode()
    done = [attempt("bind", made, address, len(address)), attempt("listen", made, 16)]
    done.append(attempt("open", pathlib.Path(f"/proc/self/task/{threading.get_native_id()}/comm"), os.O_RDWR))
    return done[0] if len(set(done)) == 1 else str(done)

def run(program):
    try:
        return "done" if subprocess.run([program]).returncode == 0 else ""
    except OSError as error:
        return errno.errorcode[error.errno]

NEW = os.O_CREAT | os.O_WRONLY
here = socket.AF_INET.to_bytes(2, "little") + port.to_bytes(2, "big") + bytes([127, 0, 0, 1]) + bytes(8)
database, packets, datagrams = (
    socket.AF_UNIX.to_bytes(2, "little") + os.fsencode(outside / name) + b"\\0"
    for name in ("socket", "packets", "datagrams")
)
program = job / "program"
program.write_text("#!/bin/sh\\n")
program.chmod(0o700)
tried = {
    "read in the job folder": attempt("open", job / "given", os.O_RDONLY),
    "write in the job folder": attempt("open", job / "made", NEW, 0o600),
    "rename to another folder": attempt("rename", job / "made", job / "tmp" / "made"),
    "read what was compiled": attempt("open", job.parent / "cache" / "kernels" / "kept.so", os.O_RDONLY),
    "write over what was compiled": attempt("open", job.parent / "cache" / "kernels" / "kept.so", os.O_WRONLY),
    "delete what was compiled": attempt("unlink", job.parent / "cache" / "kernels" / "kept.so"),
    "put another in its place": attempt("rename", job / "given", job.parent / "cache" / "kernels" / "kept.so"),
    "leave a library for others": attempt("open", job.parent / "cache" / "kernels" / "made.so", NEW, 0o600),
    "hide the folder of libraries": attempt("rename", job.parent / "cache" / "kernels", job / "tmp" / "kernels"),
    "read the base model": attempt("open", base_model / "config.json", os.O_RDONLY),
    "write into the base model": attempt("open", base_model / "config.json", os.O_WRONLY),
    "read elsewhere": attempt("open", outside / "secret", os.O_RDONLY),
    "list elsewhere": attempt("open", outside, os.O_RDONLY | os.O_DIRECTORY),
    "write elsewhere": attempt("open", outside / "made", NEW, 0o600),
    "delete elsewhere": attempt("unlink", outside / "secret"),
    "link it to here": attempt("link", outside / "secret", job / "secret"),
    "read the supervisor's environment": attempt("open", pathlib.Path(f"/proc/{os.getppid()}/environ"), os.O_RDONLY),
    "run what was written": run(program),
    "signal the supervisor": attempt("kill", os.getppid(), 0),
    "connect to this machine": connect(socket.AF_INET, here),
    "connect to a database's socket": connect(socket.AF_UNIX, database),
    "connect to a service by packets": connect(socket.AF_UNIX, packets, socket.SOCK_SEQPACKET),
    "send to a service": send(datagrams),
    "start as CUDA does": start_as_cuda_does(),
    "name a thread of the supervisor": attempt(
        "open", pathlib.Path(f"/proc/{os.getppid()}/task/{os.getppid()}/comm"), os.O_RDWR
    ),
    "a pair of sockets": "done" if socket.socketpair() else "",
    "another program": run("true"),
}
(job / "tried.json").write_text(json.dumps(tried))
"""
ALLOWED = {
    "read in the job folder", "write in the job folder", "rename to another folder", "read what was compiled",
    "read the base model", "a pair of sockets", "start as CUDA does", "another program",
}  # fmt: skip
SOCKETS = {
    "connect to this machine", "connect to a database's socket", "connect to a service by packets", "send to a service",
}  # fmt: skip


READ = """
import errno, os, pathlib, subprocess, sys
around = pathlib.Path(sys.argv[-1]).parent
for name in ("outside/secret", "."):
    try:
        print(bool(os.listdir(around / name)) if name == "." else (around / name).read_text())
    except OSError as error:
        print(errno.errorcode[error.errno])
print("done" if subprocess.run([around / "program"]).returncode == 0 else "failed")
"""


@pytest.fixture
def places(tmp_path):
    for name in ("job", "outside", "base", "cache"):
        (tmp_path / name).mkdir()
    (tmp_path / "job" / "given").write_text("rows")
    (tmp_path / "outside" / "secret").write_text("somebody else's")
    (tmp_path / "base" / "config.json").write_text("{}")
    (tmp_path / "cache" / "kernels").mkdir()
    (tmp_path / "cache" / "kernels" / "kept.so").write_text("compiled")
    return tmp_path


@pytest.fixture
def listening(places):
    """A service of this machine, and a database's socket among others, all of which take everybody."""
    kinds = {"socket": socket.SOCK_STREAM, "packets": socket.SOCK_SEQPACKET, "datagrams": socket.SOCK_DGRAM}
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        for name, kind in kinds.items():
            local = stack.enter_context(socket.socket(socket.AF_UNIX, kind))
            local.bind(str(places / "outside" / name))
            if kind != socket.SOCK_DGRAM:
                local.listen()
        yield service.getsockname()[1]


def run_child(places, *command, limit_s=60.0, **choice):
    """Run a command as a supervisor would; return its exit code and what it wrote into its log."""
    job = places / "job"
    lock = os.open(job / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    around = Surroundings(
        job=job, project=ROOT, slot=0, slots=1, lock=lock, cache=places / "cache", base_model=places / "base", **choice
    )
    child = ChildProcess(command, around, output=job / "events.jsonl", log=job / "child.log")
    os.close(lock)
    deadline = time.monotonic() + limit_s
    while child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    return child.kill(), (job / "child.log").read_text()


def try_everything(places, port, **choice):
    code, log = run_child(places, sys.executable, "-c", TRY, str(port), **choice)
    assert code == 0, log
    return json.loads((places / "job" / "tried.json").read_text()), log


@needs_landlock
@needs_seccomp
def test_a_child_reaches_its_own_files_and_nobody(places, listening):
    tried, log = try_everything(places, listening)
    assert {what for what, result in tried.items() if result == "done"} - {"signal the supervisor"} == ALLOWED
    assert set(tried.values()) <= {"done", "EACCES", "EPERM", "EXDEV"}
    assert landlock.offered_version() < 6 or tried["signal the supervisor"] == "EPERM"
    assert (places / "outside" / "secret").exists()
    assert log == ""  # nothing is missing, so nothing is said


MEET = """
import json, os, socket, sys
def attempt(function, *arguments):
    try:
        made = function(*arguments)
        return "done"
    except OSError as error:
        return type(error).__name__
with socket.create_server(("127.0.0.1", 0)) as other, open("/dev/shm/shared", "w"):
    tried = {
        "meet another": attempt(socket.create_connection, other.getsockname()),
        "devices": [name for _number, name in socket.if_nameindex()],
        "another machine": attempt(socket.create_connection, ("192.0.2.1", 80), 1),
        "datagrams": attempt(socket.socket, socket.AF_INET, socket.SOCK_DGRAM),
        "other questions to the kernel": attempt(socket.socket, socket.AF_NETLINK, socket.SOCK_RAW, 9),
        "shared memory": os.listdir("/dev/shm"),
    }
    sys.stdout.write(json.dumps(tried))
"""


@needs_landlock
@needs_seccomp
@needs_network
def test_those_who_train_together_reach_each_other_and_nobody_else(places, listening):
    tried, log = try_everything(places, listening, processes=2, more_slots=(1,))
    on_gpus = {"start as CUDA does"} if any(Path("/dev").glob("nvidia*")) else set()
    assert {what for what, result in tried.items() if result == "done"} - {"signal the supervisor"} == (
        ALLOWED - {"start as CUDA does"} | on_gpus
    )
    assert tried["connect to this machine"] == "ECONNREFUSED"  # on their own network nobody listens there
    assert tried["connect to a database's socket"] == tried["send to a service"] == "EACCES"
    assert log == ""
    (places / "job" / "events.jsonl").unlink()
    code, log = run_child(places, sys.executable, "-c", MEET, processes=2, more_slots=(1,))
    assert code == 0, log
    assert json.loads((places / "job" / "events.jsonl").read_text()) == {
        "meet another": "done",
        "devices": ["lo"],
        "another machine": "OSError",
        "datagrams": "PermissionError",
        "other questions to the kernel": "PermissionError",
        "shared memory": ["shared"],
    }
    assert not Path("/dev/shm/shared").exists()


@needs_network
def test_processes_of_an_account_without_privileges_get_a_network_too(places):
    """As another user, whom the kernel lets into a namespace of users first."""
    program = f"""
import ctypes, os, sys
sys.path.insert(0, {str(ROOT)!r})
from gpu_worker import private_network
if os.getuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # dumpable, as every process that was started like that
before = os.getuid()
if not private_network.is_offered():
    sys.exit(3)
private_network.enter_private_network()
sys.exit(0 if os.getuid() == before and os.listdir("/dev/shm") == [] else 1)
"""
    code = subprocess.run([sys.executable, "-c", program], check=False).returncode
    if code == 3:
        pytest.skip("this kernel lets no unprivileged account make a network of its own")
    assert code == 0


def test_processes_are_not_started_together_where_they_cannot_be_apart(places, monkeypatch):
    monkeypatch.setattr(private_network, "_OWN", -1)  # a kernel that knows no such namespaces
    assert not private_network.is_offered()
    with pytest.raises(subprocess.SubprocessError):
        run_child(places, sys.executable, "-c", "pass", processes=2, more_slots=(1,))


@needs_landlock
def test_what_is_kept_in_a_folder_of_the_system_stays_outside(places, listening, monkeypatch):
    beside = places / "program"
    beside.write_text("#!/bin/sh\n")
    beside.chmod(0o700)
    monkeypatch.setattr(wall, "_SYSTEM", (*wall._SYSTEM, str(places)))
    assert try_everything(places, listening)[0]["read elsewhere"] == "done"
    code, log = run_child(places, sys.executable, "-c", READ, data=places / "outside")
    assert code == 0, log
    assert (places / "job" / "events.jsonl").read_text().split() == ["EACCES", "EACCES", "done"]


@needs_landlock
def test_files_are_walled_in_where_sockets_cannot_be(places, listening, monkeypatch):
    monkeypatch.setattr(socket_filter, "is_offered", lambda: False)
    tried, log = try_everything(places, listening)
    assert tried["read elsewhere"] == "EACCES"
    assert landlock.offered_version() < 4 or tried["connect to this machine"] == "EACCES"
    assert log == wall.SOCKETS_ARE_OPEN


@needs_seccomp
def test_sockets_are_walled_off_where_files_cannot_be(places, listening, monkeypatch):
    monkeypatch.setattr(landlock, "offered_version", lambda: 1)
    tried, log = try_everything(places, listening)
    assert {tried[what] for what in SOCKETS} == {"EACCES"}
    assert tried["read elsewhere"] == "done"
    assert log == wall.FILES_ARE_OPEN


def test_a_kernel_that_offers_nothing_runs_the_child_and_says_so_once(places, listening, monkeypatch):
    monkeypatch.setattr(landlock, "offered_version", lambda: 0)
    monkeypatch.setattr(socket_filter, "is_offered", lambda: False)
    tried, log = try_everything(places, listening)
    assert tried["read elsewhere"] == tried["connect to a database's socket"] == "done"
    assert log == wall.FILES_ARE_OPEN + wall.SOCKETS_ARE_OPEN


def test_the_wall_can_be_switched_off(places, listening):
    tried, log = try_everything(places, listening, walled=False)
    assert tried["read elsewhere"] == tried["connect to this machine"] == "done"
    assert log == ""


LOAD = """
import ctypes, os, sys
from pathlib import Path
from gpu_worker.compiled import Library, NativeUnavailable, load_library
job = Path(sys.argv[-1])
(job / "one.cpp").write_text('extern "C" void one(int* out) { *out = 1; }')
answer = ctypes.c_int(0)
if sys.argv[1] == "without": del os.environ["TUNEPORT_CACHE"]
try:
    load_library(Library(job / "one.cpp"), {"one": (ctypes.c_void_p,)}).one(ctypes.addressof(answer))
except NativeUnavailable as reason:
    print(reason)
print(answer.value, "torch" in sys.modules)
"""


def load_behind_the_wall(places, how):
    code, log = run_child(places, sys.executable, "-c", LOAD, how)
    assert code == 0, log
    return (places / "job" / "events.jsonl").read_text()


def test_the_compiler_works_behind_the_wall(places):
    assert load_behind_the_wall(places, "without") == "1 False\n"


COMPILE = """
import torch
import torch._inductor.config
from gpu_worker.trainer.compiling import CompiledForward
layer = torch.nn.Linear(8, 8)
compiled = CompiledForward(lambda x: torch.relu(layer(x)) * 2)
x = torch.ones(3, 8, requires_grad=True)
found = compiled(x=x)
found.sum().backward()
print(torch.allclose(found, torch.relu(layer(x)) * 2), torch._dynamo.utils.counters["stats"]["unique_graphs"])
"""


def test_torch_compiles_behind_the_wall(places):
    code, log = run_child(places, sys.executable, "-c", COMPILE, limit_s=120.0)
    assert code == 0, log
    assert (places / "job" / "events.jsonl").read_text() == "True 1\n"


@needs_landlock
def test_a_child_compiles_nothing_for_others(places):
    assert load_behind_the_wall(places, "with") == "they have not been compiled on this machine\n0 False\n"
    assert [path.name for path in (places / "cache" / "kernels").iterdir()] == ["kept.so"]


def test_a_child_loads_what_was_compiled_for_it(places):
    library = compiled.Library(places / "job" / "one.cpp")
    library.source.write_text('extern "C" void one(int* out) { *out = 1; }')
    compiled._compile_into(library.kept_in(places / "cache"), library)
    assert load_behind_the_wall(places, "with") == "1 False\n"


def test_a_child_finds_our_packages_without_the_folder_they_lie_in(places):
    program = "import gpu_worker.compiled, os, sys; print(sorted(os.listdir('.')), os.getcwd()); os.listdir('..')"
    code, log = run_child(places, sys.executable, "-c", program)
    assert code == 0, log
    names, cwd = (places / "job" / "events.jsonl").read_text().rsplit(" ", 1)
    assert "'gpu_worker'" in names
    assert "var" not in names
    assert cwd.strip().endswith("/tmp/code")
