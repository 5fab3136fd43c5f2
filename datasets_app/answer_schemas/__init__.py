"""The schema of a version's answers: what a schema may say, its revisions, and how people edit it."""
