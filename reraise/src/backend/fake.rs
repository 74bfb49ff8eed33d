//! A system in memory.
