//! Gradients shared between workers.
