"""Hyperparameters as a file, and as a name."""

import hashlib
import json

import yaml

from experiments.hyperparameters.whole import Hyperparameters


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
