"""The one place where a conversation becomes text and token ids.

Training, evaluation, preview, chat and API all go through `ChatRenderer`, so a model is asked in exactly the words
it was taught with. Pure: jinja2 and tokenizers only, hence cheap enough for the web process (no torch, no Django).
The sandbox has the options, filters and globals that transformers gives to chat templates (verified against
transformers 5.23, `utils/chat_template_utils.py`); a test compares the ids of both.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from datasets_app.token_bytes import TokenBytes

# `role` and `content`, both texts; an assistant's message may have a `weight` of 0: it is not learned.
Message = Mapping[str, Any]

ROLES = ("system", "user", "assistant")


class RenderingError(ValueError):
    """A conversation or a base model folder that cannot be rendered; the text is a sentence for people."""


@dataclass(frozen=True)
class RenderedRow:
    """One training row as the model sees it: `prompt_text + answer_text`, and the ids of both in one sequence.

    The answer's ids are `token_ids[prompt_length:]`; they end with an end-of-turn id, which is learned too.
    """

    token_ids: tuple[int, ...]
    prompt_length: int
    prompt_text: str
    answer_text: str


@dataclass(frozen=True)
class Piece:
    """A stretch of text that one token stands for; `tokens` are more where a single character takes several."""

    text: str
    tokens: int

    @property
    def ends_line(self) -> bool:
        """Tell whether the next piece begins on a new line."""
        return self.text.endswith("\n")


class ChatRenderer:
    """Renders conversations with the chat template and tokenizer of one base model folder.

    Reads nothing but that folder and keeps no state between calls, so one instance may be shared by threads.
    """

    def __init__(
        self, *, tokenizer: Tokenizer, template: str, special_tokens: Mapping[str, str], eos_ids: Sequence[int]
    ) -> None:
        """Use `load` instead. `eos_ids`: every id that ends a turn, the tokenizer's own end-of-sequence first."""
        self._tokenizer = tokenizer
        self._template = _environment().from_string(template)
        self._special_tokens = dict(special_tokens)
        self.eos_id = eos_ids[0]
        self.eos_ids = frozenset(eos_ids)
        self._bytes: TokenBytes | None = None
        self._eos_texts = tuple(tokenizer.decode([i], skip_special_tokens=False) for i in eos_ids)

    @classmethod
    def load(cls, model_dir: Path) -> "ChatRenderer":
        """Read tokenizer and chat template of a base model folder.

        Raises: RenderingError if a file is missing or broken, or if no end-of-sequence token is declared.
        """
        tokenizer = _read_tokenizer(model_dir)
        settings = _read_json(model_dir / "tokenizer_config.json")
        special_tokens = _special_tokens(settings)
        return cls(
            tokenizer=tokenizer,
            template=_read_template(model_dir, settings),
            special_tokens=special_tokens,
            eos_ids=_eos_ids(model_dir, tokenizer, special_tokens),
        )

    def prompt_text(self, messages: Sequence[Message]) -> str:
        """Return the text after which the model is expected to write the assistant's answer."""
        _require_messages(messages)
        return self._render(messages, add_generation_prompt=True)

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the token ids of `prompt_text(messages)`."""
        return self.encode(self.prompt_text(messages))

    def row(self, messages: Sequence[Message]) -> RenderedRow:
        """Render a training row whose last message is the assistant's answer.

        Prompt and answer are tokenised apart: at serving time the model continues exactly these prompt ids, so no
        token may straddle the border. Raises: RenderingError if the conversation does not end with an answer.
        """
        _require_answer(messages)
        prompt_text, answer_text = self.row_texts(messages)
        prompt_ids = self.encode(prompt_text)
        return RenderedRow(
            token_ids=(*prompt_ids, *self.encode(answer_text)),
            prompt_length=len(prompt_ids),
            prompt_text=prompt_text,
            answer_text=answer_text,
        )

    def learned_turns(self, messages: Sequence[Message]) -> list[RenderedRow]:
        """Return a training row for each answer that is learned: the conversation up to it.

        Each is what the model is asked with when the conversation has come so far, to the very token ids.
        Raises: RenderingError if the conversation does not end with an answer.
        """
        _require_answer(messages)
        return [self.row(messages[: place + 1]) for place in learned_places(messages)]

    def row_texts(self, messages: Sequence[Message]) -> tuple[str, str]:
        """Return the prompt text and answer text of `row(messages)`."""
        _require_messages(messages)
        prompt_text = self.prompt_text(messages[:-1])
        return prompt_text, self._answer_text(prompt_text, messages)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of token ids that `encode` gives for each text; many at once are faster."""
        return [len(one) for one in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text as it stands: nothing is added, special tokens in it are recognised."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def pieces(self, text: str) -> list[Piece]:
        """Return a text cut where its tokens end: the pieces make up the text, their tokens are those of `encode`."""
        cut: list[Piece] = []
        done = 0
        for _start, end in self._tokenizer.encode(text, add_special_tokens=False).offsets:
            if end > done or not cut:
                # Some tokenizers leave spaces out of a token's own bounds; they belong to it nevertheless.
                cut.append(Piece(text[done:end], 1))
                done = end
            else:
                cut[-1] = Piece(cut[-1].text, cut[-1].tokens + 1)
        if cut and done < len(text):
            cut[-1] = Piece(cut[-1].text + text[done:], cut[-1].tokens)
        return cut or ([Piece(text, 0)] if text else [])

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Return the text of token ids, without special tokens unless asked for."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=skip_special))

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes of one token, which may be a part of a character; joined they are the text."""
        if self._bytes is None:
            self._bytes = TokenBytes(self._tokenizer)  # its first use takes as long as loading: few need it
        return self._bytes.of(token_id)

    def _answer_text(self, prompt_text: str, messages: Sequence[Message]) -> str:
        """Return what the template writes after the prompt, up to and including the end-of-turn token.

        Some templates append text after that token (ChatML: a line break), which the model never has to produce;
        some write the prompt differently once an answer follows it, and then the bare answer is taken.
        """
        whole = self._render(messages, add_generation_prompt=False)
        if whole.startswith(prompt_text):
            answer = whole[len(prompt_text) :]
            end = max(_end_of_last(answer, eos) for eos in self._eos_texts)
            if end:
                return answer[:end]
        return f"{messages[-1]['content']}{self._eos_texts[0]}"

    def _render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        plain = [{"role": message["role"], "content": message["content"]} for message in messages]
        try:
            return self._template.render(
                messages=plain,
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._special_tokens,
            )
        except TemplateError as error:
            raise RenderingError(f"The base model's chat template refuses this conversation: {error}") from error


def learned_places(messages: Sequence[Message]) -> list[int]:
    """Return the places of the assistant's messages, those with weight 0 left out."""
    return [
        place
        for place, message in enumerate(messages)
        if message["role"] == "assistant" and message.get("weight", 1) != 0
    ]


def _require_messages(messages: Sequence[Message]) -> None:
    if not messages:
        raise RenderingError("A conversation needs at least one message.")
    for number, message in enumerate(messages, start=1):
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise RenderingError(f"Message {number} has the role {role!r}; allowed are {', '.join(ROLES)}.")
        if not isinstance(content, str):
            raise RenderingError(f"Message {number} must have a text as its content.")


def _require_answer(messages: Sequence[Message]) -> None:
    _require_messages(messages)
    if messages[-1]["role"] != "assistant":
        raise RenderingError("The last message of a training row must be the assistant's answer.")


def _end_of_last(text: str, part: str) -> int:
    """Return the position after the last occurrence of `part` in `text`, 0 if there is none."""
    start = text.rfind(part)
    return 0 if start < 0 else start + len(part)


# --- the base model folder ---------------------------------------------------------------------------------------


def _read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object from a file, empty if the file does not exist."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise RenderingError(f"The base model's file {path.name} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise RenderingError(f"The base model's file {path.name} does not hold a JSON object.")
    return content


def _read_tokenizer(model_dir: Path) -> Tokenizer:
    path = model_dir / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception for missing and for broken files alike
        raise RenderingError(f"The base model's file {path.name} cannot be read: {error}") from error
    # A tokenizer.json may carry the padding and truncation of whoever saved it last; ours are decided elsewhere.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _read_template(model_dir: Path, settings: Mapping[str, Any]) -> str:
    path = model_dir / "chat_template.jinja"
    if path.exists():
        return path.read_text(encoding="utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):  # several named templates: [{"name": "default", "template": "…"}, …]
        template = next((entry["template"] for entry in template if entry.get("name") == "default"), None)
    if not isinstance(template, str):
        raise RenderingError("The base model has no chat template, so it cannot be used for conversations.")
    return template


def _special_tokens(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return {"bos_token": "<s>", …}: the names under which templates refer to special tokens."""
    found = {}
    for name, value in settings.items():
        text = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(text, str):
            found[name] = text
    return found


def _eos_ids(model_dir: Path, tokenizer: Tokenizer, special_tokens: Mapping[str, str]) -> list[int]:
    """Return all ids that end a turn, the tokenizer's end-of-sequence token first, without repetition."""
    ids: list[Any] = [tokenizer.token_to_id(special_tokens.get("eos_token", ""))]
    for file_name in ("generation_config.json", "config.json"):
        declared = _read_json(model_dir / file_name).get("eos_token_id")
        ids += declared if isinstance(declared, list) else [declared]
    unique = [i for i in dict.fromkeys(ids) if isinstance(i, int)]
    if not unique:
        raise RenderingError("The base model declares no end-of-sequence token.")
    return unique


# --- the template sandbox ----------------------------------------------------------------------------------------


class _GenerationTag(Extension):
    """Accepts `{% generation %}…{% endgeneration %}`, with which some templates mark answers, and renders its body."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes HTML characters, which would change what the model reads.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(date_format: str) -> str:
    return datetime.now().strftime(date_format)
