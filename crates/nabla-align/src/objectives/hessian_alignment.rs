//! Hessian alignment: the same gradient and the same curvature of the last layer in every domain.
//!
//! A feature whose meaning differs between domains (the colour, the hospital's corner mark) makes the gradient and the
//! Hessian of the last layer differ. With `g_e` and `H_e` of domain `e` with respect to the last layer alone,
//!
//! ```text
//! L = L̄ + 1/E Σ_e [ α ‖q_e − q̄‖² + β ‖g_e − ḡ‖² ],     ḡ = 1/E Σ_e g_e,  H̄ = 1/E Σ_e H_e
//! HGP            q_e = H_e g_e      q̄ = H̄ ḡ
//! Hutchinson     q_e = diag H_e     q̄ = diag H̄         or both estimated: 1/R Σ_r u_r ∘ (H u_r), u_r random signs
//! ```
//!
//! `ḡ` and `q̄` count as fixed. All weights of the model get the gradient of `L`, those of the features through the
//! features.
//!
//! **A linear last layer** has all of this in [closed form](HeadStats): the gradient of the penalty, which would take third
//! derivatives otherwise, is one backward pass. Estimating the diagonal is only for fidelity: the noise of the probes is
//! penalised, too, which shrinks the rest of the Hessian (`E‖D − diag H‖² = (‖H‖² − ‖diag H‖²)/R`).
//!
//! **Another last part** ([`head`](HessianAlignmentConfig::head), a regular expression for the names of its parameters) is
//! treated by [differences](Landscape). With `r = 2α (q_e − q̄)/E` and `v = 2β (g_e − ḡ)/E` fixed,
//!
//! ```text
//! ∂_θ α/E ‖H g − q̄‖² = ∂_θ (rᵀH g)|_g + H_θ· (H r)         ∂_θ β/E ‖g − ḡ‖² = H_θ· v
//! ∂_θ α/E ‖D − D̄‖²  = 1/R Σ_r ∂_θ ((r ∘ u_r)ᵀ H u_r)
//! ```
//!
//! where `H_θ·` is the rows of the Hessian of all weights, and the directions move the last part alone.
//!
//! **Published forms.** The paper's CMNIST code has a [weight](Annealing) for the whole penalty that jumps at a step, the
//! L2 norm of the weights within the loss, divides the loss by the weight, sums over the domains, and does not hold `q̄`
//! fixed; all of these are options, and [`HessianAlignmentConfig::cmnist`] sets them. Its DomainBed code is the default.
//!
//! **Theory.** On a ball of radius `δ` around a shared minimum, the largest excess loss in a target domain `T` over a
//! source domain `S` is `½ δ² max(0, λ_max(H_T − H_S)) + O(δ³)`: [`transfer_bound`]. [`hessian_distance`] is `‖H_S − H_T‖`.
//!
//! Source: Hemati, Zhang, Estiri, Chen, *Understanding Hessian Alignment for Domain Generalization*, 2023, arXiv
//! 2308.11778. The closed form for a linear layer is also in Chen et al., *Moment Alignment*, 2025, arXiv 2506.07378.

use burn::tensor::{Tensor, TensorData};
use faer::{Mat, Side};
use nabla_base::range;
use nabla_grad::flat::ParameterLayout;
use nabla_grad::trace::Probe;
use nabla_train::classifier::Classifier;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::head_stats::HeadStats;
use crate::landscape::{Landscape, norm};
use crate::objective::{
    DomainBatch, DomainPlan, DomainStep, Objective, ObjectiveError, Pass, check_domains,
    check_head, read,
};
use crate::search::{Draw, Searched};

/// What of the curvature is aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Curvature {
    /// `H g`, the product of Hessian and gradient.
    Hgp,
    /// The diagonal of `H`.
    Hutchinson,
    /// Nothing: the gradient alone.
    None,
}

/// A weight of the penalty that changes at a step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Annealing {
    /// The step from which on the weight counts; it is 1 before.
    pub steps: usize,
    /// The weight.
    pub weight: f64,
    /// Whether the loss is divided by a weight above 1, so that its gradient does not jump.
    pub divide: bool,
}

