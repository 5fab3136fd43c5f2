"""How the requests under /v1 look, as JSON schemas made of what reads them: its parameters, limits and known words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from deployments.openai_api import answering, files, formulas, graders, job_settings, parameters, questions
from deployments.openai_api.answer_shapes import ANYTHING, FLAG, TEXT, Shape, closed, const, items, maybe, ref
from deployments.openai_api.parameters import Parameter
from deployments.webhooks.models import EVENT_TYPES
from experiments.hyperparameters import Hyperparameters
from experiments.recipes import RECIPES

_KEPT_TEXTS: Final[Shape] = maybe(
    {
        "type": "object",
        "maxProperties": 16,
        "propertyNames": {"maxLength": 64},
        "additionalProperties": {"type": "string", "maxLength": 512},
        "description": "Kept with it and told again.",
    }
)
_MODEL: Final[Shape] = {"type": "string", "maxLength": 200, "description": "A name that /v1/models lists."}
_NAME: Final[Shape] = {"type": "string", "minLength": 1, "maxLength": 100}
_TEXT_PARTS: Final = items(
    {"type": "object", "required": ["type", "text"], "properties": {"type": const("text"), "text": TEXT}}
) | {"minItems": 1}
_TOKEN_IDS: Final = items({"type": "integer", "minimum": 0, "maximum": 2**31 - 1}) | {"minItems": 1}
_SEVERAL: Final = {"minItems": 1, "maxItems": parameters.MOST_PROMPTS}
_MESSAGES: Final = items(ref("Message")) | {"minItems": 1, "maxItems": parameters.MAX_MESSAGES}


def _parameters(known: Mapping[str, Parameter], **required: Shape) -> Shape:
    """Return the shape of a body of known parameters, each of which may be null; what is never taken is left out."""
    taken = {name: one.schema for name, one in known.items() if one.schema.get("enum") != []}
    return {
        "type": "object",
        "required": list(required),
        "properties": required | {name: maybe(schema) for name, schema in taken.items()},
        "additionalProperties": False,
    }


def _hyperparameters() -> Shape:
    """Return the names that a job's hyperparameters may have; their values are checked for the base model at hand."""
    ours = sorted(set(Hyperparameters.model_fields) - {"seed", "problem_type"})
    names = [*job_settings.THEIR_NAMES, *(name for name in ours if name not in job_settings.THEIR_NAMES)]
    described = {name: _described(name) for name in names}
    return maybe({"type": "object", "properties": described, "additionalProperties": False})


def _described(name: str) -> Shape:
    field = Hyperparameters.model_fields.get(name)
    told = field.title or field.description if field is not None else None
    return {"description": f"{told}. A value, or auto." if told else "A value, or auto."}


def _method(kind: str) -> Shape:
    inner = closed(hyperparameters=ref("FineTuningHyperparameters"), optional=frozenset({"hyperparameters"}))
    return closed(type=const(kind), optional=frozenset({kind}), **{kind: maybe(inner)})


_OFFERED: Final = {"minItems": 2, "maxItems": questions.MOST_CHOICES}
_LABEL: Final[Shape] = {"type": "string", "minLength": 1}
_DECISION_PARTS: Final = items(
    {
        "oneOf": [
            *(
                {"type": "object", "required": ["type", field], "properties": {"type": const(kind), field: TEXT}}
                for kind, field in questions.TEXT_PARTS.items()
            ),
            {
                "type": "object",
                "required": ["type", "data"],
                "properties": {
                    "type": const(questions.JSON_PART),
                    "data": {"oneOf": [{"type": "object"}, items({"type": "object"})]},
                },
            },
        ]
    }
)
_INSTRUCTIONS: Final[Shape] = {
    "oneOf": [{"type": ["string", "null"], "maxLength": questions.MOST_INSTRUCTIONS}, _DECISION_PARTS],
    "description": "What is asked, in words; a question without a name needs them.",
}


def _question(kind: str, **more: Shape) -> Shape:
    name: Shape = {"type": ["string", "null"], "minLength": 1, "maxLength": 200}
    may_miss = frozenset({"name", "instructions"})
    return closed(type=const(kind), name=name, instructions=_INSTRUCTIONS, optional=may_miss, **more)


def _option(key: str, value: Shape) -> Shape:
    return closed(optional=frozenset({"description"}), **{key: value, "description": maybe(TEXT)})


_GRADED: Final[Shape] = {"type": "string", "maxLength": graders.MOST_TEXT}


def _grader(kind: str, **options: Shape) -> Shape:
    return closed(type=const(kind), name=_GRADED, **options)


_COMPARED: Final = {
    "input": _GRADED | {"description": "May hold {{item.…}}, {{sample.output_text}}, {{sample.output_json.…}}."},
    "reference": _GRADED | {"description": "As input."},
}
_EVENT: Final[Shape] = {"type": "string", "enum": list(EVENT_TYPES)}
_ENDPOINT: Final = {
    "name": {"type": "string", "minLength": 1, "maxLength": 100},
    "url": {"type": "string", "minLength": 1, "maxLength": 2_000, "description": "https only."},
    "event_types": items(_EVENT) | {"minItems": 1},
}

