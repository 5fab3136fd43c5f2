"""The addresses under /v1/fine_tuning/jobs."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from django.utils.translation import gettext as _
from drf_spectacular.utils import OpenApiParameter, extend_schema_view
from rest_framework.request import Request
from rest_framework.response import Response

from deployments.openai_api import job_settings, job_words, jobs, repeats
from deployments.openai_api.base import OpenAIView
from deployments.openai_api.document import operation, page_of
from deployments.openai_api.ids import find, listed, read_page
from deployments.openai_api.models import FineTuningJob
from portal.errors import InvalidInput
from portal.models import Scope

_MOST_FILTERS = 16
TAG = "fine-tuning"
_FILTER = re.compile(r"metadata\[(.+)\]", re.DOTALL)
_METADATA = OpenApiParameter("metadata", {"type": "object"}, style="deepObject")


class JobView(OpenAIView):
    """What the addresses of jobs share."""

    scopes = {"GET": Scope.RUNS_READ.value, "POST": Scope.RUNS_WRITE.value}
    counts_at_once = in_one_transaction = True

    def job(self, job_id: str) -> FineTuningJob:
        """Return a job of the team. Raises: NotFound."""
        related = ("team", "base_model", "run__adapter", "run__experiment")
        rows = self.team.finetuningjobs.select_related(*related)
        return find(rows, jobs.PREFIX, job_id, param="fine_tuning_job_id")


class Jobs(JobView):
    """GET and POST /v1/fine_tuning/jobs."""

    reads_body = True
    query_parameters = frozenset({"after", "limit"})

    @operation("listFineTuningJobs", "FineTuningJobList", tag=TAG, query=page_of(100, _METADATA))
    def get(self, request: Request) -> Response:
        """List the team's jobs, the newest first; `metadata[key]=value` narrows the list."""
        rows = self.team.finetuningjobs.select_related("team", "base_model", "run")
        for name, value in self._metadata_filters(request).items():
            rows = rows.filter(metadata__contains={name: value})
        if request.query_params.get("metadata") == "null":
            rows = rows.filter(metadata={})
        page = read_page(request, usual=20, most=100)
        return Response(listed(rows, page, prefix=jobs.PREFIX, shape=job_words.as_object))

    @operation("createFineTuningJob", "FineTuningJob", takes="FineTuningRequest", tag=TAG)
    def post(self, request: Request) -> Response:
        """Take an order; one that comes again gets the job of the first."""
        order = job_settings.read_order(request.data)
        return repeats.once(
            request,
            team=self.team,
            token=self.token,
            body=request.data,
            make=lambda: job_words.as_object(jobs.create_job(team=self.team, actor=self.actor, order=order)),
        )

    def _refuse_unknown_parameters(self, request: Request) -> None:
        sent = set(request.query_params)
        plain = {name for name in sent if name != "metadata" and not _FILTER.fullmatch(name)}
        if plain <= self.query_parameters and request.method == "GET":
            return
        super()._refuse_unknown_parameters(request)

    def _metadata_filters(self, request: Request) -> dict[str, str]:
        found = {
            match[1]: str(value)
            for name, value in request.query_params.items()
            if (match := _FILTER.fullmatch(name)) is not None
        }
        if request.query_params.get("metadata", "null") != "null":
            raise InvalidInput(_("'metadata' is null, or narrows the list as metadata[name]=text."), param="metadata")
        if len(found) > _MOST_FILTERS or any("\0" in text for pair in found.items() for text in pair):
            raise InvalidInput(_("'metadata' narrows the list by up to 16 texts."), param="metadata")
        return found


class Job(JobView):
    """GET /v1/fine_tuning/jobs/{id}."""

    scopes = {"GET": Scope.RUNS_READ.value}

    @operation("retrieveFineTuningJob", "FineTuningJob", tag=TAG)
    def get(self, request: Request, job_id: str) -> Response:
        """Describe a job."""
        return Response(job_words.as_object(self.job(job_id)))


class JobEvents(JobView):
    """GET /v1/fine_tuning/jobs/{id}/events."""

    scopes = {"GET": Scope.RUNS_READ.value}
    query_parameters = frozenset({"after", "limit"})

    @operation("listFineTuningEvents", "FineTuningEventList", tag=TAG, query=page_of(100))
    def get(self, request: Request, job_id: str) -> Response:
        """List what happened, the newest first."""
        return Response(job_words.events_page(self.job(job_id), read_page(request, usual=20, most=100)))


class JobCheckpoints(JobView):
    """GET /v1/fine_tuning/jobs/{id}/checkpoints."""

    scopes = {"GET": Scope.RUNS_READ.value}
    query_parameters = frozenset({"after", "limit"})

    @operation("listFineTuningCheckpoints", "FineTuningCheckpointList", tag=TAG, query=page_of(100))
    def get(self, request: Request, job_id: str) -> Response:
        """List the checkpoints, the newest first."""
        return Response(job_words.checkpoints_page(self.job(job_id), read_page(request, usual=10, most=100)))


class JobAction(JobView):
    """POST to an address of a job that does something to it; a body is not looked at."""

    scopes = {"POST": Scope.RUNS_WRITE.value}
    act: ClassVar[Callable[..., FineTuningJob]]

    def post(self, request: Request, job_id: str) -> Response:
        """Do it, and describe the job as it is now; a request that comes again gets the answer of the first."""

        def do() -> dict[str, Any]:
            type(self).act(job=self.job(job_id), actor=self.actor)
            return job_words.as_object(self.job(job_id))

        return repeats.once(request, team=self.team, token=self.token, body=None, make=do)


_acts = partial(operation, answer="FineTuningJob", tag=TAG)


@extend_schema_view(post=_acts("cancelFineTuningJob"))
class JobCancel(JobAction):
    """POST /v1/fine_tuning/jobs/{id}/cancel."""

    act = staticmethod(jobs.cancel_job)


@extend_schema_view(post=_acts("pauseFineTuningJob"))
class JobPause(JobAction):
    """POST /v1/fine_tuning/jobs/{id}/pause."""

    act = staticmethod(jobs.pause_job)


@extend_schema_view(post=_acts("resumeFineTuningJob"))
class JobResume(JobAction):
    """POST /v1/fine_tuning/jobs/{id}/resume."""

    act = staticmethod(jobs.resume_job)