/// Configuration of [`HessianAlignment`]; [`hgp`](Self::hgp) and [`hutchinson`](Self::hutchinson) have the defaults of
/// the paper's DomainBed code.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HessianAlignmentConfig {
    /// What is aligned beside the gradient.
    pub curvature: Curvature,
    /// `α`. Default 1e-4 for HGP, 10 for Hutchinson: the lower end of the range in which the authors search, since the
    /// 1e-3 of their code is far below it and leaves the mean loss alone.
    pub alpha: f64,
    /// `β`. Default 5e-3 for HGP, 100 for Hutchinson, the lower end of the range in which the authors search; their
    /// code's own default is 5e-3.
    pub beta: f64,
    /// `R`, probes for the diagonal; none for the exact one of a linear last layer. The paper's code has 300. Default
    /// none.
    pub probes: Option<usize>,
    /// How the penalty's weight changes. Default not at all.
    pub anneal: Option<Annealing>,
    /// The L2 norm of all weights is part of the loss with this factor. Default 0.
    pub l2: f64,
    /// Whether the penalties of the domains are added up instead of averaged. Default no.
    pub sum: bool,
    /// Whether `ḡ` and `q̄` count as fixed. Default yes.
    pub fixed_centre: bool,
    /// The parameters of the last part by a regular expression, if it is not linear. Default: the linear last layer.
    pub head: Option<String>,
    /// By how much the weights are moved for a difference, for a last part that is not linear. Default 0.03.
    pub difference: f64,
}

impl HessianAlignmentConfig {
    /// HGP with its defaults.
    pub fn hgp() -> Self {
        Self {
            curvature: Curvature::Hgp,
            alpha: 1e-4,
            beta: 5e-3,
            probes: None,
            anneal: None,
            l2: 0.0,
            sum: false,
            fixed_centre: true,
            head: None,
            difference: 0.03,
        }
    }

    /// Hutchinson with its defaults.
    pub fn hutchinson() -> Self {
        Self {
            curvature: Curvature::Hutchinson,
            alpha: 10.0,
            beta: 100.0,
            ..Self::hgp()
        }
    }

    /// The form of the paper's coloured MNIST: `α = β = 1`, the weight 91257.186 from step 190 on, an L2 norm of
    /// 0.00110794568 in the loss, sums over the domains, and a centre that is not fixed.
    #[must_use]
    pub fn cmnist(self) -> Self {
        Self {
            alpha: 1.0,
            beta: 1.0,
            anneal: Some(Annealing {
                steps: 190,
                weight: 91_257.186,
                divide: true,
            }),
            l2: 0.001_107_945_68,
            sum: true,
            fixed_centre: false,
            ..self
        }
    }

    /// Sets `α` and `β`.
    #[must_use]
    pub fn with_weights(self, alpha: f64, beta: f64) -> Self {
        Self {
            alpha,
            beta,
            ..self
        }
    }

    /// Lets the penalty's weight jump from 1 to `weight` at step `steps`, and divides the loss by it.
    #[must_use]
    pub fn with_anneal(self, steps: usize, weight: f64) -> Self {
        let divide = true;
        let anneal = Some(Annealing {
            steps,
            weight,
            divide,
        });
        Self { anneal, ..self }
    }

    /// Estimates the diagonal with so many probes.
    #[must_use]
    pub fn with_probes(self, probes: usize) -> Self {
        Self {
            probes: Some(probes),
            ..self
        }
    }

    fn validate(&self) -> Result<(), ObjectiveError> {
        for (name, value) in [
            ("alpha of the Hessian alignment", self.alpha),
            ("beta of the Hessian alignment", self.beta),
            ("l2 of the Hessian alignment", self.l2),
        ] {
            range::not_negative(name, value)?;
        }
        if let Some(anneal) = self.anneal {
            range::not_negative("weight of the Hessian alignment", anneal.weight)?;
        }
        if let Some(probes) = self.probes {
            range::at_least("probes of the Hessian alignment", probes, 1)?;
        }
        range::positive("difference of the Hessian alignment", self.difference)?;
        if self.head.is_some() && self.curvature == Curvature::Hutchinson {
            let probes = self.probes.unwrap_or(0);
            let name = "probes for the diagonal of a last part that is not linear";
            range::at_least(name, probes, 1)?;
        }
        Ok(())
    }
}

