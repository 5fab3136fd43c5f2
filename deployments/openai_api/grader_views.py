"""The addresses under /v1/fine_tuning/alpha/graders: they look at what is sent and keep nothing."""

from __future__ import annotations

import time
from typing import Any, Final

from django.utils.translation import gettext as _
from rest_framework.request import Request
from rest_framework.response import Response

from deployments.openai_api import graders, parameters
from deployments.openai_api.base import OpenAIView
from deployments.openai_api.document import operation
from deployments.openai_api.graders import Sample
from portal.models import Scope

Body = dict[str, Any]
TAG: Final = "fine-tuning"
ERRORS: Final = (
    "formula_parse_error", "invalid_variable_error", "model_grader_parse_error", "model_grader_refusal_error",
    "model_grader_server_error", "other_error", "python_grader_runtime_error", "python_grader_server_error",
    "sample_parse_error", "truncated_observation_error", "unresponsive_reward_error",
)  # fmt: skip
"""The kinds of errors that OpenAI's clients expect to be told; graders without a model tell four of them."""


class GraderView(OpenAIView):
    """What both addresses share."""

    scopes = {"POST": Scope.RUNS_READ.value}
    counts_at_once = True

    def sent(self, *known: str, required: int) -> Body:
        """Return the body, of known parameters, the first of them required. Raises: InvalidInput naming one."""
        body = parameters.require_object(self.request.data)
        for name in body:
            if name not in known:
                raise parameters.unsupported(name)
        for name in known[:required]:
            if body.get(name) is None:
                raise parameters.MissingParameter(_("'%(name)s' is missing.") % {"name": name}, param=name)
        return body


class GraderValidate(GraderView):
    """POST /v1/fine_tuning/alpha/graders/validate."""

    @operation("validateGrader", "GraderValidation", takes="GraderValidateRequest", tag=TAG)
    def post(self, request: Request) -> Response:
        """Say whether a grader can be run: it comes back, or is refused with the reason."""
        body = self.sent("grader", required=1)
        graders.read_grader("grader", body["grader"])
        return Response({"grader": body["grader"]})


class GraderRun(GraderView):
    """POST /v1/fine_tuning/alpha/graders/run."""

    @operation("runGrader", "GraderResult", takes="GraderRunRequest", tag=TAG)
    def post(self, request: Request) -> Response:
        """Grade one answer."""
        body = self.sent("grader", "model_sample", "item", required=2)
        grader = graders.read_grader("grader", body["grader"])
        text = parameters.text("model_sample", body["model_sample"], limit=graders.MOST_TEXT)
        begun = time.monotonic()
        graded = graders.grade(grader, Sample(text, body.get("item")))
        return Response(
            {
                "reward": graded.reward,
                "sub_rewards": dict(graded.parts),
                "metadata": {
                    "name": grader.name,
                    "type": grader.kind,
                    "errors": {kind: kind == graded.error for kind in ERRORS},
                    "execution_time": time.monotonic() - begun,
                    "scores": dict(graded.parts) or {grader.name: graded.reward},
                    "sampled_model_name": None,
                    "token_usage": None,
                },
                "model_grader_token_usage_per_model": {},
            }
        )
