"""What the platform offers to all teams: base models that admins allow, and nodes that train and serve."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from django.conf import settings
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _


class BaseModel(models.Model):
    """A frozen model that teams may tune: a local folder, pinned to a revision, allowed by a platform admin."""

    class Source(models.TextChoices):
        EMBEDDED = "embedded", _("Shipped with the portal")
        LOCAL = "local", _("Local folder")
        HUB = "hub", _("Model hub")

    slug = models.SlugField(_("id"), max_length=80, unique=True)
    name = models.CharField(_("name"), max_length=120)
    source = models.CharField(max_length=10, choices=Source.choices)
    location = models.CharField(max_length=400, help_text=_("Folder name below the models folder, or the hub id."))
    revision = models.CharField(max_length=64, help_text=_("Hash over all files, or the hub's commit."))
    parameters = models.PositiveBigIntegerField(_("parameters"))
    context_tokens = models.PositiveIntegerField(_("context length in tokens"))
    size_bytes = models.PositiveBigIntegerField(_("size on disk"))
    licence = models.CharField(_("licence"), max_length=60, blank=True)
    is_allowed = models.BooleanField(_("teams may use it"), default=False)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["parameters", "name"]

    def __str__(self) -> str:
        return self.name

    @property
    def folder(self) -> Path:
        """Where its safetensors, configuration and tokenizer lie."""
        return Path(settings.DATA_DIR) / "models" / self.slug


class NodeQuerySet(models.QuerySet["Node"]):
    """Questions about nodes."""

    def live(self) -> NodeQuerySet:
        """Nodes whose agent was heard from lately."""
        return self.filter(heartbeat_at__gt=timezone.now() - timedelta(seconds=settings.NODE_TIMEOUT_SECONDS))

    def open(self) -> NodeQuerySet:
        """Live nodes that take new runs and adapters: those that are not being drained."""
        return self.live().filter(is_draining=False)


class Node(models.Model):
    """A machine that trains and serves: so many runs at once, and one engine for each base model in use."""

    name = models.SlugField(_("name"), max_length=60, unique=True)
    address = models.CharField(_("address for inference"), max_length=200, default="127.0.0.1")
    slots = models.PositiveSmallIntegerField(_("runs at the same time"), default=1)
    device = models.CharField(_("device"), max_length=120, blank=True)
    memory_bytes = models.PositiveBigIntegerField(default=0)
    started_at = models.DateTimeField(default=timezone.now)
    heartbeat_at = models.DateTimeField(null=True)
    is_draining = models.BooleanField(_("takes no new work"), default=False)
    slots_are_set = models.BooleanField(default=False, help_text="an admin chose the slots; the agent keeps them")
    gpus = models.PositiveSmallIntegerField(default=0, help_text="0: it computes on its processors")
    joins_slots = models.BooleanField(
        default=False, help_text="a run may hold several slots: its kernel gives the processes a network of their own"
    )

    objects = NodeQuerySet.as_manager()

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    @property
    def is_live(self) -> bool:
        """Whether its agent was heard from within the timeout."""
        limit = timezone.now() - timedelta(seconds=settings.NODE_TIMEOUT_SECONDS)
        return self.heartbeat_at is not None and self.heartbeat_at > limit

    @property
    def has_gpus(self) -> bool | None:
        """Whether it computes on GPUs, by what its agent says of its device; None if it has said nothing yet."""
        return not self.device.startswith("CPU") if self.device else None

    @property
    def memory_of_a_gpu(self) -> int:
        """How many bytes each of its GPUs has; agents tell the memory of all of them."""
        return self.memory_bytes // max(1, self.gpus)

    @property
    def most_gpus_of_a_run(self) -> int:
        """How many GPUs, or slots of a node without GPUs, one run may have; 0 if it works on no runs."""
        return min(self.slots, self.gpus or self.slots) if self.joins_slots else min(self.slots, 1)

    def device_of(self, slot: int) -> int:
        """Return the number of the GPU that a slot computes on; where there is none, each slot is its own."""
        return slot % self.gpus if self.gpus else slot
