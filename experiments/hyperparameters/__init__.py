"""The one declaration of everything a person may choose about a training run.

Each hyperparameter is declared once, in the file of its group; the form, the API schema, the YAML file, the checks
and the trainer's spec all follow from it. Pure: pydantic and yaml only, since the trainer reads it too.

    declaration.py  how one is declared    problem, length, learning, lora, text, hardware, checks  the groups
    whole.py        all of them together   forms.py  what forms need    files.py  YAML, and a hash for identity
"""

from experiments.hyperparameters.checks import stops_in
from experiments.hyperparameters.declaration import (
    BASE_MODEL_STARTS,
    LEARNS_ANSWERS,
    MOST_SERVED_RANK,
    PROBLEM_TYPES,
    ProblemType,
)
from experiments.hyperparameters.files import config_hash, from_yaml, to_yaml
from experiments.hyperparameters.forms import FieldInfo, form_fields
from experiments.hyperparameters.lora import OWN_TARGETS
from experiments.hyperparameters.whole import Hyperparameters

__all__ = [
    "BASE_MODEL_STARTS",
    "LEARNS_ANSWERS",
    "MOST_SERVED_RANK",
    "OWN_TARGETS",
    "PROBLEM_TYPES",
    "FieldInfo",
    "Hyperparameters",
    "ProblemType",
    "config_hash",
    "form_fields",
    "from_yaml",
    "stops_in",
    "to_yaml",
]
