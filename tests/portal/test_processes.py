"""Services in one terminal: restarted when they die, ended with all that belongs to them. Real processes."""

import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from portal.management.commands import up
from portal.process_table import group_is_alive, living_processes, mentions, process_entry
from portal.processes import Child, ProcessGroup, Service, end_detached

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).resolve().parents[2]
RUNNER = """
import sys
from pathlib import Path
from portal.process_table import has_children
from portal.processes import ProcessGroup, Service

folder = Path(sys.argv[1])
services = [
    Service("steady", [sys.executable, "-u", "-c", sys.argv[2], str(folder)], end_limit_s=3),
    Service("mother", [sys.executable, "-u", "-c", sys.argv[3], str(folder)], stage=1, end_limit_s=1,
            is_healthy=has_children),
]
ProcessGroup(services, record=folder / "services.json", mark=str(folder)).run()
"""
STEADY = """
import os, sys, time
print("steady is", os.getpid())
time.sleep(1000)
"""
# has a child, as a queue's main process has; neither reacts to SIGTERM
MOTHER = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = os.fork()
if child:
    print("mother is", os.getpid(), "with", child)
time.sleep(1000)
"""


def wait_until(happens: Callable[[], object], limit_s: float = 20) -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + limit_s
    while not happens():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.05)


class Terminal:
    """A running process group, its output in a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "output"
        with self.log.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", RUNNER, str(folder), STEADY, MOTHER],
                cwd=PROJECT,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def lines(self, part: str) -> list[list[str]]:
        """The words of each line so far that has `part` in it."""
        return [line.split() for line in self.log.read_text().splitlines() if part in line]

    def wait_for_line(self, part: str, count: int = 1) -> list[str]:
        """The words of the `count`th line with `part`, as soon as it is there."""
        wait_until(lambda: len(self.lines(part)) >= count)
        return self.lines(part)[count - 1]

    def left(self) -> list[int]:
        """All living processes that belong to this terminal."""
        return [entry.pid for entry in living_processes() if mentions(entry.pid, str(self.folder))]


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    """Two services running."""
    running = Terminal(tmp_path)
    yield running
    running.process.kill()
    running.process.wait()
    for pid in running.left():
        os.kill(pid, signal.SIGKILL)


def test_output_is_shown_with_the_name_in_front(terminal: Terminal) -> None:
    assert terminal.wait_for_line("steady is")[:3] == ["steady", "|", "steady"]


def test_a_dead_service_is_started_again(terminal: Terminal) -> None:
    pid = int(terminal.wait_for_line("steady is")[-1])
    os.kill(pid, signal.SIGKILL)
    assert int(terminal.wait_for_line("steady is", 2)[-1]) != pid


def test_what_a_dead_service_leaves_is_killed_before_it_starts_again(terminal: Terminal) -> None:
    words = terminal.wait_for_line("mother is")
    mother, orphan = int(words[4]), int(words[6])
    os.kill(mother, signal.SIGKILL)
    terminal.wait_for_line("mother is", 2)
    assert process_entry(orphan) is None


def test_a_service_without_its_only_child_is_restarted(terminal: Terminal) -> None:
    words = terminal.wait_for_line("mother is")
    time.sleep(3)  # it has been seen at work
    os.kill(int(words[6]), signal.SIGKILL)
    terminal.wait_for_line("does not work any more")
    terminal.wait_for_line("mother is", 2)
    assert process_entry(int(words[4])) is None


