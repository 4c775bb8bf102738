//! All integration tests of the crate, in one binary: each binary links the whole of Burn.

// What is not a test itself but called by tests isn't recognised as one.
#![allow(clippy::unwrap_used)]

mod accountant;
mod private_training;