/// `1/E Σ_e [ α ‖q_e − q̄‖² + β ‖g_e − ḡ‖² ]`, `[1]`, on the graph of the passes.
///
/// - `domains`: the last layer on the examples of each domain
/// - `noise`: for the probes, if the diagonal is estimated
///
/// # Errors
/// If there are fewer than two domains, they have different layers, or the configuration is out of range.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use nabla_align::HeadStats;
/// use nabla_align::objectives::hessian_alignment::{HessianAlignmentConfig, penalty};
/// use nabla_grad::seeded_noise::SeededNoise;
///
/// let device = Device::flex();
/// let stats = |z: f32| {
///     let features = Tensor::<2>::from_floats([[z], [1.0]], &device);
///     let logits = Tensor::<2>::from_floats([[z, 0.0], [1.0, 0.0]], &device);
///     let targets = Tensor::<2>::from_floats([[1.0, 0.0], [0.0, 1.0]], &device);
///     HeadStats::linear(features, logits, targets)
/// };
/// let config = HessianAlignmentConfig::hgp();
/// let mut noise = SeededNoise::new(0, 0);
/// let same = penalty(&[stats(2.0)?, stats(2.0)?], &config, &mut noise)?;
/// assert_eq!(same.into_scalar::<f32>(), 0.0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn penalty(
    domains: &[HeadStats],
    config: &HessianAlignmentConfig,
    noise: &mut nabla_grad::seeded_noise::SeededNoise,
) -> Result<Tensor<1>, ObjectiveError> {
    config.validate()?;
    check_domains("Hessian alignment", domains.len())?;
    let shape = domains[0].shape();
    for domain in domains {
        let found = domain.shape();
        range::check(
            found == shape,
            "number of classes times features of a domain",
            found[0] * found[1],
            format!("{} as in the first one", shape[0] * shape[1]),
        )?;
    }
    let share = 1.0 / domains.len() as f64;
    let mean = |of: &[Tensor<2>]| {
        let sum = of.iter().cloned().reduce(|sum, next| sum + next);
        let mean = sum.unwrap_or_else(|| domains[0].gradient().zeros_like()) * share;
        match config.fixed_centre {
            true => mean.detach(),
            false => mean,
        }
    };
    let apart = |of: &[Tensor<2>], centre: &Tensor<2>| {
        let squares = of
            .iter()
            .map(|own| (own.clone() - centre.clone()).square().sum());
        let sum = Tensor::cat(squares.collect(), 0).sum(); // [1]
        match config.sum {
            true => sum,
            false => sum * share,
        }
    };
    let gradients: Vec<Tensor<2>> = domains.iter().map(HeadStats::gradient).collect();
    let centre = mean(&gradients); // ḡ
    let first = apart(&gradients, &centre) * config.beta;
    let (curvatures, centre) = match config.curvature {
        Curvature::None => return Ok(first),
        Curvature::Hgp => {
            let own = domains.iter().zip(&gradients);
            let own: Vec<_> = own.map(|(d, g)| d.hessian_product(g.clone())).collect();
            // H̄ ḡ, not the mean of the H_e g_e.
            let of_mean = domains.iter().map(|d| d.hessian_product(centre.clone()));
            let of_mean: Vec<_> = of_mean.collect();
            (own, mean(&of_mean))
        }
        Curvature::Hutchinson => match config.probes {
            None => {
                let own: Vec<_> = domains.iter().map(HeadStats::hessian_diagonal).collect();
                let centre = mean(&own);
                (own, centre)
            }
            Some(probes) => {
                let mut own = Vec::with_capacity(domains.len());
                for domain in domains {
                    own.push(domain.estimated_diagonal(&domain.signs(probes, noise)?)?);
                }
                // The mean Hessian has probes of its own.
                let signs = domains[0].signs(probes, noise)?;
                let of_mean = domains.iter().map(|d| d.estimated_diagonal(&signs));
                let of_mean = of_mean.collect::<Result<Vec<_>, _>>()?;
                (own, mean(&of_mean))
            }
        },
    };
    Ok(first + apart(&curvatures, &centre) * config.alpha)
}

