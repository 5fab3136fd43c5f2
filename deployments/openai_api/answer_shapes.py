"""How the answers under /v1 look, as JSON schemas: the parts of the OpenAPI document that clients read answers by.

Everything is closed (`additionalProperties: false`), so an answer with a field that is not declared here fails the
conformity tests, which hold every answer against these shapes.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from deployments.openai_api.models import ApiFile, BatchJob

Shape = dict[str, Any]

TEXT: Final[Shape] = {"type": "string"}
FLAG: Final[Shape] = {"type": "boolean"}
NUMBER: Final[Shape] = {"type": "number"}
COUNT: Final[Shape] = {"type": "integer", "minimum": 0}
MOMENT: Final[Shape] = {"type": "integer", "description": "Unix time in seconds."}
PROBABILITY: Final[Shape] = {"type": "number", "minimum": 0, "maximum": 1.000001}
NOTHING: Final[Shape] = {"type": "null"}
ANYTHING: Final[Shape] = {}
TEXTS: Final[Shape] = {"type": "object", "additionalProperties": TEXT}
JOB_STATUSES: Final = ("validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled")
FINISH_REASONS: Final = ("stop", "length")


def ref(name: str) -> Shape:
    """Return a pointer to a component of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def const(value: str) -> Shape:
    """Return the shape of one certain text."""
    return {"type": "string", "const": value}


def maybe(shape: Shape) -> Shape:
    """Return a shape that may be null."""
    if set(shape) <= {"type", "description", "minimum", "maximum"} and isinstance(shape.get("type"), str):
        return {**shape, "type": [shape["type"], "null"]}
    return {"anyOf": [shape, NOTHING]}


def items(shape: Shape) -> Shape:
    """Return a list of a shape."""
    return {"type": "array", "items": shape}


def closed(*, optional: Collection[str] = frozenset(), **properties: Shape) -> Shape:
    """Return an object of exactly these properties; those named in `optional` may be missing."""
    return {
        "type": "object",
        "required": [name for name in properties if name not in optional],
        "properties": properties,
        "additionalProperties": False,
    }


def listed(name: str) -> Shape:
    """Return a cursor page of a component: the last id of a page is the next page's `after`."""
    return closed(object=const("list"), data=items(ref(name)), first_id=maybe(TEXT), last_id=maybe(TEXT), has_more=FLAG)


_USAGE: Final = closed(
    prompt_tokens=COUNT,
    completion_tokens=COUNT,
    total_tokens=COUNT,
    prompt_tokens_details=closed(cached_tokens=COUNT),
    completion_tokens_details=closed(reasoning_tokens=COUNT),
)
_TOKEN: Final = {"token": TEXT, "bytes": maybe(items(COUNT)), "logprob": NUMBER}
_LOGPROBS: Final = maybe(
    closed(
        content=maybe(items(closed(**_TOKEN, top_logprobs=items(closed(**_TOKEN))))),
        refusal=NOTHING,
        optional=frozenset({"refusal"}),
    )
)
_FINISH: Final[Shape] = {"type": "string", "enum": list(FINISH_REASONS)}
_MAYBE_FINISH: Final[Shape] = {"type": ["string", "null"], "enum": [*FINISH_REASONS, None]}
_HEAD: Final = {"id": TEXT, "created": MOMENT, "model": TEXT, "system_fingerprint": maybe(TEXT)}
_UNSIGNED: Final = frozenset({"system_fingerprint"})
_PLAIN_LOGPROBS: Final = maybe(
    closed(
        tokens=items(TEXT),
        token_logprobs=items(maybe(NUMBER)),
        top_logprobs=maybe(items(maybe({"type": "object", "additionalProperties": NUMBER}))),
        text_offset=items(COUNT),
    )
)
_HYPERPARAMETERS: Final[Shape] = {
    "type": "object",
    "description": "As asked for; n_epochs, batch_size and learning_rate_multiplier as chosen, auto until then.",
    "required": ["n_epochs", "batch_size", "learning_rate_multiplier"],
    "properties": {
        name: {"oneOf": [NUMBER, const("auto")]}
        for name in ("n_epochs", "batch_size", "learning_rate_multiplier", "beta")
    },
}
_FIGURES: Final[Shape] = {"type": "object", "properties": {"step": COUNT}, "required": ["step"]}
_CALIBRATED: Final[Shape] = {
    "type": "boolean",
    "description": "Whether the probabilities are taken at a temperature that the run's held-out report fitted.",
}
_SHARE: Final = {"confidence": PROBABILITY, "calibrated": _CALIBRATED}
_SURE: Final = items(
    closed(
        name=TEXT,
        value={"description": "As in the answer."},
        confidence=PROBABILITY,
        calibrated=_CALIBRATED,
        abstained={"type": "boolean", "description": "Below the deployment's threshold: let a person decide."},
    )
)
_CHOSEN: Final[Shape] = {"type": ["string", "boolean"]}

