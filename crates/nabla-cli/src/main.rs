//! The program `nabla`.

fn main() {}