/// The objective; see the [module documentation](self).
#[derive(Clone, Debug)]
pub struct HessianAlignment {
    config: HessianAlignmentConfig,
}

impl HessianAlignment {
    /// With a configuration, which the training checks.
    pub fn new(config: HessianAlignmentConfig) -> Self {
        Self { config }
    }

    /// The weight of the penalty in a step, and what the loss is divided by.
    fn weight(&self, step: usize) -> (f64, f64) {
        match self.config.anneal {
            Some(anneal) if step >= anneal.steps => match anneal.divide {
                true => (anneal.weight, anneal.weight.max(1.0)),
                false => (anneal.weight, 1.0),
            },
            _ => (1.0, 1.0),
        }
    }

    /// `l2 Σ θ²` and its gradient.
    fn add_l2(&self, weights: &Tensor<1>) -> Result<(f64, Tensor<1>), ObjectiveError> {
        let loss = self.config.l2 * norm(weights)?.powi(2);
        Ok((loss, weights.clone() * (2.0 * self.config.l2)))
    }

    /// The gradient of the mean loss and the penalty for a last part that is not linear, by differences.
    fn by_differences<M: Classifier>(
        &self,
        step: &mut DomainStep<'_, M>,
        landscape: &Landscape<M>,
        head: &str,
        weight: f64,
    ) -> Result<(f64, Tensor<1>), ObjectiveError> {
        let config = &self.config;
        let batches = step.domains().to_vec();
        let mut noise = step.noise().clone();
        let mask = mask(landscape.layout(), head, landscape.weights())?;
        let share = 1.0 / batches.len() as f64;
        let of = |model: &M, batch: &DomainBatch| step.pass_of(model, batch).loss();
        let (slopes, passes) = landscape.slopes_of_domains(step)?;
        let length = config.difference;
        // H a with respect to the last part: the directions move it alone, and the rows are its own.
        let product = |a: &Tensor<1>, batch: &DomainBatch| -> Result<Tensor<1>, ObjectiveError> {
            let whole = landscape.hessian_product(a, length, &|model| of(model, batch))?;
            Ok(whole * mask.clone())
        };
        let gradients: Vec<Tensor<1>> = slopes
            .iter()
            .map(|s| s.gradient.clone() * mask.clone())
            .collect();
        let mean = |of: &[Tensor<1>]| {
            let sum = of.iter().cloned().reduce(|sum, next| sum + next);
            sum.unwrap_or_else(|| mask.zeros_like()) * share
        };
        let centre = mean(&gradients); // ḡ
        let dim = landscape.layout().total_length();
        let probes: Vec<Vec<Tensor<1>>> = match (config.curvature, config.probes) {
            (Curvature::Hutchinson, Some(count)) => {
                let device = mask.device();
                let mut draw = || {
                    let signs = Probe::Rademacher.draw(dim, &mut noise);
                    let signs: Vec<f32> = signs.into_iter().map(|s| s as f32).collect();
                    let signs = TensorData::new(signs, [dim]);
                    Tensor::<1>::from_data(signs, &device).cast(mask.dtype()) * mask.clone()
                };
                // One set for each domain, and one for the mean Hessian.
                (0..=batches.len())
                    .map(|_| (0..count).map(|_| draw()).collect())
                    .collect()
            }
            _ => Vec::new(),
        };
        let diagonal = |probes: &[Tensor<1>], batch: &DomainBatch| {
            let mut sum = mask.zeros_like();
            for u in probes {
                sum = sum + u.clone() * product(u, batch)?;
            }
            Ok::<_, ObjectiveError>(sum * (1.0 / probes.len().max(1) as f64))
        };
        let mut curvatures = Vec::new();
        let mut of_mean = Vec::new();
        for (i, batch) in batches.iter().enumerate() {
            match config.curvature {
                Curvature::None => {}
                Curvature::Hgp => {
                    curvatures.push(product(&gradients[i], batch)?);
                    of_mean.push(product(&centre, batch)?);
                }
                Curvature::Hutchinson => {
                    curvatures.push(diagonal(&probes[i], batch)?);
                    of_mean.push(diagonal(&probes[batches.len()], batch)?);
                }
            }
        }
        let centre_of_curvature = mean(&of_mean); // q̄
        let scale = if config.sum { weight } else { weight * share };
        let mut loss = slopes.iter().map(|s| f64::from(s.loss)).sum::<f64>() * share;
        let own: Vec<Tensor<1>> = slopes.iter().map(|s| s.gradient.clone()).collect();
        let mut gradient = mean(&own);
        for (i, batch) in batches.iter().enumerate() {
            let loss_of = |model: &M| of(model, batch);
            let apart = gradients[i].clone() - centre.clone();
            loss += scale * config.beta * norm(&apart)?.powi(2);
            let mut direction = apart * (2.0 * scale * config.beta); // v
            if let Some(own) = curvatures.get(i) {
                let apart = own.clone() - centre_of_curvature.clone();
                loss += scale * config.alpha * norm(&apart)?.powi(2);
                let r = apart * (2.0 * scale * config.alpha);
                let third = |a: &Tensor<1>, b: &Tensor<1>| {
                    landscape.third_derivative(a, b, length, &loss_of)
                };
                if config.curvature == Curvature::Hgp {
                    gradient = gradient + third(&r, &gradients[i])?;
                    direction = direction + product(&r, batch)?; // H r
                } else {
                    let count = 1.0 / probes[i].len().max(1) as f64;
                    for u in &probes[i] {
                        gradient = gradient + third(&(r.clone() * u.clone()), u)? * count;
                    }
                }
            }
            gradient = gradient + landscape.hessian_product(&direction, length, &loss_of)?;
        }
        step.tell(&passes);
        Ok((loss, gradient))
    }
}