_ENDPOINT: Final = {
    "id": TEXT,
    "object": const("webhook_endpoint"),
    "created_at": MOMENT,
    "updated_at": MOMENT,
    "name": TEXT,
    "url": TEXT,
    "event_types": items(TEXT),
    "signing_secret_hint": TEXT,
    "enabled": FLAG,
    "note": maybe(TEXT),
}

ANSWERS: Final[dict[str, Shape]] = {
    "Error": closed(
        error=closed(
            message=TEXT,
            type=TEXT,
            param=maybe(TEXT),
            code=maybe(TEXT),
            details=items({"type": "object"}),
            optional=frozenset({"details"}),
        )
    ),
    "Deleted": closed(id=TEXT, object=TEXT, deleted={"const": True}),
    "Model": closed(id=TEXT, object=const("model"), created=MOMENT, owned_by=TEXT, shutdown_date=maybe(TEXT)),
    "ModelList": closed(object=const("list"), data=items(ref("Model"))),
    "ChatCompletion": closed(
        **_HEAD,
        object=const("chat.completion"),
        choices=items(
            closed(
                index=COUNT,
                finish_reason=_FINISH,
                logprobs=_LOGPROBS,
                message=closed(role=const("assistant"), content=maybe(TEXT), refusal=NOTHING),
                confidence=_SURE,
                optional=frozenset({"confidence"}),
            )
        ),
        usage=_USAGE,
        optional=_UNSIGNED,
    ),
    "ChatCompletionChunk": closed(
        **_HEAD,
        object=const("chat.completion.chunk"),
        choices=items(
            closed(
                index=COUNT,
                finish_reason=_MAYBE_FINISH,
                logprobs=_LOGPROBS,
                delta=closed(
                    role=const("assistant"),
                    content=maybe(TEXT),
                    refusal=NOTHING,
                    optional=frozenset({"role", "content", "refusal"}),
                ),
                optional=frozenset({"logprobs"}),
            )
        ),
        usage=maybe(_USAGE),
        optional=_UNSIGNED | {"usage"},
    ),
    "Completion": closed(
        **_HEAD,
        object=const("text_completion"),
        choices=items(closed(index=COUNT, text=TEXT, logprobs=_PLAIN_LOGPROBS, finish_reason=_MAYBE_FINISH)),
        usage=maybe(_USAGE),
        optional=_UNSIGNED | {"usage"},
    ),
    "Decision": closed(
        model=TEXT,
        answers=items(
            {
                "oneOf": [
                    closed(
                        type=const("choice"),
                        name=maybe(TEXT),
                        choice=_CHOSEN,
                        probabilities=items(closed(value=_CHOSEN, probability=PROBABILITY)),
                        **_SHARE,
                    ),
                    closed(type=const("predicate"), name=maybe(TEXT), probability=PROBABILITY, calibrated=_CALIBRATED),
                    closed(
                        type=const("score"),
                        name=maybe(TEXT),
                        score=NUMBER,
                        probabilities=items(closed(label=TEXT, value=COUNT, probability=PROBABILITY)),
                        **_SHARE,
                    ),
                    closed(type=const("refusal"), name=maybe(TEXT)),
                ]
            }
        ),
        usage=closed(
            input_tokens=COUNT,
            input_tokens_details=closed(cached_tokens=COUNT, cache_write_tokens=COUNT),
            output_tokens=COUNT,
            output_tokens_details=closed(reasoning_tokens=COUNT),
            total_tokens=COUNT,
        ),
    ),
    "File": closed(
        id=TEXT,
        object=const("file"),
        bytes=COUNT,
        created_at=MOMENT,
        filename=TEXT,
        purpose={"type": "string", "enum": list(ApiFile.Purpose.values)},
        status={"type": "string", "enum": list(ApiFile.Status.values)},
        status_details=maybe(TEXT),
        expires_at=maybe(MOMENT),
    ),
    "FileList": listed("File"),
    "FineTuningJob": closed(
        id=TEXT,
        object=const("fine_tuning.job"),
        created_at=MOMENT,
        finished_at=maybe(MOMENT),
        estimated_finish=maybe(MOMENT),
        model=TEXT,
        fine_tuned_model=maybe(TEXT),
        organization_id=TEXT,
        status={"type": "string", "enum": list(JOB_STATUSES)},
        training_file=TEXT,
        validation_file=maybe(TEXT),
        result_files=items(TEXT),
        trained_tokens=maybe(COUNT),
        hyperparameters=_HYPERPARAMETERS,
        method={
            "type": "object",
            "required": ["type"],
            "properties": {"type": {"type": "string", "enum": ["supervised", "dpo"]}},
        },
        seed=COUNT,
        metadata=maybe(TEXTS),
        integrations=items({"type": "object"}),
        error=maybe(closed(code=TEXT, message=TEXT, param=maybe(TEXT))),
        run_id=maybe(TEXT),
        dataset_version_id=maybe(TEXT),
    ),
    "FineTuningJobList": listed("FineTuningJob"),
    "FineTuningEvent": closed(
        id=TEXT,
        object=const("fine_tuning.job.event"),
        created_at=MOMENT,
        level={"type": "string", "enum": ["info", "warn", "error"]},
        message=TEXT,
        type={"type": "string", "enum": ["message", "metrics"]},
        data={"type": "object"},
    ),
    "FineTuningEventList": listed("FineTuningEvent"),
    "FineTuningCheckpoint": closed(
        id=TEXT,
        object=const("fine_tuning.job.checkpoint"),
        created_at=MOMENT,
        fine_tuned_model_checkpoint=TEXT,
        fine_tuning_job_id=TEXT,
        step_number=COUNT,
        metrics=_FIGURES,
        is_callable=FLAG,
    ),
    "FineTuningCheckpointList": listed("FineTuningCheckpoint"),
    "GraderValidation": closed(grader={"type": "object"}),
    "GraderResult": closed(
        reward=NUMBER,
        sub_rewards={"type": "object", "additionalProperties": NUMBER},
        metadata=closed(
            name=TEXT,
            type=TEXT,
            errors={"type": "object", "additionalProperties": FLAG},
            execution_time=NUMBER,
            scores={"type": "object", "additionalProperties": NUMBER},
            sampled_model_name=NOTHING,
            token_usage=NOTHING,
        ),
        model_grader_token_usage_per_model={"type": "object", "maxProperties": 0},
    ),
    "Batch": closed(
        id=TEXT,
        object=const("batch"),
        endpoint=TEXT,
        errors=maybe(
            closed(
                object=const("list"),
                data=items(closed(code=TEXT, line=maybe(COUNT), message=TEXT, param=maybe(TEXT))),
            )
        ),
        input_file_id=TEXT,
        completion_window=TEXT,
        status={"type": "string", "enum": list(BatchJob.Status.values)},
        output_file_id=maybe(TEXT),
        error_file_id=maybe(TEXT),
        created_at=MOMENT,
        **{
            f"{moment}_at": maybe(MOMENT)
            for moment in (
                "in_progress",
                "expires",
                "finalizing",
                "cancelling",
                "completed",
                "failed",
                "cancelled",
                "expired",
            )
        },
        request_counts=closed(total=COUNT, completed=COUNT, failed=COUNT),
        metadata=maybe(TEXTS),
    ),
    "BatchList": listed("Batch"),
    "WebhookEndpoint": closed(**_ENDPOINT),
    "WebhookEndpointWithSecret": closed(**_ENDPOINT, signing_secret=TEXT),
    "WebhookEndpointList": listed("WebhookEndpoint"),
    "WebhookEndpointTest": closed(
        object=const("webhook_endpoint.test"),
        webhook_endpoint_id=TEXT,
        event_type=TEXT,
        status_code=COUNT,
        success={"const": True},
    ),
    "WebhookEventTypeList": closed(object=const("list"), data=items(TEXT)),
}
