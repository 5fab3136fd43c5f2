"""The resource API of judgements."""

from __future__ import annotations

import uuid
from typing import Any

from django.shortcuts import get_object_or_404
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from experiments.api import PagedAPIView
from experiments.llm_judge import services
from experiments.llm_judge.models import Judgement
from experiments.models import Evaluation
from portal import audit
from portal.api.pagination import PAGE_PARAMETERS, page_of
from portal.models import Scope


class JudgementSerializer(serializers.ModelSerializer[Judgement]):
    """Ratings of held-out answers by a language model elsewhere; what it failed to rate is null in `ratings`."""

    class Meta:
        model = Judgement
        fields = [
            "id",
            "status",
            "model",
            "rubric",
            "rows",
            "done",
            "figures",
            "ratings",
            "prompt_tokens",
            "answer_tokens",
            "error",
            "created_at",
            "ended_at",
        ]
        read_only_fields = fields


class RunJudgements(PagedAPIView):
    """What judges say about the answers of a run."""

    scopes = {"GET": Scope.RUNS_READ.value, "POST": Scope.RUNS_WRITE.value, "DELETE": Scope.RUNS_WRITE.value}
    query_parameters = PAGE_PARAMETERS

    @extend_schema(
        operation_id="runs_judgements_list",
        responses=page_of("Judgement", JudgementSerializer),
        parameters=[OpenApiParameter("page", int), OpenApiParameter("page_size", int)],
    )
    def get(self, request: Request, pk: uuid.UUID) -> Response:
        """List judgements, newest first."""
        evaluation = self._evaluation(pk)
        audit.read(self.team, self.actor, "run.answers_read", evaluation.run)
        return self.paged(evaluation.judgements.order_by("-created_at"), JudgementSerializer)

    @extend_schema(operation_id="runs_judgements_create", request=None, responses={201: JudgementSerializer})
    def post(self, request: Request, pk: uuid.UUID) -> Response:
        """Have some held-out answers rated by the judge that the team's admins have set."""
        asked = services.ask_judge(evaluation=self._evaluation(pk), actor=self.actor)
        return Response(JudgementSerializer(asked).data, status=201)

    @extend_schema(operation_id="runs_judgements_cancel", responses={200: JudgementSerializer})
    def delete(self, request: Request, pk: uuid.UUID) -> Response:
        """Stop the judgement that waits or is at work; what was rated so far stays."""
        cancelled = services.cancel_judgement(evaluation=self._evaluation(pk), actor=self.actor)
        return Response(JudgementSerializer(cancelled).data)

    def _evaluation(self, pk: uuid.UUID) -> Any:
        evaluations = Evaluation.unscoped.filter(team=self.team).select_related("run", "team")
        return get_object_or_404(evaluations, run=self.run_of(pk))
