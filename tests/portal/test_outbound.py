"""Nothing that a person types makes the portal call its own network (T-SS1)."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.urls import reverse
from hypothesis import given
from hypothesis import strategies as st

from portal import outbound, reachable
from portal.checks import what_may_be_fetched_is_readable
from portal.errors import PortalError
from portal.reachable import Allowed, OutboundFailed, OutboundRefused, require_allowed

PUBLIC = "93.184.216.34"


def answers(*addresses: str) -> Callable[..., list[Any]]:
    """A resolver that gives every name these addresses."""

    def getaddrinfo(host: str, port: int, **kwargs: Any) -> list[Any]:
        families = [socket.AF_INET6 if ":" in address else socket.AF_INET for address in addresses]
        return [
            (family, socket.SOCK_STREAM, 6, "", (address, port))
            for family, address in zip(families, addresses, strict=True)
        ]

    return getaddrinfo


@pytest.fixture
def resolves(monkeypatch) -> Callable[..., None]:
    return lambda *addresses: monkeypatch.setattr(reachable, "getaddrinfo", answers(*addresses))


def test_public_hosts_over_https_are_fetched(resolves):
    resolves(PUBLIC)
    target = require_allowed("https://Example.org./data.csv?a=b%20c#part")
    assert (target.host, target.port, str(target.address)) == ("example.org", 443, PUBLIC)
    assert str(require_allowed("https://93.184.216.34/x").address) == PUBLIC
    assert str(require_allowed("https://[2606:2800:220:1::1]/x").address) == "2606:2800:220:1::1"
    assert require_allowed("https://пример.рф/").host == "xn--e1afmkfd.xn--p1ai"


REFUSED = [
    # loopback, in every notation
    "https://127.0.0.1/", "https://127.1/", "https://127.0.1/", "https://0177.0.0.1/", "https://0x7f.0.0.1/",
    "https://0x7f000001/", "https://2130706433/", "https://017700000001/", "https://127.0.0.1./", "https://[::1]/",
    "https://[0:0:0:0:0:0:0:1]/", "https://127.0.0.01/", "https://0x7f.1/", "https://00000177.1/",
    # unspecified, private, shared, link-local, metadata, multicast, reserved, broadcast, documentation, benchmarks
    "https://0.0.0.0/", "https://0/", "https://[::]/", "https://10.0.0.5/", "https://172.16.9.1/",
    "https://192.168.1.1/", "https://100.64.0.1/", "https://169.254.1.1/", "https://169.254.169.254/latest/meta-data/",
    "https://[fe80::1]/", "https://[fe80::1%25eth0]/", "https://[fd00:ec2::254]/", "https://[fc00::1]/",
    "https://224.0.0.1/", "https://[ff02::1]/", "https://240.0.0.1/", "https://255.255.255.255/",
    "https://192.0.0.9/", "https://192.88.99.2/", "https://[3fff::1]/", "https://[5f00::1]/",
    "https://192.0.2.1/", "https://198.18.0.1/", "https://[2001:db8::1]/", "https://[fec0::1]/",
    # addresses inside of others: mapped, compatible, NAT64, 6to4, Teredo
    "https://[::ffff:127.0.0.1]/", "https://[::ffff:7f00:1]/", "https://[::ffff:93.184.216.34]/",
    "https://[::127.0.0.1]/", "https://[64:ff9b::7f00:1]/", "https://[64:ff9b:1::7f00:1]/", "https://[2002:7f00:1::]/",
    "https://[2001:0:7f00:1::]/",
    # what parsers read differently
    "https://example.org@127.0.0.1/", "https://user:key@example.org/", "https://user@example.org/",
    "https://example.org\\@127.0.0.1/", "https://127.0.0.1\\.example.org/", "https:\\\\example.org/",
    "https://example.org%2f@127.0.0.1/", "https://127.0.0.1%00.example.org/", "https://exa mple.org/",
    "https://example.org\t/", "https://example.org\r\nHost: x/", "https://\x00example.org/", " https://example.org/",
    "https://①②⑦.⓪.⓪.①/", "https://127。0。0。1/",
    # other schemes, ports, nothing at all
    "http://example.org/", "HTTPS://example.org/", "Https://example.org/", "ftp://example.org/", "file:///etc/passwd",
    "gopher://example.org/", "javascript:alert(1)", "data:text/csv,a", "//example.org/", "example.org", "https://",
    "https:///x", "https://?x", "https:example.org", "https://example.org:22/", "https://example.org:8443/",
    "https://example.org:99999/", "https://example.org:-1/", "https://.example.org/", "https://example..org/",
    "", "https://" + "a" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("url", REFUSED)
def test_everything_else_is_refused(resolves, url):
    resolves(PUBLIC)
    with pytest.raises(PortalError) as refused:
        require_allowed(url)
    assert isinstance(refused.value, OutboundRefused)
    assert refused.value.message
    assert "key" not in refused.value.message


PRIVATE = [
    "127.0.0.1",
    "::1",
    "10.1.2.3",
    "169.254.169.254",
    "fd00::1",
    "fe80::1",
    "0.0.0.0",
    "::ffff:127.0.0.1",
    "224.0.0.1",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_names_of_private_addresses_are_refused(resolves, address):
    resolves(address)
    with pytest.raises(OutboundRefused, match="not on the public internet"):
        require_allowed("https://innocent.example.org/")
    # One public address among them does not help: the connection might take the other.
    resolves(PUBLIC, address)
    with pytest.raises(OutboundRefused):
        require_allowed("https://innocent.example.org/")


def test_names_that_do_not_exist_say_so(monkeypatch):
    def unknown(*args: Any, **kwargs: Any) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(reachable, "getaddrinfo", unknown)
    with pytest.raises(OutboundFailed, match="was not found") as failed:
        require_allowed("https://nowhere.example/")
    assert failed.value.code == "host_unknown"


@given(st.text(max_size=60), st.sampled_from(["", "https://", "https://a.example/", "http://", "https://["]))
def test_no_text_is_an_address_of_ours_and_all_are_refused_in_words(text, start):
    real = reachable.getaddrinfo
    reachable.getaddrinfo = answers("127.0.0.1")  # type: ignore[assignment]
    try:
        with pytest.raises(PortalError):
            require_allowed(start + text)
    finally:
        reachable.getaddrinfo = real


@pytest.mark.parametrize(
    ("entry", "url", "address", "allowed"),
    [
        ("jira.intern", "https://jira.intern/", "10.0.0.1", True),
        ("jira.intern", "http://jira.intern:8080/", "127.0.0.1", True),
        ("jira.intern", "https://other.intern/", "10.0.0.1", False),
        ("jira.intern", "https://jira.intern.evil.org/", "10.0.0.1", False),
        ("jira.intern", "https://xjira.intern/", "10.0.0.1", False),
        ("jira.intern", "https://jira.intern/", "169.254.169.254", False),
        ("*.intern:8443", "https://s3.intern:8443/", "10.0.0.1", True),
        ("*.intern:8443", "https://s3.intern/", "10.0.0.1", False),
        ("*.intern", "https://intern/", "10.0.0.1", False),
        ("10.0.0.0/8", "https://anything.example/", "10.9.9.9", True),
        ("10.0.0.0/8", "http://10.9.9.9:9000/", "10.9.9.9", True),
        ("10.0.0.0/8:443", "https://10.9.9.9:9000/", "10.9.9.9", False),
        ("10.0.0.0/8", "https://anything.example/", "192.168.0.1", False),
        ("[fd00::/8]:443", "https://[fd00::7]/", "fd00::7", True),
        ("169.254.169.254", "http://169.254.169.254/", "169.254.169.254", True),
        ("data.example.org:8443", "https://data.example.org:8443/", PUBLIC, True),
    ],
)
def test_admins_allow_hosts_networks_and_ports(settings, resolves, entry, url, address, allowed):
    settings.OUTBOUND_ALLOW = [entry]
    resolves(address)
    if allowed:
        assert str(require_allowed(url).address) == address
    else:
        with pytest.raises(OutboundRefused):
            require_allowed(url)


def test_entries_are_read_strictly(settings):
    for entry in ("", "a b", "*", "*.", "10.0.0.1/8", "jira:0", "jira:99999", "https://jira", "[fd00::/8", "j*ra"):
        with pytest.raises(ValueError):
            Allowed.parse(entry)
    assert [str(Allowed.parse(entry)) for entry in ("Jira.intern:80", "[fd00::/8]:443", "10.0.0.0/8")] == [
        "jira.intern:80",
        "[fd00::/8]:443",
        "10.0.0.0/8",
    ]
    settings.OUTBOUND_ALLOW = ["10.0.0.1/8"]
    assert [error.id for error in what_may_be_fetched_is_readable(None)] == ["portal.E003"]


def test_platform_admins_see_the_list(paula, client_for, settings):
    settings.OUTBOUND_ALLOW = ["s3.intern:9000"]
    assert "<code>s3.intern:9000</code>" in client_for(paula).get(reverse("platform:overview")).content.decode()


# --- the connection itself ---------------------------------------------------------------------------------------


class Answering(http.server.BaseHTTPRequestHandler):
    """Answers what the path says, and notes what it was asked."""

    asked: list[tuple[str, str]] = []

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers["Host"]))
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.path == "/missing":
            self.send_error(404)
            return
        length = 1_000_000
        self.send_response(200)
        if self.path != "/endless":
            self.send_header("Content-Length", str(length))
        self.end_headers()
        sent = {"/short": length // 2, "/slow": 0}.get(self.path, length)
        self.wfile.write(b"x" * sent)
        if self.path == "/slow":
            for _ in range(40):
                time.sleep(0.05)
                self.wfile.write(b"x" * 100)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server(settings) -> Iterator[str]:
    Answering.asked = []
    serving = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    thread = threading.Thread(target=serving.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    settings.OUTBOUND_ALLOW = [f"files.intern:{serving.server_port}"]
    yield f"http://files.intern:{serving.server_port}"
    serving.shutdown()
    serving.server_close()


@pytest.fixture
def look_ups(monkeypatch) -> list[str]:
    """Every name is 127.0.0.1 at the first look-up and something else ever after."""
    made: list[str] = []

    def rebinding(host: str, port: int, *args: Any, **kwargs: Any) -> list[Any]:
        if host == "127.0.0.1":  # the connection's own, of an address
            return real(host, port, *args, **kwargs)
        made.append(host)
        return answers("127.0.0.1" if made.count(host) == 1 else "10.255.255.1")(host, port)

    real = reachable.getaddrinfo
    monkeypatch.setattr(reachable, "getaddrinfo", rebinding)
    return made


def fetch(url: str, path: Path, **options: Any) -> outbound.Fetched:
    with outbound.client() as http_client:
        return outbound.download(http_client, url, path, **{"max_bytes": 2_000_000, "max_seconds": 20.0, **options})


def test_a_name_is_looked_up_once_and_its_address_is_used(server, look_ups, tmp_path):
    seen = []
    got = fetch(f"{server}/file", tmp_path / "out", progress=lambda done, total: seen.append((done, total)))
    assert got.size_bytes == (tmp_path / "out").stat().st_size == 1_000_000
    assert look_ups == ["files.intern"]
    assert Answering.asked == [("/file", server.removeprefix("http://"))]
    assert seen[-1] == (1_000_000, 1_000_000)


@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/latest/",
        "https://10.0.0.1/",
        "http://localhost/",
        "file:///etc/passwd",
        "https://[::1]/",
    ],
)
def test_redirects_pass_the_same_guard(server, monkeypatch, tmp_path, target):
    monkeypatch.setattr(reachable, "getaddrinfo", answers("127.0.0.1"))
    with pytest.raises(PortalError) as refused:
        fetch(f"{server}/to/{target}", tmp_path / "out")
    assert isinstance(refused.value, OutboundRefused | OutboundFailed)
    assert len(Answering.asked) == 1
    assert not (tmp_path / "out").exists()


def test_circles_and_bad_ends_are_told_apart(server, monkeypatch, tmp_path):
    monkeypatch.setattr(reachable, "getaddrinfo", answers("127.0.0.1"))
    port = server.rsplit(":", 1)[1]
    cases = {
        "/to//to/" + "/to/" * 8 + "/file": {"redirects", "source_not_found", "host_unknown"},
        "/missing": {"source_not_found"},
        "/short": {"source_broken_off"},
    }
    for number, (path, codes) in enumerate(cases.items()):
        with pytest.raises(OutboundFailed) as failed:
            fetch(server + path, tmp_path / str(number))
        assert failed.value.code in codes, path
    for number, path in enumerate(("/file", "/endless")):
        with pytest.raises(OutboundFailed, match="larger than") as failed:
            fetch(server + path, tmp_path / f"l{number}", max_bytes=500_000)
        assert failed.value.code == "source_too_large"
    with pytest.raises(OutboundFailed, match="too slowly"):
        fetch(f"{server}/slow", tmp_path / "slow", max_seconds=0.3)
    assert port.isdigit()


def test_nobody_there_is_a_sentence_without_the_query(settings, monkeypatch, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        settings.OUTBOUND_ALLOW = ["127.0.0.1"]
        with pytest.raises(OutboundFailed, match="cannot be reached") as failed:
            fetch(f"http://127.0.0.1:{taken.getsockname()[1]}/x?sig=CANARY", tmp_path / "out")
    assert "CANARY" not in failed.value.message
    assert failed.value.__suppress_context__


def test_certificates_are_checked_for_the_name_that_was_written(resolves, monkeypatch):
    resolves(PUBLIC)
    sent: list[httpx.Request] = []

    def note(self: Any, request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, content=b"ok")

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", note)
    with outbound.client() as http_client:
        answer = outbound.get(http_client, "https://example.org/a?b=c", max_bytes=10)
    assert answer.text == "ok"
    assert str(sent[0].url) == f"https://{PUBLIC}/a?b=c"
    assert (sent[0].headers["Host"], sent[0].extensions["sni_hostname"]) == ("example.org", "example.org")
