"""Each promise of the README has tests in `make test`: they exist, and none of them is marked long."""

import ast
import re
from pathlib import Path

import pytest

from tests.helpers import ROOT

SHOWN_BY = {
    "The same data, whatever happens.": [
        "data/test_sample_order.py::test_any_number_of_ranks_and_workers_gives_the_same_global_batches",
        "data/test_sample_order.py::test_starting_at_a_later_step_gives_the_batches_of_the_unbroken_run",
        "chaos/test_changing_world_size.py::test_attempts_of_other_sizes_or_stages_continue_one_run",
    ],
    "No sentence is lost silently.": [
        "preprocess/segmenters/test_segmenters.py::test_words_spell_the_sentence_or_it_is_rejected",
        "preprocess/segmenters/test_jumanpp_faults.py::test_fault_costs_the_guilty_sentence_alone",
        "preprocess/segmenters/test_in_child.py::test_a_library_that_fails_costs_the_guilty_sentence_alone",
        "preprocess/stages/test_segment.py::test_sentence_that_kills_the_program_is_quarantined_with_its_place_and_counted",
    ],
    "Preprocessing survives any kill.": [
        "chaos/test_preprocess_kills.py::test_a_job_killed_in_any_stage_goes_on_to_the_same_bytes_and_does_no_finished_task_again",
    ],
    "The same bits after a kill.": [
        "training/test_resume.py::test_killed_at_three_random_points_it_ends_bit_identical_to_the_unbroken_run",
        "training/test_resume.py::test_saved_by_two_ranks_zero2_it_goes_on_at_another_world_size_and_stage",
        "chaos/test_kills.py::test_killed_while_it_saves_renames_prunes_and_ends_a_run_goes_on_by_itself_to_the_same_bits",
    ],
    "A checkpoint is complete or absent.": [
        "chaos/test_crash_model.py::test_no_crash_at_any_point_of_a_save_loses_a_checkpoint",
        "chaos/test_damaged_checkpoint.py::test_every_damage_to_every_file_is_found_and_the_checkpoint_before_is_used",
        "test_end_to_end.py::test_a_checkpoint_directory_itself_loads_with_auto_classes",
    ],
    "A save costs one copy.": [
        "chaos/test_disk.py::test_steps_go_on_beside_a_save_on_a_slow_disk_and_the_next_save_waits",
        "checkpoint/test_writer_process.py::test_a_save_is_written_published_read_back_and_old_ones_pruned",
    ],
    "Hangs end with a name.": [
        "chaos/test_hangs.py::test_a_rank_that_is_stopped_in_its_step_is_named_and_ends_the_job",
        "training/test_watchdog.py::test_a_hang_ends_with_status_12_and_the_function_it_hangs_in_is_written",
    ],
    "Bad numbers touch no weight.": [
        "training/test_guard.py::test_a_step_that_is_not_finite_on_one_rank_is_skipped_on_all",
        "training/test_guard.py::test_a_spike_on_one_rank_is_skipped_on_all",
        "training/test_guard.py::test_past_the_limit_it_goes_back_skips_the_data_and_goes_on_also_after_a_restart",
    ],
    "Bad disks do not end a run.": [
        "chaos/test_disk.py::test_io_errors_at_every_stage_of_a_save_cost_that_save_and_nothing_else",
        "training/test_damaged_rows.py::test_a_damaged_row_ends_the_run_before_it_is_trained_on_and_is_named",
    ],
    "A Slurm job manages itself.": [
        "cluster/test_preflight_job.py::test_hosts_with_a_full_disk_are_named_whether_it_is_the_node_s_own_or_mounted_over_the_shared_one",
        "cluster/test_job_attempts.py::test_a_run_that_gets_the_signal_before_its_time_limit_saves_and_requeues_itself_and_loses_no_step",
        "jobs/test_lifecycle.py::test_a_host_that_does_not_answer_or_hung_is_excluded_while_others_are_free",
        "cluster/test_job_attempts.py::test_a_lost_node_costs_the_steps_since_the_last_save_and_nothing_else",
        "cluster/test_job_attempts.py::test_a_job_that_crashes_at_its_start_three_times_stops_and_says_so",
    ],
    "Every end has a status.": [
        "training/test_control.py::test_signals_and_files_save_and_end_with_their_status_and_the_run_goes_on_to_the_end",
        "jobs/test_exit_statuses.py::test_another_attempt_follows_where_it_can_succeed",
    ],
    "A run that needs somebody calls.": [
        "status/test_verdict.py::test_a_killed_run_is_between_two_attempts_at_first_and_then_not_continued",
        "status/test_verdict.py::test_status_begins_with_the_sentence_and_json_has_the_whole_verdict",
        "alerts/test_watch.py::test_a_run_that_does_not_speak_is_spoken_for_once",
        "alerts/test_webhook.py::test_a_watched_run_reaches_the_chat",
    ],
    "Every hour is accounted for.": ["status/test_simulated_runs.py::test_every_figure_is_the_truth_for_any_history"],
    "The same function as Hugging Face's DeBERTa V2.": [
        "model/test_parity.py::test_every_configuration_has_hugging_faces_loss_and_gradients",
        "bench/test_counted_costs.py::test_ours_moves_at_most_half_the_bytes_in_half_the_kernels_and_keeps_a_third",
        "model/test_parity.py::test_a_packed_row_gives_each_document_what_it_gets_alone",
    ],
    "No silent fallback.": [
        "preprocess/stages/test_segment.py::test_other_engine_is_refused_with_the_difference_and_the_remedy",
        "preprocess/stages/test_pack.py::test_index_says_how_the_shards_were_made",
        "test_end_to_end.py::test_a_resume_with_other_shards_or_another_recipe_is_refused_with_both_named",
    ],
}
"""Tests of each promise, which the README writes in bold."""


def is_long(node: ast.AST) -> bool:
    return any(isinstance(part, ast.Attribute) and part.attr == "long" for part in ast.walk(node))


def test_the_table_has_the_promises_of_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = re.search(r"^## What it promises\n(.*?)^## ", readme, re.DOTALL | re.MULTILINE)
    assert section and re.findall(r"^- \*\*(.*?)\*\*", section[1], re.MULTILINE) == list(SHOWN_BY)


@pytest.mark.parametrize("name", [name for names in SHOWN_BY.values() for name in names])
def test_a_test_of_a_promise_exists_and_is_not_long(name: str) -> None:
    file, _, function = name.partition("::")
    tree = ast.parse((Path(__file__).parent / file).read_text(encoding="utf-8"))
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function]
    assert found, f"{name} is not there; name its successor in SHOWN_BY"
    marks = [node for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark"]
    # A mark within the cases of parametrize is of one case; the others stay in `make test`.
    own = [
        mark for mark in found[0].decorator_list if not (isinstance(mark, ast.Call) and "parametrize" in ast.unparse(mark.func))
    ]
    assert not any(is_long(mark) for mark in [*marks, *own]), f"{name} is marked long: a promise needs a test in make test"
