//! The methods of the mission, and the experiment of each.
//!
//! # How the 56 come about
//! They are the published methods of the design's table, one per paper:
//!
//! | crate | methods |
//! |---|---|
//! | `nabla-optim` | 9 |
//! | `nabla-share` | 4 (MASHA1 and MASHA2 are one paper) |
//! | `nabla-private` | 3 |
//! | `nabla-probe` | 6 (gauge freedom and intrinsic dimension are one paper) |
//! | `nabla-align` | 3 |
//! | `nabla-compress` | 4 |
//! | `nabla-physics` | 9 |
//! | `nabla-diffusion` | 11 |
//! | `nabla-panorama` | 1 |
//! | `nabla-generate` | 6 |
//!
//! Not counted, since they are shared ground or what a method is compared with: all of
//! `nabla-grad`, privacy accounting, quantisers, ODE and SDE solvers, schedules, denoisers,
//! UNet / VAE / CLIP, the DDIM sampler and classifier-free guidance (CFG).
//!
//! Papers of methods that have a note in the design's `methods/` are from there; the others were
//! inferred from the short name, and each arXiv number was checked against public citations of
//! the title. Five short names fit several papers; these have none until their notes exist.

use crate::claim::{Claim, ClaimError, Paper};
use crate::rddm::RddmClaim;

/// How far a method is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It works and its claim can be run.
    Done,
    /// It is still to come.
    Planned,
}

impl State {
    /// The state in one word.
    pub fn word(self) -> &'static str {
        match self {
            State::Done => "done",
            State::Planned => "planned",
        }
    }
}

/// A published method.
#[derive(Debug, Clone)]
pub struct Method {
    /// Its name in commands and file names.
    pub slug: &'static str,
    /// Its name in the field.
    pub name: &'static str,
    /// The crate that holds it, or will.
    pub crate_name: &'static str,
    /// Its paper; `None` where the design's short name does not settle which paper is meant.
    pub paper: Option<Paper>,
    /// How far it is.
    pub state: State,
    /// Makes its experiment, where it has one.
    pub claim: Option<fn() -> Box<dyn Claim>>,
}

const fn done(
    slug: &'static str,
    name: &'static str,
    crate_name: &'static str,
    paper: Paper,
    claim: fn() -> Box<dyn Claim>,
) -> Method {
    Method {
        slug,
        name,
        crate_name,
        paper: Some(paper),
        state: State::Done,
        claim: Some(claim),
    }
}

const fn planned(
    slug: &'static str,
    name: &'static str,
    crate_name: &'static str,
    paper: Paper,
) -> Method {
    Method {
        slug,
        name,
        crate_name,
        paper: Some(paper),
        state: State::Planned,
        claim: None,
    }
}

/// A planned method whose paper the design's short name does not settle.
const fn unsettled(slug: &'static str, name: &'static str, crate_name: &'static str) -> Method {
    Method {
        slug,
        name,
        crate_name,
        paper: None,
        state: State::Planned,
        claim: None,
    }
}

/// The number of methods of the mission.
pub const METHOD_COUNT: usize = 56;

