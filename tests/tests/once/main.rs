//! The software engine itself, and what lies in front of every engine: images, disks, projects, refusals. `cargo verify` runs
//! these tests once, on the host. They are one program, since each would carry a copy of the whole library.

mod agent_killed;
mod bad_input;
mod bad_luck;
mod base_file;
mod bench;
mod comfort;
mod commands;
mod customised;
mod disks;
mod edit_and_top;
mod embedding;
mod engine_jail;
mod everyday;
mod files;
mod first_run;
mod images;
mod import;
mod kernels;
mod kills;
mod library;
mod mcp;
mod nested;
mod python;
mod read_only;
mod software_engine;
mod up;
mod upkeep;
