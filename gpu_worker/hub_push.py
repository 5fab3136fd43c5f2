"""Pushing a folder to the Hugging Face hub, or to another hub that speaks its protocol (TUNEPORT_HUB_ENDPOINT).

`python -m gpu_worker.hub_push` does it: a process of its own, because the hub's library reads its settings from the
environment once, and so that an upload that hangs can be ended. The order with the credential comes by its input.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.conf import settings
from django.utils.translation import gettext as _

from gpu_worker.engine_process import clean_environment

COMMAND = (sys.executable, "-m", "gpu_worker.hub_push")
LONGEST_S = 2 * 3600.0
_LOOK_EVERY_S = 0.2
_ALIVE_EVERY_S = 5.0


class Refused(Exception):
    """The hub does not take it, and would not the next time."""


class Unreachable(Exception):
    """The hub is not there, or too busy; worth another try."""


def push(folder: Path, *, repository: str, is_private: bool, credential: str, alive: Callable[[], None]) -> str:
    """Create the repository if there is none, upload the files of `folder` in one commit, and return its address.

    A repository that exists stays private or public as it is. Raises: Refused, Unreachable, and what `alive` does.
    """
    order = {
        "folder": str(folder), "repository": repository, "is_private": is_private, "token": credential,
        "endpoint": settings.HUB_ENDPOINT, "message": _("Model from Tuneport"),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as home:
        # Its own faster way of sending large files goes around every proxy that a company may ask for.
        environment = clean_environment(os.environ, Path(home)) | {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        proxies = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE", "http_proxy", "https_proxy", "no_proxy")
        environment |= {name: os.environ[name] for name in proxies if name in os.environ}
        told = _run(order, environment, alive)
    if "url" in told:
        return f"{settings.HUB_ENDPOINT}/{repository}"
    raise _problem(told)


def _run(order: dict[str, Any], environment: dict[str, str], alive: Callable[[], None]) -> dict[str, Any]:
    process = subprocess.Popen(
        COMMAND, cwd=settings.BASE_DIR, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        assert process.stdin is not None
        process.stdin.write(json.dumps(order))
        process.stdin.close()
        process.stdin = None
        began = said = time.monotonic()
        while process.poll() is None and time.monotonic() - began < LONGEST_S:
            time.sleep(_LOOK_EVERY_S)
            if time.monotonic() - said > _ALIVE_EVERY_S:
                said = time.monotonic()
                alive()
    finally:
        process.kill()
    output, _nothing = process.communicate()
    try:
        told: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    except (ValueError, IndexError):
        told = {}
    return told


def _problem(told: dict[str, Any]) -> Exception:
    status = told.get("status")
    if status in (401, 403):
        return Refused(_("The hub does not accept the team's credential, or it may not write to this repository."))
    if told.get("bad_card"):
        return Refused(_("The hub does not take this model: the model card or a name is not as it asks."))
    if status is None:
        return Unreachable(_("The hub cannot be reached. Try again later."))
    if status >= 500 or status == 429:
        return Unreachable(_("The hub answers with an error (%(status)d). Try again later.") % {"status": status})
    return Refused(_("The hub refuses the push (%(status)d).") % {"status": status})


def main() -> None:
    """Read the order, push, and tell {"url"}, {"status"} of a refusal, {"bad_card"}, or {} if nobody is there."""
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    order = json.loads(sys.stdin.read())
    api = HfApi(endpoint=order["endpoint"], token=order["token"])
    told: dict[str, Any] = {}
    try:
        api.create_repo(order["repository"], private=order["is_private"], exist_ok=True, repo_type="model")
        api.upload_folder(
            repo_id=order["repository"], folder_path=order["folder"], repo_type="model",
            commit_message=order["message"],
        )  # fmt: skip
        told = {"url": True}
    except HfHubHTTPError as error:
        told = {"status": error.response.status_code}
    except ValueError:
        told = {"bad_card": True}
    except (httpx.HTTPError, OSError):
        told = {}
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