/// 1 for the parameters whose names match, `[parameters]`.
fn mask(
    layout: &ParameterLayout,
    head: &str,
    like: &Tensor<1>,
) -> Result<Tensor<1>, ObjectiveError> {
    let pattern =
        nabla_train::optimizer::pattern(head).map_err(nabla_train::TrainingError::from)?;
    let mut mask = vec![0.0_f32; layout.total_length()];
    let mut any = false;
    for entry in layout.entries() {
        if pattern.matches(&entry.id(), Some(entry.name())) {
            mask[entry.range()].fill(1.0);
            any = true;
        }
    }
    if !any {
        let names: Vec<&str> = layout.entries().iter().map(|entry| entry.name()).collect();
        let names = names.join(", ");
        let told = format!("no parameter of the model matches {head:?}; they are: {names}");
        return Err(ObjectiveError::Own(told.into()));
    }
    let count = mask.len();
    let mask = Tensor::<1>::from_data(TensorData::new(mask, [count]), &like.device());
    Ok(mask.cast(like.dtype()))
}

impl<M: Classifier> Objective<M> for HessianAlignment {
    fn name(&self) -> &str {
        match self.config.curvature {
            Curvature::Hgp => "hgp",
            Curvature::Hutchinson => "hutchinson",
            Curvature::None => "gradient-alignment",
        }
    }

    fn check(&self, model: &M, plan: &DomainPlan) -> Result<(), ObjectiveError> {
        self.config.validate()?;
        check_domains("Hessian alignment", plan.batches.len())?;
        match &self.config.head {
            None => check_head(model, "Hessian alignment"),
            Some(head) => {
                let layout = ParameterLayout::trainable(model)?;
                let weights = layout.flatten_parameters(model)?;
                mask(&layout, head, &weights).map(|_| ())
            }
        }
    }

