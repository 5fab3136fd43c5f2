"""Streamed pieces add up to the whole text, never break a character and never show a stop string."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets_app.rendering import ChatRenderer
from gpu_worker.engine.text_stream import StopScanner, TextStream


@pytest.mark.parametrize("text", ["plain", "Не могу войти 🙂👩‍💻", "日本語 \n\t done", " leading and  double "])
def test_pieces_add_up_and_never_break_a_character(renderer: ChatRenderer, text: str) -> None:
    stream = TextStream(renderer.decode)
    pieces = [stream.push(token) for token in renderer.encode(text)]
    pieces.append(stream.finish())
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


@settings(max_examples=60)
@given(st.lists(st.integers(min_value=3, max_value=383), max_size=30))
def test_pieces_add_up_for_any_tokens(renderer: ChatRenderer, ids: list[int]) -> None:
    """Random tokens are mostly broken UTF-8: the replacement characters must still be those of the whole."""
    stream = TextStream(renderer.decode)
    pieces = [stream.push(token) for token in ids] + [stream.finish()]
    assert "".join(pieces).replace("\ufffd", "") == renderer.decode(ids).replace("\ufffd", "")


@settings(max_examples=200)
@given(st.lists(st.text(alphabet="ab}", max_size=3), max_size=12), st.lists(st.text("ab}", min_size=1, max_size=3)))
def test_scanner_equals_a_search_in_the_whole_text(pieces: list[str], stops: list[str]) -> None:
    scanner = StopScanner(stops)
    shown = "".join(scanner.push(piece) for piece in pieces)
    shown += scanner.finish()
    whole = "".join(pieces)
    first = min((whole.find(stop) for stop in stops if stop in whole), default=None)
    assert scanner.stopped == (first is not None)
    if first is not None:
        assert len(shown) <= len(whole)
        assert whole.startswith(shown)
        assert not any(stop in shown for stop in stops)
    else:
        assert shown == whole


def test_a_stop_string_across_pieces_is_never_shown() -> None:
    scanner = StopScanner(["}\n", "STOP"])
    shown = [scanner.push(piece) for piece in ('{"a": 1', "}", "\nmore", "text")]
    assert shown == ['{"a": 1', "", "", ""]
    assert scanner.stopped
