//! Everything you can do with a gradient: the facade of the Nabla crates.
