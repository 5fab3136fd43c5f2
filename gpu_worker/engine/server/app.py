"""The routes of the engine: OpenAI's generation routes, vLLM's adapter routes, health and metrics."""

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from datasets_app.rendering import ChatRenderer, RenderingError
from gpu_worker.engine.core import CheckResult, EngineCore
from gpu_worker.engine.errors import BadAdapter, BadRequest, EngineError, ModelNotFound, Overloaded
from gpu_worker.engine.loop import EngineLoop
from gpu_worker.engine.server import requests as bodies
from gpu_worker.engine.server.answers import (
    CLIENT_CLOSED_REQUEST,
    ClientGone,
    EventStream,
    answer_events,
    error_response,
    unless_client_goes,
    whole_answer,
)
from gpu_worker.engine.server.generation import Generator, TokenUsage
from gpu_worker.engine.server.guards import Guard, internal_error, read_json
from gpu_worker.engine.server.messages import plain_messages
from gpu_worker.engine.server.metrics import HttpMetrics, render_metrics
from gpu_worker.engine.server.scoring import ValueScorer, ValuesInText
from gpu_worker.engine.server.shapes import ChatShape, CompletionShape, Shape

ShapeKind = Callable[[str, str, ChatRenderer], Shape]
MAX_PROMPTS = 8