    fn step(&mut self, step: &mut DomainStep<'_, M>) -> Result<(), ObjectiveError> {
        let (weight, divisor) = self.weight(step.step());
        let landscape = Landscape::of(step.model())?;
        let (loss, gradient) = match self.config.head.clone() {
            Some(head) => self.by_differences(step, &landscape, &head, weight)?,
            None => {
                let passes = step.apart();
                let heads = passes
                    .iter()
                    .map(Pass::head)
                    .collect::<Result<Vec<_>, _>>()?;
                let losses = passes.iter().map(Pass::loss).collect();
                let penalty = penalty(&heads, &self.config, step.noise())?;
                let loss = Tensor::cat(losses, 0).mean() + penalty * weight;
                let slope = landscape.slope(|_| loss)?;
                (f64::from(slope.loss), slope.gradient)
            }
        };
        let (more, decay) = self.add_l2(landscape.weights())?;
        let gradient = (gradient + decay) * (1.0 / divisor);
        let gradients = landscape.layout().to_gradients(gradient)?;
        let loss = ((loss + more) / divisor) as f32;
        step.learner().contribute(gradients, Some(loss))?;
        Ok(())
    }

    fn search(&self) -> Vec<Searched> {
        let (alpha, beta) = match self.config.curvature {
            Curvature::Hutchinson => (Draw::Power(1.0, 4.0), Draw::Power(2.0, 6.0)),
            Curvature::Hgp | Curvature::None => (Draw::Power(-5.0, -3.0), Draw::Power(-3.0, -1.0)),
        };
        vec![Searched::new("alpha", alpha), Searched::new("beta", beta)]
    }

    fn settings(&self) -> Value {
        json!(self.config)
    }
}

/// `‖H_a − H_b‖`, the Frobenius norm.
///
/// # Errors
/// If the domains have different layers, or a number cannot be read from the device.
pub fn hessian_distance(a: &HeadStats, b: &HeadStats) -> Result<f64, ObjectiveError> {
    let (difference, _) = difference(b, a)?;
    Ok(difference.iter().map(|x| x * x).sum::<f64>().sqrt())
}

/// `½ δ² max(0, λ_max(H_target − H_source))`: how much more the loss of the target domain can rise than that of the
/// source, within `δ` of a minimum of both, to second order. It is a bound with the absolute value for the norm:
/// `½ δ² ‖H_target − H_source‖₂` is never less.
///
/// # Errors
/// If the domains have different layers, `δ` is not positive, or the eigenvalues are not found.
pub fn transfer_bound(
    source: &HeadStats,
    target: &HeadStats,
    radius: f64,
) -> Result<f64, ObjectiveError> {
    range::positive("radius of the transfer bound", radius)?;
    let (difference, dim) = difference(source, target)?;
    let matrix = Mat::from_fn(dim, dim, |i, j| difference[i * dim + j]);
    let values = matrix
        .self_adjoint_eigenvalues(Side::Lower)
        .map_err(|error| ObjectiveError::Own(format!("{error:?}").into()))?;
    let largest = values.iter().copied().fold(0.0_f64, f64::max);
    Ok(0.5 * radius * radius * largest)
}

/// `H_target − H_source` row by row, and the number of rows.
fn difference(source: &HeadStats, target: &HeadStats) -> Result<(Vec<f64>, usize), ObjectiveError> {
    let (shape, found) = (source.shape(), target.shape());
    range::check(
        found == shape,
        "number of classes times features of the target",
        found[0] * found[1],
        format!("{} as in the source", shape[0] * shape[1]),
    )?;
    let values = |stats: &HeadStats| -> Result<Vec<f64>, ObjectiveError> {
        let hessian = stats.hessian().without_autodiff();
        let values = hessian.try_into_vec_as::<f64>();
        values.map_err(|error| ObjectiveError::Device(error.to_string()))
    };
    let (a, b) = (values(source)?, values(target)?);
    let difference = b.iter().zip(&a).map(|(b, a)| b - a).collect();
    Ok((difference, shape[0] * shape[1]))
}

/// The norm of the difference of two gradients of the last layer.
///
/// # Errors
/// If a number cannot be read from the device.
pub fn gradient_distance(a: &HeadStats, b: &HeadStats) -> Result<f64, ObjectiveError> {
    let squares = read((a.gradient() - b.gradient()).square())?;
    Ok(squares.iter().map(|&x| f64::from(x)).sum::<f64>().sqrt())
}

#[cfg(test)]
mod tests;
