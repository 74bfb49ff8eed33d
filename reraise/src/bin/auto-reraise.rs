//! `auto-reraise NAME` supervises one service in the foreground, without a
//! keeper. `auto-reraise --keeper PIDDIR` is how `reraise` starts the keeper.

use std::process::ExitCode;

#[global_allocator]
static ZONES: reraise::zone::Zones = reraise::zone::Zones;

fn main() -> ExitCode {
    reraise::program::main()
}
