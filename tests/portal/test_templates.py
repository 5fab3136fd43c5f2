"""All templates: they compile, keep to the content security policy, and use icons that exist; the tags of `ui`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
from django import forms
from django.conf import settings
from django.contrib.staticfiles.storage import ManifestStaticFilesStorage as HASHED
from django.core.management import call_command
from django.template import Context, Template
from django.template.loader import get_template, render_to_string
from django.test import RequestFactory, override_settings

from portal.templatetags.ui import STATUSES
from portal.vendored_icons import FILLED_ICONS, OUTLINE_ICONS

ROOT = Path(settings.BASE_DIR) / "templates"
TEMPLATES = sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob("*.html"))
ICONS = {*OUTLINE_ICONS, *(f"{name}-filled" for name in FILLED_ICONS)}
RISKY = ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function")
SCRIPTS = sorted((Path(settings.BASE_DIR) / "portal" / "static" / "js").glob("*.js"))


def rendered(source: str, **context: object) -> str:
    return Template("{% load i18n ui %}" + source).render(Context(context))


@pytest.mark.parametrize("name", TEMPLATES)
def test_template_compiles(name: str) -> None:
    get_template(name)


@pytest.mark.parametrize("name", TEMPLATES)
def test_template_keeps_to_the_content_security_policy(name: str) -> None:
    source = (ROOT / name).read_text()
    markup = re.sub(r"{%.*?%}", "", source, flags=re.DOTALL)
    assert not re.search(r"\sstyle\s*=", markup), "inline style"
    assert not re.search(r"<style\b", markup), "style element"
    assert not re.search(r"\s(on[a-z]+|hx-on[:\w-]*)\s*=", markup), "inline handler"
    assert not re.search(r"javascript:", source), "script address"
    assert not re.search(r"<script(?![^>]*\b(?:src=|type=\"application/json\"))", source), "inline script"
    assert not re.search(r"(?:src|href|action)=[\"'](?:https?:)?//", source), "something from another host"
    assert "|safe" not in source, "unescaped value"
    assert "{% autoescape off" not in source, "unescaped value"


@pytest.mark.parametrize("name", TEMPLATES)
def test_icons_exist(name: str) -> None:
    source = (ROOT / name).read_text()
    named = re.findall(r"""{% icon ["']([\w-]+)["']""", source) + re.findall(r"""icon_name=["']([\w-]+)["']""", source)
    named += re.findall(r"""{% nav_link \S+ \S+(?: \S+)*? ["']([\w-]+)["'](?: \S+)? %}""", source)
    assert set(named) <= ICONS


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name.startswith("components/")])
def test_component_names_its_context(name: str) -> None:
    source = (ROOT / name).read_text()
    start = source.split("{% endcomment %}")[0]
    assert "{% comment %}" in start[:120]
    assert "Context" in start


def test_state_icons_exist() -> None:
    assert {status.icon for status in STATUSES.values()} <= ICONS


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_put_text_and_never_markup_on_the_page(script: Path) -> None:
    source = script.read_text()
    for risky in RISKY:
        assert risky not in source


def visible_words() -> Iterator[tuple[str, str]]:
    """Yield path and text of whatever may say something to people."""
    base = Path(settings.BASE_DIR)
    for path in [*ROOT.rglob("*.html"), *ROOT.rglob("*.txt"), *SCRIPTS]:
        yield str(path.relative_to(base)), path.read_text()
    for room in ("portal", "datasets_app", "experiments", "deployments"):
        for path in (base / room).rglob("*.py"):
            found = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
            words = [node.value for node in found if isinstance(node.value, str)]
            yield str(path.relative_to(base)), "\n".join(words)


def test_percentages_are_written_in_one_way() -> None:
    """As `numbers.percent` writes them, without a blank: 30%."""
    apart = re.compile(r"""(?:[\d}]|\)[sdg]|^)[ \u00a0]%%?(?=$|[.,;:)<"'`]|[ ][a-z]{2})""", re.MULTILINE)
    found = {path: apart.findall(words) for path, words in visible_words()}
    assert {path: ways for path, ways in found.items() if ways} == {}


