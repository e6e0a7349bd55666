//! The parts of the `nvfp4` command: safetensors checkpoints in, NVFP4 checkpoints, tables and plots out.
//!
//! `source` reads one file and `model` a checkpoint of one or many; `packed` finds the NVFP4 weights in it and `scales`
//! checks and translates their scales; `config` reads and writes what the two formats say about themselves; `layout` and
//! `writer` make an output that exists complete or not at all. The other modules are one subcommand each.

pub mod bench;
pub mod config;
pub mod convert;
pub mod doctor;
pub mod engine;
pub mod inspect;
pub mod layout;
pub mod merge;
pub mod model;
pub mod output;
pub mod packed;
pub mod plot;
pub mod quantize;
pub mod report;
pub mod sample;
pub mod scales;
pub mod select;
pub mod source;
pub mod tune;
pub mod verify;
pub mod writer;

/// Why a command failed, as the sentence that the user reads.
pub type Result<T> = std::result::Result<T, String>;