REQUESTS: Final[dict[str, Shape]] = {
    "Message": {
        "type": "object",
        "required": ["role", "content"],
        "properties": {
            "role": {"type": "string", "enum": list(parameters.ROLES)},
            "content": {"oneOf": [TEXT, _TEXT_PARTS]},
        },
        "description": "Text only. Other fields may come along as long as they are empty.",
    },
    "DecisionMessage": {
        "type": "object",
        "required": ["role", "content"],
        "properties": {
            "role": {"type": "string", "enum": list(parameters.ROLES)},
            "content": {"oneOf": [TEXT, _DECISION_PARTS | {"minItems": 1}]},
            "type": maybe(const("message")),
            "phase": {"enum": [*questions.PHASES, None]},
        },
        "description": "Text and JSON only. Other fields may come along as long as they are empty.",
    },
    "ChatRequest": _parameters(parameters.CHAT_PARAMETERS, model=_MODEL, messages=_MESSAGES),
    "CompletionRequest": _parameters(
        parameters.COMPLETION_PARAMETERS,
        model=_MODEL,
        prompt={"oneOf": [TEXT, _TOKEN_IDS, *(items(one) | _SEVERAL for one in (TEXT, _TOKEN_IDS))]},
    ),
    "DecisionRequest": closed(
        model=_MODEL | {"minLength": 1},
        input={
            "oneOf": [
                {"type": "string", "minLength": 1},
                items(ref("DecisionMessage")) | {"minItems": 1, "maxItems": parameters.MAX_MESSAGES},
            ]
        },
        questions=items(
            {
                "oneOf": [
                    _question("choice", choices=items(_option("value", {"anyOf": [_LABEL, FLAG]})) | _OFFERED),
                    _question("predicate"),
                    _question("score", levels=items(_option("label", _LABEL)) | _OFFERED),
                ]
            }
        )
        | {"minItems": 1, "maxItems": questions.MOST_QUESTIONS},
        **dict.fromkeys(questions.ANY_NOTES, ANYTHING),
        prompt_cache_key={"type": ["string", "null"], "maxLength": questions.LONGEST_CACHE_KEY},
        prompt_cache_options=maybe(
            closed(
                mode={"enum": [*questions.CACHE_MODES, None]},
                ttl=const(questions.CACHE_LIFE),
                optional=frozenset({"mode", "ttl"}),
            )
        ),
        optional=frozenset({*questions.ANY_NOTES, "prompt_cache_key", "prompt_cache_options"}),
    ),
    "FileUpload": {
        "type": "object",
        "required": ["file", "purpose"],
        "properties": {
            "file": {"type": "string", "format": "binary", "description": "JSON lines, up to 512 MB."},
            "purpose": {"type": "string", "enum": list(files.UPLOADED)},
            "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
            "expires_after[seconds]": {
                "type": "integer",
                "minimum": int(files.LEAST_LIFE.total_seconds()),
                "maximum": int(files.LONGEST_LIFE.total_seconds()),
            },
        },
        "additionalProperties": False,
    },
    "FineTuningHyperparameters": _hyperparameters(),
    "FineTuningRequest": closed(
        model=_MODEL | {"minLength": 1, "description": "A base model, or a fine-tuned one to go on from."},
        training_file=_NAME,
        validation_file=maybe(TEXT),
        suffix=maybe({"type": "string", "maxLength": 64}),
        seed={"type": ["integer", "null"], "minimum": 0, "maximum": 2**31 - 1},
        method=maybe({"oneOf": [_method(kind) for kind in job_settings.METHODS]}),
        hyperparameters=ref("FineTuningHyperparameters"),
        metadata=_KEPT_TEXTS,
        integrations=maybe(items({}) | {"maxItems": 0}),
        recipe={"type": ["string", "null"], "enum": [*RECIPES, None]},
        optional=job_settings.KNOWN - {"model", "training_file"},
    ),
    "SingleGrader": {
        "oneOf": [
            _grader("string_check", **_COMPARED, operation={"type": "string", "enum": list(graders.OPERATIONS)}),
            _grader("text_similarity", **_COMPARED, evaluation_metric={"type": "string", "enum": list(graders.ROUGE)}),
        ]
    },
    "Grader": {
        "anyOf": [
            ref("SingleGrader"),
            _grader(
                "multi",
                graders={
                    "anyOf": [
                        ref("SingleGrader"),
                        {
                            "type": "object",
                            "minProperties": 1,
                            "maxProperties": graders.MOST_GRADERS,
                            "additionalProperties": ref("SingleGrader"),
                        },
                    ]
                },
                calculate_output={"type": "string", "maxLength": formulas.LONGEST},
            ),
        ]
    },
    "GraderValidateRequest": closed(grader=ref("Grader")),
    "GraderRunRequest": closed(grader=ref("Grader"), model_sample=_GRADED, item=ANYTHING, optional=frozenset({"item"})),
    "WebhookEndpointRequest": closed(**_ENDPOINT),
    "WebhookEndpointChange": closed(
        **{name: maybe(shape) for name, shape in _ENDPOINT.items()},
        enabled=maybe(FLAG),
        optional={*_ENDPOINT, "enabled"},
    ),
    "WebhookRotation": closed(
        keep_old_secret_active_for_24_hours=maybe(FLAG), optional={"keep_old_secret_active_for_24_hours"}
    ),
    "WebhookTestRequest": closed(event_type=_EVENT),
    "BatchRequest": closed(
        input_file_id=_NAME,
        endpoint={"type": "string", "enum": list(answering.ENDPOINTS)},
        completion_window=const("24h"),
        metadata=_KEPT_TEXTS,
        optional=frozenset({"metadata"}),
    ),
}
