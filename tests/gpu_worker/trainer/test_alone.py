"""The trainer reaches nobody: it opens no connection, and whatever inside of it tries to is refused."""

import subprocess
import sys

import pytest

from tests.gpu_worker.trainer.jobs import ROOT, only, parse, ticket_rows, write_job

TRY = """
import socket
from gpu_worker.trainer.limits import refuse_network
refuse_network()
for attempt in (
    lambda: socket.create_connection(("192.0.2.1", 80), timeout=1),
    lambda: socket.getaddrinfo("example.com", 443),
    lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 53)),
):
    try:
        attempt()
    except PermissionError as error:
        print("refused:", error)
server = socket.create_server(("127.0.0.1", 0))
socket.create_connection(server.getsockname()).close()
print("at home")
"""

LISTEN = """
import runpy, sys
spoken = []
sys.addaudithook(lambda event, arguments: spoken.append(event) if event.startswith("socket.") else None)
sys.argv = ["gpu_worker.trainer", sys.argv[1]]
try:
    runpy.run_module("gpu_worker.trainer", run_name="__main__", alter_sys=True)
finally:
    sys.stderr.write("SPOKEN " + repr(sorted(set(spoken) & {"socket.connect", "socket.sendto", "socket.getaddrinfo"})))
"""


def run_python(program: str, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_other_machines_are_refused_and_this_one_is_not():
    done = run_python(TRY)
    assert done.stdout.count("refused: A training") == 3, done.stderr
    assert done.stdout.endswith("at home\n")


@pytest.mark.slow
def test_a_whole_run_connects_to_nobody(tmp_path, base_model):
    job = write_job(tmp_path / "job", base_model, train=ticket_rows(4), path="general", epochs=1)
    done = run_python(LISTEN, str(job.root))
    assert done.returncode == 0, done.stderr
    assert only(parse(done.stdout), "finished")["step"] == 1
    assert "SPOKEN []" in done.stderr