@dataclass
class EngineServer:
    """What the routes share."""

    base_name: str
    loop: EngineLoop
    generator: Generator
    renderer: ChatRenderer
    max_context: int
    scorer: ValueScorer
    self_check: CheckResult
    started: int = field(default_factory=lambda: int(time.time()))
    metrics: HttpMetrics = field(default_factory=HttpMetrics)
    draining: bool = False
    """Set when the process is to end: what runs goes on, nothing new is begun."""

    def app(self, *, api_key: str) -> Starlette:
        """Return the ASGI application."""
        routes = [
            Route("/health", self.health),
            Route("/metrics", self.show_metrics),
            Route("/v1/models", self.models),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/completions", self.complete, methods=["POST"]),
            Route("/v1/score_values", self.score, methods=["POST"]),
            Route("/v1/load_lora_adapter", self.load_adapter, methods=["POST"]),
            Route("/v1/unload_lora_adapter", self.unload_adapter, methods=["POST"]),
        ]
        paths = frozenset(route.path for route in routes)
        return Starlette(
            routes=routes,
            middleware=[Middleware(Guard, api_key=api_key, metrics=self.metrics, routes=paths)],
            exception_handlers={
                EngineError: _on_engine_error,
                ClientGone: _on_client_gone,
                HTTPException: _on_http_error,
                Exception: _on_unforeseen,
            },
        )

    # --- generation -------------------------------------------------------------------------------------------

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        body = bodies.parse(bodies.ChatRequest, await read_json(request))
        prompt = await self._rendered(plain_messages(body.messages))
        return await self._answer(request, bodies.order_of(body), [prompt], ChatShape)

    async def complete(self, request: Request) -> Response:
        """POST /v1/completions: the prompt is taken as it is, without a chat template."""
        body = bodies.parse(bodies.CompletionRequest, await read_json(request))
        prompts = await asyncio.to_thread(self._plain_prompts, body.prompt)
        return await self._answer(request, bodies.order_of(body), prompts, CompletionShape)

    async def score(self, request: Request) -> Response:
        """POST /v1/score_values: nothing is generated, the given values get probabilities."""
        if self.draining:
            raise Overloaded("The engine is shutting down.")
        body = bodies.parse(bodies.ScoreRequest, await read_json(request))
        prompt = await self._rendered(plain_messages(body.messages))
        adapter = None if body.model == self.base_name else body.model
        asked = ValuesInText(prompt, body.beginning, body.values, body.ending)
        scores = await unless_client_goes(request, self.scorer.score(asked, adapter, cache_salt=body.cache_salt))
        usage = TokenUsage(scores.prompt_tokens, 0, scores.cached_tokens).to_dict()
        return JSONResponse({"model": body.model, "logprobs": list(scores.logprobs), "usage": usage})

    async def _rendered(self, messages: list[dict[str, str]]) -> list[int]:
        try:
            return await asyncio.to_thread(self.renderer.prompt_ids, messages)
        except RenderingError as error:
            raise BadRequest(str(error), param="messages") from error

    def _plain_prompts(self, prompt: str | list[int] | list[str] | list[list[int]]) -> list[list[int]]:
        is_one = isinstance(prompt, str) or all(isinstance(part, int) for part in prompt)
        several = cast(list[str | list[int]], [prompt] if is_one else prompt)
        prompts = [self.renderer.encode(one) if isinstance(one, str) else one for one in several]
        if len(prompts) > MAX_PROMPTS or not all(prompts):
            raise BadRequest(
                f"prompt takes 1 to {MAX_PROMPTS} texts or lists of token ids that are not empty.", param="prompt"
            )
        return prompts

    async def _answer(
        self,
        request: Request,
        order: bodies.GenerationOrder,
        prompts: Sequence[Sequence[int]],
        shape_kind: ShapeKind,
    ) -> Response:
        if self.draining:
            raise Overloaded("The engine is shutting down.")
        adapter = None if order.model == self.base_name else order.model
        generation = await unless_client_goes(request, self.generator.start(order, prompts, adapter))
        shape = shape_kind(order.model, self._fingerprint(order.model), self.renderer)
        choices = order.choices * len(prompts)

        def finish() -> None:
            self.generator.cancel(generation)
            self.metrics.observe(generation.begun, generation.first_output)

        if order.stream:
            events = answer_events(generation, shape, choices, include_usage=order.include_usage)
            return EventStream(events, finish=finish)
        try:
            return await unless_client_goes(request, whole_answer(generation, shape, choices))
        finally:
            finish()

    def _fingerprint(self, model: str) -> str:
        """Return an id of what answers: the base model and the adapter's name, which is never used twice."""
        return "fp_" + hashlib.sha256(f"{self.base_name}\0{model}".encode()).hexdigest()[:12]

    # --- adapters ---------------------------------------------------------------------------------------------

    async def load_adapter(self, request: Request) -> Response:
        """POST /v1/load_lora_adapter."""
        body = bodies.parse(bodies.LoadAdapterRequest, await read_json(request))
        if body.lora_name == self.base_name:
            raise BadAdapter("This is the base model's own name.", param="lora_name", code="adapter_exists")
        loaded = await asyncio.to_thread(self.loop.read_adapter, Path(body.lora_path))
        await self._order(lambda core: core.add_adapter(body.lora_name, loaded))
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")

    async def unload_adapter(self, request: Request) -> Response:
        """POST /v1/unload_lora_adapter."""
        body = bodies.parse(bodies.UnloadAdapterRequest, await read_json(request))
        await self._order(lambda core: core.remove_adapter(body.lora_name))
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")

    async def models(self, request: Request) -> Response:
        """GET /v1/models: the base model and every loaded adapter."""
        names = await asyncio.wrap_future(self.loop.call(lambda core: core.adapter_names()))
        return JSONResponse(
            {
                "object": "list",
                "data": [self._model(self.base_name, None), *(self._model(name, self.base_name) for name in names)],
            }
        )

    def _model(self, name: str, parent: str | None) -> dict[str, object]:
        return {
            "id": name,
            "object": "model",
            "created": self.started,
            "owned_by": "tuneport",
            "parent": parent,
            "max_model_len": self.max_context,
        }

    async def _order(self, order: Callable[[EngineCore], None]) -> None:
        await asyncio.wrap_future(self.loop.call(order))

    # --- state ------------------------------------------------------------------------------------------------

    async def health(self, request: Request) -> Response:
        """GET /health: 200 while the engine's thread works and new requests are taken, and how its self-check ended."""
        status = 200 if self.loop.healthy and not self.draining else 503
        return JSONResponse({"self_check": self.self_check}, status_code=status)

    async def show_metrics(self, request: Request) -> Response:
        """GET /metrics."""
        stats = await asyncio.wrap_future(self.loop.call(lambda core: core.stats()))
        return PlainTextResponse(render_metrics(self.metrics, stats))


async def _on_engine_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, EngineError)
    return error_response(error)


async def _on_client_gone(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    refusal: EngineError = ModelNotFound("There is no such route.", code="not_found")
    if error.status_code != ModelNotFound.status:
        refusal = BadRequest(str(error.detail), code="invalid_request")
        refusal.status = error.status_code
    return error_response(refusal)


async def _on_unforeseen(request: Request, error: Exception) -> Response:
    return error_response(internal_error(error))
