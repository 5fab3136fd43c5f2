"""What a trial is, for those who run it and for those who wait for it; what the parts of a run may cost. Pure."""

from typing import Final

STEPS: Final = 20
VALIDATION_SHARE: Final = 0.15
"""Most of a run's time that answering validation rows, with the validation loss, may take."""
SCORING_SHARE: Final = 1.0
"""In the quality report, scoring every allowed value may take so many times as long as asking took, …"""
LEAST_SCORING_S: Final = 20.0
"""… but at least some seconds."""
MOST_CALIBRATION_ROWS: Final = 200
LEAST_CALIBRATION_ROWS: Final = 50
"""Validation rows scored besides those of the report: so many if there is time, and these in any case."""
MOST_WRITTEN_ROWS: Final = 100
"""Of them, where closed fields stand behind open ones: the model first writes their answers, as it does when served."""
MOST_LIKELIHOOD_ROWS: Final = 200
"""Rows whose expected texts are weighed under both models, where answers are free text."""
CHILD_MEMORY_SHARE: Final = 0.9
"""Of a machine's memory, what a trainer on its CPUs may take; one that wants more gets an error it can act on."""
