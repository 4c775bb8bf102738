//! A training on disk, which can be resumed bit for bit.
//!
//! A checkpoint is one file in the safetensors format, which is written completely or not at all. It has
//! tensors of bytes:
//!
//! | name | what |
//! |---|---|
//! | `model`, `average`, `best` | Burn's records of the weights, of their moving average, and of the best so far |
//! | `optimizer.NAME` | the state of a player's optimizer, Burn's record |
//! | `transform.NAME.INDEX` | the state of a transform in a player's chain |
//! | `task` | the task's own state |
//! | `state` | JSON: the history, the number of updates of the average |
//!
//! and in its metadata the format, the identity of the training, and a fingerprint of each part.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::store::ModuleRecord;
use burn::tensor::Bytes;
use nabla_base::{OutputError, write_secret_atomically};
use nabla_grad::fingerprint::fingerprint;
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::best_weights::BestMeasurement;
use crate::difference::Difference;
use crate::ema::Ema;
use crate::error::TrainingError;
use crate::history::History;
use crate::task::Task;
use crate::trainer::Trainer;

/// The reason why a checkpoint cannot be written or resumed.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// It is damaged, or not a checkpoint.
    #[error("the checkpoint {} cannot be resumed: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// It was written by an older version.
    #[error(
        "the checkpoint {} cannot be resumed: an older version wrote it, in the format {found}; finish \
         the training with that version, or start again", path.display()
    )]
    Old {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: String,
    },
    /// It belongs to another training.
    #[error("the checkpoint {} is of another training: {difference}", path.display())]
    OtherTraining {
        /// The file.
        path: PathBuf,
        /// The first setting that differs.
        difference: Difference,
    },
    /// The state cannot be serialised.
    #[error("the training cannot be saved: {0}")]
    Encode(String),
}

const FORMAT: &str = "nabla-train 2";

#[derive(Serialize, Deserialize)]
#[serde(bound(deserialize = "R: serde::de::DeserializeOwned"))]
struct State<R> {
    history: History<R>,
    /// Updates of the average.
    updates: u64,
    /// Of the best weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    best: Option<BestMeasurement>,
}

fn encode(error: &dyn std::fmt::Display) -> CheckpointError {
    CheckpointError::Encode(error.to_string())
}

/// Burn's record of a module.
pub(crate) fn record<M: Module>(module: M) -> Result<Vec<u8>, CheckpointError> {
    let bytes = module.into_record().into_bytes();
    Ok(bytes.map_err(|e| encode(&e))?.to_vec())
}

pub(crate) fn save<T: Task>(trainer: &Trainer<T>, path: &Path) -> Result<(), TrainingError> {
    let learner = &trainer.learner;
    let state = State {
        history: trainer.history.clone(),
        updates: learner.average.as_ref().map_or(0, Ema::updates),
        best: trainer.kept().map(|(best, _)| *best),
    };
    let mut parts = vec![
        ("model".to_owned(), record(learner.model.valid())?),
        (
            "state".to_owned(),
            serde_json::to_vec(&state).map_err(|e| encode(&e))?,
        ),
        ("task".to_owned(), trainer.task.state()?),
    ];
    if let Some(average) = &learner.average {
        parts.push(("average".to_owned(), record(average.average().clone())?));
    }
    if let Some((_, weights)) = trainer.kept() {
        parts.push(("best".to_owned(), weights.clone()));
    }
    for player in &learner.players {
        parts.push((
            format!("optimizer.{}", player.name),
            player.stepper.to_bytes()?,
        ));
        for (i, transform) in player.transforms.iter().enumerate() {
            let name = format!("transform.{}.{i}", player.name);
            parts.push((name, transform.state()?));
        }
    }
    let mut metadata = HashMap::from([
        ("format".to_owned(), FORMAT.to_owned()),
        ("training".to_owned(), trainer.identity()),
    ]);
    let mut views = Vec::new();
    for (name, bytes) in &parts {
        metadata.insert(format!("fingerprint.{name}"), fingerprint(bytes));
        let view = TensorView::new(Dtype::U8, vec![bytes.len()], bytes);
        views.push((name, view.map_err(|e| encode(&e))?));
    }
    let bytes = serialize(views, Some(metadata)).map_err(|e| encode(&e))?;
    // A private training's state has the key of its noise.
    write_secret_atomically(path, &bytes).map_err(CheckpointError::from)?;
    Ok(())
}

/// The bytes of a file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, CheckpointError> {
    fs::read(path).map_err(|source| CheckpointError::Read {
        path: path.into(),
        source,
    })
}

/// Restores a trainer from the bytes of a file, whose name is for the errors.
pub(crate) fn load<T: Task>(
    trainer: &mut Trainer<T>,
    path: &Path,
    bytes: &[u8],
) -> Result<(), TrainingError> {
    let damaged = |reason: String| CheckpointError::Damaged {
        path: path.into(),
        reason,
    };
    let (_, head) = SafeTensors::read_metadata(bytes).map_err(|e| damaged(e.to_string()))?;
    let metadata = head.metadata().clone().unwrap_or_default();
    match metadata.get("format").map(String::as_str) {
        Some(FORMAT) => {}
        Some(found @ "nabla-train 1") => {
            return Err(CheckpointError::Old {
                path: path.into(),
                found: found.to_owned(),
            }
            .into());
        }
        found => {
            let found = found.unwrap_or("none");
            return Err(damaged(format!("its format is {found}, expected {FORMAT}")).into());
        }
    }
    let made = metadata.get("training").map_or("", String::as_str);
    let identity = trainer.identity();
    let read = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_default();
    if let Some(difference) = Difference::between(&read(made), &read(&identity)) {
        return Err(CheckpointError::OtherTraining {
            path: path.into(),
            difference,
        }
        .into());
    }
    let file = SafeTensors::deserialize(bytes).map_err(|e| damaged(e.to_string()))?;
    let part = |name: &str| {
        let view = file.tensor(name).map_err(|e| damaged(e.to_string()))?;
        if metadata.get(&format!("fingerprint.{name}")) == Some(&fingerprint(view.data())) {
            Ok(view.data().to_vec())
        } else {
            Err(damaged(format!("its part {name:?} is damaged")))
        }
    };
    let weights = |name: &str| {
        let record = ModuleRecord::from_bytes(Bytes::from_bytes_vec(part(name)?));
        record.map_err(|e| damaged(e.to_string()))
    };
    let misfit = |e: burn::store::RecordError| damaged(format!("its model is another: {e}"));

    let state: State<T::Report> =
        serde_json::from_slice(&part("state")?).map_err(|e| damaged(e.to_string()))?;
    let learner = &mut trainer.learner;
    learner.model = learner
        .model
        .clone()
        .try_load_record(weights("model")?)
        .map_err(misfit)?;
    if let Some(average) = &mut learner.average {
        let loaded = average.average().clone();
        let loaded = loaded
            .try_load_record(weights("average")?)
            .map_err(misfit)?;
        *average = average.config().restore(loaded, state.updates)?;
    }
    for player in &mut learner.players {
        let optimizer = part(&format!("optimizer.{}", player.name))?;
        player.reload(&learner.model, optimizer)?;
        for (i, transform) in player.transforms.iter_mut().enumerate() {
            transform.restore(&part(&format!("transform.{}.{i}", player.name))?)?;
        }
    }
    if let (Some(kept), Some(best)) = (&mut trainer.best, state.best) {
        kept.best = Some((best, part("best")?));
    }
    trainer.task.restore(&part("task")?)?;
    learner.step = state.history.steps.len();
    trainer.history = state.history;
    Ok(())
}
