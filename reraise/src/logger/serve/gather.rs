//! Whoever speaks all the time is not listened to, but looked at now and then: that spares
//! a wake-up for each line, for both of us.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::super::stream::PIPES;
use super::{Logger, token_of};

/// So many bytes are a good deal for one look: the pipe is not half full.
const PLENTY: usize = 384 << 10;
/// The shortest and the longest time between two looks.
const PAUSES: [Duration; 2] = [Duration::from_micros(100), Duration::from_millis(4)];

impl Logger {
    /// From now on it is looked at now and then. Whoever writes while it is listened to
    /// pays for that with each write.
    pub(super) fn begin_gathering(&mut self, number: u64, at: Instant) {
        let Some(stream) = self.streams.get(&number) else { return };
        for file in PIPES.into_iter().filter_map(|pipe| stream.pipe(pipe)) {
            self.queue.forget_readable(file.as_fd());
        }
        self.gathering.insert(number);
        self.look_at = self.look_at.or(Some(at));
    }

    /// Reads what was gathered; whoever has fallen silent is listened to again.
    pub(super) fn read_gathered(&mut self) {
        self.look_at = None;
        let now = Instant::now();
        let mut most = 0;
        for number in std::mem::take(&mut self.gathering) {
            let Some(stream) = self.streams.get(&number) else { continue };
            let unread = stream.unread();
            if unread > 0 && stream.stuck.is_none() {
                most = most.max(unread);
                self.gathering.insert(number);
                self.work(number);
                continue;
            }
            if stream.stuck.is_some() {
                continue;
            }
            for pipe in PIPES {
                let Some(file) = stream.pipe(pipe) else { continue };
                let _ = self.queue.watch_pipe(file.as_fd(), token_of(number, pipe));
            }
        }
        if !self.gathering.is_empty() {
            let pause = pause_for(most, now.saturating_duration_since(self.gathered));
            self.look_at = Some(Instant::now() + pause);
        }
        self.gathered = now;
    }
}

/// How long it takes until there is plenty, when so many bytes came in this time.
fn pause_for(bytes: usize, time: Duration) -> Duration {
    if bytes >= PLENTY {
        return Duration::ZERO;
    }
    let micros = time.as_micros() as u64 * PLENTY as u64 / bytes.max(1) as u64;
    Duration::from_micros(micros).clamp(PAUSES[0], PAUSES[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_comes_the_sooner_is_the_next_look() {
        let ms = Duration::from_millis;
        assert_eq!(pause_for(PLENTY, ms(1)), Duration::ZERO);
        assert_eq!(pause_for(PLENTY / 2, ms(1)), ms(2));
        assert_eq!(pause_for(1, ms(1)), PAUSES[1]);
        assert_eq!(pause_for(PLENTY / 2, Duration::ZERO), PAUSES[0]);
        assert_eq!(pause_for(0, Duration::ZERO), PAUSES[0]);
    }
}
