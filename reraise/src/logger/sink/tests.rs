use super::super::rotated::{forget, remove_oldest, todo, todo_of};
use super::*;

fn place(dir: &tempfile::TempDir) -> Place {
    Place { directory: dir.path().join("log") }
}

fn text(place: &Place, name: &str) -> String {
    fs::read_to_string(place.directory.join(name)).unwrap()
}

/// What each hidden file of a log belongs to.
fn hidden(place: &Place) -> Vec<String> {
    let all = fs::read_dir(&place.directory).unwrap();
    let names = all.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.starts_with('.')).collect();
    names.sort();
    names
}

#[test]
fn it_goes_on_where_the_file_ends() {
    let dir = tempfile::tempdir().unwrap();
    let place = place(&dir);
    let mut sink = Sink::open(&place, 5).unwrap();
    assert!(sink.is_fresh().unwrap() && sink.run() == 0);
    sink.mark(5, 7, Mark::Begin).unwrap();
    sink.write(b"one\ntwo").unwrap();
    drop(sink);
    let mut sink = Sink::open(&place, 6).unwrap();
    assert_eq!((sink.end(), sink.run(), sink.is_fresh().unwrap()), (7, 7, false));
    sink.write(b"\n").unwrap();
    assert!(sink.is_fresh().unwrap() && sink.is_there());
    sink.mark(6, 7, Mark::End(Exit::Code(1))).unwrap();
    assert_eq!(sink.run(), 0);
    assert_eq!(text(&place, CURRENT), "one\ntwo\n");
    let offsets: Vec<u64> =
        index::read(&sink.path()).unwrap().iter().map(|entry| entry.offset).collect();
    assert_eq!(offsets, [0, 8]);
}

use crate::backend::Exit;

#[test]
fn the_index_knows_times_to_ten_milliseconds() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = Sink::open(&place(&dir), 0).unwrap();
    for time in [0, 4_000, 9_999, 10_000, 19_000, 25_000] {
        let before = sink.end();
        sink.write(b"word\n").unwrap();
        sink.mark_output(before, time, 7).unwrap();
    }
    let found = index::read(&sink.path()).unwrap();
    let found: Vec<_> = found.iter().map(|entry| (entry.offset, entry.time)).collect();
    assert_eq!(found, [(0, 0), (15, 10_000), (25, 25_000)]);
}

#[test]
fn a_rotation_that_is_cut_short_is_finished() {
    let dir = tempfile::tempdir().unwrap();
    let place = place(&dir);
    let logging = Logging { after: Some("true".into()), ..Logging::default() };
    let mut sink = Sink::open(&place, 5).unwrap();
    sink.mark(5, 7, Mark::Begin).unwrap();
    sink.write(b"one\n").unwrap();
    sink.rotate(&logging, 9).unwrap();
    let name = names::rotated(9);
    assert_eq!(text(&place, &name), "one\n");
    assert_eq!(
        hidden(&place),
        [format!(".{name}.idx"), format!(".{name}.todo"), ".current.idx".into()]
    );
    assert_eq!(todo(&place.directory), [place.directory.join(&name)]);
    // Killed before the index has followed.
    let at = |name: &str| place.directory.join(name);
    fs::remove_file(at(CURRENT)).unwrap();
    fs::rename(at(&format!(".{name}.idx")), at(".current.idx")).unwrap();
    let sink = Sink::open(&place, 10).unwrap();
    assert_eq!((sink.end(), sink.run()), (0, 0));
    assert_eq!(index::read(&at(&name)).unwrap().len(), 1);
    // Killed before it was renamed.
    fs::write(at(CURRENT), "two\n").unwrap();
    assert_eq!(Sink::open(&place, 11).unwrap().end(), 4);
    assert!(at(CURRENT).exists());
}