def test_a_slow_starter_is_not_taken_for_ill(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr("portal.processes.time.monotonic", lambda: clock[0])
    answers = iter([False, False, True, False])
    child = Child(Service("slow", ["sleep", "60"], is_healthy=lambda _pid: next(answers), settle_s=100))
    child.start({}).close()
    seen = []
    for clock[0] in (1020.0, 1090.0, 1150.0, 1160.0):
        seen.append(child.is_ill())
    assert child.process is not None
    child.process.kill()
    child.process.wait()
    assert seen == [False, False, False, True]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_end_leaves_no_process(terminal: Terminal, number: signal.Signals) -> None:
    terminal.wait_for_line("steady is")
    terminal.wait_for_line("mother is")
    terminal.process.send_signal(number)
    assert terminal.process.wait(10) == 0
    assert terminal.left() == []
    assert not (terminal.folder / "services.json").exists()


def test_after_kill_9_what_is_left_ends_by_itself_or_with_the_next_start(terminal: Terminal) -> None:
    steady = int(terminal.wait_for_line("steady is")[-1])
    mother = int(terminal.wait_for_line("mother is")[4])
    terminal.process.kill()
    terminal.process.wait()
    wait_until(lambda: process_entry(steady) is None)  # the kernel's SIGTERM ended it
    assert process_entry(mother) is not None  # this one ignores SIGTERM
    following = Terminal(terminal.folder)
    following.wait_for_line("mother is")
    assert not group_is_alive(mother)
    following.process.terminate()
    following.process.wait(10)
    assert following.left() == []


def test_the_record_never_condemns_a_stranger(tmp_path: Path) -> None:
    stranger = subprocess.Popen(["sleep", "60"], start_new_session=True)
    record = tmp_path / "services.json"
    record.write_text(json.dumps([stranger.pid]))
    group = ProcessGroup([], record=record, mark=str(tmp_path), output=io.StringIO())
    group._end_leftovers()
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


def patient(is_over: Callable[[], bool], limit_s: float) -> bool:
    """Wait as a process group does, without output."""
    deadline = time.monotonic() + limit_s
    while not is_over() and time.monotonic() < deadline:
        time.sleep(0.05)
    return is_over()


def supervisor(folder: Path, run: str, reaction: str) -> "subprocess.Popen[str]":
    """A detached supervisor of a run that is ready for signals; `reaction` is what it does on SIGTERM."""
    program = textwrap.dedent(f"""
        import os, signal, sys, time
        signal.signal(signal.SIGTERM, lambda *_: {reaction})
        print("ready", flush=True)
        while True: time.sleep(0.1)
    """)
    process = subprocess.Popen(
        [sys.executable, "-c", program, run], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    (folder / f"{run}.pid").write_text(f"{process.pid}\n")
    return process


def test_supervisors_get_time_for_a_checkpoint_and_are_killed_after_it(tmp_path: Path) -> None:
    good = supervisor(tmp_path, "run-1", "(time.sleep(0.5), os._exit(75))")
    stubborn = supervisor(tmp_path, "run-2", "None")
    assert end_detached(tmp_path, patient, limit_s=2) == 2
    assert good.wait(1) == 75
    assert stubborn.wait(1) == -signal.SIGKILL


def test_a_stale_note_of_a_supervisor_is_ignored(tmp_path: Path) -> None:
    stranger = subprocess.Popen(["sleep", "60"])
    (tmp_path / "run-3.pid").write_text(str(stranger.pid))
    (tmp_path / "run-4.pid").write_text("nonsense")
    assert end_detached(tmp_path, patient, limit_s=1) == 0
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


def test_a_second_portal_on_the_same_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    lock = up.only_instance(tmp_path / "run" / "up.lock")
    with pytest.raises(up.CommandError, match=f"already running.*process {os.getpid()}"):
        up.only_instance(tmp_path / "run" / "up.lock")
    os.close(lock)
    os.close(up.only_instance(tmp_path / "run" / "up.lock"))


def test_a_taken_port_is_refused_when_asked_for_and_passed_over_otherwise(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(up, "DEFAULT_PORT", port)
        with pytest.raises(up.CommandError, match=f"Port {port}"):
            up.chosen_port("127.0.0.1", port)
        assert up.chosen_port("127.0.0.1", None) != port
        assert f"Port {port} is taken" in capsys.readouterr().out


def test_a_host_name_becomes_a_node_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "GPU_box 7.example.org")
    assert up.default_node_name() == "gpu-box-7"
