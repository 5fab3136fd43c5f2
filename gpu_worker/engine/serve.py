"""One engine process from start to drain."""

import argparse
import json
import logging
import os
import signal
import socket
import threading
from pathlib import Path

import uvicorn

from datasets_app.rendering import ChatRenderer, RenderingError
from gpu_worker.engine.build import build_core
from gpu_worker.engine.config import EngineConfig
from gpu_worker.engine.errors import UnsupportedModel
from gpu_worker.engine.grammar import GrammarCompiler
from gpu_worker.engine.loop import EngineLoop
from gpu_worker.engine.memory import keep_freed_memory_small
from gpu_worker.engine.server.app import EngineServer
from gpu_worker.engine.server.generation import Generator
from gpu_worker.engine.server.scoring import ValueScorer

logger = logging.getLogger(__name__)

DRAIN_S = 8
"""How long running answers may go on after SIGTERM."""
LAST_WORDS_S = 1
"""What of it is left for telling those that are not finished."""


def serve(options: argparse.Namespace, *, api_key: str) -> int:
    """Load the base model, serve until SIGTERM, finish what runs; return the exit code."""
    keep_freed_memory_small()
    config = config_of(options)
    try:
        renderer = ChatRenderer.load(options.base_model)
        core = build_core(options.base_model, renderer, config, kind=options.runner, state_dir=_state_dir(options))
    except (UnsupportedModel, RenderingError) as error:
        logger.error("the base model cannot be served: %s", error)
        return 1
    loop = EngineLoop(core)
    grammars = GrammarCompiler(options.base_model, vocabulary=core.vocabulary, eos_ids=renderer.eos_ids)
    generator = Generator(loop, renderer, config, grammars, max_context=core.max_context)
    server = EngineServer(
        base_name=options.name,
        loop=loop,
        generator=generator,
        renderer=renderer,
        self_check=core.self_check,
        max_context=core.max_context,
        scorer=ValueScorer(generator, loop, renderer, config),
    )
    loop.start()
    try:
        _listen(options, server, api_key)
    finally:
        loop.stop()
    return 0


def _state_dir(options: argparse.Namespace) -> Path | None:
    """Return where the self-check keeps its reference; None if it is switched off or has no place."""
    if options.skip_self_check:
        return None
    if options.state_dir is not None:
        return Path(options.state_dir)
    return None if options.ready_file is None else Path(options.ready_file).parent / "engine-state"


def config_of(options: argparse.Namespace) -> EngineConfig:
    """Return the limits: defaults, except where the command line says otherwise."""
    names = ("weights", "max_running", "max_waiting", "max_context", "lora_rank_budget")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    if options.kv_cache_mb is not None:
        given["kv_cache_bytes"] = options.kv_cache_mb * 2**20
    return EngineConfig(**given)


def listening_socket(host: str, port: int) -> socket.socket:
    """Return a socket whose connections send at once what is written; 0 takes a free port. Raises: OSError.

    uvicorn writes head and body of an answer apart, and asyncio sets the option only where a socket names its protocol:
    the body would wait 40 ms for the other side's delayed acknowledgement of the head.
    """
    listener = socket.create_server((host, port), backlog=512)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _listen(options: argparse.Namespace, server: EngineServer, api_key: str) -> None:
    listener = listening_socket(options.host, options.port)
    uvicorn_server = uvicorn.Server(
        uvicorn.Config(
            server.app(api_key=api_key),
            access_log=False,
            log_config=None,
            server_header=False,
            lifespan="off",
            # longer than pooled clients keep an idle connection: the client, not we, should close it first
            timeout_keep_alive=75,
            timeout_graceful_shutdown=DRAIN_S,
        )
    )
    # what is not answered when uvicorn is about to cut its connections ends with an error that says to try again
    last_call = threading.Timer(DRAIN_S - LAST_WORDS_S, server.loop.give_up)
    last_call.daemon = True

    def drain(*_: object) -> None:
        if not server.draining:
            server.draining = uvicorn_server.should_exit = True
            last_call.start()

    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn repeats the signal after its drain: with this handler that is no second death before our clean-up
        signal.signal(number, drain)
    # the socket listens already: a request that arrives before the first accept waits in its backlog
    if options.ready_file is not None:
        _announce(options.ready_file, options.host, listener.getsockname()[1])
    try:
        uvicorn_server.run(sockets=[listener])
    finally:
        if options.ready_file is not None:
            options.ready_file.unlink(missing_ok=True)


def _announce(ready_file: Path, host: str, port: int) -> None:
    """Write the ready file in one piece: a reader sees all of it or nothing."""
    ready_file.parent.mkdir(parents=True, exist_ok=True)
    partial = ready_file.with_name(f".{ready_file.name}.{os.getpid()}")
    partial.write_text(json.dumps({"pid": os.getpid(), "port": port, "host": host}), encoding="utf-8")
    partial.replace(ready_file)
    logger.info("serving on %s port %d", host, port)
