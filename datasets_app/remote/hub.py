"""Data sets of the Hugging Face hub: files only, at one commit. No code of a data set is ever run."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import httpx
from django.conf import settings
from django.utils.translation import gettext as _

from datasets_app.models import Split
from datasets_app.readers.containers.archives import split_of
from datasets_app.remote.base import MOST_LISTED, RemoteFile, few_enough, tables_among
from portal import outbound
from portal.outbound import Progress
from portal.reachable import OutboundFailed

MAX_ANSWER_BYTES: Final = 16 << 20
DATA_FOLDERS: Final = frozenset({"data", "default", "dataset"})


class HubDataset:
    """One configuration of a data set, at the commit that its revision means now."""

    def __init__(self, source: Mapping[str, str], secret: str, http: httpx.Client) -> None:
        self._source, self._http = source, http
        self._headers = {"Authorization": f"Bearer {secret.strip()}"} if secret else {}
        self._name = source["dataset"]
        self._api = f"{settings.HUB_ENDPOINT}/api/datasets/{self._name}"

    def files(self) -> Sequence[RemoteFile]:
        """Return the tables of the wanted configuration and split. Raises: OutboundFailed."""
        card = self._asked(f"{self._api}/revision/{quote(self._source['revision'], safe='')}")
        commit = str(card.get("sha", ""))
        if not re.fullmatch(r"[0-9a-f]{40}", commit):
            raise _strange()
        tree = self._tree(commit)
        named = self._of_split(self._of_config(card, tables_among(list(tree))))
        return few_enough([self._file(path, split, commit, tree[path]) for path, split in named.items()])

    def _asked(self, url: str) -> Any:
        answer = outbound.get(self._http, url, max_bytes=MAX_ANSWER_BYTES, headers=self._headers)
        if answer.status_code in (401, 403, 404):
            raise _not_there(answer.status_code, has_token=bool(self._headers))
        outbound.require_success(answer)
        try:
            return answer.json()
        except ValueError:
            raise _strange() from None

    def _tree(self, commit: str) -> dict[str, dict[str, Any]]:
        """Return all files at a commit by their path."""
        found: dict[str, dict[str, Any]] = {}
        url: str | None = f"{self._api}/tree/{commit}?recursive=true"
        while url and len(found) <= MOST_LISTED:
            answer = outbound.get(self._http, url, max_bytes=MAX_ANSWER_BYTES, headers=self._headers)
            outbound.require_success(answer)
            try:
                found |= {one["path"]: one for one in answer.json() if one["type"] == "file"}
            except (ValueError, KeyError, TypeError):
                raise _strange() from None
            following = answer.links.get("next", {}).get("url")
            # The token goes to the hub and nowhere else.
            url = following if following and following.startswith(f"{settings.HUB_ENDPOINT}/api/") else None
        return found

    def _of_config(self, card: Mapping[str, Any], paths: list[str]) -> dict[str, str]:
        """Return the files of the wanted configuration with the name of the split of each."""
        wanted, declared = self._source["config"], _declared(card)
        if declared:
            return _matched(declared[_chosen(wanted, declared)], paths)
        folders = {path.split("/")[0] for path in paths if "/" in path} - DATA_FOLDERS
        if wanted:
            if wanted not in folders:
                raise _no_such_config(sorted(folders))
            paths = [path for path in paths if path.startswith(f"{wanted}/")]
        elif len(folders) > 1 and not any("/" not in path for path in paths):
            raise _no_such_config(sorted(folders))
        return {path: split_of(path) or Split.TRAIN for path in paths}

    def _of_split(self, named: Mapping[str, str]) -> dict[str, Split]:
        wanted = self._source["split"]
        if wanted:
            paths = [path for path, split in named.items() if split == wanted]
            if not paths:
                message = _("The data set has no split “%(split)s”. It has: %(splits)s.")
                raise OutboundFailed(
                    message % {"split": wanted, "splits": ", ".join(sorted(set(named.values())))[:300]},
                    code="source_not_found",
                )
            return dict.fromkeys(paths, Split.TRAIN)
        known = {path: split_of(split) for path, split in named.items()}
        return {path: Split(split) for path, split in known.items() if split}

    def _file(self, path: str, split: Split, commit: str, entry: Mapping[str, Any]) -> RemoteFile:
        sha256 = str((entry.get("lfs") or {}).get("oid", ""))
        size = entry.get("size")
        return RemoteFile(
            key=f"{settings.HUB_ENDPOINT}/datasets/{self._name}/resolve/{commit}/{quote(path)}",
            name=path.rpartition("/")[2],
            address=f"{self._name}/{path}",
            split=split,
            size_bytes=size if isinstance(size, int) else None,
            revision=commit,
            sha256=sha256 if re.fullmatch(r"[0-9a-f]{64}", sha256) else "",
        )

    def fetch(self, file: RemoteFile, path: Path, *, max_bytes: int, max_seconds: float, progress: Progress) -> str:
        """Write one file; the token does not follow a redirect to another host."""
        outbound.download(
            self._http, file.key, path, max_bytes=max_bytes, max_seconds=max_seconds, progress=progress,
            headers=self._headers,
        )  # fmt: skip
        return file.revision


def _declared(card: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configurations that a data set's card declares, with their files."""
    configs = (card.get("cardData") or {}).get("configs") or []
    return {
        str(one["config_name"]): one
        for one in configs
        if isinstance(one, dict) and one.get("config_name") and one.get("data_files")
    }


def _chosen(wanted: str, declared: Mapping[str, Any]) -> str:
    if wanted in declared:
        return wanted
    preferred = [name for name, one in declared.items() if one.get("default") is True or name == "default"]
    if not wanted and (len(declared) == 1 or preferred):
        return preferred[0] if preferred else next(iter(declared))
    raise _no_such_config(sorted(declared))


def _matched(config: Mapping[str, Any], paths: Sequence[str]) -> dict[str, str]:
    """Return the paths that a configuration's patterns mean, with their splits."""
    given = config["data_files"]
    listed = given if isinstance(given, list) else [given]
    found: dict[str, str] = {}
    for one in listed:
        entry = one if isinstance(one, dict) else {"split": Split.TRAIN.value, "path": one}
        patterns = entry.get("path")
        for pattern in patterns if isinstance(patterns, list) else [patterns]:
            hits = fnmatch.filter(paths, str(pattern).removeprefix("./"))
            found |= dict.fromkeys(hits, str(entry.get("split", Split.TRAIN.value)))
    return found


def _no_such_config(names: Sequence[str]) -> OutboundFailed:
    message = _("Name one of the data set's configurations: %(names)s.")
    return OutboundFailed(message % {"names": ", ".join(names)[:500] or "–"}, code="source_config")


def _not_there(status: int, *, has_token: bool) -> OutboundFailed:
    if status == 403:
        message = _("The data set is gated. Ask for access on its page, and store a token of that account as a secret.")
        return OutboundFailed(message, code="access_refused")
    if has_token:
        message = _("There is no such data set or revision, or the token must not read it. Check all three.")
        return OutboundFailed(message, code="access_refused" if status == 401 else "source_not_found")
    message = _("There is no such data set or revision, or it is private. Check the name, or choose a hub token.")
    return OutboundFailed(message, code="source_not_found")


def _strange() -> OutboundFailed:
    return OutboundFailed(_("The hub answers in a way that is not understood. Try again later."), code="source_error")