/// The methods of the mission, crate by crate in the order of the design's table.
pub static METHODS: [Method; METHOD_COUNT] = [
    done(
        "adamp",
        "AdamP",
        "nabla-optim",
        Paper::new(
            "AdamP: Slowing Down the Slowdown for Momentum Optimizers on Scale-invariant Weights",
            "Heo et al.",
            2020,
            "2006.08217",
        ),
        || Box::new(crate::adamp::AdamPClaim),
    ),
    done(
        "diffgrad",
        "diffGrad",
        "nabla-optim",
        Paper::new(
            "diffGrad: An Optimization Method for Convolutional Neural Networks",
            "Dubey et al.",
            2019,
            "1909.11015",
        ),
        || Box::new(crate::diffgrad::DiffGradClaim),
    ),
    done(
        "adabelief",
        "AdaBelief",
        "nabla-optim",
        Paper::new(
            "AdaBelief Optimizer: Adapting Stepsizes by the Belief in Observed Gradients",
            "Zhuang et al.",
            2020,
            "2010.07468",
        ),
        || Box::new(crate::adabelief::AdaBeliefClaim),
    ),
    done(
        "m-fac",
        "M-FAC",
        "nabla-optim",
        Paper::new(
            "M-FAC: Efficient Matrix-Free Approximations of Second-Order Information",
            "Frantar, Kurtic, Alistarh",
            2021,
            "2107.03356",
        ),
        || Box::new(crate::m_fac::MFacClaim),
    ),
    done(
        "normalized-lr",
        "Normalized GD",
        "nabla-optim",
        Paper::new(
            "From Logistic Regression to the Perceptron Algorithm: Exploring Gradient Descent with Large Step Sizes",
            "Tyurin",
            2024,
            "2412.08424",
        ),
        || Box::new(crate::normalized_lr::NormalizedLrClaim),
    ),
    done(
        "matrix-sensing",
        "Over-parameterised matrix sensing",
        "nabla-optim",
        Paper::new(
            "How Over-Parameterization Slows Down Gradient Descent in Matrix Sensing: The Curses of Symmetry and Initialization",
            "Xiong, Ding, Du",
            2023,
            "2310.01769",
        ),
        || Box::new(crate::matrix_sensing::MatrixSensingClaim),
    ),
    done(
        "block-coordinate-descent",
        "Block coordinate descent",
        "nabla-optim",
        Paper::new(
            "Let's Make Block Coordinate Descent Converge Faster: Faster Greedy Rules, Message-Passing, Active-Set Complexity, and Superlinear Convergence",
            "Nutini, Laradji, Schmidt",
            2017,
            "1712.08859",
        ),
        || Box::new(crate::block_coordinate_descent::BlockCoordinateDescentClaim),
    ),
    done(
        "zo-ranksgd",
        "ZO-RankSGD",
        "nabla-optim",
        Paper::new(
            "Zeroth-Order Optimization Meets Human Feedback: Provable Learning via Ranking Oracles",
            "Tang, Rybin, Chang",
            2023,
            "2303.03751",
        ),
        || Box::new(crate::zo_rank_sgd::ZoRankSgdClaim),
    ),
    done(
        "convex-relu",
        "Convex ReLU training",
        "nabla-optim",
        Paper::new(
            "Efficient Global Optimization of Two-layer ReLU Networks: Quadratic-time Algorithms and Adversarial Training",
            "Bai, Gautam, Sojoudi",
            2022,
            "2201.01965",
        ),
        || Box::new(crate::convex_relu::ConvexReluClaim),
    ),
    done(
        "pndm",
        "PNDM",
        "nabla-diffusion",
        Paper::new(
            "Pseudo Numerical Methods for Diffusion Models on Manifolds",
            "Liu et al.",
            2022,
            "2202.09778",
        ),
        || Box::new(crate::pndm::PndmClaim),
    ),
    planned(
        "sequential-gradient-coding",
        "Sequential Gradient Coding",
        "nabla-share",
        Paper::without_arxiv(
            "Sequential Gradient Coding For Straggler Mitigation",
            "Krishnan, Ebrahimi, Khisti",
            2022,
        ),
    ),
    unsettled("sketching", "Sketching", "nabla-share"),
    planned(
        "masha",
        "MASHA1/2",
        "nabla-share",
        Paper::new(
            "Distributed Methods with Compressed Communication for Solving Variational Inequalities, with Theoretical Guarantees",
            "Beznosikov et al.",
            2021,
            "2110.03313",
        ),
    ),
    planned(
        "dadao",
        "DADAO",
        "nabla-share",
        Paper::new(
            "DADAO: Decoupled Accelerated Decentralized Asynchronous Optimization",
            "Nabli, Oyallon",
            2022,
            "2208.00779",
        ),
    ),
    planned(
        "dicesgd",
        "DiceSGD",
        "nabla-private",
        Paper::new(
            "Differentially Private SGD Without Clipping Bias: An Error-Feedback Approach",
            "Zhang et al.",
            2023,
            "2311.14632",
        ),
    ),
    planned(
        "diff2",
        "DIFF2",
        "nabla-private",
        Paper::new(
            "DIFF2: Differential Private Optimization via Gradient Differences for Nonconvex Distributed Learning",
            "Murata, Suzuki",
            2023,
            "2302.03884",
        ),
    ),
    planned(
        "gifd",
        "GIFD",
        "nabla-private",
        Paper::new(
            "GIFD: A Generative Gradient Inversion Method with Feature Domain Optimization",
            "Fang et al.",
            2023,
            "2308.04699",
        ),
    ),
    planned(
        "dynamical-stability",
        "Dynamical stability",
        "nabla-probe",
        Paper::new(
            "The Implicit Regularization of Dynamical Stability in Stochastic Gradient Descent",
            "Wu, Su",
            2023,
            "2305.17490",
        ),
    ),
    unsettled("coherence", "Coherence", "nabla-probe"),
    planned(
        "xor-grokking",
        "XOR grokking",
        "nabla-probe",
        Paper::new(
            "Benign Overfitting and Grokking in ReLU Networks for XOR Cluster Data",
            "Xu et al.",
            2023,
            "2310.02541",
        ),
    ),
    planned(
        "score-estimation",
        "Score estimation, kernel regime",
        "nabla-probe",
        Paper::new(
            "Neural Network-Based Score Estimation in Diffusion Models: Optimization and Generalization",
            "Han, Razaviyayn, Xu",
            2024,
            "2401.15604",
        ),
    ),
    planned(
        "gauge-freedom",
        "Gauge freedom and intrinsic dimension",
        "nabla-probe",
        Paper::new(
            "On gauge freedom, conservativity and intrinsic dimensionality estimation in diffusion models",
            "Horvat, Pfister",
            2024,
            "2402.03845",
        ),
    ),
    planned(
        "gradient-sae",
        "Gradient SAE",
        "nabla-probe",
        Paper::new(
            "Features that Make a Difference: Leveraging Gradients for Improved Dictionary Learning",
            "Olmo et al.",
            2024,
            "2411.10397",
        ),
    ),
    planned(
        "hessian-alignment",
        "Hessian/gradient alignment",
        "nabla-align",
        Paper::new(
            "Understanding Hessian Alignment for Domain Generalization",
            "Hemati et al.",
            2023,
            "2308.11778",
        ),
    ),
    planned(
        "udim",
        "UDIM",
        "nabla-align",
        Paper::new(
            "Unknown Domain Inconsistency Minimization for Domain Generalization",
            "Shin et al.",
            2024,
            "2403.07329",
        ),
    ),
    planned(
        "gaqat",
        "GAQAT",
        "nabla-align",
        Paper::new(
            "GAQAT: Gradient-Adaptive Quantization-Aware Training for Domain Generalization",
            "Jiang et al.",
            2024,
            "2412.05551",
        ),
    ),
    planned(
        "maestro",
        "Maestro",
        "nabla-compress",
        Paper::new(
            "Maestro: Uncovering Low-Rank Structures via Trainable Decomposition",
            "Horvath et al.",
            2023,
            "2308.14929",
        ),
    ),
    planned(
        "wgsef",
        "WGSEF",
        "nabla-compress",
        Paper::new(
            "Learning k-Level Structured Sparse Neural Networks Using Group Envelope Regularization",
            "Refael, Arbel, Huleihel",
            2022,
            "2212.12921",
        ),
    ),
    unsettled("cda", "CDA", "nabla-compress"),
    planned(
        "ptq4dm",
        "PTQ4DM",
        "nabla-compress",
        Paper::new(
            "Post-training Quantization on Diffusion Models",
            "Shang et al.",
            2022,
            "2211.15736",
        ),
    ),
    planned(
        "ernode",
        "ERNODE",
        "nabla-physics",
        Paper::new(
            "Opening the Blackbox: Accelerating Neural Differential Equations by Regularizing Internal Solver Heuristics",
            "Pal et al.",
            2021,
            "2105.03918",
        ),
    ),
    planned(
        "local-regularisation",
        "Local regularisation",
        "nabla-physics",
        Paper::new(
            "Locally Regularized Neural Differential Equations: Some Black Boxes Were Meant to Remain Closed!",
            "Pal, Edelman, Rackauckas",
            2023,
            "2303.02262",
        ),
    ),
    planned(
        "pi-hc-moe",
        "PI-HC-MoE",
        "nabla-physics",
        Paper::new(
            "Scaling physics-informed hard constraints with mixture-of-experts",
            "Chalapathi, Du, Krishnapriyan",
            2024,
            "2402.13412",
        ),
    ),
    unsettled("dgno", "DGNO", "nabla-physics"),
    planned(
        "dcdm",
        "DCDM",
        "nabla-physics",
        Paper::new(
            "A Deep Conjugate Direction Method for Iteratively Solving Linear Systems",
            "Kaneda et al.",
            2022,
            "2205.10763",
        ),
    ),
    planned(
        "neuralstagger",
        "NeuralStagger",
        "nabla-physics",
        Paper::new(
            "NeuralStagger: Accelerating Physics-constrained Neural PDE Solver with Spatial-temporal Decomposition",
            "Huang et al.",
            2023,
            "2302.10255",
        ),
    ),
    unsettled("barron-pde", "Barron PDE", "nabla-physics"),
    planned(
        "giorom",
        "GIOROM",
        "nabla-physics",
        Paper::new(
            "Reduced-Order Neural Operators: Learning Lagrangian Dynamics on Highly Sparse Graphs",
            "Viswanath et al.",
            2024,
            "2407.03925",
        ),
    ),
    planned(
        "cgs",
        "CGS",
        "nabla-physics",
        Paper::new(
            "Convergent Graph Solvers",
            "Park, Choo, Park",
            2021,
            "2106.01680",
        ),
    ),
    planned(
        "cfg-plus-plus",
        "CFG++",
        "nabla-diffusion",
        Paper::new(
            "CFG++: Manifold-constrained Classifier Free Guidance for Diffusion Models",
            "Chung et al.",
            2024,
            "2406.08070",
        ),
    ),
    planned(
        "apg",
        "APG",
        "nabla-diffusion",
        Paper::new(
            "Eliminating Oversaturation and Artifacts of High Guidance Scales in Diffusion Models",
            "Sadat, Hilliges, Weber",
            2024,
            "2410.02416",
        ),
    ),
    planned(
        "adaptive-guidance",
        "Adaptive Guidance",
        "nabla-diffusion",
        Paper::new(
            "Adaptive Guidance: Training-free Acceleration of Conditional Diffusion Models",
            "Castillo et al.",
            2023,
            "2312.12487",
        ),
    ),
    planned(
        "gfcg",
        "GFCG",
        "nabla-diffusion",
        Paper::new(
            "Gradient-Free Classifier Guidance for Diffusion Model Sampling",
            "Shenoy et al.",
            2024,
            "2411.15393",
        ),
    ),
    planned(
        "dds",
        "DDS",
        "nabla-diffusion",
        Paper::new(
            "Decomposed Diffusion Sampler for Accelerating Large-Scale Inverse Problems",
            "Chung, Lee, Ye",
            2023,
            "2303.05754",
        ),
    ),
    planned(
        "autodiffusion",
        "AutoDiffusion",
        "nabla-diffusion",
        Paper::new(
            "AutoDiffusion: Training-Free Optimization of Time Steps and Architectures for Automated Diffusion Model Acceleration",
            "Li et al.",
            2023,
            "2309.10438",
        ),
    ),
    planned(
        "adjointdpm",
        "AdjointDPM",
        "nabla-diffusion",
        Paper::new(
            "AdjointDPM: Adjoint Sensitivity Method for Gradient Backpropagation of Diffusion Probabilistic Models",
            "Pan et al.",
            2023,
            "2307.10711",
        ),
    ),
    planned(
        "kinetic-optimal-paths",
        "Kinetic-optimal paths",
        "nabla-diffusion",
        Paper::new(
            "On Kinetic Optimal Probability Paths for Generative Models",
            "Shaul et al.",
            2023,
            "2306.06626",
        ),
    ),
    done(
        "rddm",
        "RDDM",
        "nabla-diffusion",
        Paper::new(
            "Residual Denoising Diffusion Models",
            "Liu et al.",
            2023,
            "2308.13712",
        ),
        || Box::new(RddmClaim),
    ),
    planned(
        "filterprompt",
        "FilterPrompt",
        "nabla-diffusion",
        Paper::new(
            "FilterPrompt: Guiding Image Transfer in Diffusion Models",
            "Wang et al.",
            2024,
            "2404.13263",
        ),
    ),
    done(
        "omnissr",
        "OmniSSR",
        "nabla-panorama",
        Paper::new(
            "OmniSSR: Zero-shot Omnidirectional Image Super-Resolution using Stable Diffusion Model",
            "Li, Sheng, Li, Zhang",
            2024,
            "2404.10312",
        ),
        || Box::new(crate::omnissr::OmniSsrClaim),
    ),
    planned(
        "gdss",
        "GDSS",
        "nabla-generate",
        Paper::new(
            "Score-based Generative Modeling of Graphs via the System of Stochastic Differential Equations",
            "Jo, Lee, Hwang",
            2022,
            "2202.02514",
        ),
    ),
    planned(
        "emdm",
        "EMDM",
        "nabla-generate",
        Paper::new(
            "EMDM: Efficient Motion Diffusion Model for Fast and High-Quality Motion Generation",
            "Zhou et al.",
            2023,
            "2312.02256",
        ),
    ),
    planned(
        "gsgan",
        "GSGAN",
        "nabla-generate",
        Paper::new(
            "Adversarial Generation of Hierarchical Gaussians for 3D Generative Model",
            "Hyun, Heo",
            2024,
            "2406.02968",
        ),
    ),
    planned(
        "pixel-wise-gradient-clipping",
        "Pixel-wise Gradient Clipping",
        "nabla-generate",
        Paper::new(
            "Enhancing High-Resolution 3D Generation through Pixel-wise Gradient Clipping",
            "Pan et al.",
            2023,
            "2310.12474",
        ),
    ),
    planned(
        "eagan",
        "EAGAN",
        "nabla-generate",
        Paper::new(
            "EAGAN: Efficient Two-stage Evolutionary Architecture Search for GANs",
            "Ying et al.",
            2021,
            "2111.15097",
        ),
    ),
    planned(
        "generalized-gaussian-td",
        "Generalized-Gaussian TD",
        "nabla-generate",
        Paper::new(
            "Generalized Gaussian Temporal Difference Error for Uncertainty-aware Reinforcement Learning",
            "Kim et al.",
            2024,
            "2408.02295",
        ),
    ),
];

