//! Whether the output of what was started can be kept: said at once, since nobody
//! would miss it before it is needed. The logger will see for itself.

use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use reraise::logger::names::CURRENT;
use reraise::logger::rules::Place;
use reraise::name::ServiceName;
use reraise::supervise::launch::log_fault;

use crate::cli::console;

/// A disk that does not answer for so long is not waited for.
const PATIENCE: Duration = Duration::from_millis(300);

/// Looks at these places, and says which cannot be written.
pub(super) fn warn(places: Vec<(ServiceName, Place)>) {
    if places.is_empty() {
        return;
    }
    let (sender, receiver) = mpsc::channel();
    let count = places.len();
    // A look at a disk that hangs does not come back, and ends with us.
    thread::spawn(move || {
        for (name, place) in places {
            let looked = place.probe();
            if sender.send((name, place, looked)).is_err() {
                return;
            }
        }
    });
    for _ in 0..count {
        match receiver.recv_timeout(PATIENCE) {
            Ok((_, _, Ok(()))) => {}
            Ok((name, place, Err(e))) => complain(&name, &place, &e),
            Err(_) => return,
        }
    }
}

fn complain(name: &ServiceName, place: &Place, error: &io::Error) {
    console::fault(&log_fault(name, &place.directory.join(CURRENT), error));
}
