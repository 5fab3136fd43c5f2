"""A trivial engine: it answers at once with a fixed text, so that what is measured is the proxy in front of it.

`python -m gpu_worker.benchmarks.proxy_engine` prints its port. A streamed answer is a word every half second, until the
client hangs up.
"""

from __future__ import annotations

import asyncio
import json
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
_WHOLE = (b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(_BODY)) + _BODY
_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_EVENT = b'data: {"id":"x","object":"chat.completion.chunk","created":1,"model":"trivial","choices":[{"index":0,"delta":{"content":"word "},"finish_reason":null}]}\n\n'  # noqa: E501
SECONDS_PER_WORD = 0.5


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one connection, request after request."""
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
            body = await reader.readexactly(length)
            if b'"stream": true' not in body:
                writer.write(_WHOLE)
                await writer.drain()
                continue
            writer.write(_STREAM)
            while not reader.at_eof():
                writer.write(b"%x\r\n%b\r\n" % (len(_EVENT), _EVENT))
                await writer.drain()
                await asyncio.sleep(SECONDS_PER_WORD)
    writer.close()


async def main() -> None:
    """Listen on a free port until killed."""
    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