/// The method with this slug.
pub fn method(slug: &str) -> Option<&'static Method> {
    METHODS.iter().find(|method| method.slug == slug)
}

/// All experiments that exist, in the order of [`METHODS`].
pub fn claims() -> Vec<Box<dyn Claim>> {
    METHODS
        .iter()
        .filter_map(|method| method.claim)
        .map(|make| make())
        .collect()
}

/// The experiment of the method with this slug.
///
/// # Errors
/// [`ClaimError::Planned`] for a method without an experiment yet, [`ClaimError::Unknown`] for any
/// other slug, with the most similar one that has an experiment.
pub fn claim(slug: &str) -> Result<Box<dyn Claim>, ClaimError> {
    match method(slug) {
        Some(Method {
            claim: Some(make), ..
        }) => Ok(make()),
        Some(_) => Err(ClaimError::Planned(slug.to_owned())),
        None => Err(ClaimError::Unknown {
            slug: slug.to_owned(),
            nearest: nearest(slug),
        }),
    }
}

/// The most similar slug that has an experiment, if it is similar enough to have been meant.
fn nearest(slug: &str) -> Option<String> {
    let distance = |method: &&Method| edit_distance(method.slug, slug);
    METHODS
        .iter()
        .filter(|method| method.claim.is_some())
        .min_by_key(distance)
        .filter(|method| distance(method) <= method.slug.len() / 3)
        .map(|method| method.slug.to_owned())
}

