"""What is told of single tokens: bytes that add up to the text, and places in it, also of parts of characters."""

import json

import pytest

from datasets_app.rendering import ChatRenderer
from gpu_worker.engine.sampling import TokenLogprob
from gpu_worker.engine.sequence import FinishReason
from gpu_worker.engine.server.shapes import ChatShape, ChoiceText, CompletionShape

TEXTS = ["plain words", "Не работает принтер", "Done 🙂👩‍👩‍👧", '{"queue": "Доступ", "mood": "😡"}']


def choice(renderer: ChatRenderer, text: str) -> ChoiceText:
    entries = [TokenLogprob(token, -0.5, ((token, -0.5), (7, -1.5))) for token in renderer.encode(text)]
    return ChoiceText(text, entries, FinishReason.STOP)


@pytest.mark.parametrize("text", TEXTS)
def test_the_bytes_of_all_tokens_are_the_text(renderer: ChatRenderer, text: str) -> None:
    told = ChatShape("tiny", "fp", renderer).choice(0, choice(renderer, text))["logprobs"]["content"]
    assert bytes(byte for entry in told for byte in entry["bytes"]) == text.encode()
    assert bytes(byte for entry in told for byte in entry["top_logprobs"][0]["bytes"]) == text.encode()
    assert json.dumps(told)


@pytest.mark.parametrize("text", TEXTS)
def test_offsets_are_where_the_characters_of_tokens_begin(renderer: ChatRenderer, text: str) -> None:
    shape = CompletionShape("tiny", "fp", renderer)
    whole = choice(renderer, text)
    told = [shape.piece(0, ChoiceText("", [entry]))["logprobs"] for entry in whole.logprobs]
    begun = b""
    for entry, one in zip(whole.logprobs, told, strict=True):
        assert one["text_offset"] == [len(begun.decode(errors="ignore"))]
        begun += renderer.token_bytes(entry.token_id)
    assert shape.choice(1, whole)["logprobs"]["text_offset"] == [one["text_offset"][0] for one in told]
