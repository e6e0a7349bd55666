//! Backends carry out the problems of `plan` on one kind of processor.

pub mod cpu;
