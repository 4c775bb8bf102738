//! Your own objective for training on several domains: the loss of the domain that is worst now.
//!
//! ```text
//! L = max_e L_e
//! ```
//!
//! ```text
//! cargo run --release -p nabla --example own_objective
//! ```

use std::error::Error;
use std::ops::ControlFlow;

use burn::tensor::{Device, Tensor};
use nabla::align::{
    Coloured, DomainObjective, DomainSource, DomainStep, Objective, ObjectiveError,
};
use nabla::train::classification::evaluate;
use nabla::train::classifier::Classifier;
use nabla::train::gradient_source::Plan;
use nabla::train::{MlpConfig, TrainingConfig, he_normal};

struct Worst;

impl<M: Classifier> Objective<M> for Worst {
    fn name(&self) -> &str {
        "worst"
    }

    fn loss(&mut self, step: &mut DomainStep<'_, M>) -> Result<Tensor<1>, ObjectiveError> {
        let losses = step.apart().iter().map(|pass| pass.loss()).collect();
        Ok(Tensor::cat(losses, 0).max())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    // Digits with a colour that tells the label in nine of ten pictures, in eight of ten, and wrongly in the third domain.
    let domains = Coloured::default().of(&nabla::data::digits()?, 0)?;
    let parts = domains.hold_out("-90%", 0.2, 0)?;
    let config = TrainingConfig {
        epochs: 40,
        batch: 160,
        ..TrainingConfig::default()
    };
    let vrex = DomainObjective::named("vrex")
        .with("penalty", 1e4)
        .with("anneal_steps", 80);
    for objective in [None, Some(vrex)] {
        let model = MlpConfig { hidden: vec![32] };
        let model = model.init(domains.shape().features(), 2, &Device::flex().autodiff())?;
        let model = he_normal(model, config.seed)?;
        let shape = domains.shape();
        let mut trainer = config.trainer(&parts.training, &parts.validation, shape, model)?;
        let plan = Plan {
            examples: parts.training.len(),
            batch: config.batch,
            steps: trainer.steps(),
            seed: config.seed,
            scaled: false,
            augmented: false,
        };
        let chosen = match &objective {
            Some(named) => named.make()?,
            None => Box::new(Worst) as Box<dyn Objective<_>>,
        };
        let name = chosen.name().to_owned();
        let source = DomainSource::new(chosen, &parts.counts, trainer.model(), plan)?;
        trainer.task_mut().set_source(Box::new(source));
        trainer.run(None, &mut |_| ControlFlow::Continue(()))?;
        let (_, validation) = evaluate(trainer.model(), &parts.validation, shape)?;
        let (_, test) = evaluate(trainer.model(), &parts.test, shape)?;
        println!(
            "{name}: {:.0} % in the training domains, {:.0} % with reversed colours",
            100.0 * validation,
            100.0 * test
        );
        assert!(validation > 0.5);
    }
    Ok(())
}
