//! The processes of a training: this one with threads, or those that `mpirun` has started.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use nabla::base::choices;
use nabla::share::coded_training::{self, CodedOutcome, CodingConfig, ObserveModels};
use nabla::share::data_parallel::{self, SharingConfig};
use nabla::train::data_set::DataSet;
use nabla::train::experiment::{Experiment, ExperimentError, Outcome};
use nabla::train::trainer::Observer;

use crate::errors::Failure;

/// How the workers of a training exchange messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Communication {
    /// In one process.
    #[default]
    Threads,
    /// Between processes.
    Mpi,
}

choices! {
    Communication: "communicator" {
        "threads" => Self::Threads, "Threads of this process";
        "mpi" => Self::Mpi, "The processes that mpirun has started (a program built with `--features mpi`)";
    }
}

/// This process among those of a training.
pub enum Ranks {
    /// It is the only one.
    Threads,
    /// It is one of several.
    #[cfg(feature = "mpi")]
    Mpi(Box<nabla::share::communicator::mpi::MpiCommunicator>),
}

/// What is left of [`Ranks`] while a training uses them.
pub struct Session {
    #[cfg(feature = "mpi")]
    mpi: Option<(nabla::share::communicator::mpi::MpiSession, usize)>,
}

#[cfg(feature = "mpi")]
mod processes {
    use std::thread;
    use std::time::Duration;

    use nabla::share::communicator::Communicator;
    use nabla::share::communicator::mpi::MpiCommunicator;

    use super::{Ranks, Session};
    use crate::errors::{Failure, Kind};
    use crate::interrupt::INTERRUPTED;

    /// Until the training sets its own time limit.
    const FIRST_LIMIT: Duration = Duration::from_secs(60);
    /// A wrong command line is wrong at every rank: the first one tells it and ends the others.
    const FIRST_WORD: Duration = Duration::from_secs(2);

    pub(super) fn start() -> Result<(Ranks, Session), Failure> {
        let ranks = MpiCommunicator::start(FIRST_LIMIT).map_err(Failure::run)?;
        let session = Session {
            mpi: Some((ranks.session(), ranks.rank())),
        };
        Ok((Ranks::Mpi(Box::new(ranks)), session))
    }

    pub(super) fn end(session: &Session, failure: &Failure) {
        let Some((mpi, rank)) = &session.mpi else {
            return;
        };
        if *rank > 0 {
            thread::sleep(FIRST_WORD);
            eprintln!("nabla: rank {rank}: {failure}");
        } else {
            eprintln!("nabla: {failure}");
        }
        mpi.abort(match failure.kind() {
            Kind::Run => 1,
            Kind::Input => 2,
            Kind::Interrupted => INTERRUPTED.into(),
        });
    }
}

impl Session {
    /// The outcome of the job; a failure ends the other processes too.
    pub fn ended<T>(self, outcome: Result<T, Failure>) -> Result<T, Failure> {
        #[cfg(feature = "mpi")]
        if let Err(failure) = &outcome {
            processes::end(&self, failure);
        }
        outcome
    }
}

impl Ranks {
    /// Joins the other processes, if there are any.
    ///
    /// # Errors
    /// If the program was built without MPI, or MPI can't be started.
    pub fn start(communication: Communication) -> Result<(Self, Session), Failure> {
        match communication {
            Communication::Threads => {
                let session = Session {
                    #[cfg(feature = "mpi")]
                    mpi: None,
                };
                Ok((Self::Threads, session))
            }
            #[cfg(feature = "mpi")]
            Communication::Mpi => processes::start(),
            #[cfg(not(feature = "mpi"))]
            Communication::Mpi => Err(Failure::input(
                "this program was built without MPI: install an MPI library and libclang \
                 (`apt-get install libopenmpi-dev openmpi-bin libclang-dev`), and build it with `--features mpi`",
            )),
        }
    }

    /// The number of processes, if there are several.
    pub fn size(&self) -> Option<usize> {
        match self {
            Self::Threads => None,
            #[cfg(feature = "mpi")]
            Self::Mpi(ranks) => Some(nabla::share::communicator::Communicator::size(&**ranks)),
        }
    }

    /// Whether this process writes files and reports the result.
    pub fn is_first(&self) -> bool {
        match self {
            Self::Threads => true,
            #[cfg(feature = "mpi")]
            Self::Mpi(ranks) => nabla::share::communicator::Communicator::rank(&**ranks) == 0,
        }
    }

    /// Checks that all processes have the same experiment and data.
    ///
    /// # Errors
    /// If one has others, or doesn't answer.
    pub fn agree(&mut self, experiment: &str, data: &DataSet) -> Result<(), Failure> {
        match self {
            Self::Threads => {
                let _ = (experiment, data);
                Ok(())
            }
            #[cfg(feature = "mpi")]
            Self::Mpi(ranks) => {
                use nabla::share::communicator::Communicator;
                let version = env!("CARGO_PKG_VERSION");
                let [training, test] = [&data.training, &data.test].map(|e| e.fingerprint());
                let own = format!("{version}\n{training}\n{test}\n{experiment}");
                let all = ranks.all_gather(own.as_bytes()).map_err(Failure::run)?;
                match all.iter().position(|other| *other != all[0]) {
                    None => Ok(()),
                    Some(rank) => Err(Failure::input(format!(
                        "rank {rank} has another experiment, other data or another version of this program than \
                         rank 0: start all with the same"
                    ))),
                }
            }
        }
    }

    /// Trains by workers with a part of every batch each.
    ///
    /// # Errors
    /// As those of [`data_parallel::train`].
    pub fn share(
        self,
        experiment: &Experiment,
        config: &SharingConfig,
        data: &DataSet,
        device: &Device,
        checkpoint: Option<&Path>,
        observe: Observer<'_>,
    ) -> Result<Outcome, ExperimentError> {
        match self {
            Self::Threads => {
                data_parallel::train(experiment, config, data, device, checkpoint, observe)
            }
            #[cfg(feature = "mpi")]
            Self::Mpi(mut ranks) => {
                config
                    .validate()
                    .map_err(nabla::train::error::TrainingError::from)?;
                let limit = ranks.set_time_limit(config.limit());
                limit.map_err(nabla::train::error::TrainingError::task)?;
                data_parallel::train_on(
                    experiment, config, *ranks, data, device, checkpoint, observe,
                )
            }
        }
    }

    /// Trains by workers whose gradients are coded; `None` at the processes that are workers.
    ///
    /// # Errors
    /// As those of [`coded_training::train`].
    pub fn code(
        self,
        experiment: &Experiment,
        config: &CodingConfig,
        data: &DataSet,
        device: &Device,
        checkpoints: &(dyn Fn(usize) -> Option<PathBuf> + Sync),
        observe: ObserveModels<'_>,
    ) -> Result<Option<CodedOutcome>, ExperimentError> {
        match self {
            Self::Threads => {
                coded_training::train(experiment, config, data, device, checkpoints, observe)
                    .map(Some)
            }
            #[cfg(feature = "mpi")]
            Self::Mpi(mut ranks) => {
                config
                    .scheme()
                    .map_err(nabla::train::error::TrainingError::task)?;
                let limit = ranks.set_time_limit(config.limit());
                limit.map_err(nabla::train::error::TrainingError::task)?;
                coded_training::train_on(
                    experiment,
                    config,
                    &mut *ranks,
                    data,
                    device,
                    checkpoints,
                    observe,
                )
            }
        }
    }
}
