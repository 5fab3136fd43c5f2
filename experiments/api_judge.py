"""The resource API of the judge: whom a team asks, and what it has said."""

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
from experiments.llm_judge.costs import MOST_PRICE
from experiments.llm_judge.models import Judgement, JudgeSetting
from experiments.llm_judge.rubric import DEFAULT_RUBRIC, MOST_ROWS
from experiments.models import Evaluation
from portal import audit
from portal.api.pagination import PAGE_PARAMETERS, page_of
from portal.api.views import TeamAPIView
from portal.models import Scope


class JudgementSerializer(serializers.ModelSerializer[Judgement]):
    """Ratings of held-out answers by a language model elsewhere; what it failed to rate is null in `ratings`."""

    cost = serializers.FloatField(read_only=True, allow_null=True, help_text="by the prices in the setting; or null")

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
            "cost",
            "most_cost",
            "is_capped",
            "error",
            "created_at",
            "ended_at",
        ]
        read_only_fields = fields


class JudgeSerializer(serializers.ModelSerializer[JudgeSetting]):
    """Whom the team asks to rate answers. `secret` is the name of the endpoint's key; the key itself is never shown."""

    address = serializers.CharField(
        max_length=500, help_text="of an OpenAI-compatible endpoint, without /chat/completions at the end"
    )
    secret = serializers.CharField(
        max_length=60, allow_blank=True, default="", help_text="name of a stored key; empty: the endpoint wants none"
    )
    key = serializers.CharField(
        max_length=8192, write_only=True, required=False, trim_whitespace=False,
        help_text="stored as a secret of the team, under the name in `secret` or `judge-key`; never shown again",
    )  # fmt: skip
    rubric = serializers.CharField(max_length=4000, default=DEFAULT_RUBRIC, help_text="what the scores 1 to 5 mean")
    rows = serializers.IntegerField(min_value=1, max_value=MOST_ROWS, default=50, help_text="rated at a time")

    prompt_price = serializers.FloatField(min_value=0, max_value=MOST_PRICE, default=0, help_text="a million tokens")
    answer_price = serializers.FloatField(min_value=0, max_value=MOST_PRICE, default=0, help_text="a million tokens")
    most_cost = serializers.FloatField(
        min_value=0, max_value=MOST_PRICE, allow_null=True, default=None,
        help_text="of one judgement, which ends before a row that might bring it above; null: no limit",
    )  # fmt: skip

    class Meta:
        model = JudgeSetting
        fields = [
            "address",
            "model",
            "secret",
            "key",
            "rubric",
            "rows",
            "prompt_price",
            "answer_price",
            "most_cost",
            "updated_at",
        ]
        read_only_fields = ["updated_at"]


class AskSerializer(serializers.Serializer[Judgement]):
    """How many rows are rated this time: at most as many as the setting says, which is what is left out means."""

    rows = serializers.IntegerField(min_value=1, max_value=MOST_ROWS, required=False)


class Judge(TeamAPIView):
    """Whom the team asks to rate answers."""

    scopes = {"GET": Scope.RUNS_READ.value, "PUT": Scope.RUNS_WRITE.value, "DELETE": Scope.RUNS_WRITE.value}

    @extend_schema(operation_id="judge_retrieve", responses=JudgeSerializer)
    def get(self, request: Request) -> Response:
        """Show the judge; for tokens of the team's admins."""
        return Response(JudgeSerializer(self._setting()).data)

    @extend_schema(operation_id="judge_replace", request=JudgeSerializer, responses={200: JudgeSerializer})
    def put(self, request: Request) -> Response:
        """Say whom the team asks, in place of whom it asked before; for tokens of the team's admins."""
        form = JudgeSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        found = services.set_judge(team=self.team, actor=self.actor, **form.validated_data)
        return Response(JudgeSerializer(found).data)

    @extend_schema(operation_id="judge_delete", responses={204: None})
    def delete(self, request: Request) -> Response:
        """Ask nobody any more; what was rated stays, and so does the key. For tokens of the team's admins."""
        services.remove_judge(setting=self._setting(), actor=self.actor)
        return Response(status=204)

    def _setting(self) -> JudgeSetting:
        return services.judge_of(team=self.team, actor=self.actor)


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

    @extend_schema(operation_id="runs_judgements_create", request=AskSerializer, responses={201: JudgementSerializer})
    def post(self, request: Request, pk: uuid.UUID) -> Response:
        """Have some held-out answers rated by the judge that the team's admins have set."""
        evaluation = self._evaluation(pk)
        form = AskSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        asked = services.ask_judge(evaluation=evaluation, actor=self.actor, **form.validated_data)
        return Response(JudgementSerializer(asked).data, status=201)

    @extend_schema(operation_id="runs_judgements_cancel", responses={200: JudgementSerializer})
    def delete(self, request: Request, pk: uuid.UUID) -> Response:
        """Stop the judgement that waits or is at work; what was rated so far stays."""
        cancelled = services.cancel_judgement(evaluation=self._evaluation(pk), actor=self.actor)
        return Response(JudgementSerializer(cancelled).data)

    def _evaluation(self, pk: uuid.UUID) -> Any:
        evaluations = Evaluation.unscoped.filter(team=self.team).select_related("run", "team")
        return get_object_or_404(evaluations, run=self.run_of(pk))
