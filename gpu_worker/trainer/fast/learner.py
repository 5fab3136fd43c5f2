"""The hand-written path as the training loop sees it: load, pack, accumulate, export."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from safetensors import SafetensorError

from datasets_app.learned_rows import EncodedRow
from experiments.hyperparameters import OWN_TARGETS, Hyperparameters
from gpu_worker.compiled import NativeUnavailable
from gpu_worker.families import norms_of
from gpu_worker.trainer.adapter import PREFIX, lora_config, lora_scale
from gpu_worker.trainer.fast.attention import MOST_KEPT_KEYS
from gpu_worker.trainer.fast.decoder import FastDecoder, Layer
from gpu_worker.trainer.fast.kernels import Kernels, TrainedLowRank
from gpu_worker.trainer.fast.native import MOST_FUSED_KEYS, NativeKernels
from gpu_worker.trainer.fast.native_check import require_agreement
from gpu_worker.trainer.fast.packing import HeadLayout, PackedBatch, pack
from gpu_worker.trainer.fast.products import EightBitProduct, ExactProduct
from gpu_worker.trainer.fast.projection import AdaptedProjection, StackedAdapter
from gpu_worker.trainer.fast.smoothing import Peaks, column_peaks, sample_of
from gpu_worker.trainer.fast.support import DecoderShape, computes_in_eight_bit, decoder_shape, read_config
from gpu_worker.trainer.fast.weights import GROUPS, DecoderWeights, FrozenProjection, load_weights
from gpu_worker.trainer.learner import Outcome, require_layers, unusable_base_model
from gpu_worker.trainer.parameters import AdapterParameters, Slot
from gpu_worker.trainer.room import tokens_that_fit
from gpu_worker.trainer.spec import TrainSpec

# Compiled steps are filled up to a multiple of so many tokens: for sizes that come again matrix products have kernels
# already, and freed memory fits the next tensor. Both cost more than the few tokens.
FILLED_TO = 16
TARGETS = {
    "all-linear": tuple(module for group in GROUPS.values() for module in group),
    "attention": (*GROUPS["qkv"], *GROUPS["output"]),
    "query-value": ("self_attn.q_proj", "self_attn.v_proj"),
    "mlp": (*GROUPS["gate_up"], *GROUPS["down"]),
}


class FastLearner:
    """A llama-shaped decoder with LoRA, on CPU in float32, or in 8-bit arithmetic where weights are frozen."""

    path: Literal["fast", "general"] = "fast"
    device = "cpu"
    token_limit: int | None = None
    is_divided = False

    def __init__(self, spec: TrainSpec, rows: Sequence[EncodedRow] = ()) -> None:
        """Load the base model and attach a fresh adapter.

        `rows`: what is going to be learned, of which 8-bit arithmetic looks at the first to round well. Raises:
        TrainingError (bad_base_model).
        """
        self._eight_bit = computes_in_eight_bit(spec)
        shape = decoder_shape(read_config(spec.base_model.path))
        family = shape.family
        kernels, compiled = _kernels(spec, eight_bit=self._eight_bit, gelu=family.gelu)
        arithmetic = "8-bit arithmetic" if self._eight_bit else "32 bit"
        if spec.hyperparameters.torch_compile:
            compiled += ", torch.compile left out: what it would compile is written by hand"
        self.why = f"a llama-shaped base model in {arithmetic} on a CPU{compiled}"
        self.arithmetic = {"precision": "int8" if self._eight_bit else "fp32", "attention": "packed, by hand"}
        try:
            weights = load_weights(
                spec.base_model.path,
                layers=shape.layers,
                tied_head=shape.tied_head,
                norms=norms_of(family),
                norm_offset=family.norm_offset,
            )
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            raise unusable_base_model(f"reading its weights failed with {type(error).__name__}") from error
        is_native = isinstance(kernels, NativeKernels)
        most_kept_keys = MOST_FUSED_KEYS if is_native else MOST_KEPT_KEYS
        self._bytes_per_token = remembered_per_token(shape, weights, most_kept_keys=most_kept_keys)
        self._multiple = FILLED_TO if is_native else 1
        self._layout = HeadLayout(heads=shape.heads, key_value_heads=shape.key_value_heads)
        self._targets = _targets(spec.hyperparameters)
        rank = spec.hyperparameters.lora_r
        self.parameters = AdapterParameters(_slots(weights, self._targets, rank))
        chosen = spec.hyperparameters
        self.parameters.initialise(chosen.seed, "gaussian" if chosen.lora_init == "gaussian" else "default")
        self.outcome: Outcome = FastOutcome(spec, self._targets)
        adapters = _Adapters(self.parameters, rank, lora_scale(chosen))
        self._decoder = FastDecoder(
            shape=shape,
            embedding=weights.embedding,
            layers=self._layers(shape, weights, adapters, kernels, rows),
            final_norm=weights.final_norm,
            head=weights.head,
            kernels=kernels,
        )

    def _layers(
        self,
        shape: DecoderShape,
        weights: DecoderWeights,
        adapters: "_Adapters",
        kernels: Kernels,
        rows: Sequence[EncodedRow],
    ) -> list[Layer]:
        for frozen in weights.layers:
            if frozen.query_norm is not None:
                frozen.query_norm.mul_(shape.query_scale)
        peaks: list[Peaks] = [{} for _rope in shape.ropes]
        if self._eight_bit and rows:
            peaks = column_peaks(shape, weights, self._packed(sample_of(rows)))
        layers = []
        # Taken out one by one, so that in 8-bit arithmetic the float32 weights are freed as they are packed.
        for rope, seen in zip(shape.ropes, peaks, strict=True):

            def adapted(name: str, stack: FrozenProjection, seen: Peaks = seen) -> AdaptedProjection:
                product = EightBitProduct(stack, seen.get(name)) if self._eight_bit else ExactProduct(stack)
                return AdaptedProjection(product, adapters.of(stack), kernels)

            layers.append(Layer.of(weights.layers.pop(0), rope, adapted))
        return layers

    def make_room(self, longest: EncodedRow) -> str:
        """Choose `token_limit`; what is remembered of a token is known from the model's shape."""
        self.token_limit = max(len(longest.token_ids), tokens_that_fit(self._bytes_per_token, self.device))
        return ""

    def computed_tokens(self, lengths: Sequence[int]) -> int:
        """Return how many tokens rows of these lengths have, filled up; that beginnings are shared is not counted."""
        return -(-sum(lengths) // self._multiple) * self._multiple

    def accumulate(self, rows: Sequence[EncodedRow], scale: float) -> float:
        """Add the gradient of scale · loss to `parameters.gradients` and return the summed loss."""
        return self._decoder.accumulate(self._packed(rows), scale)

    def loss_sum(self, rows: Sequence[EncodedRow]) -> float:
        """Return the summed loss without gradient."""
        return self._decoder.loss(self._packed(rows))

    def _packed(self, rows: Sequence[EncodedRow]) -> PackedBatch:
        return pack(rows, self._layout, multiple=self._multiple)


class FastOutcome:
    """The trained tensors are the adapter; its settings are written without peft."""

    def __init__(self, spec: TrainSpec, targets: Sequence[str]) -> None:
        """`targets`: paths of the adapted projections inside a layer."""
        self._spec = spec
        self._targets = targets

    def tensors(self, trained: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return them as they are."""
        return dict(trained)

    def config(self) -> dict[str, object]:
        """Return the content of PEFT's `adapter_config.json`."""
        chosen = self._spec.hyperparameters
        return lora_config(
            base_model=self._spec.base_model.slug,
            rank=chosen.lora_r,
            alpha=chosen.lora_alpha,
            dropout=chosen.lora_dropout,
            target_modules=[module.rsplit(".", 1)[-1] for module in self._targets],
            rslora=chosen.rslora,
        )

    def remark(self) -> str:
        """Nothing special."""
        return ""


def remembered_per_token(shape: DecoderShape, weights: DecoderWeights, *, most_kept_keys: int) -> float:
    """Return the bytes that the forward pass keeps of each token: `SavedLayer`'s tensors, of every layer.

    Seven of the hidden size (inputs, normed inputs, attention's output, the low-rank activations thrown in), four more
    where sums are normed before they are added, queries, keys and values twice (three times where they are normed),
    gate and up, and attention weights up to the length from which they are made again.
    """
    family = shape.family
    heads = shape.heads + 2 * shape.key_value_heads
    gate_up = weights.layers[0].gate_up.weight.shape[0]
    hidden = (11 if family.outer_norms else 7) * shape.hidden
    stacked = (3 if family.head_norms else 2) * heads * shape.head_size
    numbers = hidden + stacked + gate_up + shape.heads * most_kept_keys
    return 4.0 * numbers * shape.layers


def _targets(chosen: Hyperparameters) -> tuple[str, ...]:
    """Return the paths inside a layer of what gets an adapter. Raises: TrainingError (bad_settings)."""
    if chosen.lora_targets != OWN_TARGETS:
        return TARGETS[chosen.lora_targets]
    by_name = {module.rsplit(".", 1)[-1]: module for module in TARGETS["all-linear"]}
    require_layers(chosen.target_names, by_name)
    return tuple(module for name, module in by_name.items() if name in chosen.target_names)


def _kernels(spec: TrainSpec, *, eight_bit: bool, gelu: bool) -> tuple[Kernels, str]:
    """Return the kernels that were asked for, or those that work everywhere, and words about it."""
    if not spec.hyperparameters.compile_kernels:
        return Kernels(gelu=gelu), ""
    try:
        kernels = NativeKernels(eight_bit=eight_bit, gelu=gelu)
        require_agreement(kernels)
        return kernels, ", with compiled kernels"
    except NativeUnavailable as error:
        return Kernels(gelu=gelu), f", without compiled kernels: {error}"


def _down_name(module: str) -> str:
    return f"{PREFIX}{module}.lora_A.weight"


def _up_name(module: str) -> str:
    return f"{PREFIX}{module}.lora_B.weight"


def _adapted(frozen: FrozenProjection, targets: tuple[str, ...]) -> list[tuple[str, int, int]]:
    return [part for part in frozen.parts if part[0].split(".", 3)[-1] in targets]


def _slots(weights: DecoderWeights, targets: tuple[str, ...], rank: int) -> list[Slot]:
    """Lay out a stack's A matrices side by side, so that one product with all of them is one product."""
    slots = []
    for layer in weights.layers:
        for frozen in (layer.qkv, layer.output, layer.gate_up, layer.down):
            adapted = _adapted(frozen, targets)
            inputs = frozen.weight.shape[1]
            slots += [Slot(_down_name(module), (rank, inputs)) for module, _, _ in adapted]
            slots += [Slot(_up_name(module), (end - start, rank), transposed=True) for module, start, end in adapted]
    return slots


class _Adapters:
    """Finds the views of a stack's adapters in the flat buffers."""

    def __init__(self, parameters: AdapterParameters, rank: int, scale: float) -> None:
        self._values = parameters.views(parameters.values)
        self._gradients = parameters.views(parameters.gradients)
        self._rank = rank
        self._scale = scale

    def of(self, frozen: FrozenProjection) -> StackedAdapter | None:
        adapted = [part for part in frozen.parts if _down_name(part[0]) in self._values]
        if not adapted:
            return None
        parts = tuple(
            TrainedLowRank(
                columns=slice(start, end),
                ranks=slice(number * self._rank, (number + 1) * self._rank),
                up=self._values[_up_name(module)],
                up_gradient=self._gradients[_up_name(module)],
            )
            for number, (module, start, end) in enumerate(adapted)
        )
        downs = [_down_name(module) for module, _, _ in adapted]
        return StackedAdapter(
            down=_spanning([self._values[name] for name in downs]),
            down_gradient=_spanning([self._gradients[name] for name in downs]),
            parts=parts,
            scale=self._scale,
        )


def _spanning(views: list[torch.Tensor]) -> torch.Tensor:
    """Return one view over matrices that lie one behind the other in one buffer."""
    rows, columns = sum(len(view) for view in views), views[0].shape[1]
    return views[0].as_strided((rows, columns), (columns, 1))
