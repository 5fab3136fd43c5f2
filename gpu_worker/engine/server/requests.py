"""Parse request bodies. What is unknown, or known and not supported, is refused by name and never ignored."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, ValidationError

from gpu_worker.engine.errors import BadRequest
from gpu_worker.engine.sampling import SamplingParams

MAX_CHOICES = 8
MAX_VALUES = 1024
MAX_STOPS = 4
MAX_STOP_CHARACTERS = 200
NO_LIMIT_NAMED = 0

NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "store": (False,),
    "service_tier": ("auto", "default"),
    "reasoning_effort": (),
    "verbosity": (),
    "web_search_options": (),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
}
"""Parameters of OpenAI's API that are accepted only where they change nothing: null or one of these values."""

IGNORED = ("user", "metadata", "safety_identifier", "prompt_cache_key")
"""Parameters that describe the caller and are meant to have no effect on the answer."""

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class StreamOptions(BaseModel):
    """Options of a streamed answer."""

    model_config = ConfigDict(extra="forbid")
    include_usage: StrictBool = False


class JsonSchema(BaseModel):
    """A named schema, as clients send it. `strict` is always honoured: no answer leaves its schema."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)
    name: Annotated[StrictStr, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: StrictStr | None = None
    json_schema: Annotated[dict[str, Any], Field(alias="schema")]
    strict: StrictBool | None = None


class ResponseFormat(BaseModel):
    """What an answer has to look like."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class _Generation(BaseModel):
    """What chat and plain completions have in common."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    model: StrictStr
    temperature: Annotated[Number, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[Number, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[StrictInt, Field(ge=-1, le=1_000_000)] = 0
    """vLLM's extension, as min_p: 0 and -1 look at all tokens."""
    min_p: Annotated[Number, Field(ge=0, le=1)] = 0.0
    frequency_penalty: Annotated[Number, Field(ge=-2, le=2)] = 0.0
    presence_penalty: Annotated[Number, Field(ge=-2, le=2)] = 0.0
    n: Annotated[StrictInt, Field(ge=1, le=MAX_CHOICES)] = 1
    seed: Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: StrictStr | list[StrictStr] | None = None
    max_tokens: Annotated[StrictInt, Field(ge=1)] | None = None
    stream: StrictBool = False
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    cache_salt: Annotated[StrictStr, Field(min_length=1, max_length=200)] | None = None
    """vLLM's extension: only requests of equal salt share cached prefixes. The bare base model caches with one only."""


class ChatRequest(_Generation):
    """Body of POST /v1/chat/completions."""

    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    max_completion_tokens: Annotated[StrictInt, Field(ge=1)] | None = None
    logprobs: StrictBool = False
    top_logprobs: Annotated[StrictInt, Field(ge=0, le=20)] | None = None


class CompletionRequest(_Generation):
    """Body of POST /v1/completions."""

    prompt: StrictStr | list[StrictInt] | list[StrictStr] | list[list[StrictInt]]
    logprobs: Annotated[StrictInt, Field(ge=0, le=5)] | None = None


class ScoreRequest(BaseModel):
    """Body of POST /v1/score_values, ours: how likely is each value as the answer, or as a part of it?

    `beginning`: what stands before the value in the answer, `ending` what behind it; empty: the answer ends there.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    model: StrictStr
    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    values: Annotated[list[Annotated[StrictStr, Field(min_length=1)]], Field(min_length=1, max_length=MAX_VALUES)]
    beginning: StrictStr = ""
    ending: StrictStr = ""
    cache_salt: Annotated[StrictStr, Field(min_length=1, max_length=200)] | None = None


class LoadAdapterRequest(BaseModel):
    """Body of POST /v1/load_lora_adapter."""

    model_config = ConfigDict(extra="forbid")
    lora_name: Annotated[StrictStr, Field(min_length=1, max_length=200)]
    lora_path: Annotated[StrictStr, Field(min_length=1, max_length=4096)]


class UnloadAdapterRequest(BaseModel):
    """Body of POST /v1/unload_lora_adapter."""

    model_config = ConfigDict(extra="forbid")
    lora_name: StrictStr


@dataclass(frozen=True)
class GenerationOrder:
    """What a parsed request asks of each prompt, in the engine's words."""

    model: str
    params: SamplingParams
    """Its max_tokens is NO_LIMIT_NAMED where the caller named no limit."""
    choices: int
    stream: bool
    include_usage: bool
    schema: dict[str, Any] | None = None
    """JSON schema of the answer; None leaves it free."""
    cache_salt: str | None = None

    def params_of(self, choice: int, *, default_max_tokens: int) -> SamplingParams:
        """Return the parameters of one choice: each has its own random source, derived from the seed."""
        seed = None if self.params.seed is None else self.params.seed + choice
        return replace(self.params, seed=seed, max_tokens=self.params.max_tokens or default_max_tokens)