#[test]
fn rotated_files_go_with_all_that_belongs_to_them() {
    let dir = tempfile::tempdir().unwrap();
    let place = place(&dir);
    let logging = Logging { keep: 2, after: Some("true".into()), ..Logging::default() };
    let mut sink = Sink::open(&place, 1).unwrap();
    for time in 1..=5 {
        sink.mark(time, 7, Mark::Begin).unwrap();
        sink.write(b"line\n").unwrap();
        sink.rotate(&logging, time).unwrap();
    }
    let kept = [names::rotated(4), names::rotated(5)];
    assert_eq!(names::all_rotated(&place.directory).unwrap(), kept);
    assert_eq!(hidden(&place).len(), 5, "{:?}", hidden(&place));
    // Compressed, or removed by somebody else.
    fs::rename(place.directory.join(&kept[0]), place.directory.join(format!("{}.gz", kept[0])))
        .unwrap();
    fs::remove_file(place.directory.join(&kept[1])).unwrap();
    sink.prune(&logging).unwrap();
    assert_eq!(hidden(&place).len(), 3, "{:?}", hidden(&place));
    assert_eq!(remove_oldest(&place.directory).unwrap(), Some(5));
    assert_eq!(remove_oldest(&place.directory).unwrap(), None);
    assert_eq!(hidden(&place), [".current.idx"]);
}

#[test]
fn what_is_cut_takes_its_marks_along() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = Sink::open(&place(&dir), 1).unwrap();
    for run in [1, 2, 3] {
        sink.mark(1, run, Mark::Begin).unwrap();
        sink.write(b"line\n").unwrap();
    }
    sink.cut(7).unwrap();
    assert_eq!((sink.end(), sink.run(), sink.is_fresh().unwrap()), (7, 2, false));
    // Also for whoever comes next.
    assert_eq!(index::read(&sink.path()).unwrap().len(), 2);
    sink.mark(1, 4, Mark::Begin).unwrap();
    let runs: Vec<u64> = index::read(&sink.path()).unwrap().iter().map(|e| e.run).collect();
    assert_eq!(runs, [1, 2, 4]);
    let lines = fs::read(sink.path()).unwrap().iter().filter(|&&b| b == b'\n').count();
    assert_eq!(sink.lines().unwrap(), lines as u64);
    assert_eq!(sink.clear(9).unwrap(), 7);
    // It speaks on.
    assert_eq!((sink.end(), sink.run()), (0, 4));
}

#[test]
fn the_last_lines_reach_back_over_a_rotation_and_no_further_than_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = Sink::open(&place(&dir), 1).unwrap();
    sink.mark(1, 1, Mark::Begin).unwrap();
    sink.write(b"of the run before\n").unwrap();
    sink.mark(1, 1, Mark::End(Exit::Unknown)).unwrap();
    sink.mark(1, 2, Mark::Begin).unwrap();
    sink.write(b"one\n").unwrap();
    sink.rotate(&Logging::default(), 2).unwrap();
    sink.write(b"two\n").unwrap();
    assert_eq!(sink.tail(2).unwrap(), b"one\ntwo\n");
    assert_eq!(sink.tail(9).unwrap(), b"");
}

#[test]
fn what_is_no_file_is_refused_and_who_takes_the_place_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let place = place(&dir);
    let sink = Sink::open(&place, 1).unwrap();
    let current = place.directory.join(CURRENT);
    fs::write(&current, "truncated and written by somebody").unwrap();
    assert!(sink.is_there() && !sink.is_whole());
    fs::remove_file(&current).unwrap();
    assert!(!sink.is_there());
    nix::unistd::mkfifo(&current, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(Sink::open(&place, 1).is_err());
    fs::remove_file(&current).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &current).unwrap();
    assert_eq!(Sink::open(&place, 1).unwrap_err().raw_os_error(), Some(libc::ELOOP));
}

#[test]
fn the_index_is_thin() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = Sink::open(&place(&dir), 1).unwrap();
    sink.mark(0, 7, Mark::Begin).unwrap();
    let mut said = |bytes: usize, time| {
        let before = sink.end();
        sink.write(&vec![b'\n'; bytes]).unwrap();
        sink.mark_output(before, time, 7).unwrap();
        index::read(&sink.path()).unwrap().len()
    };
    assert_eq!(said(100, 0), 1);
    assert_eq!(said(300, 10), 1);
    assert_eq!(said(100, 20), 2);
    assert_eq!(said(1, 2_000_000), 3);
}

