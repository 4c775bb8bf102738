//! `nabla search`: what a model should be run with.

use crate::job::{Of, jobs};
use crate::jobs::{search_guidance, search_steps};

jobs! {
    /// What can be searched.
    pub enum Task {
        /// Find the few steps that a model should take, and the blocks of its network to skip in them
        Steps(Of<search_steps::Arguments>),
        /// Find a guidance that calls the network less often: LinearAG, or a policy of the steps
        Guidance(Of<search_guidance::Arguments>),
    }
}
