"""Pushing a folder to the Hugging Face hub, or to another hub that speaks its protocol (TUNEPORT_HUB_ENDPOINT)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from django.conf import settings
from django.utils.translation import gettext as _


class Refused(Exception):
    """The hub does not take it, and would not the next time."""


class Unreachable(Exception):
    """The hub is not there, or too busy; worth another try."""


def push(folder: Path, *, repository: str, is_private: bool, credential: str, alive: Callable[[], None]) -> str:
    """Create the repository if there is none, upload the files of `folder` in one commit, and return its address.

    A repository that exists stays private or public as it is. Raises: Refused, Unreachable, and what `alive` does.
    """
    # Its own faster way of sending large files goes around every client that Python knows of.
    os.environ["HF_HUB_DISABLE_XET"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(endpoint=settings.HUB_ENDPOINT, token=credential)
    try:
        api.create_repo(repository, private=is_private, exist_ok=True, repo_type="model")
        alive()
        api.upload_folder(
            repo_id=repository, folder_path=folder, repo_type="model", commit_message=_("Model from Tuneport")
        )
    except HfHubHTTPError as error:
        raise _as_problem(error.response.status_code) from error
    except (httpx.HTTPError, OSError) as error:
        raise Unreachable(_("The hub cannot be reached. Try again later.")) from error
    except ValueError as error:
        raise Refused(_("The hub does not take this model: the model card or a name is not as it asks.")) from error
    return f"{settings.HUB_ENDPOINT}/{repository}"


def _as_problem(status: int) -> Exception:
    if status in (401, 403):
        return Refused(_("The hub does not accept the team's credential, or it may not write to this repository."))
    if status >= 500 or status == 429:
        return Unreachable(_("The hub answers with an error (%(status)d). Try again later.") % {"status": status})
    return Refused(_("The hub refuses the push (%(status)d).") % {"status": status})
