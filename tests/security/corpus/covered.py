"""The entries of the corpus that are held by tests elsewhere, alone or beside a row."""

from __future__ import annotations

_UNIT = "tests/unit"
_ARCHIVES = f"{_UNIT}/guest/test_inside_archives.py"
_CALLS = "tests/conformance/test_calls.py"
_CHANNEL = f"{_UNIT}/runtimes/test_channel.py"
_FILES = f"{_UNIT}/guest/test_files.py"
_HOSTILE = f"{_UNIT}/server/test_http_hostile.py"
_IMAGE = f"{_UNIT}/runtimes/microvm/test_image_tree.py"
_LOG = f"{_UNIT}/audit/test_log.py"
_MISSING = "tests/security/test_missing_primitives.py"
_SEAL = f"{_UNIT}/runtimes/microvm/test_seal.py"
_SHARED = "tests/security/test_host_paths.py"
_TAP = "tests/security/test_tap_walls.py"

COVERED: dict[str, tuple[str, ...]] = {
    "FS_02": (f"{_FILES}::test_a_path_that_leads_outside_is_an_invalid_request",),
    "FS_03": (f"{_SHARED}::test_FS_03_links_in_it_lead_nowhere_on_the_host",),
    "FS_04": (
        f"{_FILES}::test_no_write_escapes_while_a_directory_is_swapped_for_a_link",
        f"{_SHARED}::test_FS_04_swaps_on_the_host_never_lead_a_writer_outside",
    ),
    "FS_05": (
        f"{_SHARED}::test_FS_05_what_it_leaves_is_no_trap_for_the_daemon",
        f"{_LOG}::test_a_log_planted_as_a_link_or_fifo_is_refused",
        f"{_UNIT}/runtimes/microvm/test_output.py::test_a_log_file_is_not_written_through_a_link",
    ),
    "FS_07": (
        f"{_ARCHIVES}::test_a_hostile_member_is_refused",
        f"{_ARCHIVES}::test_rights_are_not_gained",
        f"{_ARCHIVES}::test_a_bomb_is_not_inflated",
        f"{_ARCHIVES}::test_the_bounds_hold",
        f"{_IMAGE}::test_a_path_out_of_the_image_is_refused",
        f"{_IMAGE}::test_links_lead_to_places_in_the_image_only",
        f"{_IMAGE}::test_devices_and_pipes_are_left_out",
        f"{_IMAGE}::test_too_many_bytes_are_refused",
        f"{_IMAGE}::test_too_many_files_are_refused",
    ),
    "FS_08": (f"{_SHARED}::test_FS_08_read_only_is_held_on_the_hosts_side",),
    "FS_10": (
        f"{_SHARED}::test_FS_10_a_source_that_is_a_link_is_refused",
        f"{_UNIT}/policy/test_narrow.py::test_widening_is_denied_by_name",
    ),
    "PR_02": (f"{_CALLS}::test_the_environment_is_clean_but_for_what_the_call_names",),
    "PR_03": (f"{_CALLS}::test_no_descriptor_is_inherited",),
    "PR_09": (f"{_CALLS}::test_what_a_call_leaves_running_ends_with_it",),
    "PR_10": (f"{_CALLS}::test_a_timeout_ends_the_whole_process_tree",),
    "PR_12": (f"{_CALLS}::test_a_grandchild_that_holds_the_pipe_open_does_not_hold_the_call",),
    "KS_06": (
        "tests/security/test_jail_walls.py"
        "::test_KS_06_every_refused_system_call_is_refused_in_every_thread",
    ),
    "KS_11": (
        "tests/security/test_hostile_machine.py"
        "::test_KS_11_garbage_to_every_device_stays_between_a_guest_and_its_monitor",
    ),
    "NW_16": (
        f"{_TAP}::test_a_guest_that_lies_about_itself_is_not_heard",
        f"{_TAP}::test_nothing_but_ipv4_is_spoken_with_a_guest",
    ),
    "RX_04": (f"{_CALLS}::test_output_is_cut_at_the_limit_and_the_call_ended",),
    "RX_07": (
        f"{_UNIT}/egress/test_limits.py::test_RX_07_bytes_are_capped_and_everything_is_reset",
    ),
    "RX_08": (f"{_CALLS}::test_a_timeout_ends_the_whole_process_tree",),
    "RX_09": (
        f"{_UNIT}/runtimes/microvm/test_output.py::test_a_flood_is_drained_and_only_its_end_is_kept",
        "tests/conformance/test_firecracker_clones.py"
        "::test_a_guest_that_panics_ends_with_its_last_words",
    ),
    "RX_10": (
        f"{_UNIT}/guest/test_file_tools.py::test_list_dir_is_capped_and_says_so",
        f"{_UNIT}/guest/test_search.py::test_walking_ends_at_its_bounds",
    ),
    "AP_01": (
        f"{_HOSTILE}::test_a_body_over_the_bound_is_a_413_before_it_is_sent",
        f"{_HOSTILE}::test_a_chunked_body_over_the_bound_is_a_413",
        f"{_HOSTILE}::test_a_slow_head_is_timed_out",
        f"{_HOSTILE}::test_idle_connections_give_way_to_new_ones",
    ),
    "AP_02": (f"{_HOSTILE}::test_a_hostile_body_is_a_quick_400",),
    "AP_03": (
        f"{_HOSTILE}::test_ambiguous_framing_is_refused_and_the_connection_closed",
        f"{_HOSTILE}::test_a_large_head_is_a_431",
    ),
    "AP_04": (
        f"{_HOSTILE}::test_another_name_than_ours_is_a_403",
        f"{_HOSTILE}::test_a_page_of_another_origin_is_a_403",
        f"{_HOSTILE}::test_what_a_form_can_send_is_a_415",
        f"{_HOSTILE}::test_a_websocket_is_opened_only_where_there_is_one",
    ),
    "AP_05": (
        f"{_UNIT}/server/test_auth.py::test_anything_else_is_nobody",
        f"{_UNIT}/policy/test_file.py::test_every_entry_is_compared_wherever_the_match_is",
    ),
    "AP_06": (
        f"{_UNIT}/server/test_sandboxes.py::test_someone_elses_sandbox_is_as_absent_as_none",
        f"{_UNIT}/server/test_sandboxes.py::test_names_cannot_be_guessed",
    ),
    "AP_07": (
        "tests/conformance/test_idempotency.py"
        "::test_AP_07_one_key_is_one_execution_whoever_replays_it_and_when",
        f"{_UNIT}/server/test_once.py::test_many_at_once_run_once_and_get_one_answer",
    ),
    "AP_08": (
        f"{_HOSTILE}::test_control_characters_stay_in_one_record",
        f"{_LOG}::test_no_value_can_forge_or_split_a_record",
    ),
    "AP_09": (
        f"{_CHANNEL}::test_a_broken_rule_ends_every_call_with_a_protocol_error",
        f"{_CHANNEL}::test_a_guest_that_stops_answering_pings_is_lost",
        f"{_UNIT}/runtimes/test_streams.py::test_a_broken_rule_ends_the_sandbox",
    ),
    "AP_10": (f"{_CHANNEL}::test_numbers_from_the_guest_are_bounded_by_the_host",),
    "AP_12": (
        f"{_UNIT}/runtimes/gvisor/test_gvisor_walls.py"
        "::test_AP_12_the_toolrunner_and_its_channel_are_out_of_reach",
    ),
    "MT_04": (
        f"{_UNIT}/server/test_admission.py::test_principals_take_turns",
        f"{_UNIT}/server/test_admission.py::test_who_fills_the_queue_gives_way_to_another",
        "tests/faults/test_load.py::test_FI_11_a_thousand_calls_at_once_each_get_their_own_answer",
    ),
    "MT_05": (
        f"{_UNIT}/server/test_admission.py"
        "::test_the_count_is_exact_after_many_cancelled_and_finished_calls",
        f"{_UNIT}/server/test_sandboxes.py"
        "::test_one_principal_has_only_so_many_and_others_still_get_theirs",
    ),
    "MT_06": (
        f"{_LOG}::test_arguments_are_an_hmac_unless_the_operator_opts_in",
        f"{_UNIT}/server/test_catalog.py::test_a_secret_in_an_argument_is_not_repeated",
        f"{_UNIT}/server/test_http_api.py::test_a_fault_of_ours_is_a_500_without_particulars",
    ),
    "SS_01": (
        "tests/conformance/test_machines.py"
        "::test_SS_01_SS_03_clones_share_no_randomness_identity_or_stale_clock",
    ),
    "SS_02": (
        "tests/conformance/test_machines.py::test_SS_02_an_altered_template_is_not_used",
        f"{_SEAL}::test_one_flipped_bit_is_refused",
        f"{_SEAL}::test_a_truncated_file_is_refused",
        f"{_SEAL}::test_a_template_sealed_by_someone_else_is_refused",
    ),
    "SS_03": (
        "tests/conformance/test_machines.py"
        "::test_SS_01_SS_03_clones_share_no_randomness_identity_or_stale_clock",
    ),
    "SS_05": (
        f"{_SEAL}::test_sealed_files_are_their_owners_alone",
        "tests/conformance/test_firecracker_clones.py"
        "::test_the_files_of_a_template_are_closed_to_others",
    ),
    # The audit log is the only state that outlives a daemon.
    "SS_06": (
        f"{_LOG}::test_a_line_torn_at_any_byte_is_moved_aside_and_the_chain_goes_on",
        f"{_LOG}::test_a_log_changed_at_its_end_is_not_built_upon",
    ),
    "SC_01": (
        f"{_MISSING}::test_without_landlock_a_policy_with_paths_is_refused",
        f"{_MISSING}::test_without_seccomp_there_is_no_jail",
        f"{_MISSING}::test_without_control_groups_their_limits_are_refused",
        f"{_MISSING}::test_without_runsc_a_policy_that_asks_for_a_kernel_is_refused",
        f"{_MISSING}::test_without_kvm_a_monitor_that_needs_it_is_refused",
    ),
    "SC_02": (f"{_UNIT}/runtimes/microvm/test_image_store.py::test_an_altered_file_is_named",),
    "SC_03": (
        f"{_UNIT}/policy/test_file.py::test_mistakes_are_told_with_line_or_key",
        f"{_UNIT}/policy/test_file.py::test_a_file_that_others_can_write_is_refused",
        f"{_UNIT}/server/test_listen.py::test_nobody_else_may_reach_a_daemon_that_asks_for_no_token",
    ),
    "SC_04": (
        "tests/security/test_corpus_versions.py::test_SC_04_an_old_bubblewrap_makes_no_jail",
        f"{_UNIT}/runtimes/gvisor/test_version.py::test_an_old_release_is_warned_about_by_advisory",
    ),
    "SC_05": (f"{_CALLS}::test_variables_that_steer_the_loader_are_refused",),
    "SC_06": (
        "tests/security/test_jail_walls.py::test_PR_01_posture_as_the_host_sees_it",
        "tests/conformance/test_qemu_clones.py"
        "::test_a_monitor_runs_as_a_user_of_its_own_and_filtered",
    ),
}
