"""The addresses under /v1/batches."""

from __future__ import annotations

from rest_framework.request import Request
from rest_framework.response import Response

from deployments.openai_api import batches, repeats
from deployments.openai_api.base import OpenAIView
from deployments.openai_api.document import operation, page_of
from deployments.openai_api.ids import find, listed, read_page
from deployments.openai_api.models import BatchJob


class BatchView(OpenAIView):
    """What the addresses of batches share."""

    counts_at_once = in_one_transaction = True

    def batch(self, batch_id: str) -> BatchJob:
        """Return a batch of the team. Raises: NotFound."""
        return find(self.team.batchjobs.select_related("team"), batches.PREFIX, batch_id, param="batch_id")


class Batches(BatchView):
    """GET and POST /v1/batches."""

    reads_body = True
    query_parameters = frozenset({"after", "limit"})

    @operation("listBatches", "BatchList", tag="batches", query=page_of(100))
    def get(self, request: Request) -> Response:
        """List the team's batches, the newest first."""
        rows = self.team.batchjobs.all()
        page = read_page(request, usual=20, most=100)
        return Response(listed(rows, page, prefix=batches.PREFIX, shape=batches.as_object))

    @operation("createBatch", "Batch", takes="BatchRequest", tag="batches")
    def post(self, request: Request) -> Response:
        """Take an order; one that comes again gets the batch of the first."""
        order = batches.read_order(request.data)

        def make() -> dict[str, object]:
            made = batches.create_batch(team=self.team, actor=self.actor, token=self.token, order=order)
            return batches.as_object(made)

        return repeats.once(request, team=self.team, token=self.token, body=request.data, make=make)


class Batch(BatchView):
    """GET /v1/batches/{id}."""

    @operation("retrieveBatch", "Batch", tag="batches")
    def get(self, request: Request, batch_id: str) -> Response:
        """Describe a batch."""
        return Response(batches.as_object(self.batch(batch_id)))


class BatchCancel(BatchView):
    """POST /v1/batches/{id}/cancel."""

    @operation("cancelBatch", "Batch", tag="batches")
    def post(self, request: Request, batch_id: str) -> Response:
        """Stop a batch; a body is not looked at."""

        def stop() -> dict[str, object]:
            return batches.as_object(batches.cancel_batch(batch=self.batch(batch_id), actor=self.actor))

        return repeats.once(request, team=self.team, token=self.token, body=None, make=stop)
