"""The addresses under /v1/files."""

from __future__ import annotations

from typing import Any

from django.http import FileResponse, HttpResponseBase
from django.utils.translation import gettext as _
from drf_spectacular.utils import OpenApiParameter
from rest_framework.parsers import MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response

from datasets_app.sources import refuse_oversize
from deployments.openai_api import files, repeats
from deployments.openai_api.base import OpenAIView
from deployments.openai_api.document import operation, page_of, whole_file
from deployments.openai_api.ids import listed, read_page
from deployments.openai_api.models import ApiFile
from deployments.openai_api.parameters import MissingParameter, unsupported
from portal import audit
from portal.errors import InvalidInput, NotFound
from portal.models import Scope

_FILTERS = (
    OpenApiParameter("order", str, enum=["asc", "desc"]),
    OpenApiParameter("purpose", str, enum=ApiFile.Purpose.values),
)
_FIELDS = {"purpose", "file", "expires_after[anchor]", "expires_after[seconds]"}


class Files(OpenAIView):
    """GET and POST /v1/files."""

    scopes = {"GET": Scope.DATASETS_READ.value, "POST": Scope.DATASETS_WRITE.value}
    most_bytes = None
    parser_classes = (MultiPartParser,)  # type: ignore[assignment]
    query_parameters = frozenset({"after", "limit", "order", "purpose"})
    counts_at_once = in_one_transaction = reads_body = True

    @operation("listFiles", "FileList", tag="files", query=page_of(10_000, *_FILTERS))
    def get(self, request: Request) -> Response:
        """List the team's files, the newest first."""
        rows = files.living(self.team)
        purpose = request.query_params.get("purpose")
        if purpose is not None:
            if purpose not in ApiFile.Purpose.values:
                raise InvalidInput(_("There is no such purpose."), param="purpose")
            rows = rows.filter(purpose=purpose)
        page = read_page(request, usual=10_000, most=10_000, ordered=True)
        return Response(listed(rows, page, prefix=files.PREFIX, shape=files.as_object))

    @operation("createFile", "File", takes="FileUpload", as_form=True, tag="files")
    def post(self, request: Request) -> Response:
        """Keep an uploaded file."""
        sent: Any = request.data
        refuse_oversize(request._request)
        for name in sent:
            if name not in _FIELDS:
                raise unsupported(str(name))
        content = request.FILES.get("file")
        if content is None:
            raise MissingParameter(_("Send the file as multipart field 'file'."), param="file")
        if not sent.get("purpose"):
            raise MissingParameter(_("Say what the file is for in 'purpose'."), param="purpose")
        purpose, life_s = str(sent["purpose"]), _life(sent)

        def keep() -> dict[str, Any]:
            file = files.upload(
                team=self.team, actor=self.actor, purpose=purpose, content=content, expires_after_s=life_s
            )
            return files.as_object(file)

        if not request.headers.get(repeats.HEADER):
            return Response(keep())
        body = [purpose, life_s, content.name, files.digest_of(content)]
        return repeats.once(request, team=self.team, token=self.token, body=body, make=keep)


def _life(sent: Any) -> int | None:
    anchor, seconds = sent.get("expires_after[anchor]"), sent.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise InvalidInput(_("'expires_after[anchor]' has to be created_at."), param="expires_after[anchor]")
    if not str(seconds).isdecimal() or len(str(seconds)) > 10:
        raise InvalidInput(_("'expires_after[seconds]' has to be a whole number."), param="expires_after[seconds]")
    return int(str(seconds))


class File(OpenAIView):
    """GET and DELETE /v1/files/{id}."""

    scopes = {"GET": Scope.DATASETS_READ.value, "DELETE": Scope.DATASETS_WRITE.value}
    counts_at_once = in_one_transaction = True

    @operation("retrieveFile", "File", tag="files")
    def get(self, request: Request, file_id: str) -> Response:
        """Describe a file."""
        return Response(files.as_object(files.find_file(self.team, file_id)))

    @operation("deleteFile", "Deleted", tag="files")
    def delete(self, request: Request, file_id: str) -> Response:
        """Delete a file."""
        file = files.find_file(self.team, file_id)
        files.delete(file=file, actor=self.actor)
        return Response({"id": file_id, "object": "file", "deleted": True})


class FileContent(OpenAIView):
    """GET /v1/files/{id}/content."""

    scopes = {"GET": Scope.DATASETS_READ.value}
    counts_at_once = in_one_transaction = True

    @whole_file("downloadFile", tag="files")
    def get(self, request: Request, file_id: str) -> HttpResponseBase:
        """Send a file as it came."""
        file = files.find_file(self.team, file_id)
        try:
            content = file.path.open("rb")
        except FileNotFoundError:
            raise NotFound(_("This file is missing on this server."), param="file_id") from None
        audit.read(self.team, self.actor, "file.read", file)
        return FileResponse(content, as_attachment=True, filename=file.name, content_type="application/octet-stream")
