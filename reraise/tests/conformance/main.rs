//! One list of promises, kept by every [`ProcessBackend`]: the real one, on
//! Linux also as on a kernel without pidfds, and the one in memory. That the
//! latter passes is what makes the supervisor's own tests on it worth anything.
//!
//! The suite has a harness of its own (see `harness`), because a supervisor
//! has a single thread: what it blocks must not be delivered to another one.
//! Each case runs in a process of its own, under nextest and `cargo test`.
//!
//! [`ProcessBackend`]: reraise::backend::ProcessBackend
#![expect(clippy::unwrap_used, reason = "a case that cannot go on has failed")]

mod cases;
mod child;
mod harness;
mod native_cases;
mod on_fake;
mod on_native;
mod subject;

use std::process::ExitCode;

use on_fake::OnFake;
use on_native::OnNative;
use subject::Subject;

/// Registers each case once for every backend.
macro_rules! everywhere {
    ($($case:ident,)*) => { vec![$(
        (format!("native::{}", stringify!($case)), (|| cases::$case(OnNative::new())) as fn()),
        (format!("fake::{}", stringify!($case)), || cases::$case(OnFake::new())),
        #[cfg(target_os = "linux")]
        (format!("native_no_pidfd::{}", stringify!($case)), || {
            cases::$case(OnNative::without_pidfd());
        }),
    )*] };
}

/// Registers what only a kernel can break.
macro_rules! native_only {
    ($($case:ident,)*) => { vec![$(
        (format!("native::{}", stringify!($case)), native_cases::$case as fn()),
    )*] };
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some((first, rest)) = arguments.split_first()
        && first == child::MARK
    {
        child::main(rest);
    }
    let mut all = everywhere![
        a_gated_child_does_nothing,
        who_has_begun_carries_the_mark,
        a_child_never_released_ends_without_running,
        a_child_killed_at_the_gate_was_never_launched,
        only_a_gated_child_can_be_released,
        launched_comes_before_ended,
        reports_the_exit_code,
        reports_the_signal,
        two_exits_are_both_reported,
        many_exits_at_once_are_all_reported,
        a_missing_program_is_a_launch_failure_and_leaves_nothing,
        a_missing_interpreter_is_a_launch_failure_with_its_errno,
        a_program_that_may_not_be_executed_is_a_launch_failure,
        a_signal_to_us_is_an_event,
        input_is_an_event,
        a_deadline_wakes_us_and_not_early,
        what_has_happened_comes_before_a_deadline,
        an_ignored_signal_changes_nothing,
        a_zombie_is_not_alive,
        a_reaped_process_is_not_alive,
        another_birth_is_another_process,
        no_number_below_one_is_a_process,
        a_foreign_process_is_alive,
        signalling_the_dead_is_not_an_error,
        an_adopted_process_reports_its_end,
        an_exit_that_came_before_we_looked_gives_no_event,
        a_spawned_process_that_is_watched_too_ends_once,
        nothing_left_is_empty,
        a_child_of_the_program_is_a_member,
        a_daemonised_grandchild_is_a_member,
        a_daemon_with_emptied_environment_is_a_member,
        an_orphan_s_end_is_told,
        a_child_of_an_adopted_program_is_a_member,
        a_daemon_of_an_adopted_run_is_known_by_its_mark,
        a_stray_is_a_member,
        session_scope_leaves_the_others,
        another_run_is_no_member,
        we_are_no_member,
        our_own_file_needs_no_sudo,
        a_missing_file_has_no_owner,
    ];
    all.extend(native_only![
        every_signal_has_its_default_effect,
        the_child_holds_only_stdio,
        the_child_leads_its_session,
        a_gated_child_holds_no_descriptor_of_ours,
        output_goes_to_the_file,
        output_follows_no_symlink,
        without_a_file_output_is_ours,
        limits_umask_directory_environment_are_applied,
        a_missing_directory_is_said,
        a_refused_limit_is_said,
        a_busy_script_is_a_temporary_failure,
        an_ignored_sigchld_does_not_matter,
        a_caller_that_asks_for_sigchld_reaps,
        launches_leave_no_descriptor,
        a_process_that_forks_away_is_never_missed,
        a_death_by_real_time_signal_is_reported,
        who_is_spared_is_no_member_and_hides_nobody,
    ]);
    #[cfg(target_os = "linux")]
    all.extend(native_only![
        nothing_is_blocked_or_ignored,
        a_process_without_its_first_thread_lives,
    ]);
    harness::run(&all, &arguments)
}