/// The Levenshtein distance between two ASCII words.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substitution = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substitution.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    #[test]
    fn the_methods_are_those_of_the_design() {
        let mut per_crate = BTreeMap::new();
        for method in &METHODS {
            *per_crate.entry(method.crate_name).or_insert(0) += 1;
        }
        let expected = BTreeMap::from([
            ("nabla-optim", 9),
            ("nabla-share", 4),
            ("nabla-private", 3),
            ("nabla-probe", 6),
            ("nabla-align", 3),
            ("nabla-compress", 4),
            ("nabla-physics", 9),
            ("nabla-diffusion", 11),
            ("nabla-panorama", 1),
            ("nabla-generate", 6),
        ]);
        assert_eq!(per_crate, expected);
    }

    #[test]
    fn slugs_papers_and_arxiv_numbers_are_distinct_and_well_formed() {
        let slugs: BTreeSet<_> = METHODS.iter().map(|m| m.slug).collect();
        assert_eq!(slugs.len(), METHOD_COUNT);
        let titles: Vec<_> = METHODS.iter().filter_map(|m| m.paper.as_ref()).collect();
        let distinct: BTreeSet<_> = titles.iter().map(|p| &p.title).collect();
        assert_eq!(distinct.len(), titles.len());
        let numbers: Vec<_> = titles.iter().filter_map(|p| p.arxiv.as_deref()).collect();
        assert_eq!(numbers.iter().collect::<BTreeSet<_>>().len(), numbers.len());
        for method in &METHODS {
            assert!(
                method
                    .slug
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'),
                "{}",
                method.slug
            );
            let Some(paper) = &method.paper else { continue };
            let Some(arxiv) = paper.arxiv.as_deref() else {
                continue;
            };
            let (month, number) = arxiv.split_once('.').unwrap();
            assert!(month.len() == 4 && number.len() == 5, "{arxiv}");
            // The first version's year is in the number.
            let year: u16 = month[..2].parse().unwrap();
            assert_eq!(paper.year, 2000 + year, "{}", method.slug);
        }
    }

    #[test]
    fn each_experiment_is_found_under_its_methods_slug_and_paper() {
        for claim in claims() {
            let method = method(claim.slug()).unwrap();
            assert_eq!(method.state, State::Done);
            assert_eq!(method.paper, Some(claim.paper()));
        }
    }

    #[test]
    fn unknown_and_planned_slugs_are_told_apart() {
        let error = |slug: &str| claim(slug).err().unwrap().to_string();
        assert_eq!(
            error("dadao"),
            "the method 'dadao' is planned; it has no claim to run yet"
        );
        assert_eq!(
            error("no-such-method"),
            "there is no claim named 'no-such-method'; 'nabla claims list' shows all"
        );
    }

    #[test]
    fn edit_distances_match_known_ones() {
        for (a, b, distance) in [
            ("kitten", "sitting", 3),
            ("", "abc", 3),
            ("rddm", "rddm", 0),
        ] {
            assert_eq!(edit_distance(a, b), distance);
            assert_eq!(edit_distance(b, a), distance);
        }
    }
}
