"""A language model elsewhere that reads held-out answers and rates them by a team's rubric."""
