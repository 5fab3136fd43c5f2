"""Whether the layers that a person names for an adapter are layers of the base model, before a run waits for a node."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from django.utils.translation import gettext as _

from experiments.hyperparameters import OWN_TARGETS, Hyperparameters
from portal.errors import InvalidInput
from portal.models import BaseModel

_LONGEST_HEADER = 64 * 1024 * 1024
_IN_A_LAYER = re.compile(r"\.\d+\.(?:\w+\.)*(?P<name>\w+)\.weight")


def require_named_layers(base_model: BaseModel, chosen: Hyperparameters) -> None:
    """Refuse names that no matrix of the base model has. Where its files cannot be read here, the node will say so.

    Raises: InvalidInput naming the first one that does not exist, and those that do.
    """
    if chosen.lora_targets != OWN_TARGETS:
        return
    known = layers_of(base_model.folder)
    missing = [name for name in chosen.target_names if name not in known]
    if known and missing:
        raise InvalidInput(
            _("%(model)s has no linear layer “%(name)s”. Its layers are: %(known)s.")
            % {"model": base_model.name, "name": missing[0], "known": ", ".join(sorted(known))},
            param="lora_target_names",
        )


def layers_of(folder: Path) -> set[str]:
    """Return the own names of the matrices inside the numbered layers, nothing if the files cannot be read."""
    try:
        files = sorted(folder.glob("*.safetensors"))
        headers = [_header(path) for path in files]
    except (OSError, ValueError):
        return set()
    return {
        found["name"]
        for header in headers
        for tensor, about in header.items()
        if len(about.get("shape", ())) == 2 and (found := _IN_A_LAYER.search(tensor))
    }


def _header(path: Path) -> dict[str, Any]:
    """Return what a safetensors file says about its tensors. Raises: OSError, ValueError."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > _LONGEST_HEADER:
            raise ValueError("the header is too long")
        content = json.loads(file.read(size))
    if not isinstance(content, dict) or not all(isinstance(about, dict) for about in content.values()):
        raise ValueError("the header is no list of tensors")
    return content
