//! What each engine does in its own way: `cargo verify` runs these tests with each, on the host and in the laboratory. They are
//! one program, since each would carry a copy of the whole library.

mod bad_ends;
mod balloon;
mod boot_costs;
mod boots;
mod console;
mod exec;
mod filters;
mod huge_pages;
mod library;
mod life;
mod live_disks;
mod measures;
mod pause;
mod run;
mod shell;
mod timings;
