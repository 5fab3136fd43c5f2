"""What a trial is, for those who run it and for those who wait for it. Pure."""

from typing import Final

STEPS: Final = 20
