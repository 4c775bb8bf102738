//! The base of all crates of Nabla. It compiles in seconds and does not use tensors, so that a file reader
//! does not depend on Burn.
//!
//! * [`atomic_file`]: output files, and folders of files, that are written completely or not at all;
//! * [`methods`]: the published methods with their papers;
//! * [`progress`]: reporting the progress of a long job;
//! * [`mod@choices`]: named values for flags and files;
//! * [`range`]: the common error for a number out of range, and the checks that return it;
//! * [`repeated`]: the common error for something given twice, and the check that returns it;
//! * [`registry`]: the members of a family by name, with named options;
//! * [`rate_fit`]: how fast an error falls;
//! * [`vector`]: sums over slices of numbers, in a fixed order;
//! * [`words`]: durations and panics in words.

pub mod atomic_file;
pub mod choices;
pub mod methods;
pub mod progress;
pub mod range;
pub mod rate_fit;
pub mod registry;
pub mod repeated;
pub mod vector;
pub mod words;

pub use atomic_file::{
    OutputError, check_writable, check_writable_folder, remove_unfinished_files, write_atomically,
    write_bytes_atomically, write_folder_atomically, write_secret_atomically,
};
pub use range::OutOfRange;
pub use repeated::Repeated;
