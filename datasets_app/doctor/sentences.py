"""What the findings are called, what they mean, what to do about them, and what is to be said of each row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from django.utils.translation import gettext_noop as _

from datasets_app.doctor.balance import shown
from datasets_app.doctor.report import Example, Finding

Translate = Callable[[str], str]
# Params of examples that are labels: kept as they are, so that fixes can write them.
LABELS: Final = ("label", "meant", "suggested")


@dataclass(frozen=True)
class Sentences:
    """The words of one kind of finding.

    `title`, `meaning` and `advice` may name `%(count)d` and the finding's params, `detail` the params of an example.
    """

    title: str
    meaning: str
    advice: str
    detail: str = ""


_OTHER: Final = _("like row %(other_id)d (%(other_split)s, line %(other_row)d)")
_PII_MEANING: Final = _(
    "%(values)d values. A model may learn them by heart and tell them to others. "
    "Names of people and postal addresses are not looked for."
)
_PII_ADVICE: Final = _(
    "Mask them: each value is replaced by a name such as [EMAIL_1], the same everywhere. Or leave these rows out, "
    "or keep them if the model has to repeat them."
)
_PII_DETAIL: Final = _("%(values)d in the %(part)s")

SENTENCES: Final[Mapping[str, Sentences]] = {
    "empty_answer": Sentences(
        _("Answers that say nothing: %(count)d"),
        _("The answer is empty or only a dash or “null”. The model would learn to say nothing."),
        _("Leave these rows out, or write the right answer."),
    ),
    "invalid_json": Sentences(
        _("Answers that are not JSON: %(count)d"),
        _("The other answers are JSON objects; these cannot be read as one."),
        _("Repair the answers, or leave these rows out."),
        _("cannot be read: %(reason)s"),
    ),
    "json_among_text": Sentences(
        _("JSON among plain answers: %(count)d"),
        _("Most answers are plain text, but these are JSON objects. The model learns one form best."),
        _("Bring all answers into the same form, or leave these rows out."),
    ),
    "wrong_type": Sentences(
        _("Values of the wrong type: %(count)d"),
        _("A field has a value of another type than in the other answers, such as a number instead of a text."),
        _("Correct the values, leave these rows out, or allow the type in the schema."),
        _("%(found)s instead of %(expected)s"),
    ),
    "missing_field": Sentences(
        _("Answers without a field that all others have: %(count)d"),
        _("The model would learn to leave the field out now and then."),
        _("Add the field, leave these rows out, or make the field optional in the schema."),
        _("the field is missing"),
    ),
    "unknown_field": Sentences(
        _("Fields that hardly any answer has: %(count)d"),
        _("The field is perhaps misspelt, or a leftover."),
        _("Rename or remove the field, leave these rows out, or add the field to the schema."),
        _("no such field in the schema"),
    ),
    "unknown_label": Sentences(
        _("Labels that the schema does not know: %(count)d"),
        _("The field is answered from a closed set of labels, and these are not among them."),
        _("Correct the labels, leave these rows out, or add the labels to the schema."),
        _("“%(label)s” is not in the schema"),
    ),
    "unseen_label": Sentences(
        _("Labels that no training row has: %(count)d"),
        _("These rows ask for labels that the model never sees in training, so it cannot get them right."),
        _("Split the dataset again by labels, add training rows with them, or leave these rows out."),
        _("“%(label)s” does not occur in training"),
    ),
    "wrong_format": Sentences(
        _("Values of another form: %(count)d"),
        _("All other values of the field are written in one form, such as a date as 2026-01-31."),
        _("Write the values in the same form, or leave these rows out."),
        _("not written as %(expected)s"),
    ),
    "key_order": Sentences(
        _("Answers with keys in another order: %(count)d"),
        _("The model learns the order of the keys too; two orders are harder to learn than one."),
        _("Bring the keys into the usual order, or leave these rows out."),
        _("usual order: %(expected)s"),
    ),
    "long_answer": Sentences(
        _("Answers that are much longer than usual: %(count)d"),
        _("They have more than ten times the usual length: perhaps several rows run together, or a pasted document."),
        _("Look at them; shorten them or leave them out."),
        _("%(characters)d characters"),
    ),
    "damaged_text": Sentences(
        _("Damaged letters: %(count)d"),
        _("The text was once read in the wrong encoding, so that letters became signs such as “Ã¼” or “�”."),
        _("Export the source again in UTF-8 and import it anew, or leave these rows out."),
        _("in the %(part)s"),
    ),
    "misspelt_label": Sentences(
        _("Labels that look misspelt: %(count)d"),
        _("A rare label differs from a frequent one only in letter case, separators or one letter."),
        _("Correct the labels, or leave these rows out."),
        _("“%(label)s”, perhaps “%(meant)s” is meant"),
    ),
    "rare_label": Sentences(
        _("Rows with a rare label: %(count)d"),
        _("The label has fewer than %(limit)d training rows. A model rarely learns it from so few."),
        _("Add rows with these labels, merge them with others, or leave the rows out."),
        _("“%(label)s” has %(rows)d training rows"),
    ),
    "unmeasured_label": Sentences(
        _("Labels that are learned but not measured: %(count)d"),
        _("No validation or test row has them, so nobody will know how well the model does there."),
        _("Split the dataset again by labels, or add rows with them."),
    ),
    "dominant_label": Sentences(
        _("Fields with nearly always the same label: %(count)d"),
        _("One label makes up more than 90%% of the field. A model that always gives it looks good already."),
        _("Judge the model by the figures of each label, and add rows with the others if you have any."),
    ),
    "few_rows": Sentences(
        _("Few training rows: %(count)d"),
        _("A model learns little from so few rows; a few hundred make a fair start."),
        _("Add more rows."),
    ),
    "too_long": Sentences(
        _("Rows longer than %(limit)d tokens: %(count)d"),
        _("%(percent)s%% of the rows have more tokens than training takes by default."),
        _("Raise the maximal length when you train, shorten the prompts, or leave these rows out."),
        _("%(tokens)d tokens, %(answer_tokens)d of them learned"),
    ),
    "duplicate": Sentences(
        _("Repeated rows: %(count)d"),
        _(
            "These rows ask and answer exactly what an earlier row of the same split does. "
            "Training gives their example more weight than the others."
        ),
        _("Leave the repetitions out. Keep them only if the weight is meant."),
        _OTHER,
    ),
    "leak": Sentences(
        _("Questions shared between splits: %(count)d"),
        _(
            "The same question stands in a split that is kept for measuring (%(held_out)d rows there). "
            "The model is asked what it has already seen, so its quality looks better than it is."
        ),
        _("Leave these rows out of training, or split the dataset again so that equal rows stay together."),
        _OTHER,
    ),
    "conflict": Sentences(
        _("Rows that contradict others: %(count)d"),
        _("They ask what another row asks, but the answer is not the usual one. The model cannot learn both."),
        _("Decide which answer is right and correct the others, or leave these rows out."),
        _OTHER,
    ),
    "near_duplicate": Sentences(
        _("Nearly equal questions: %(count)d"),
        _("They share most of their text with an earlier row of the same split. A few do no harm; many teach little."),
        _("Look at some. If they come from a form or a robot, leave them out."),
        _OTHER,
    ),
    "near_leak": Sentences(
        _("Nearly equal questions in several splits: %(count)d"),
        _(
            "A row that is kept for measuring asks nearly the same (%(held_out)d rows there), "
            "so the quality looks better than it is."
        ),
        _("Split the dataset again so that alike rows stay together, or leave these rows out of training."),
        _OTHER,
    ),
    "near_conflict": Sentences(
        _("Nearly equal questions with different answers: %(count)d"),
        _("Either the small difference matters, or one of the answers is wrong."),
        _("Look at the pairs and correct what is wrong."),
        _OTHER,
    ),
    "label_error": Sentences(
        _("Labels that may be wrong: %(count)d"),
        _(
            "A simple model, asked about rows it was not taught with, is sure of another label. "
            "Of %(rows)d rows, %(examined)d were examined. The most suspicious stand first."
        ),
        _("Look at the first ones and correct what is wrong. It is only a guess: right labels are among them too."),
        _("“%(label)s” (%(percent)s%% likely), rather “%(suggested)s”"),
    ),
    "languages": Sentences(
        _("Languages: %(count)d"),
        _("The prompts are written in several languages: %(languages)s."),
        _("See to it that the base model knows them and that the test rows have the same mix."),
    ),
    "pii_email": Sentences(_("Rows with e-mail addresses: %(count)d"), _PII_MEANING, _PII_ADVICE, _PII_DETAIL),
    "pii_phone": Sentences(_("Rows with telephone numbers: %(count)d"), _PII_MEANING, _PII_ADVICE, _PII_DETAIL),
    "pii_card": Sentences(_("Rows with payment cards: %(count)d"), _PII_MEANING, _PII_ADVICE, _PII_DETAIL),
    "pii_iban": Sentences(_("Rows with bank accounts (IBAN): %(count)d"), _PII_MEANING, _PII_ADVICE, _PII_DETAIL),
    "pii_tax_id": Sentences(
        _("Rows with tax or social insurance numbers: %(count)d"), _PII_MEANING, _PII_ADVICE, _PII_DETAIL
    ),
    "pii_passport": Sentences(_("Rows with passport numbers: %(count)d"), _PII_MEANING, _PII_ADVICE, _PII_DETAIL),
}


def title(finding: Finding, gettext: Translate) -> str:
    """Return the heading of a finding in the reader's language."""
    return _filled(SENTENCES[finding.code].title, finding, gettext)


def meaning(finding: Finding, gettext: Translate) -> str:
    """Return what a finding means for training."""
    return _filled(SENTENCES[finding.code].meaning, finding, gettext)


def advice(finding: Finding, gettext: Translate) -> str:
    """Return what to do about a finding."""
    return _filled(SENTENCES[finding.code].advice, finding, gettext)


def detail(finding: Finding, example: Example, gettext: Translate) -> str:
    """Return what there is to say about one row of a finding, or nothing."""
    params = {name: shown(value) if name in LABELS else value for name, value in example.params.items()}
    text = SENTENCES[finding.code].detail
    return gettext(text) % params if text else ""


def _filled(text: str, finding: Finding, gettext: Translate) -> str:
    return gettext(text) % {"count": finding.count, **finding.params}
