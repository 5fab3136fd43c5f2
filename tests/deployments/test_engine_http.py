"""The reader of engines' responses agrees with h11, however the bytes are cut, and survives any bytes."""

from __future__ import annotations

import itertools

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.engine_http import BYTES, Malformed, ResponseReader, request_bytes

WHOLE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\ncontent-length: 5\r\n\r\nhello"
CHUNKED = (
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200\r\ntransfer-encoding: Chunked\r\n\r\n"
    b'3\r\nhel\r\n00a;x="y"\r\nlo\r\nworld!!\r\n0\r\n\r\n'
)
UNTIL_CLOSE = b"HTTP/1.0 200 OK\r\nx: y\r\n\r\nas long as it lasts"
EXAMPLES = [
    WHOLE,
    CHUNKED,
    UNTIL_CLOSE,
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 503 Busy\r\nretry-after: 7\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-trailer: 1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nab",
    b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
    b"SSH-2.0-OpenSSH\r\n",
    b"",
]


def ours(parts: list[bytes]) -> tuple[int, bytes, bool] | None:
    """Return status, body and whether the connection can be used again; None if it is no whole response."""
    reader, waiting, body = ResponseReader(), [*parts, b""], b""
    try:
        while reader.head() is BYTES:
            reader.feed(waiting.pop(0))
        while (part := reader.part()) is not None:
            if part is BYTES:
                reader.feed(waiting.pop(0))
            else:
                body += part
    except Malformed:
        return None
    return reader.status, body, reader.is_reusable


def theirs(raw: bytes) -> tuple[int, bytes, bool] | None:
    peer = h11.Connection(h11.CLIENT)
    for event in (h11.Request(method="GET", target="/", headers=[("host", "x")]), h11.EndOfMessage()):
        peer.send(event)
    status, body = 0, b""
    try:
        peer.receive_data(raw)
        while not isinstance(event := peer.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                peer.receive_data(b"")
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.ConnectionClosed):
                return None
    except h11.RemoteProtocolError:
        return None
    return status, body, peer.their_state is h11.DONE


@given(raw=st.sampled_from(EXAMPLES), cuts=st.lists(st.integers(1, 200), max_size=12))
def test_responses_are_read_as_h11_reads_them_however_they_are_cut(raw, cuts):
    places = sorted({0, *(cut for cut in cuts if cut < len(raw)), len(raw)})
    parts = [raw[start:end] for start, end in itertools.pairwise(places)]
    assert ours(parts) == theirs(raw)


@given(raw=st.binary(max_size=200), start=st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n", CHUNKED[:90], WHOLE[:60]]))
def test_any_bytes_are_a_response_or_refused(raw, start):
    found = ours([start + raw])
    assert found is None or found[0] >= 200


def test_what_follows_a_response_spoils_the_connection():
    assert ours([WHOLE]) == (200, b"hello", True)
    assert ours([WHOLE + b"HTTP/1.1 200 OK\r\n"]) == (200, b"hello", False)


@pytest.mark.parametrize("early", [b"content-length: 3\r\n", b"transfer-encoding: chunked\r\n", b""])
def test_what_comes_before_a_response_has_no_body(early):
    before = b"HTTP/1.1 103 Early Hints\r\n" + early + b"\r\n"
    assert ours([before + WHOLE]) == (200, b"hello", True)
    assert ours([before + b"HTTP/1.1 204 No Content\r\n\r\n"]) == (204, b"", True)
    assert ours([before + CHUNKED]) == ours([CHUNKED])


@pytest.mark.parametrize("value", ["a\r\nx: y", "a\nb", "a\0b"])
def test_no_header_brings_a_line_of_its_own(value):
    with pytest.raises(ValueError, match="line break"):
        request_bytes("GET", "/", {"authorization": value}, b"")
    assert (
        request_bytes("POST", "/x", {"host": "h"}, b"{}")
        == b"POST /x HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\n{}"
    )
