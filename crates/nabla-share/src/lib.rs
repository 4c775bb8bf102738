//! Gradients shared between workers.
//!
//! * [`coded_training`]: the training of classifiers by several workers, some of which need not answer in time;
//! * [`communicator`]: messages between ranks, which are threads or (with the cargo feature `mpi`) processes; sums with
//!   the same bits on all of them, time limits, counts of bytes, injected faults, recorded rounds;
//! * [`dadao`]: decentralised descent of nodes that compute and gossip at times of their own;
//! * [`data_parallel`]: the training of a classifier by several workers, with compressed gradients;
//! * [`graph`]: graphs of nodes that gossip, and the best rates of it;
//! * [`masha`]: compressed messages for saddle points and other variational inequalities;
//! * [`sequential_gradient_coding`]: gradients from unreliable workers, some of which need not answer, at little more
//!   work than without redundancy;
//! * [`sketching`]: federated averaging whose messages are sketches, in both directions.

pub mod coded_training;
pub mod communicator;
pub mod dadao;
pub mod data_parallel;
pub mod graph;
pub mod masha;
pub mod sequential_gradient_coding;
pub mod sketching;
