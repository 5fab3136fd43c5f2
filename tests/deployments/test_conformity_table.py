"""Which test shows which number of the wire contract's conformity suite. A number without a test fails."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ANSWERS, JOBS, SDK = "test_conformity_answers.py", "test_conformity_jobs.py", "test_openai_sdk.py"
DECIDING = "test_deciding.py"
CONTRACT, LIMITS, HOOKS = "test_openai_contract.py", "test_limits.py", "test_webhooks.py"

SHOWN: dict[str, list[tuple[str, str]]] = {
    "C1 models.list": [(SDK, "test_models_are_listed_and_retrieved")],
    "C2 models.retrieve": [(SDK, "test_models_are_listed_and_retrieved")],
    "C3 models.delete": [(JOBS, "test_a_job_becomes_a_run_and_its_model_can_be_called_by_name")],
    "C4 another tenant's id": [
        (CONTRACT, "test_another_teams_model_and_no_model_at_all_answer_the_same_bytes"),
        (JOBS, "test_what_is_not_there_and_what_is_another_teams_is_the_same"),
    ],
    "C5 files.create: path, bytes, expires_after": [(JOBS, "test_a_file_is_kept_listed_read_and_deleted")],
    "C6 files.list over more than two pages": [(JOBS, "test_lists_of_files_are_paged_without_gaps")],
    "C7 files.retrieve, content": [(JOBS, "test_a_file_is_kept_listed_read_and_deleted")],
    "C8 files.delete": [
        (JOBS, "test_a_file_is_kept_listed_read_and_deleted"),
        (JOBS, "test_a_file_that_a_job_still_reads_stays"),
    ],
    "C9 wait_for_processing, good and bad": [
        (JOBS, "test_a_file_is_kept_listed_read_and_deleted"),
        (JOBS, "test_a_bad_file_is_kept_and_says_what_is_wrong"),
    ],
    "C10 jobs.create with method.supervised": [(JOBS, "test_a_job_becomes_a_run_and_its_model_can_be_called_by_name")],
    "C11 jobs.create with hyperparameters": [(JOBS, "test_legacy_hyperparameters_and_our_own_are_understood")],
    "C12 jobs.create with extra_body": [
        (JOBS, "test_legacy_hyperparameters_and_our_own_are_understood"),
        (JOBS, "test_what_a_job_cannot_do_is_refused_by_name"),
    ],
    "C13 a bad file fails the job": [(JOBS, "test_a_bad_training_file_fails_the_job_and_is_named")],
    "C14 once for each Idempotency-Key": [
        (JOBS, "test_a_job_is_made_once_for_each_idempotency_key_and_for_retries_of_the_sdk")
    ],
    "C15 list_events while others are appended": [(JOBS, "test_events_are_paged_newest_first_while_others_arrive")],
    "C16 checkpoints.list": [(JOBS, "test_checkpoints_carry_their_figures")],
    "C17 cancel from every state": [
        (JOBS, "test_cancelling_from_every_state"),
        (JOBS, "test_cancelling_a_paused_job"),
    ],
    "C18 pause, resume": [(JOBS, "test_a_paused_job_waits_until_it_is_resumed")],
    "C19 chat.completions, plain": [
        (ANSWERS, "test_a_plain_answer_and_its_usage"),
        (SDK, "test_a_plain_answer_carries_the_callers_name_for_the_model"),
    ],
    "C20 n": [(ANSWERS, "test_several_choices_and_stops")],
    "C21 stop": [(ANSWERS, "test_several_choices_and_stops")],
    "C22 seed at temperature 0": [(ANSWERS, "test_a_plain_answer_and_its_usage")],
    "C23 logprobs": [
        (ANSWERS, "test_logprobs_are_of_the_tokens_that_were_said"),
        (ANSWERS, "test_bytes_of_tokens_are_those_of_the_text_in_every_script"),
    ],
    "C24 tools and every unsupported parameter": [
        (ANSWERS, "test_what_is_not_supported_is_refused_by_name"),
        (CONTRACT, "test_what_is_wrong_or_unsupported_is_refused_by_its_name"),
    ],
    "C25 stream with include_usage": [
        (ANSWERS, "test_a_stream_says_what_the_whole_answer_says"),
        (SDK, "test_a_stream_arrives_in_pieces_and_ends_with_usage_if_asked"),
    ],
    "C26 .stream() with Pydantic": [(ANSWERS, "test_a_stream_says_what_the_whole_answer_says")],
    "C27 killed mid-stream": [
        (SDK, "test_an_engine_that_fails_mid_stream_raises_in_the_sdk"),
        (LIMITS, "test_a_broken_stream_costs_what_came_through"),
    ],
    "C28 .parse()": [(ANSWERS, "test_answers_are_parsed_into_the_model_of_each_data_set")],
    "C29 max_tokens=1": [(ANSWERS, "test_answers_follow_a_schema_or_say_that_they_were_cut")],
    "C30 schema outside the subset": [
        (ANSWERS, "test_a_schema_outside_of_the_subset_is_refused_before_anything_is_said")
    ],
    "C31 401, 403, 404": [
        (CONTRACT, "test_without_a_token_or_its_scope_nothing_is_told"),
        (CONTRACT, "test_unknown_paths_and_methods_answer_in_the_one_shape"),
        (SDK, "test_errors_reach_the_sdk_as_its_own_exceptions"),
    ],
    "C32 413": [(CONTRACT, "test_a_body_that_is_no_object_or_too_large_is_refused")],
    "C33 429, Retry-After honoured": [
        (LIMITS, "test_one_request_too_many"),
        (LIMITS, "test_the_sdk_waits_for_the_next_minute_and_gets_its_answer"),
    ],
    "C34 hard quota not retried": [
        (ANSWERS, "test_limits_are_told_as_spans_and_a_hard_one_is_not_retried"),
        (LIMITS, "test_the_month_is_refused_for_good_and_clients_do_not_try_again"),
    ],
    "C35 409 not retried": [(JOBS, "test_a_conflict_is_asked_for_once_though_the_sdk_would_try_again")],
    "C36 resets are durations, remaining decreases": [
        (ANSWERS, "test_limits_are_told_as_spans_and_a_hard_one_is_not_retried"),
        (LIMITS, "test_every_answer_says_how_the_team_stands"),
        (LIMITS, "test_spans_are_written_as_clients_expect"),
    ],
    "C37 legacy completions with logprobs": [(ANSWERS, "test_legacy_completions_with_logprobs")],
    "C38 decisions": [
        (ANSWERS, "test_decisions_are_probabilities"),
        (DECIDING, "test_the_sdk_reads_answers_and_refusals"),
    ],
    "C39 webhooks.unwrap during rotation": [(HOOKS, "test_every_kind_of_event_is_believed_also_while_secrets_change")],
    "C40 fifty at once with AsyncOpenAI": [(SDK, "test_fifty_requests_at_once_do_not_mix")],
}


def test_every_number_has_its_row():
    assert [name.split()[0] for name in SHOWN] == [f"C{number}" for number in range(1, 41)]


@pytest.mark.parametrize("name", SHOWN)
def test_every_number_is_shown_by_a_test(name):
    for file, test in SHOWN[name]:
        tree = ast.parse((HERE / file).read_text())
        assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{file}::{test}"
