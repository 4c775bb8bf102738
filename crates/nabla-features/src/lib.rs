//! Nothing. This crate's dependencies are those of Burn that other crates of the workspace ask for with
//! further features: with it among their dependencies, `cargo test -p nabla-optim`, `cargo bench -p
//! nabla-diffusion`, `cargo run` and `cargo test --workspace` all choose the same features, and Burn, which
//! takes ten minutes of a processor, is compiled once for all of them.
//!
//! Libraries have it among their development dependencies only, so that their users are free of it.
