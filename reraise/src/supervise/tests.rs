//! Whole workers, on the in-memory system: real files, a virtual clock.

mod adopt;
mod bench;
mod history;
mod kill;
mod life;
mod restart;
mod resume;
mod stop;
