"""Who answers the held-out rows, by the names that files, reports and pages use. Pure."""

from typing import Final

TUNED: Final = "tuned"
UNTUNED: Final = "untuned"
MODELS: Final = (TUNED, UNTUNED)

# The tuned model asked in another way: bound to the schema, or only which of the allowed values it is.
CONSTRAINED: Final = "constrained"
SCORED: Final = "scored"
WAYS: Final = (TUNED, CONSTRAINED, SCORED)

# What needs no language model.
TFIDF: Final = "tfidf"
MAJORITY: Final = "majority"
BASELINES: Final = (TFIDF, MAJORITY)

# Everybody besides the tuned and the untuned model.
OTHERS: Final = (CONSTRAINED, SCORED, *BASELINES)
# Everybody, in the order in which they are shown.
SUBJECTS: Final = (*WAYS, UNTUNED, *BASELINES)
