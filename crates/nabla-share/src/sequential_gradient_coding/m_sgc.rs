//! M-SGC(n, B, W, λ): uncoded chunks that are retried, multiplexed with coded ones that stand in for the others.
//!
//! With `1 ≤ B < W` and `0 ≤ λ ≤ n`, a job lasts `T + 1 = W − 1 + B` rounds, its *slots*. Its batch consists of
//!
//! * `D1`: `(W − 1) n` chunks of the share `a`, of which each worker owns `W − 1`;
//! * `D2`: `B` groups of `n` chunks of the share `b`, each group coded by its own GC(n, λ),
//!
//! with `a = (λ + 1) b`, so that every mini-task costs the same, and `b = 1 / (n (B + (W−1)(λ+1)))`. If `λ = n` there
//! is no `D2`.
//!
//! ```text
//! round r, worker i, for each slot j = 0 … W−2+B and its job t = r − j:
//!   j < W − 1:  the next D1 chunk of (i, t) that has not been returned
//!   j ≥ W − 1:  m = j − (W−1)
//!               if all D1 chunks of (i, t) have been returned: the coded answer of group m
//!               else: one of the missing D1 chunks again
//! end of round t + T:  g(t) = Σ all D1 answers + Σ_m decode(group m, from n − λ answers)
//!
//! L = (λ + 1)(W − 1 + B) / (n (B + (W−1)(λ+1)))
//! ```
//!
//! A worker returns all its mini-results of a round together, and straggling loses all of them. The scheme tolerates
//! all `(B, W, λ)`-bursty patterns and all `(B, W+B−1, λ)`-arbitrary ones.
//!
//! Source: Krishnan, Ebrahimi, Khisti, *Sequential Gradient Coding For Straggler Mitigation*, ICLR 2023, arXiv
//! 2211.13802.

use nabla_base::range;

use super::gradient_code::terms;
use super::{
    CodeKind, CodingError, CodingScheme, DecodingTerm, GradientCode, History, MiniTask, Returned,
    StragglerModel, check_rounds,
};

/// Multiplexed sequential gradient coding; see the [module documentation](self).
///
/// Part `k < W − 1` of a worker is its `D1` chunk `k`, and part `W − 1 + m` its coded answer of group `m`.
///
/// ```
/// use nabla_share::sequential_gradient_coding::{CodeKind, CodingScheme, MSgc};
///
/// let scheme = MSgc::new(256, 1, 2, 27, CodeKind::Fitting)?;
/// assert_eq!(scheme.delay(), 1);
/// assert!((scheme.load() - 0.007543103448).abs() < 1e-12);
/// # Ok::<(), nabla_share::sequential_gradient_coding::CodingError>(())
/// ```
#[derive(Clone, Debug)]
pub struct MSgc {
    workers: usize,
    burst: usize,
    window: usize,
    most: usize,
    /// The code of each group; none if `λ = n`.
    code: Option<GradientCode>,
}

impl MSgc {
    /// - `workers`: `n`; `burst`: `B`, at least 1; `window`: `W`, greater than `B` and at most [`LONGEST_WINDOW`](super::LONGEST_WINDOW);
    ///   `most`: `λ`, the stragglers of a window, from 0 to `n`
    ///
    /// # Errors
    /// If a number is out of its range, or the workers make no groups for repetition.
    pub fn new(
        workers: usize,
        burst: usize,
        window: usize,
        most: usize,
        kind: CodeKind,
    ) -> Result<Self, CodingError> {
        range::at_least("number of workers", workers, 1)?;
        check_rounds(burst, window)?;
        range::within("number of stragglers", most, 0..=workers)?;
        let code = match most < workers {
            true => Some(GradientCode::new(workers, most, kind)?),
            false => None,
        };
        Ok(Self {
            workers,
            burst,
            window,
            most,
            code,
        })
    }

    /// The code of each group of `D2`; none if `λ = n`.
    pub fn code(&self) -> Option<&GradientCode> {
        self.code.as_ref()
    }

    /// `W − 1`: the uncoded chunks of each worker in each job.
    fn own(&self) -> usize {
        self.window - 1
    }

    /// The number of groups of coded chunks.
    fn groups(&self) -> usize {
        match self.code {
            Some(_) => self.burst,
            None => 0,
        }
    }

    /// The shares `a` and `b`.
    fn shares(&self) -> (f64, f64) {
        let (n, own) = (self.workers as f64, self.own() as f64);
        match self.code {
            Some(_) => {
                let copies = (self.most + 1) as f64;
                let b = 1.0 / (n * (self.burst as f64 + own * copies));
                (copies * b, b)
            }
            None => (1.0 / (n * own), 0.0),
        }
    }