Model = TypeVar("Model", bound=BaseModel)


def parse(kind: type[Model], body: object) -> Model:
    """Return the checked body. Raises: BadRequest naming the first offending parameter."""
    if not isinstance(body, dict):
        raise BadRequest("The body must be a JSON object.", code="invalid_json")
    given = {name: value for name, value in body.items() if value is not None and name not in IGNORED}
    for name, neutral in NEUTRAL.items():
        if name in given and name not in kind.model_fields and not _is_neutral(given.pop(name), neutral):
            raise BadRequest(f"The parameter {name!r} is not supported.", param=name, code="unsupported_parameter")
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise _refusal(error) from error


def _is_neutral(value: object, neutral: tuple[object, ...]) -> bool:
    # 0 == False in Python: a number where a truth value is meant is not neutral
    return any(value == harmless and isinstance(value, bool) == isinstance(harmless, bool) for harmless in neutral)


def _refusal(error: ValidationError) -> BadRequest:
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    param = str(first["loc"][0]) if first["loc"] else None
    if first["type"] == "extra_forbidden":
        name = ".".join(str(part) for part in first["loc"])
        return BadRequest(f"The parameter {name[:100]!r} is not known.", param=name[:100], code="unsupported_parameter")
    if first["type"] == "missing":
        return BadRequest(f"The parameter {param!r} is required.", param=param, code="missing_required_parameter")
    return BadRequest(f"The parameter {param!r} is not valid: {first['msg']}.", param=param)


def order_of(request: ChatRequest | CompletionRequest) -> GenerationOrder:
    """Return what a parsed body asks for. Raises: BadRequest where parameters contradict each other."""
    if request.stream_options is not None and not request.stream:
        raise BadRequest("stream_options needs stream to be true.", param="stream_options")
    params = SamplingParams(
        max_tokens=_max_tokens(request) or NO_LIMIT_NAMED,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=max(request.top_k, 0),
        min_p=request.min_p,
        frequency_penalty=request.frequency_penalty,
        presence_penalty=request.presence_penalty,
        seed=request.seed,
        stop=_stops(request.stop),
        logprobs=_logprobs(request),
    )
    include_usage = request.stream_options is not None and request.stream_options.include_usage
    return GenerationOrder(
        model=request.model,
        params=params,
        choices=request.n,
        stream=request.stream,
        include_usage=include_usage,
        schema=_schema(request),
        cache_salt=request.cache_salt,
    )


def _schema(request: ChatRequest | CompletionRequest) -> dict[str, Any] | None:
    wanted = request.response_format
    if wanted is None or (wanted.type == "text" and wanted.json_schema is None):
        return None
    if (wanted.type == "json_schema") != (wanted.json_schema is not None):
        raise BadRequest("response_format takes json_schema exactly with its own type.", param="response_format")
    return {"type": "object"} if wanted.json_schema is None else wanted.json_schema.json_schema


def _max_tokens(request: ChatRequest | CompletionRequest) -> int | None:
    if isinstance(request, CompletionRequest) or request.max_completion_tokens is None:
        return request.max_tokens
    if request.max_tokens not in (None, request.max_completion_tokens):
        raise BadRequest("max_tokens and max_completion_tokens contradict each other.", param="max_tokens")
    return request.max_completion_tokens


def _stops(stop: str | list[str] | None) -> tuple[str, ...]:
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(stops) > MAX_STOPS or not all(0 < len(text) <= MAX_STOP_CHARACTERS for text in stops):
        raise BadRequest(f"stop takes up to {MAX_STOPS} texts of 1 to {MAX_STOP_CHARACTERS} characters.", param="stop")
    return stops


def _logprobs(request: ChatRequest | CompletionRequest) -> int | None:
    if isinstance(request, CompletionRequest):
        return request.logprobs
    if request.top_logprobs is not None and not request.logprobs:
        raise BadRequest("top_logprobs needs logprobs to be true.", param="top_logprobs")
    return (request.top_logprobs or 0) if request.logprobs else None
