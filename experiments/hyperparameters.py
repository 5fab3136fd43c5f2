"""The one declaration of everything a person may choose about a training run.

Each field is declared once, with type, range, default and words for people; the form, the API schema, the YAML file,
the checks and the trainer's spec all follow from it. Pure: pydantic and yaml only, since the trainer reads it too.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, get_args

import yaml
from annotated_types import Ge, Le, MaxLen
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator


def _(text: str) -> str:
    """Mark a text for the translation catalogue; the web side translates it when it shows it."""
    return text


def _no_bool(value: object) -> object:
    # Python counts True as 1; as a number of epochs it is a mistake.
    if isinstance(value, bool):
        raise ValueError("Input should be a number, not true or false")
    return value


Integer = Annotated[int, BeforeValidator(_no_bool)]
Number = Annotated[float, BeforeValidator(_no_bool)]

PROBLEM = _("Kind of problem")
LENGTH, LEARNING, LORA = _("Training length"), _("Learning"), _("LoRA adapter")
TEXT, HARDWARE, CHECKS = _("Text length"), _("Precision and memory"), _("Checks and checkpoints")

BASE_MODEL_STARTS = ("pissa", "olora")  # starts that move a part of the base model into the adapter
MOST_SERVED_RANK = 64  # of one adapter, in our engines
ProblemType = Literal["chat", "classification", "regression", "preference", "pretraining"]
PROBLEM_TYPES: tuple[str, ...] = get_args(ProblemType)
LEARNS_ANSWERS = ("chat", "classification", "regression")  # from rows with a prompt and one answer
OWN_TARGETS = "own"
MOST_STOPS, LONGEST_STOP = 4, 32  # characters; as many as a request to /v1 may name
_LAYER_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _field(
    default: object,
    *,
    label: str,
    help: str,
    group: str,
    limits: tuple[float, float] | None = None,
    advanced: bool = True,
    unit: str = "",
    choices: Mapping[str, str] | None = None,
    shown_if: tuple[str, tuple[str, ...]] | None = None,
    longest: int | None = None,
) -> Any:
    words = {"label": label, "help": help, "group": group, "advanced": advanced, "unit": unit}
    extra: dict[str, Any] = {**words, "choices": dict(choices or {}), "shown_if": shown_if}
    minimum, maximum = limits or (None, None)
    # Only texts have a length; pydantic refuses to hear of one elsewhere.
    length: dict[str, Any] = {"max_length": longest} if longest else {}
    return Field(default, ge=minimum, le=maximum, description=help, json_schema_extra=extra, **length)


class Hyperparameters(BaseModel):
    """What a run is trained with; frozen, complete and within range by construction.

    Raises: pydantic.ValidationError naming each field that is unknown, of a wrong type, out of range, NaN or infinite.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    problem_type: ProblemType = _field(
        "chat", group=PROBLEM, advanced=False, label=_("Kind of problem"),
        choices={
            "chat": _("Answers: text or JSON"),
            "classification": _("Labels: one name out of a fixed list"),
            "regression": _("Numbers: one number per row"),
            "preference": _("Preferences: a better and a worse answer"),
            "pretraining": _("Plain text: learn the language of documents"),
        },
        help=_(
            "What the model learns from a row. Labels and numbers are answered as text, never as anything else. "
            "Preferences need a column with the worse answer. Plain text learns every word and needs no answers."
        ),
    )  # fmt: skip
    preference_loss: Literal["sigmoid", "ipo", "hinge", "simpo", "orpo", "cpo"] = _field(
        "sigmoid", group=PROBLEM, label=_("Preference loss"), shown_if=("problem_type", ("preference",)),
        choices={
            "sigmoid": _("DPO (sigmoid)"), "ipo": _("IPO"), "hinge": _("Hinge (SLiC)"),
            "simpo": _("SimPO, without reference"), "orpo": _("ORPO, without reference"),
            "cpo": _("CPO, without reference"),
        },
        help=_("How the two answers are parted. Preferences want about a tenth of the usual learning rate."),
    )  # fmt: skip
    preference_beta: Number = _field(
        0.1, limits=(0.001, 10), group=PROBLEM, label=_("Beta"), shown_if=("problem_type", ("preference",)),
        help=_("How strongly the losses hold on to the untuned model, or weigh the comparison. SimPO wants about 2."),
    )  # fmt: skip
    preference_margin: Number = _field(
        0.5, limits=(0, 10), group=PROBLEM, label=_("Margin"), shown_if=("preference_loss", ("simpo",)),
        help=_("By how much the better answer has to be ahead in SimPO."),
    )  # fmt: skip
    preference_label_smoothing: Number = _field(
        0.0, limits=(0, 0.5), group=PROBLEM, label=_("Label smoothing"), unit=_("share"),
        shown_if=("preference_loss", ("sigmoid",)),
        help=_("Which share of the preferences DPO takes to be noted the wrong way round (conservative DPO). 0: none."),
    )  # fmt: skip
    train_on_prompt: bool = _field(
        False, group=PROBLEM, label=_("Learn the prompt too"), shown_if=("problem_type", LEARNS_ANSWERS),
        help=_(
            "Takes loss on every token of a row, not on its answer alone. Slower, since what rows have in common is "
            "learned in each of them; the validation loss then counts prompts too."
        ),
    )  # fmt: skip

    epochs: Number = _field(
        3.0, limits=(0.01, 100), group=LENGTH, advanced=False, label=_("Epochs"),
        help=_("How many times the model reads every training row. Parts of an epoch are allowed."),
    )  # fmt: skip
    max_steps: Integer | None = _field(
        None, limits=(1, 1_000_000), group=LENGTH, label=_("Most steps"), unit=_("steps"),
        help=_("Stop after this many optimizer steps even if epochs are left. Empty: no limit."),
    )  # fmt: skip
    max_minutes: Number | None = _field(
        None, limits=(0.1, 10_080), group=LENGTH, label=_("Most time"), unit=_("minutes"),
        help=_("Stop training after this time and keep what was learned. Empty: no limit."),
    )  # fmt: skip
    early_stopping_patience: Integer = _field(
        0, limits=(0, 100), group=LENGTH, label=_("Early stopping patience"), unit=_("checks"),
        help=_("Stop when this many validation checks brought nothing better. 0: never stop early."),
    )  # fmt: skip
    keep_weights: Literal["last", "best", "every"] = _field(
        "last", group=LENGTH, label=_("Weights to keep"),
        choices={
            "last": _("Last step"), "best": _("Best validation check"), "every": _("Last step, and every checkpoint"),
        },
        help=_("Which state becomes the result. Every: the run's folder keeps those of all checkpoints too."),
    )  # fmt: skip
    early_stopping_metric: Literal["validation_loss", "exact_match", "macro_f1"] = _field(
        "validation_loss", group=LENGTH, label=_("What counts as better"),
        choices={
            "validation_loss": _("Lower validation loss"), "exact_match": _("More exact answers"),
            "macro_f1": _("Higher macro-F1 of the closed fields"),
        },
        help=_(
            "For early stopping and for the best weights. Where no answers are sampled, or none has a closed field "
            "for the macro-F1, the loss counts."
        ),
    )  # fmt: skip

    learning_rate: Number = _field(
        1e-3, limits=(1e-7, 0.1), group=LEARNING, advanced=False, label=_("Learning rate"),
        help=_("How far each step moves the adapter. Small models want about 0.001, large ones about 0.0002."),
    )  # fmt: skip
    schedule: Literal["linear", "cosine", "constant"] = _field(
        "cosine", group=LEARNING, label=_("Learning rate schedule"),
        choices={"cosine": _("Falling, cosine"), "linear": _("Falling, straight"), "constant": _("Constant")},
        help=_("How the learning rate falls from its peak to the end of the run."),
    )  # fmt: skip
    final_learning_rate_share: Number = _field(
        0.0, limits=(0, 1), group=LEARNING, label=_("Learning rate at the end"), unit=_("share of peak"),
        shown_if=("schedule", ("linear", "cosine")),
        help=_("Where the falling learning rate ends, as a share of its peak."),
    )  # fmt: skip
    warmup_share: Number = _field(
        0.05, limits=(0, 0.5), group=LEARNING, label=_("Warm-up"), unit=_("share of steps"),
        help=_("Share of the steps in which the learning rate rises from zero to its peak."),
    )  # fmt: skip
    batch_size: Integer = _field(
        8, limits=(1, 1024), group=LEARNING, advanced=False, label=_("Batch size"), unit=_("rows"),
        help=_("Rows whose errors are added up before the adapter is changed once."),
    )  # fmt: skip
    micro_batch_size: Integer = _field(
        8, limits=(1, 256), group=LEARNING, label=_("Micro-batch size"), unit=_("rows"),
        help=_("At most this many rows are computed at once. Changes memory and speed, not the result."),
    )  # fmt: skip
    group_by_length: bool = _field(
        True, group=LEARNING, label=_("Similar lengths together"),
        help=_("Puts rows of similar length into one batch, which is faster. Off: a fully random order."),
    )  # fmt: skip
    weight_decay: Number = _field(
        0.0, limits=(0, 1), group=LEARNING, label=_("Weight decay"),
        help=_("How strongly adapter weights are pulled towards zero at each step."),
    )  # fmt: skip
    max_grad_norm: Number = _field(
        1.0, limits=(0.001, 1000), group=LEARNING, label=_("Gradient clipping"),
        help=_("Longer gradients are shortened to this length, so that one odd row cannot spoil the run."),
    )  # fmt: skip
    seed: Integer = _field(
        42, limits=(0, 2**31 - 1), group=LEARNING, label=_("Random seed"),
        help=_("The same seed gives the same order of rows and the same starting adapter."),
    )  # fmt: skip
    training_kind: Literal["lora", "full"] = _field(
        "lora", group=LEARNING, label=_("What is trained"),
        choices={"lora": _("An adapter (LoRA)"), "full": _("All linear layers (small models)")},
        help=_("All layers: many times the memory; the learned difference is then kept as an adapter of rank 64."),
    )  # fmt: skip
    frozen_layers: Integer = _field(
        0, limits=(0, 200), group=LEARNING, label=_("Lower layers left alone"), unit=_("layers"),
        help=_("So many layers at the model's beginning are not trained: faster, less memory, learns less."),
    )  # fmt: skip
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit"] = _field(
        "adamw", group=LEARNING, label=_("Optimizer"),
        choices={
            "adamw": _("AdamW"), "adamw_8bit": _("AdamW with 8-bit memory"),
            "paged_adamw_8bit": _("AdamW with 8-bit memory, paged (GPUs only)"),
        },
        help=_("8-bit memory takes a quarter of the space. Paged moves it out of a GPU that is full."),
    )  # fmt: skip
    adam_beta1: Number = _field(
        0.9, limits=(0, 0.9999), group=LEARNING, label=_("AdamW beta 1"),
        help=_("How much of the direction of earlier steps each step keeps."),
    )  # fmt: skip
    adam_beta2: Number = _field(
        0.999, limits=(0, 0.999999), group=LEARNING, label=_("AdamW beta 2"),
        help=_("How long the size of earlier gradients is remembered. 0.95 to 0.99 forget outliers sooner."),
    )  # fmt: skip
    adam_epsilon: Number = _field(
        1e-8, limits=(1e-12, 1), group=LEARNING, label=_("AdamW epsilon"),
        help=_("Added to the size of gradients, so that tiny ones make no huge step."),
    )  # fmt: skip
    neftune_alpha: Number = _field(
        0.0, limits=(0, 100), group=LEARNING, label=_("Noise on the input (NEFTune)"),
        help=_("Random noise on the embeddings while training; 5 is usual and helps free text. 0: none."),
    )  # fmt: skip

    lora_r: Integer = _field(
        16, limits=(1, 256), group=LORA, advanced=False, label=_("Rank"), shown_if=("training_kind", ("lora",)),
        help=_("Size of the adapter. A higher rank can learn more and needs more memory."),
    )  # fmt: skip
    lora_alpha: Number = _field(
        32.0, limits=(0.01, 1024), group=LORA, label=_("Alpha"), shown_if=("training_kind", ("lora",)),
        help=_("Strength of the adapter; it is scaled by alpha divided by rank. Twice the rank is usual."),
    )  # fmt: skip
    lora_dropout: Number = _field(
        0.0, limits=(0, 0.9), group=LORA, label=_("Dropout"), shown_if=("training_kind", ("lora",)),
        help=_("Share of the adapter's input left out at random; helps against overfitting and slows training."),
    )  # fmt: skip
    lora_targets: Literal["all-linear", "attention", "query-value", "mlp", "own"] = _field(
        "all-linear", group=LORA, label=_("Adapted layers"), shown_if=("training_kind", ("lora",)),
        choices={
            "all-linear": _("All linear layers"), "attention": _("Attention only"),
            "query-value": _("Query and value only"), "mlp": _("Feed-forward (MLP) only"),
            "own": _("As named below"),
        },
        help=_("Which weights of the base model get an adapter. More layers learn more and train slower."),
    )  # fmt: skip
    lora_target_names: str = _field(
        "", group=LORA, label=_("Names of the adapted layers"), longest=400, shown_if=("lora_targets", (OWN_TARGETS,)),
        help=_("Linear layers of the base model by their own names, parted by commas, as in q_proj, v_proj, o_proj."),
    )  # fmt: skip
    dora: bool = _field(
        False, group=LORA, label=_("DoRA"), shown_if=("training_kind", ("lora",)),
        help=_("Learns length and direction of the weights apart. Slower; such adapters cannot be deployed here."),
    )  # fmt: skip
    rslora: bool = _field(
        False, group=LORA, label=_("Rank-stabilised scale (rsLoRA)"), shown_if=("training_kind", ("lora",)),
        help=_("Scales the adapter by alpha divided by the root of the rank, which suits high ranks."),
    )  # fmt: skip
    lora_init: Literal["default", "gaussian", "pissa", "olora"] = _field(
        "default", group=LORA, label=_("Start of the adapter"), shown_if=("training_kind", ("lora",)),
        choices={
            "default": _("Usual (uniform)"), "gaussian": _("Normally distributed"),
            "pissa": _("Main directions of the base model (PiSSA)"),
            "olora": _("Orthogonal, from the base model (OLoRA)"),
        },
        help=_("A start from the base model often learns faster; the result then has twice the rank."),
    )  # fmt: skip

    max_length: Integer = _field(
        1024, limits=(16, 32_768), group=TEXT, label=_("Longest row"), unit=_("tokens"),
        help=_("Longer rows are cut. The prompt is cut first; the answer is kept."),
    )  # fmt: skip
    truncation: Literal["start", "end"] = _field(
        "end", group=TEXT, label=_("Cut the prompt at"),
        choices={"end": _("Its end"), "start": _("Its beginning")},
        help=_("Which part of a prompt that is too long is left out."),
    )  # fmt: skip
    long_answers: Literal["refuse", "skip", "cut"] = _field(
        "refuse", group=TEXT, label=_("Answers that do not fit"),
        choices={"refuse": _("Refuse the run"), "skip": _("Leave the row out"), "cut": _("Cut the answer")},
        help=_("What happens to a row whose answer alone is longer than the longest row."),
    )  # fmt: skip

    learned_turns: Literal["every", "last"] = _field(
        "every", group=TEXT, label=_("Answers to learn"), shown_if=("problem_type", ("chat",)),
        choices={"every": _("Every answer of a conversation"), "last": _("The last answer only")},
        help=_(
            "What is learned of conversations of several turns. Answers with the weight 0 in the imported file count "
            "as prompt."
        ),
    )  # fmt: skip

    precision: Literal["auto", "fastest", "fp32", "bf16", "int8"] = _field(
        "auto", group=HARDWARE, label=_("Number format"),
        choices={
            "auto": _("Automatic"), "fastest": _("Fastest"), "fp32": _("32 bit"), "bf16": _("16 bit (bfloat16)"),
            "int8": _("8-bit arithmetic (CPU)"),
        },
        help=_(
            "Automatic takes 16 bit on GPUs and 32 bit on CPUs, which are slower with 16 bit. 8-bit arithmetic "
            "multiplies with the frozen weights in whole numbers: faster on CPUs that have VNNI, a little less exact. "
            "Fastest takes it wherever it can be had."
        ),
    )  # fmt: skip
    quantization: Literal["none", "int8", "nf4"] = _field(
        "none", group=HARDWARE, label=_("Compress the base model"),
        choices={"none": _("No"), "int8": _("8 bit"), "nf4": _("4 bit (QLoRA)")},
        help=_("Keeps the frozen base model in fewer bits: less GPU memory, slower steps."),
    )  # fmt: skip
    divide_base_model: Literal["auto", "yes", "no"] = _field(
        "auto", group=HARDWARE, label=_("Divide the base model"),
        choices={"auto": _("Where one GPU is too small for it"), "yes": _("Yes"), "no": _("No")},
        help=_(
            "Several processes that train together keep a part of the base model each (FSDP), instead of all of it: "
            "less memory, slower steps. A run of one process has nothing to divide."
        ),
    )  # fmt: skip
    gradient_checkpointing: bool = _field(
        False, group=HARDWARE, label=_("Gradient checkpointing"),
        help=_("Computes parts of the model twice instead of remembering them: less memory, about a fifth slower."),
    )  # fmt: skip
    compile_kernels: bool = _field(
        True, group=HARDWARE, label=_("Compiled kernels"),
        help=_(
            "Compiles the small operations between the large products for this machine's processor: faster, same "
            "result. Takes a few seconds once per machine, on CPUs; without a C++ compiler, or if they fail their "
            "check, the run goes on without."
        ),
    )  # fmt: skip

    evaluations_per_epoch: Number = _field(
        2.0, limits=(0, 100), group=CHECKS, label=_("Validation checks per epoch"),
        help=_("How often the validation loss is measured, besides the start and the end. 0: only there."),
    )  # fmt: skip
    validation_rows: Integer = _field(
        100, limits=(1, 100_000), group=CHECKS, label=_("Rows per validation check"), unit=_("rows"),
        help=_("At most this many validation rows are used for the validation loss."),
    )  # fmt: skip
    checkpoint_every_steps: Integer = _field(
        50, limits=(1, 100_000), group=CHECKS, label=_("Checkpoint every"), unit=_("steps"),
        help=_("How often the state is saved, so that an interrupted run goes on from there."),
    )  # fmt: skip
    sample_rows: Integer = _field(
        16, limits=(0, 64), group=CHECKS, label=_("Answers per validation check"), unit=_("rows"),
        shown_if=("problem_type", ("chat", "classification", "regression", "preference")),
        help=_("How many validation rows are answered at each check, if that fits into 15% of the time. 0: none."),
    )  # fmt: skip
    evaluation_rows: Integer = _field(
        100, limits=(1, 10_000), group=CHECKS, label=_("Rows in the quality report"), unit=_("rows"),
        help=_("How many held-out rows the untuned and the tuned model answer after training."),
    )  # fmt: skip
    max_new_tokens: Integer = _field(
        128, limits=(1, 4096), group=CHECKS, label=_("Longest answer"), unit=_("tokens"),
        help=_("Where an answer is cut off in the quality report."),
    )  # fmt: skip
    temperature: Number = _field(
        0.0, limits=(0, 2), group=CHECKS, label=_("Temperature of answers"),
        help=_("How freely both models answer in the quality report. 0: always the likeliest word."),
    )  # fmt: skip
    top_p: Number = _field(
        1.0, limits=(0.01, 1), group=CHECKS, label=_("Nucleus of answers (top p)"), unit=_("share"),
        help=_("With a temperature above 0: only the likeliest words that together have this probability."),
    )  # fmt: skip
    top_k: Integer = _field(
        0, limits=(0, 1000), group=CHECKS, label=_("Candidates of answers (top k)"), unit=_("tokens"),
        help=_("With a temperature above 0: only so many of the likeliest tokens. 0: all of them."),
    )  # fmt: skip
    stop_texts: str = _field(
        "", group=CHECKS, label=_("Texts that end an answer"), longest=150, shown_if=("problem_type", ("chat",)),
        help=_(
            "A free answer ends before the first of these, in the quality report and at validation checks. Up to 4, "
            "parted by |; \\n stands for a new line. Empty: it ends where the model ends it."
        ),
    )  # fmt: skip

    @field_validator("lora_target_names")
    @classmethod
    def _layers_are_named(cls, text: str, info: ValidationInfo) -> str:
        """Refuse what cannot be the name of a layer; return the names in alphabetical order, each once."""
        names = sorted({name for name in re.split(r"[,\s]+", text) if name})
        if wrong := next((name for name in names if not _LAYER_NAME.fullmatch(name)), None):
            raise ValueError(
                f"'{wrong[:40]}' is no name of a layer. Write own names without dots, as in q_proj, v_proj"
            )
        if not names and info.data.get("lora_targets") == OWN_TARGETS:
            raise ValueError("Name at least one layer, or choose one of the groups of layers")
        return ", ".join(names)

    @field_validator("stop_texts")
    @classmethod
    def _stops_fit(cls, text: str) -> str:
        """Refuse stop texts that are too many, too long, or hold what cannot be seen."""
        if not text.isprintable():
            raise ValueError("Stop texts must be visible. Write a new line as \\n")
        stops = stops_in(text)
        if len(stops) > MOST_STOPS or any(len(stop) > LONGEST_STOP for stop in stops):
            raise ValueError(f"At most {MOST_STOPS} texts of at most {LONGEST_STOP} characters can end an answer")
        return text

    @field_validator("training_kind")
    @classmethod
    def _preferences_need_an_adapter(cls, kind: str, info: ValidationInfo) -> str:
        """Refuse to train all layers where the untuned model is compared with: it is the model without adapter."""
        if kind == "full" and info.data.get("problem_type") == "preference":
            raise ValueError("Preferences compare with the base model, so only an adapter can be trained")
        return kind

    @field_validator("lora_init")
    @classmethod
    def _start_from_the_base_model_fits(cls, start: str, info: ValidationInfo) -> str:
        """Refuse a start from the base model where the result could not be written as a plain adapter."""
        if start in BASE_MODEL_STARTS and info.data.get("training_kind") == "lora":
            if info.data.get("problem_type") == "preference":
                raise ValueError("Preferences compare with the base model, which this start changes. Choose another")
            if info.data.get("dora"):
                raise ValueError("This start cannot be combined with DoRA. Switch one of them off")
            if info.data.get("lora_r", 0) > MOST_SERVED_RANK // 2:
                raise ValueError(f"This start doubles the rank, so the rank may be at most {MOST_SERVED_RANK // 2}")
        return start

    @field_validator("quantization")
    @classmethod
    def _compression_fits(cls, kind: str, info: ValidationInfo) -> str:
        """Refuse compressed weights where they would have to change."""
        if kind != "none" and info.data.get("training_kind") == "full":
            raise ValueError(
                "All layers can be trained only without compression. Train an adapter, or compress nothing"
            )
        if kind != "none" and info.data.get("lora_init") in BASE_MODEL_STARTS:
            raise ValueError("A start from the base model needs the uncompressed one. Choose another start")
        return kind

    @property
    def target_names(self) -> tuple[str, ...]:
        """The own names of the layers that get an adapter, where a person has named them."""
        return tuple(self.lora_target_names.split(", ")) if self.lora_target_names else ()

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end an answer."""
        return stops_in(self.stop_texts)

    def steps_per_epoch(self, rows: int) -> int:
        """Return how many optimizer steps read `rows` rows once."""
        return math.ceil(rows / self.batch_size)

    def total_steps(self, rows: int) -> int:
        """Return how many optimizer steps a run over `rows` training rows takes, if nothing ends it early."""
        steps = max(1, round(self.epochs * self.steps_per_epoch(rows)))
        return min(steps, self.max_steps or steps)


def stops_in(text: str) -> tuple[str, ...]:
    """Return the texts between the bars of `stop_texts`, new lines in place of their backslash and n."""
    return tuple(part.replace("\\n", "\n") for part in text.split("|") if part)


# --- what forms need ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FieldInfo:
    """How one hyperparameter is shown and asked for. Texts are English and marked for translation.

    `shown_if` is (other field, its values): the field matters only while the other one has one of these values.
    `choices` are (value, label) pairs. `required` is False where an empty answer means "no limit". `longest`: the most
    characters of a text.
    """

    name: str
    label: str
    help: str
    group: str
    advanced: bool
    kind: Literal["int", "float", "choice", "bool", "text"]
    minimum: float | None
    maximum: float | None
    default: object
    choices: tuple[tuple[str, str], ...]
    unit: str
    shown_if: tuple[str, tuple[str, ...]] | None
    required: bool
    longest: int | None = None


@cache
def form_fields() -> tuple[FieldInfo, ...]:
    """Return every hyperparameter in the order of declaration, groups contiguous."""
    return tuple(_field_info(name) for name in Hyperparameters.model_fields)


def _field_info(name: str) -> FieldInfo:
    field = Hyperparameters.model_fields[name]
    extra: Any = field.json_schema_extra
    types = (field.annotation, *get_args(field.annotation))
    limits = {type(limit): limit for limit in field.metadata}
    return FieldInfo(
        name=name,
        label=extra["label"],
        help=extra["help"],
        group=extra["group"],
        advanced=extra["advanced"],
        kind=_kind(types, extra["choices"]),
        minimum=limits[Ge].ge if Ge in limits else None,
        maximum=limits[Le].le if Le in limits else None,
        default=field.default,
        choices=tuple(extra["choices"].items()),
        unit=extra["unit"],
        shown_if=extra["shown_if"],
        required=type(None) not in types,
        longest=limits[MaxLen].max_length if MaxLen in limits else None,
    )


def _kind(types: tuple[Any, ...], choices: Mapping[str, str]) -> Literal["int", "float", "choice", "bool", "text"]:
    if choices:
        return "choice"
    if str in types:
        return "text"
    if bool in types:
        return "bool"
    return "int" if int in types or Integer in types else "float"


# --- files and identity ------------------------------------------------------------------------------------------


def to_yaml(hyperparameters: Hyperparameters) -> str:
    """Return the hyperparameters as a YAML mapping in the order of declaration."""
    return str(yaml.safe_dump(hyperparameters.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


def from_yaml(text: str) -> Hyperparameters:
    """Read hyperparameters from YAML; fields left out get their defaults.

    Raises: ValueError with a sentence if the text is not a YAML mapping, pydantic.ValidationError (a ValueError too)
    naming the fields if values are wrong.
    """
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"This is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError("The YAML file must hold a mapping of hyperparameter names to values.")
    return Hyperparameters.model_validate(content)


def config_hash(hyperparameters: Hyperparameters) -> str:
    """Return the SHA-256, in hex, of the canonical JSON: equal exactly if every value is equal."""
    canonical = json.dumps(hyperparameters.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
