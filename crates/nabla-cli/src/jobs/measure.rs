//! `nabla measure`: how good what a model makes is.

use crate::job::{Of, jobs};
use crate::jobs::measure_guidance;

jobs! {
    /// What can be measured.
    pub enum Task {
        /// Draw pictures under every guidance at several scales, and judge them with a classifier
        Guidance(Of<measure_guidance::Arguments>),
    }
}
