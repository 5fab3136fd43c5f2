"""The base models that teams may tune: list, add, allow, forbid."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from gpu_worker.base_model_folder import BaseModelError, BaseModelFolder, verify_folder
from gpu_worker.base_models import download_from_hub, ensure_embedded_model
from portal import base_models
from portal.actors import Actor
from portal.models import BaseModel

_ACTOR = Actor.system("basemodels")
_LARGEST_HEADER_BYTES = 100 * 1024 * 1024


class Command(BaseCommand):
    """`manage.py basemodels list | embedded | add-folder NAME | add-hub ID --revision R | allow SLUG | forbid SLUG`."""

    help = "List base models, add one (safetensors only, pinned, no remote code), and keep the allow-list."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        actions.add_parser("list", help="show the registry")
        actions.add_parser("embedded", help="convert, check and allow the model that comes with the portal")
        folder = actions.add_parser("add-folder", help="register a folder below DATA_DIR/models")
        folder.add_argument("name", help="folder name, which becomes the public id")
        hub = actions.add_parser("add-hub", help="download a hub model at one exact commit and register it")
        hub.add_argument("repository", help="owner/name")
        hub.add_argument("--revision", required=True, help="the commit: 40 hexadecimal digits")
        for decision in ("allow", "forbid"):
            actions.add_parser(decision, help=f"{decision} teams to use a model").add_argument("slug")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the chosen action."""
        models_dir = Path(settings.DATA_DIR) / "models"
        try:
            match options["action"]:
                case "embedded":
                    self._register(ensure_embedded_model(models_dir, progress=self.stdout.write), embedded=True)
                case "add-folder":
                    self._register(models_dir / Path(options["name"]).name)
                case "add-hub":
                    self._register(
                        download_from_hub(
                            options["repository"], options["revision"], models_dir, progress=self.stdout.write
                        ),
                        hub=options["repository"],
                    )
                case "allow" | "forbid":
                    self._decide(options["slug"], allowed=options["action"] == "allow")
                case _:
                    self._list()
        except BaseModelError as error:
            raise CommandError(str(error)) from error

    def _list(self) -> None:
        for model in BaseModel.objects.all():
            state = "allowed" if model.is_allowed else "not allowed"
            self.stdout.write(f"{model.slug}  {model.parameters / 1e6:.0f}M  {model.revision[:12]}  {state}")

    def _decide(self, slug: str, *, allowed: bool) -> None:
        model = BaseModel.objects.filter(slug=slug).first()
        if model is None:
            raise CommandError(f"There is no base model '{slug}'.")
        base_models.set_allowed(model=model, allowed=allowed, actor=_ACTOR)

    def _register(self, folder: Path, *, embedded: bool = False, hub: str = "") -> None:
        known = BaseModel.objects.filter(slug=folder.name).first()
        if embedded and known is not None and _manifest_revision(folder) == known.revision:
            self.stdout.write(f"base model {known.slug} is registered")
            return  # ensure_embedded_model has just found it intact
        source = BaseModel.Source.EMBEDDED if embedded else BaseModel.Source.HUB if hub else BaseModel.Source.LOCAL
        card = _card_of(verify_folder(folder), source=source, location=hub or folder.name)
        base_models.register(card=card, actor=_ACTOR, allow=embedded)
        self.stdout.write(f"base model {card.slug} registered at {card.revision[:12]}")


def _manifest_revision(folder: Path) -> str:
    manifest = folder / "manifest.json"
    return str(json.loads(manifest.read_text()).get("revision", "")) if manifest.exists() else ""


def _card_of(found: BaseModelFolder, *, source: str, location: str) -> base_models.ModelCard:
    manifest = found.path / "manifest.json"
    known = json.loads(manifest.read_text())["source"] if manifest.exists() else {}
    names = {base_models.EMBEDDED_SLUG: "SmolLM2 135M Instruct"}
    return base_models.ModelCard(
        slug=found.path.name,
        name=names.get(found.path.name, location.rpartition("/")[2]),
        source=source,
        location=location,
        revision=found.revision,
        parameters=sum(_parameters(file) for file in found.path.glob("*.safetensors")),
        context_tokens=found.context_length or 2048,
        size_bytes=found.size_bytes,
        licence=str(known.get("license", "")),
    )


def _parameters(file: Path) -> int:
    """Count a safetensors file's numbers from its header, without reading the weights."""
    with file.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        if length > _LARGEST_HEADER_BYTES:
            raise BaseModelError(f"{file.name}: the header is damaged.")
        header = json.loads(handle.read(length))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