#[test]
fn a_log_that_somebody_has_truncated_takes_its_marks_along() {
    let dir = tempfile::tempdir().unwrap();
    let place = place(&dir);
    let mut sink = Sink::open(&place, 1).unwrap();
    for run in [1, 2, 3] {
        sink.mark(1, run, Mark::Begin).unwrap();
        sink.write(b"line\n").unwrap();
    }
    fs::write(sink.path(), "li").unwrap();
    let sink = Sink::open(&place, 1).unwrap();
    assert_eq!((sink.end(), sink.run()), (2, 1));
    assert_eq!(index::read(&sink.path()).unwrap().len(), 1);
}

#[test]
fn nobody_is_held_up_or_led_elsewhere_by_what_stands_beside_a_log() {
    let dir = tempfile::tempdir().unwrap();
    let place = place(&dir);
    fs::create_dir(&place.directory).unwrap();
    let at = |name: &str| place.directory.join(name);
    let mode = nix::sys::stat::Mode::S_IRWXU;
    nix::unistd::mkfifo(&at(".current.idx"), mode).unwrap();
    fs::write(at(CURRENT), "").unwrap();
    let mut sink = Sink::open(&place, 1).unwrap();
    assert!(sink.mark(1, 7, Mark::Begin).is_err());
    fs::remove_file(at(".current.idx")).unwrap();
    sink.mark(1, 7, Mark::Begin).unwrap();
    sink.write(b"line\n").unwrap();
    // The next name can be foretold.
    fs::write(at(&names::rotated(8)), "").unwrap();
    let victim = dir.path().join("victim");
    fs::write(&victim, "dear").unwrap();
    std::os::unix::fs::symlink(&victim, todo_of(&at(&names::rotated(9)))).unwrap();
    let logging = Logging { after: Some("true".into()), ..Logging::default() };
    assert_eq!(sink.rotate(&logging, 5).unwrap_err().raw_os_error(), Some(libc::ELOOP));
    assert_eq!(fs::read_to_string(&victim).unwrap(), "dear");
    nix::unistd::mkfifo(&at(&names::rotated(10)), mode).unwrap();
    nix::unistd::mkfifo(&at(&format!(".{}.idx", names::rotated(10))), mode).unwrap();
    assert_eq!(sink.tail(7).unwrap(), b"line\n");
}

#[test]
fn a_clock_that_is_set_back_keeps_no_log_from_growing_old() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = Sink::open(&place(&dir), 1 << 60).unwrap();
    sink.mark(1 << 60, 7, Mark::Begin).unwrap();
    sink.write(b"line\n").unwrap();
    let logging = Logging { age: Some(Duration::from_micros(5)), ..Logging::default() };
    let sink = Sink::open(&place(&dir), 10).unwrap();
    assert!(!sink.is_due(&logging, 10) && sink.is_due(&logging, 15));
}

#[test]
fn what_a_command_is_still_to_be_run_for_stays() {
    let dir = tempfile::tempdir().unwrap();
    let place = place(&dir);
    let logging = Logging { keep: 0, after: Some("true".into()), ..Logging::default() };
    let mut sink = Sink::open(&place, 1).unwrap();
    for time in [1, 2] {
        sink.write(b"line\n").unwrap();
        sink.rotate(&logging, time).unwrap();
    }
    let file = place.directory.join(names::rotated(2));
    assert_eq!(todo(&place.directory), std::slice::from_ref(&file));
    fs::rename(&file, format!("{}.gz", file.display())).unwrap();
    forget(&file).unwrap();
    assert_eq!(hidden(&place), [".current.idx"]);
    assert_eq!(names::all_rotated(&place.directory).unwrap(), [""; 0]);
}