    /// The uncoded chunks of a worker that are missing in a job.
    fn missing<'a>(
        &self,
        returned: &'a Returned,
        worker: usize,
    ) -> impl Iterator<Item = usize> + use<'a> {
        (0..self.own()).filter(move |&part| !returned.has(worker, part))
    }
}

impl CodingScheme for MSgc {
    fn label(&self) -> String {
        let (n, b, w, most) = (self.workers, self.burst, self.window, self.most);
        format!("M-SGC(n={n}, B={b}, W={w}, lambda={most})")
    }

    fn workers(&self) -> usize {
        self.workers
    }

    fn delay(&self) -> usize {
        self.window - 2 + self.burst
    }

    fn load(&self) -> f64 {
        self.part_load() * (self.delay() + 1) as f64
    }

    fn parts(&self) -> usize {
        self.own() + self.groups()
    }

    fn part_load(&self) -> f64 {
        self.shares().0
    }

    fn chunk_shares(&self) -> Vec<f64> {
        let (a, b) = self.shares();
        let mut shares = vec![a; self.workers * self.own()];
        shares.extend(vec![b; self.workers * self.groups()]);
        shares
    }

    fn combination(&self, worker: usize, part: usize) -> Result<Vec<(usize, f64)>, CodingError> {
        let own = self.own();
        match (&self.code, part.checked_sub(own)) {
            (Some(code), Some(group)) => {
                let first = self.workers * (own + group);
                let row = code.row(worker)?.into_iter();
                Ok(row.map(|(chunk, factor)| (first + chunk, factor)).collect())
            }
            _ => Ok(vec![(worker * own + part, 1.0)]),
        }
    }

    fn models(&self) -> Vec<StragglerModel> {
        let (burst, window, most) = (self.burst, self.window, self.most);
        vec![
            StragglerModel::Bursty {
                burst,
                window,
                most,
            },
            StragglerModel::Arbitrary {
                times: burst,
                window: window + burst - 1,
                most,
            },
        ]
    }

    fn assign(&self, history: &History) -> Vec<Vec<MiniTask>> {
        let (own, parts) = (self.own(), self.parts());
        let task = |worker: usize, job: usize| {
            let slot = history.round() - job;
            // A job that starts in this round has returned nothing.
            let next = match history.returned(job) {
                Some(returned) => self.missing(returned, worker).next(),
                None => Some(0),
            };
            let part = next.unwrap_or(slot);
            // A slot of an uncoded chunk stays empty if all are there; so does that of a group without D2.
            let coded = (own..parts).contains(&part);
            (next.is_some() || coded).then_some(MiniTask { job, part })
        };
        (0..self.workers)
            .map(|worker| {
                let jobs = history.open_jobs();
                jobs.filter_map(|job| task(worker, job)).collect()
            })
            .collect()
    }

    fn recoverable(&self, history: &History) -> bool {
        history.open_jobs().all(|job| {
            let Some(returned) = history.returned(job) else {
                return true;
            };
            let slot = history.round() - job;
            let missing: Vec<usize> = (0..self.workers)
                .map(|worker| self.missing(returned, worker).count())
                .collect();
            let left = self.delay() - slot;
            let groups = self.code.iter().flat_map(|code| {
                let missing = &missing;
                (0..self.burst).map(move |group| {
                    let answer = self.own() + group;
                    // Whoever has all of its own chunks before the slot of the group will answer.
                    let may = |worker: usize| answer > slot && missing[worker] < answer - slot;
                    let answers: Vec<bool> = (0..self.workers)
                        .map(|worker| returned.has(worker, answer) || may(worker))
                        .collect();
                    code.suffices(&answers)
                })
            });
            missing.iter().all(|&missing| missing <= left) && groups.into_iter().all(|fits| fits)
        })
    }

    fn decodable(&self, returned: &Returned) -> bool {
        let own = (0..self.own()).all(|part| returned.of_part(part).iter().all(|&done| done));
        let mut groups = self.own()..self.parts();
        own && self
            .code
            .as_ref()
            .is_none_or(|code| groups.all(|part| code.suffices(returned.of_part(part))))
    }

    fn decoding(&self, returned: &Returned) -> Result<Vec<DecodingTerm>, CodingError> {
        let mut all = Vec::new();
        for part in 0..self.own() {
            let done = returned.of_part(part);
            if let Some(worker) = done.iter().position(|&done| !done) {
                return Err(CodingError::MissingAnswer { worker, part });
            }
            all.extend(terms(part, &vec![1.0; self.workers]));
        }
        if let Some(code) = &self.code {
            for part in self.own()..self.parts() {
                all.extend(terms(part, &code.weights(returned.of_part(part))?));
            }
        }
        Ok(all)
    }

    fn prepare(&self) -> Result<(), CodingError> {
        self.code.as_ref().map_or(Ok(()), GradientCode::prepare)
    }
}
