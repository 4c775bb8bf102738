//! What every crate of Nabla stands on. It compiles in seconds and knows nothing of tensors, so that a
//! reader of files doesn't bring Burn along.
//!
//! * [`atomic_file`]: output files, and folders of them, that are either whole or not there;
//! * [`methods`]: the published methods with their papers;
//! * [`progress`]: where a long job says how far it is;
//! * [`mod@choices`]: values that have names, as flags and files say them;
//! * [`range`]: the one error for a number outside of its range, and the checks that give it;
//! * [`registry`]: members of a family by name, with options by name;
//! * [`rate_fit`]: how fast an error falls;
//! * [`vector`]: sums over slices of numbers, in one order;
//! * [`words`]: a time and a panic in words.

pub mod atomic_file;
pub mod choices;
pub mod methods;
pub mod progress;
pub mod range;
pub mod rate_fit;
pub mod registry;
pub mod vector;
pub mod words;

pub use atomic_file::{
    OutputError, check_writable, remove_unfinished_files, write_atomically, write_bytes_atomically,
    write_folder_atomically,
};
pub use range::OutOfRange;
