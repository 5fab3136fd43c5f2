"""What people see before an import is what the trainer gets: the same text, the same tokens, the same border."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest
from django.test import Client
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from datasets_app import tasks
from datasets_app.models import DatasetVersion, Split
from datasets_app.preview import PREVIEW_ROWS, as_seen
from datasets_app.rendering import ChatRenderer
from datasets_app.stored_rows import StoredRows
from experiments.hyperparameters import Hyperparameters
from gpu_worker.trainer.rows import encode_file
from portal.models import BaseModel
from portal.rls import all_teams, team_scope
from tests.datasets_app.files import csv_bytes, csv_upload, upload
from tests.tiny_model import make_tiny_model

SUBJECTS = ["VPN  down", "Не могу войти", "Drucker – kaputt 🖨️", "<b>bold</b> & {braces}", "a\ttab", "naïve", "7"]
ROWS = [
    (subject, f"Since this morning,\nline {n}.  Спасибо 🙂", '{"queue": "Mail"}') for n, subject in enumerate(SUBJECTS)
]
TEMPLATE = {"shape": "template", "template": "{subject}\r\n{body}", "response": "routing", "encoding_train": "utf-8"}
OPTIONS = {"delimiter_train": ",", "validation_percent": "0", "test_percent": "0", "seed": "1"}
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> ChatRenderer:
    return ChatRenderer.load(make_tiny_model(tmp_path_factory.mktemp("base") / "tiny"))


@pytest.fixture
def browser(team, alice, client_for) -> Client:
    return client_for(alice)


def drafted(browser: Client, content: bytes, **files) -> DatasetVersion:
    sent = {"name": "Tickets", "train_file": upload(content), **files}
    assert browser.post("/t/service-desk/datasets/import/", sent).status_code == 302
    with all_teams("test"):
        return DatasetVersion.unscoped.select_related("team").get()


def shown(response) -> list[tuple[str, str]]:
    """What is given and what is learned of each row on a page, exactly as the browser would copy it."""
    page = response.content.decode()
    rows = re.findall(
        r'<pre class="tokens"[^>]*><span class="given">(.*?)</span><mark class="learned">(.*?)</mark>', page, re.S
    )
    return [(plain(asked), plain(learned)) for asked, learned in rows]


def plain(markup: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", markup))


def test_a_template_over_several_columns_is_seen_as_it_is_trained(browser, team, base_model, renderer, tmp_path):
    version = drafted(browser, csv_bytes(ROWS, header=("subject", "body", "routing")))
    address = f"/t/{team.slug}/dataset-versions/{version.pk}/mapping/"
    seen = shown(browser.post(address, {**TEMPLATE, **OPTIONS, "preview": "1"}))
    seen += shown(browser.post(address, {**TEMPLATE, **OPTIONS, "rows_from": "5"}))
    assert browser.post(address, {**TEMPLATE, **OPTIONS}).status_code == 302
    tasks.import_version(str(version.pk))
    with team_scope(team.pk):
        version.refresh_from_db()
        rows = list(StoredRows(version, Split.TRAIN)[0 : len(ROWS)])
        pieces, _name = as_seen(rows)
    assert version.mapping["template"] == "{subject}\n{body}"
    assert rows[0].prompt == "VPN  down\nSince this morning,\nline 0.  Спасибо 🙂"

    # What the trainer reads, by the trainer's own reader.
    (tmp_path / "train.jsonl").write_text(
        "".join(json.dumps({"row": row.row, "messages": list(row.messages)}) + "\n" for row in rows)
    )
    trained = encode_file(tmp_path / "train.jsonl", renderer, Hyperparameters(max_length=512)).rows
    assert len(seen) == len(trained) == len(ROWS)
    for (asked, learned), row, one in zip(seen, trained, pieces, strict=True):
        assert asked == renderer.decode(row.token_ids[: row.prompt_length], skip_special=False)
        assert learned == renderer.decode(row.token_ids[row.prompt_length :], skip_special=False)
        assert (tuple(renderer.encode(asked)) + tuple(renderer.encode(learned))) == row.token_ids
        assert sum(piece.tokens for piece in one.prompt) == one.prompt_tokens == row.prompt_length
        assert sum(piece.tokens for piece in one.answer) == one.answer_tokens == row.label_tokens


def test_rows_are_leafed_through(browser, team, base_model):
    rows = [(f"Question {n}", "Answer") for n in range(12)]
    version = drafted(browser, csv_bytes(rows))
    address = f"/t/{team.slug}/dataset-versions/{version.pk}/mapping/"
    choices = {"shape": "columns", "prompt": "prompt", "response": "response", "encoding_train": "utf-8", **OPTIONS}

    def page(**more: str) -> tuple[list[str], str]:
        response = browser.post(address, {**choices, **more})
        return re.findall(r"Question \d+", "".join(asked for asked, _ in shown(response))), response.content.decode()

    first, words = page(preview="1")
    assert first == [f"Question {n}" for n in range(PREVIEW_ROWS)]
    assert "Rows 1 to 5" in words
    second, words = page(rows_from="5")
    assert (second[0], second[-1]) == ("Question 5", "Question 9")
    last, words = page(rows_from="10")
    assert last == ["Question 10", "Question 11"]
    assert "Rows 11 to 12" in words
    assert re.search(r'value="0" formnovalidate[^>]*disabled>\s*Next', words)
    for nonsense in ("-5", "x", "99999999999", "²", "1e3"):
        assert page(rows_from=nonsense)[1].count("seen-head") == PREVIEW_ROWS


def test_the_base_model_and_the_file_are_chosen(browser, team, base_model, tiny_model_folder):
    other = BaseModel.objects.create(
        slug="other", name="Other", source="local", location="o", revision="1" * 40, parameters=200_000,
        context_tokens=512, size_bytes=1, is_allowed=True,
    )  # fmt: skip
    other.folder.symlink_to(tiny_model_folder)
    hidden = BaseModel.objects.create(
        slug="hidden", name="Hidden", source="local", location="h", revision="2" * 40, parameters=1, context_tokens=1,
        size_bytes=1,
    )  # fmt: skip
    version = drafted(browser, csv_bytes([("a", "b")]), test_file=csv_upload([("held", "out")], "t.csv"))
    address = f"/t/{team.slug}/dataset-versions/{version.pk}/mapping/"
    choices = {"shape": "columns", "prompt": "prompt", "response": "response", "preview": "1"}
    choices |= {
        f"{kind}_{split}": value
        for split in ("train", "test")
        for kind, value in (("encoding", "utf-8"), ("delimiter", ","))
    }
    page = browser.post(address, {**choices, "preview_model": other.slug, "preview_file": "test"})
    assert "Each box is one token of Other." in page.content.decode()
    assert "held" in shown(page)[0][0]
    page = browser.post(address, {**choices, "preview_model": hidden.slug})
    assert "Each box is one token of Tiny." in page.content.decode()
    assert "Hidden" not in page.content.decode()


@given(text=texts)
def test_pieces_make_up_the_text_and_the_tokens(renderer, text):
    check(renderer, text)


def check(renderer: ChatRenderer, text: str) -> None:
    pieces = renderer.pieces(text)
    assert "".join(piece.text for piece in pieces) == text
    assert sum(piece.tokens for piece in pieces) == len(renderer.encode(text))


def byte_level() -> Tokenizer:
    """A tokenizer that leaves spaces out of the bounds of its tokens, as the one of GPT-2 does."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.post_processor = processors.ByteLevel(trim_offsets=True)
    made.train_from_iterator(SUBJECTS, trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return made


def metaspace() -> Tokenizer:
    """A tokenizer with a mark for spaces and bytes for what it does not know, as those of Llama are."""
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    made.train_from_iterator(SUBJECTS, trainers.BpeTrainer(special_tokens=["<unk>"]))
    return made


@pytest.mark.parametrize("make", [byte_level, metaspace])
@pytest.mark.parametrize("text", ["", " ", "  a  b ", "\n\n x\n", "Не могу\tвойти 🖨️", "你好 world", "é́é "])
def test_pieces_know_the_usual_kinds_of_tokenizers(make, text):
    tokenizer = make()
    check(ChatRenderer(tokenizer=tokenizer, template="", special_tokens={}, eos_ids=[0]), text)


def test_long_texts_are_cut_on_the_page_only(renderer, base_model, settings, tmp_path: Path):
    from datasets_app.rows import CanonicalRow

    row = CanonicalRow(
        row=2, messages=({"role": "user", "content": "word " * 3000}, {"role": "assistant", "content": "ok"})
    )
    (seen,), _name = as_seen([row])
    assert seen.is_cut
    assert seen.prompt_tokens == renderer.row(row.messages).prompt_length
    assert len(seen.prompt_text) <= 4_001
