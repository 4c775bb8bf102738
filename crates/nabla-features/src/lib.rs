//! An empty crate that unifies features. Its dependencies are those of Burn that other crates of the
//! workspace need with further features. With this crate among their dependencies, `cargo test -p
//! nabla-optim`, `cargo bench -p nabla-diffusion`, `cargo run` and `cargo test --workspace` all choose the
//! same features. Burn, which takes ten minutes of processor time, is then compiled only once.
//!
//! Libraries depend on it only for development, so their users do not.
