"""What cannot be exported, as a code and a sentence."""


class ExportError(Exception):
    """An export that is not possible; `code` for programs, the text for people."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code
