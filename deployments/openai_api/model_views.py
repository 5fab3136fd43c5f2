"""The addresses under /v1/models: what the team can call, by name."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db import transaction
from django.utils.translation import gettext as _
from rest_framework.request import Request
from rest_framework.response import Response

from deployments import inference, services, tuned_models
from deployments.models import Deployment, FineTuningJob
from deployments.openai_api.base import OpenAIView
from deployments.openai_api.document import operation
from portal import audit
from portal.actors import Actor
from portal.errors import Forbidden
from portal.models import BaseModel, Scope, Team
from portal.rls import team_scope

Body = dict[str, Any]


class ModelList(OpenAIView):
    """GET /v1/models."""

    counts_at_once = True

    @operation("listModels", "ModelList", tag="models")
    def get(self, request: Request) -> Response:
        """List what the team can call: its running deployments, its fine-tuned models, and the base models."""
        with team_scope(self.team.pk):
            jobs = list(tuned_models.callable_jobs(self.team))
            tuned = {job.deployment_name for job in jobs}
            known = {one.name: one for one in self.team.deployments.all()}
        running = [one for one in known.values() if one.is_running and not one.is_retired and one.name not in tuned]
        models = [deployment_entry(deployment, self.team) for deployment in running]
        models += [
            tuned_entry(job, deployment=deployment)
            for job in jobs
            if (deployment := known.get(job.deployment_name)) is None or not deployment.is_retired
        ]
        models += [base_model_entry(model) for model in BaseModel.objects.filter(is_allowed=True)]
        return Response({"object": "list", "data": [model for model in models if self.token.may_call(model["id"])]})


class ModelDetail(OpenAIView):
    """GET and DELETE /v1/models/{id}."""

    scopes = {"GET": Scope.INFERENCE.value, "DELETE": Scope.DEPLOYMENTS_WRITE.value}
    counts_at_once = True

    @operation("retrieveModel", "Model", tag="models")
    def get(self, request: Request, model_id: str) -> Response:
        """Describe one model."""
        self._require_allowed(model_id)
        if not inference.is_writable(model_id):
            raise inference.model_not_found()
        with team_scope(self.team.pk):
            if model_id.startswith(tuned_models.PREFIX):
                job = tuned_models.find(self.team, model_id)
                made = self.team.deployments.filter(name=job.deployment_name).first()
                return Response(tuned_entry(job, model_id, deployment=made))
            deployment = self.team.deployments.filter(name=model_id, is_running=True).first()
        if deployment is not None:
            return Response(deployment_entry(deployment, self.team))
        model = BaseModel.objects.filter(slug=model_id, is_allowed=True).first()
        if model is None:
            raise inference.model_not_found()
        return Response(base_model_entry(model))

    @operation("deleteModel", "Deleted", tag="models")
    def delete(self, request: Request, model_id: str) -> Response:
        """Delete a fine-tuned model or a deployment; a base model belongs to all teams."""
        self._require_allowed(model_id)
        if not inference.is_writable(model_id):
            raise inference.model_not_found()
        with team_scope(self.team.pk):
            if model_id.startswith(tuned_models.PREFIX):
                delete_tuned(tuned_models.find(self.team, model_id), self.actor)
                return Response({"id": model_id, "object": "model", "deleted": True})
            deployment = self.team.deployments.filter(name=model_id).first()
            if deployment is not None:
                services.delete_deployment(deployment=deployment, actor=self.actor)
                return Response({"id": model_id, "object": "model", "deleted": True})
        if BaseModel.objects.filter(slug=model_id, is_allowed=True).exists():
            raise Forbidden(_("This model belongs to all teams, so it cannot be deleted."))
        raise inference.model_not_found()

    def _require_allowed(self, model_id: str) -> None:
        if not self.token.may_call(model_id):
            raise inference.model_not_found()


@transaction.atomic
def delete_tuned(job: FineTuningJob, actor: Actor) -> None:
    """Let a fine-tuned model answer no more, with its deployment; the run and its adapter stay in the portal."""
    team = job.team
    team.finetuningjobs.filter(pk=job.pk).update(is_model_deleted=True)
    audit.record(team, actor, "fine_tuning.model_deleted", job)
    deployment = team.deployments.filter(name=job.deployment_name).first()
    if deployment is not None:
        services.delete_deployment(deployment=deployment, actor=actor)


def deployment_entry(deployment: Deployment, team: Team) -> Body:
    """Return a deployment as a model."""
    return _entry(deployment.name, deployment.created_at, team.slug, deployment)


def tuned_entry(job: FineTuningJob, name: str = "", *, deployment: Deployment | None = None) -> Body:
    """Return what a fine-tuning job left as a model; `deployment`: the one that was made of it, if there is one."""
    made_at = job.run.ended_at if job.run is not None else None
    return _entry(name or job.model_name, made_at or job.created_at, job.team.slug, deployment)


def base_model_entry(model: BaseModel) -> Body:
    """Return a base model as a model."""
    return _entry(model.slug, model.created_at, "tuneport")


def _entry(name: str, created_at: datetime, owner: str, deployment: Deployment | None = None) -> Body:
    last_day = deployment.retires_on if deployment is not None else None
    return {
        "id": name,
        "object": "model",
        "created": int(created_at.timestamp()),
        "owned_by": owner,
        "shutdown_date": last_day.isoformat() if last_day is not None else None,
    }
