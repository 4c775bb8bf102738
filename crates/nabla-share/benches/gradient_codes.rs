//! Encoding and decoding the gradient of a ResNet-20, 272,474 numbers, with 16 workers.
//!
//! Encoding is one worker's work on one job without the gradients themselves; decoding is the leader's, with as many
//! stragglers as the scheme tolerates.
//!
//! `cargo bench -p nabla-share --bench gradient_codes`

#![allow(clippy::unwrap_used)]

use divan::{Bencher, black_box};
use nabla_share::sequential_gradient_coding::{
    CodeKind, CodingError, CodingScheme, GradientCode, LinearCombination, MSgc, Returned, SrSgc,
    decode,
};

const LENGTH: usize = 272_474;
const WORKERS: usize = 16;

const SCHEMES: [&str; 5] = [
    "gc-repetition",
    "gc-cyclic",
    "sr-sgc",
    "m-sgc",
    "m-sgc-uncoded",
];

fn scheme(name: &str) -> Box<dyn CodingScheme> {
    let scheme: Result<Box<dyn CodingScheme>, CodingError> = match name {
        "gc-repetition" => {
            GradientCode::new(WORKERS, 3, CodeKind::Repetition).map(|s| Box::new(s) as _)
        }
        "gc-cyclic" => GradientCode::new(WORKERS, 3, CodeKind::Cyclic).map(|s| Box::new(s) as _),
        "sr-sgc" => SrSgc::new(WORKERS, 2, 3, 6, CodeKind::Fitting).map(|s| Box::new(s) as _),
        "m-sgc" => MSgc::new(WORKERS, 1, 2, 3, CodeKind::Fitting).map(|s| Box::new(s) as _),
        _ => MSgc::new(WORKERS, 1, 2, WORKERS, CodeKind::Fitting).map(|s| Box::new(s) as _),
    };
    let scheme = scheme.unwrap();
    scheme.prepare().unwrap();
    scheme
}

fn gradient(seed: usize) -> Vec<f32> {
    (0..LENGTH)
        .map(|i| ((i * 7 + seed) % 1013) as f32 / 1013.0 - 0.5)
        .collect()
}

/// All mini-tasks of worker 1 in one job.
#[divan::bench(args = SCHEMES)]
fn encoding(bencher: Bencher, name: &str) {
    let scheme = scheme(name);
    let chunks: Vec<Vec<f32>> = (0..scheme.chunk_shares().len()).map(gradient).collect();
    bencher.bench(|| {
        for part in 0..scheme.parts() {
            let mut sum = LinearCombination::new();
            for (chunk, factor) in scheme.combination(1, part).unwrap() {
                sum.add(factor, &chunks[chunk]).unwrap();
            }
            black_box(sum.rounded::<f32>());
        }
    });
}

/// One job. Parts that can be spared are those of the first three workers.
#[divan::bench(args = SCHEMES)]
fn decoding(bencher: Bencher, name: &str) {
    let scheme = scheme(name);
    let answers: Vec<Vec<f32>> = (0..WORKERS * scheme.parts()).map(gradient).collect();
    let mut returned = Returned::new(WORKERS, scheme.parts());
    for worker in (0..WORKERS).rev() {
        for part in 0..scheme.parts() {
            let own = name.starts_with("m-sgc") && part == 0;
            if worker >= 3 || own {
                returned.insert(worker, part);
            }
        }
    }
    bencher.bench(|| {
        let answer =
            |worker: usize, part: usize| Some(answers[worker * scheme.parts() + part].as_slice());
        decode(&*scheme, &returned, answer).unwrap()
    });
}

/// The weights of a cyclic code for 13 of 16 answers.
#[divan::bench]
fn weights_of_a_cyclic_code(bencher: Bencher) {
    let code = GradientCode::new(WORKERS, 3, CodeKind::Cyclic).unwrap();
    code.prepare().unwrap();
    let answered: Vec<bool> = (0..WORKERS).map(|worker| worker >= 3).collect();
    bencher.bench(|| code.weights(&answered).unwrap());
}

fn main() {
    divan::main();
}
