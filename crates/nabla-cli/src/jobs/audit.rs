//! `nabla audit`: what a training or a model gives away.

use crate::job::{Of, jobs};
use crate::jobs::{audit_leakage, audit_privacy};

jobs! {
    /// What can be audited.
    pub enum Task {
        /// Find out in one run how much a private training reveals at least, beside what its account allows
        Privacy(Of<audit_privacy::Arguments>),
        /// Rebuild pictures from one shared gradient, with and without each defence
        Leakage(Of<audit_leakage::Arguments>),
    }
}
