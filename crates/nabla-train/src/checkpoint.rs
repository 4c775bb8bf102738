//! A training on the disk, which goes on bit by bit.
//!
//! A checkpoint is one file in the safetensors format, written whole or not at all. It has three tensors
//! of bytes, `model` and `optimizer` (Burn's records; for M-FAC, CBOR) and `state` (JSON: the history, the
//! sums of the epoch that is not over), and in its metadata the format, the identity of the training, and
//! a fingerprint of each part.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use burn::store::ModuleRecord;
use burn::tensor::Bytes;
use nabla_base::{OutputError, write_bytes_atomically};
use nabla_grad::fingerprint::fingerprint;
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};
use serde::{Deserialize, Serialize};

use crate::classifier::Classifier;
use crate::history::History;
use crate::optimizer::OptimizerError;
use crate::training::{Tally, Trainer};

/// Why a checkpoint cannot be written or gone on with.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// It is damaged, or no checkpoint.
    #[error("the checkpoint {} cannot be resumed: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// It belongs to another training.
    #[error(
        "the checkpoint {} is of another training: it was made with {found}, but {expected} is asked \
         for", path.display()
    )]
    OtherTraining {
        /// The file.
        path: PathBuf,
        /// The first setting that differs, as the checkpoint has it.
        found: String,
        /// As it is asked for.
        expected: String,
    },
    /// The state cannot be turned into bytes.
    #[error("the training cannot be saved: {0}")]
    Encode(String),
    /// The optimizer's state.
    #[error(transparent)]
    Optimizer(#[from] Box<OptimizerError>),
}

const FORMAT: &str = "nabla-train 1";
const PARTS: [&str; 3] = ["model", "optimizer", "state"];

#[derive(Serialize, Deserialize)]
struct State {
    history: History,
    tally: Tally,
}

pub(crate) fn save<M: Classifier>(
    trainer: &Trainer<'_, M>,
    path: &Path,
    identity: &str,
) -> Result<(), CheckpointError> {
    let encode = |e: &dyn std::fmt::Display| CheckpointError::Encode(e.to_string());
    let model = trainer.model.valid().into_record().into_bytes();
    let state = State {
        history: trainer.history.clone(),
        tally: trainer.tally,
    };
    let parts: [Vec<u8>; 3] = [
        model.map_err(|e| encode(&e))?.to_vec(),
        trainer.stepper.to_bytes().map_err(Box::new)?,
        serde_json::to_vec(&state).map_err(|e| encode(&e))?,
    ];
    let mut metadata = HashMap::from([
        ("format".to_owned(), FORMAT.to_owned()),
        ("training".to_owned(), identity.to_owned()),
    ]);
    let mut views = Vec::new();
    for (name, bytes) in PARTS.into_iter().zip(&parts) {
        metadata.insert(name.to_owned(), fingerprint(bytes));
        let view = TensorView::new(Dtype::U8, vec![bytes.len()], bytes);
        views.push((name, view.map_err(|e| encode(&e))?));
    }
    let bytes = serialize(views, Some(metadata)).map_err(|e| encode(&e))?;
    Ok(write_bytes_atomically(path, &bytes)?)
}

pub(crate) fn load<'a, M: Classifier>(
    trainer: Trainer<'a, M>,
    path: &Path,
    identity: &str,
) -> Result<Trainer<'a, M>, CheckpointError> {
    let bytes = fs::read(path).map_err(|source| CheckpointError::Read {
        path: path.into(),
        source,
    })?;
    let damaged = |reason: String| CheckpointError::Damaged {
        path: path.into(),
        reason,
    };
    let (_, head) = SafeTensors::read_metadata(&bytes).map_err(|e| damaged(e.to_string()))?;
    let metadata = head.metadata().clone().unwrap_or_default();
    match metadata.get("format").map(String::as_str) {
        Some(FORMAT) => {}
        found => {
            let found = found.unwrap_or("none");
            return Err(damaged(format!("its format is {found}, expected {FORMAT}")));
        }
    }
    let made = metadata.get("training").map_or("", String::as_str);
    if made != identity {
        let (found, expected) = first_difference(made, identity);
        return Err(CheckpointError::OtherTraining {
            path: path.into(),
            found,
            expected,
        });
    }
    let file = SafeTensors::deserialize(&bytes).map_err(|e| damaged(e.to_string()))?;
    let part = |name: &str| {
        let view = file.tensor(name).map_err(|e| damaged(e.to_string()))?;
        if metadata.get(name) == Some(&fingerprint(view.data())) {
            Ok(view.data().to_vec())
        } else {
            Err(damaged(format!("its part {name:?} is damaged")))
        }
    };
    let state: State =
        serde_json::from_slice(&part("state")?).map_err(|e| damaged(e.to_string()))?;
    let record = ModuleRecord::from_bytes(Bytes::from_bytes_vec(part("model")?));
    let record = record.map_err(|e| damaged(e.to_string()))?;
    let mut trainer = trainer;
    trainer.model = trainer
        .model
        .try_load_record(record)
        .map_err(|e| damaged(format!("its model is another: {e}")))?;
    // The optimizer knows parameters by their numbers, which the record of the model has set: it is
    // made anew for them.
    let optimizer = part("optimizer")?;
    let stepper = trainer.config.optimizer.init(&trainer.model);
    trainer.stepper = stepper
        .and_then(|stepper| stepper.load(optimizer, &trainer.model))
        .map_err(Box::new)?;
    (trainer.history, trainer.tally) = (state.history, state.tally);
    Ok(trainer)
}

/// The first line in which two texts differ.
fn first_difference(found: &str, expected: &str) -> (String, String) {
    let mut expected_lines = expected.lines();
    let mut found_lines = found.lines();
    loop {
        match (found_lines.next(), expected_lines.next()) {
            (Some(a), Some(b)) if a == b => {}
            (a, b) => {
                let told = |line: Option<&str>| {
                    let line = line.unwrap_or("nothing").trim().trim_end_matches(',');
                    line.to_owned()
                };
                return (told(a), told(b));
            }
        }
    }
}
