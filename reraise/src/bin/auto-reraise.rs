//! `auto-reraise NAME` supervises one service in the foreground, without a
//! keeper. `auto-reraise --keeper PIDDIR` is how `reraise` starts the keeper.

use std::process::ExitCode;

fn main() -> ExitCode {
    reraise::program::main()
}
