//! Loading an optimizer's record, or the reason why it does not fit.
//!
//! `ModuleOptimizer::load_record` leaves a parameter without state if it does not understand the state, so
//! with the record of another optimizer the moments silently start from zero. It also panics on a record
//! whose tensors do not match their names. [`checked_load`] compares the record with the module first, and
//! afterwards with what the optimizer has loaded from it.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::{ModuleOptimizer, OptimizerRecord};
use burn::store::RecordError;
use burn::store::burn_pack::{Reader, Scalar};
use burn::tensor::{Bytes, Tensor, TensorData};

/// The reason why a record cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The bytes are not a record.
    #[error("the optimizer's record cannot be read: {0}")]
    Unreadable(#[from] RecordError),
    /// The bytes are a record, but its parts do not fit together.
    #[error("the optimizer's record is damaged: {0}")]
    Damaged(String),
    /// A state belongs to a parameter that the module does not have.
    #[error(
        "the optimizer's record has a state for parameter number {0}, which the module does not \
         have: load the module from its record first"
    )]
    UnknownParameter(u64),
    /// The shape of a state differs from that of its parameter.
    #[error(
        "the state {state:?} of the optimizer's record has the shape {found:?}, but its parameter has \
         the shape {expected:?}"
    )]
    Shape {
        /// Name of the state.
        state: String,
        /// Shape of the parameter.
        expected: Vec<usize>,
        /// Shape of the state.
        found: Vec<usize>,
    },
    /// The record is another optimizer's, or a part of it is missing.
    #[error(
        "the optimizer understands {understood} of the {stored} tensors of the record: it is another \
         optimizer's record, or incomplete"
    )]
    OtherOptimizer {
        /// Tensors in the record.
        stored: usize,
        /// Tensors that the optimizer loaded from it.
        understood: usize,
    },
}

/// Loads the record `bytes` (of [`ModuleOptimizer::into_bytes`] or of a file) into `optimizer`, which then
/// continues to train `module` with the same bits.
///
/// # Errors
/// If the bytes are not a record of this optimizer for this module.
///
/// ```
/// use burn::nn::{Linear, LinearConfig};
/// use burn::tensor::Device;
/// use nabla_optim::adabelief::AdaBeliefConfig;
/// use nabla_optim::checked_record::checked_load;
///
/// let layer: Linear = LinearConfig::new(4, 2).init(&Device::flex().autodiff());
/// let optimizer = AdaBeliefConfig::new().init()?;
/// // ... after some steps:
/// let bytes = optimizer.into_bytes()?;
/// let resumed = checked_load(AdaBeliefConfig::new().init()?, bytes, &layer)?;
/// # let _ = resumed;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn checked_load<M: Module>(
    optimizer: ModuleOptimizer,
    bytes: Bytes,
    module: &M,
) -> Result<ModuleOptimizer, LoadError> {
    let mut shapes = Shapes::default();
    module.visit(&mut shapes);

    let (scalars, states) = read_parts(bytes.clone())?;
    let ranks = scalars.iter().filter_map(|(name, value)| {
        let id = name.strip_suffix(".__rank")?;
        Some((id.to_string(), usize::try_from(*value).ok()))
    });

    for (id, rank) in ranks {
        let shape = id.parse().ok().and_then(|id| shapes.0.get(&id));
        match (shape, rank) {
            (Some(shape), Some(rank)) if shape.len() == rank => {}
            (Some(shape), _) => {
                return Err(LoadError::Damaged(format!(
                    "the parameter number {id} has {} dimensions, but its state has another number",
                    shape.len()
                )));
            }
            (None, _) => return Err(LoadError::UnknownParameter(id.parse().unwrap_or(0))),
        }
    }
    for Part { name, data, id } in &states {
        let (state, found) = (name, data.shape().to_vec());
        let id =
            id.ok_or_else(|| LoadError::Damaged(format!("{state:?} belongs to no parameter")))?;
        let expected = shapes.0.get(&id).ok_or(LoadError::UnknownParameter(id))?;
        if found != *expected {
            return Err(LoadError::Shape {
                state: state.clone(),
                expected: expected.clone(),
                found,
            });
        }
    }

    let loaded = catch_unwind(AssertUnwindSafe(|| {
        let record = OptimizerRecord::from_bytes(bytes)?;
        Ok::<_, RecordError>(optimizer.load_record(record))
    }));
    let loaded =
        loaded.map_err(|_| LoadError::Damaged("its states cannot be rebuilt".into()))??;
    let (stored, understood) = (states.len(), loaded.to_record().len());
    if understood < stored {
        return Err(LoadError::OtherOptimizer { stored, understood });
    }
    Ok(loaded)
}

/// A tensor of a record.
pub(crate) struct Part {
    pub name: String,
    pub data: TensorData,
    /// The number of its parameter.
    pub id: Option<u64>,
}

/// The scalars and tensors of a record; Burn's readers do not withstand arbitrary bytes.
pub(crate) fn read_parts(bytes: Bytes) -> Result<(BTreeMap<String, Scalar>, Vec<Part>), LoadError> {
    let read = catch_unwind(AssertUnwindSafe(|| {
        let reader = Reader::from_bytes(bytes).map_err(RecordError::from)?;
        let scalars = reader.scalars().clone();
        let mut parts = Vec::new();
        for tensor in reader.into_tensors().map_err(RecordError::from)? {
            let (name, dtype, shape, id, bytes) = tensor.into_parts().map_err(RecordError::from)?;
            let data = TensorData::from_bytes(bytes, shape, dtype);
            parts.push(Part { name, data, id });
        }
        Ok::<_, RecordError>((scalars, parts))
    }));
    let read = read.map_err(|_| LoadError::Damaged("it cannot be taken apart".into()))?;
    Ok(read?)
}

/// The shapes of a module's parameters by their numbers.
#[derive(Default)]
struct Shapes(BTreeMap<u64, Vec<usize>>);

impl ModuleVisitor for Shapes {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.insert(param.id.val(), param.shape().to_vec());
    }
}