def test_texts_that_scripts_ask_for_are_there() -> None:
    asked = {name for script in SCRIPTS for name in re.findall(r'\btext\("(\w+)"\)', script.read_text())}
    given = set(re.findall(r"data-([\w-]+)=", (ROOT / "components/_script_texts.html").read_text()))
    camel = {re.sub(r"-(\w)", lambda match: match[1].upper(), name) for name in given}
    assert asked <= camel


@override_settings(STORAGES={"staticfiles": {"BACKEND": f"{HASHED.__module__}.{HASHED.__name__}"}})
def test_static_files_can_be_hashed(tmp_path: Path, settings) -> None:
    """A style sheet that points at a file which we do not ship would stop the deployment."""
    settings.STATIC_ROOT = tmp_path
    call_command("collectstatic", interactive=False, verbosity=0)
    manifest = HASHED(location=str(tmp_path)).load_manifest()[0]
    assert {"vendor/tabler/tabler.min.css", "vendor/tabler-icons/icons.svg", "js/app.js"} <= manifest.keys()


class Outline(HTMLParser):
    """Collects what the accessibility checks below need."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.label_targets: list[str] = []
        self.controls: list[dict[str, str | None]] = []
        self.headings: list[int] = []
        self.buttons: list[list[str]] = []
        self._inside: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.ids += [attributes["id"]] if attributes.get("id") else []  # type: ignore[list-item]
        if tag == "label" and attributes.get("for"):
            self.label_targets.append(str(attributes["for"]))
        if tag in {"input", "select", "textarea"} and attributes.get("type") not in {"hidden", "submit"}:
            self.controls.append({**attributes, "in-label": "yes" if "label" in self._inside else None})
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag in {"button", "label"}:
            self._inside.add(tag)
        if tag == "button":
            self.buttons.append([str(attributes.get("aria-label") or "")])

    def handle_data(self, text: str) -> None:
        if "button" in self._inside:
            self.buttons[-1].append(text.strip())

    def handle_endtag(self, tag: str) -> None:
        self._inside.discard(tag)


@pytest.fixture
def style_guide() -> str:
    request = RequestFactory().get("/style-guide/")
    user = SimpleNamespace(is_authenticated=True, email="anna@example.com", name="Anna", is_platform_admin=False)
    team = SimpleNamespace(pk=1, name="<b>Service Desk</b>", slug="service-desk")
    request.user = user  # type: ignore[assignment]
    return render_to_string("portal/style_guide.html", {"team": team, "teams": [team]}, request=request)


def test_style_guide_shows_every_component(style_guide: str) -> None:
    assert "<b>Service Desk" not in style_guide
    assert "&lt;script&gt;alert(1)" in style_guide
    assert 'aria-current="page"' in style_guide


def test_every_control_has_a_name_and_every_id_is_unique(style_guide: str) -> None:
    outline = Outline(re.sub(r"<template\b.*?</template>", "", style_guide, flags=re.DOTALL))
    repeated = {one for one in outline.ids if outline.ids.count(one) > 1}
    # The page shows the same form twice (as it is, and with errors).
    assert {one for one in repeated if not re.match(r"id_(name|learning_rate)(_\w+)?$", one)} == set()
    for control in outline.controls:
        named = control.get("aria-label") or control.get("id") in outline.label_targets or control["in-label"]
        assert named, control
    assert all("".join(button) for button in outline.buttons), "a button without a name"
    assert outline.headings.count(1) == 1


class RunForm(forms.Form):
    rate = forms.FloatField(label="Rate", min_value=0.001, max_value=1, help_text="How fast.")
    note = forms.CharField(label="Note", required=False)
    kind = forms.ChoiceField(label="Kind", choices=[("a", "A"), ("b", "<B>")], widget=forms.RadioSelect)
    many = forms.MultipleChoiceField(label="Many", choices=[("x", "X")], widget=forms.CheckboxSelectMultiple)
    yes = forms.BooleanField(label="Yes", required=False)


def test_field_shows_label_range_help_and_unit() -> None:
    html = rendered('{% field form.rate unit="per step" %}', form=RunForm())
    assert '<label class="form-label" for="id_rate">Rate</label>' in html
    assert "0.001 to 1" in html
    assert 'id="id_rate_helptext">How fast.' in html
    assert 'aria-describedby="id_rate_helptext"' in html
    assert "per step" in html


def test_field_says_what_is_wrong_and_ties_it_to_the_control() -> None:
    html = rendered("{% field form.rate %}", form=RunForm({"rate": "7"}))
    assert 'aria-invalid="true"' in html
    assert re.search(r'aria-describedby="[^"]*id_rate_error', html)
    assert 'id="id_rate_error"' in html


def test_choices_are_escaped_and_checked() -> None:
    html = rendered(
        '{% field form.kind style="cards" descriptions=words %}', form=RunForm({"kind": "b"}), words={"b": "<i>"}
    )
    assert "&lt;B&gt;" in html
    assert "&lt;i&gt;" in html
    assert len(re.findall(r"\bchecked\b", html)) == 1
    assert 'type="checkbox"' in rendered("{% field form.many %}", form=RunForm())


def test_a_dependent_field_names_what_it_depends_on() -> None:
    form = RunForm(prefix="run")
    form.fields["note"].shown_if = ("kind", ("a", "b"))  # type: ignore[attr-defined]
    html = rendered("{% field form.note %}", form=form)
    assert 'data-shown-if="run-kind" data-shown-values="a|b"' in html


@pytest.mark.parametrize("state", STATUSES)
def test_states_have_a_word_and_an_icon(state: str) -> None:
    html = rendered("{% status state %}", state=state)
    assert str(STATUSES[state].label) in html
    assert "#" + STATUSES[state].icon in html


def test_an_unknown_state_is_shown_as_it_is() -> None:
    assert "&lt;odd&gt;" in rendered("{% status state %}", state="<odd>")


def test_moments_are_utc_for_those_without_scripts() -> None:
    html = rendered("{% when moment %}", moment=datetime(2026, 11, 22, 14, 5, tzinfo=UTC))
    assert 'datetime="2026-11-22T14:05:00+00:00"' in html
    assert "2026-11-22 14:05 UTC" in html
    assert rendered("{% when none %}", none=None).strip() == "–"


def test_progress_is_indeterminate_until_somebody_knows() -> None:
    assert "value=" not in rendered('{% progress None label="Waiting" %}')
    assert 'value="0.2500"' in rendered("{% progress 1 4 %}")


def test_boxes_escape_titles_but_not_their_content() -> None:
    html = rendered("{% card title=words %}<p>{{ words }}</p>{% endcard %}", words="<x>")
    assert "<p>&lt;x&gt;</p>" in html
    assert "<x>" not in html


def test_code_is_shown_as_it_was_written() -> None:
    html = rendered("{% code %}\n\ncurl {{ url }}\n\n{% endcode %}", url="https://a/?b&c")
    assert "<code>curl https://a/?b&amp;c</code>" in html


def test_api_example_survives_quotes() -> None:
    words = 'Can\'t "reset" it'
    html = render_to_string("components/_api_call.html", {"base_url": "https://t/v1", "model": "m", "prompt": words})
    assert "Can&#x27;\\&#x27;&#x27;t \\&quot;reset\\&quot; it" in html


def test_an_error_page_needs_neither_user_nor_database() -> None:
    html = render_to_string("errors/error.html", {"status": 500, "message": "It broke <here>."})
    assert "It broke &lt;here&gt;." in html
