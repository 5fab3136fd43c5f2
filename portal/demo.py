"""The demo installation's credentials: kept in one private file, told to the person who started it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from django.conf import settings


@dataclass(frozen=True)
class DemoCredentials:
    """What a newcomer needs to sign in and to call the API."""

    url: str
    email: str
    password: str
    team: str
    api_token: str


def credentials_path() -> Path:
    """Where they are kept."""
    return Path(settings.DATA_DIR) / "demo-credentials.json"


def read_credentials() -> DemoCredentials | None:
    """Return the stored credentials, or None if this installation has no demo team."""
    path = credentials_path()
    return DemoCredentials(**json.loads(path.read_text())) if path.exists() else None


def write_credentials(credentials: DemoCredentials) -> None:
    """Store them so that only the owner of the installation can read them."""
    path = credentials_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".new")
    aside.unlink(missing_ok=True)
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as handle:
        json.dump(asdict(credentials), handle, indent=2)
    aside.replace(path)


def welcome_lines(base_url: str) -> list[str]:
    """Return what `manage.py up` prints once the portal answers at `base_url`; notes the address for scripts, too."""
    credentials = read_credentials()
    if credentials is None:
        return [f"Tuneport is running at {base_url}"]
    if credentials.url != base_url:
        write_credentials(DemoCredentials(**{**asdict(credentials), "url": base_url}))
    body = json.dumps(
        {"model": "demo-triage", "messages": [{"role": "user", "content": "VPN drops every hour, login anna.k"}]}
    )
    return [
        f"Tuneport is running at {base_url}",
        f"  sign in    {credentials.email}  /  {credentials.password}",
        f"  API token  {credentials.api_token}",
        f"  stored in  {credentials_path()}",
        "  The demo experiment starts by itself. When it has finished, its endpoint answers:",
        f"  curl -s {base_url}/v1/chat/completions -H 'Authorization: Bearer {credentials.api_token}'"
        f" -H 'Content-Type: application/json' -d '{body}'",
    ]
