"""A trivial engine: it answers at once with a fixed text, so that what is measured is the proxy in front of it.

`python -m gpu_worker.benchmarks.proxy_engine` prints its port. A streamed answer is a word every half second, until the
client hangs up. Asked with the words of `SLOWLY`, it does not answer for a long time. `GET /gone` says when clients
hung up on it in the middle of an answer, on the clock that all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress

ANSWER = {
    "id": "chatcmpl-benchmark",
    "object": "chat.completion",
    "created": 1_800_000_000,
    "model": "trivial",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "logprobs": None,
            "message": {"role": "assistant", "content": '{"queue": "printing", "urgency": "low"}', "refusal": None},
        }
    ],
    "usage": {"prompt_tokens": 40, "completion_tokens": 12, "total_tokens": 52},
}
_BODY = json.dumps(ANSWER).encode()
_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_EVENT = b'data: {"id":"x","object":"chat.completion.chunk","created":1,"model":"trivial","choices":[{"index":0,"delta":{"content":"word "},"finish_reason":null}]}\n\n'  # noqa: E501
SECONDS_PER_WORD = 0.5
SLOWLY = "Take your time."
SLOW_S = 30.0
_gone: list[float] = []


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one connection, request after request."""
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
            body = await reader.readexactly(length)
            if head.startswith(b"get /gone"):
                writer.write(_json(json.dumps(_gone).encode()))
            elif b'"stream": true' in body:
                await _stream(reader, writer)
            elif SLOWLY.encode() not in body or not await _hangs_up(reader, SLOW_S):
                writer.write(_json(_BODY))
            await writer.drain()
    writer.close()


async def _stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(_STREAM)
    while True:
        writer.write(b"%x\r\n%b\r\n" % (len(_EVENT), _EVENT))
        await writer.drain()
        if await _hangs_up(reader, SECONDS_PER_WORD):
            return


async def _hangs_up(reader: asyncio.StreamReader, within_s: float) -> bool:
    """Wait so long for the client to hang up in the middle of its answer, and note when it did."""
    try:
        found = await asyncio.wait_for(reader.read(1), within_s)
    except TimeoutError:
        return False
    except ConnectionError:
        found = b""
    assert not found, "nobody asks for more before the answer"
    _gone.append(time.monotonic())
    return True


def _json(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


async def main() -> None:
    """Listen on a free port until killed."""
    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
