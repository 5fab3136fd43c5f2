"""Arithmetic and memory."""

from typing import Literal

from pydantic import ValidationInfo, field_validator

from experiments.hyperparameters.declaration import BASE_MODEL_STARTS, HARDWARE, Group, Integer, _, field


class HardwareGroup(Group):
    """Arithmetic and memory."""

    precision: Literal["auto", "fastest", "fp32", "bf16", "int8"] = field(
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
    quantization: Literal["none", "int8", "nf4"] = field(
        "none", group=HARDWARE, label=_("Compress the base model"),
        choices={"none": _("No"), "int8": _("8 bit"), "nf4": _("4 bit (QLoRA)")},
        help=_("Keeps the frozen base model in fewer bits: less GPU memory, slower steps."),
    )  # fmt: skip
    gpus: Integer = field(
        1, limits=(1, 8), group=HARDWARE, label=_("GPUs"),
        help=_(
            "So many GPUs of one node compute each step together: sooner done, same result. Where nodes have no GPUs, "
            "so many processes. The run starts when so many are free at once; the time of each counts."
        ),
    )  # fmt: skip
    divide_base_model: Literal["auto", "yes", "no"] = field(
        "auto", group=HARDWARE, label=_("Divide the base model"),
        choices={"auto": _("Where one GPU is too small for it"), "yes": _("Yes"), "no": _("No")},
        help=_(
            "Several processes that train together keep a part of the base model each (FSDP), instead of all of it: "
            "less memory, slower steps. A run of one process has nothing to divide."
        ),
    )  # fmt: skip
    gradient_checkpointing: bool = field(
        False, group=HARDWARE, label=_("Gradient checkpointing"),
        help=_("Computes parts of the model twice instead of remembering them: less memory, about a fifth slower."),
    )  # fmt: skip
    compile_kernels: bool = field(
        True, group=HARDWARE, label=_("Compiled kernels"),
        help=_(
            "Compiles the small operations between the large products for this machine's processor: faster, same "
            "result. Takes a few seconds once per machine, on CPUs; without a C++ compiler, or if they fail their "
            "check, the run goes on without."
        ),
    )  # fmt: skip

    torch_compile: bool = field(
        False, group=HARDWARE, label=_("Compile the model (torch.compile)"),
        help=_(
            "Where the trainer does not compute by hand, as on GPUs: lets torch compile the model's layers. The same "
            "result, often faster steps, and a minute or more before the first one. What cannot be compiled runs "
            "without, and the run says so."
        ),
    )  # fmt: skip

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
