//! SR-SGC(n, B, W, λ): gradient coding whose lost answers are repeated `B` rounds later.
//!
//! With `W = xB + 1` for a whole `x ≥ 1`, each job is coded by GC(n, s) with
//!
//! ```text
//! s = ⌈Bλ / (W − 1 + B)⌉ = ⌈λ / (x + 1)⌉,   T = B,   L = (s + 1)/n
//!
//! round r:  every worker works on job r, except that with t = r − B ≥ 0
//!             v = the number of workers whose answer to job t has not arrived
//!             if v > s: the first v − s of them work on job t instead
//!           decode job t from its answers of the rounds t and t + B, of which there must be n − s
//! ```
//!
//! A worker that repeats job `t` counts as missing for job `r`, whose repetition comes in turn `B` rounds later. The
//! scheme tolerates all `(B, W, λ)`-bursty patterns and all patterns with at most `s` stragglers in each round.
//!
//! Source: Krishnan, Ebrahimi, Khisti, *Sequential Gradient Coding For Straggler Mitigation*, ICLR 2023, arXiv
//! 2211.13802.

use nabla_base::range;

use super::{
    CodeKind, CodingError, CodingScheme, DecodingTerm, GradientCode, History, MiniTask, Returned,
    StragglerModel, check_rounds,
};

/// Sequential gradient coding with selective repetition; see the [module documentation](self).
///
/// ```
/// use nabla_share::sequential_gradient_coding::{CodeKind, CodingScheme, SrSgc};
///
/// let scheme = SrSgc::new(256, 2, 3, 23, CodeKind::Fitting)?;
/// assert_eq!((scheme.code().stragglers(), scheme.delay()), (12, 2));
/// assert_eq!(scheme.load(), 0.05078125);
/// # Ok::<(), nabla_share::sequential_gradient_coding::CodingError>(())
/// ```
#[derive(Clone, Debug)]
pub struct SrSgc {
    code: GradientCode,
    burst: usize,
    window: usize,
    most: usize,
}

impl SrSgc {
    /// - `workers`: `n`; `burst`: `B`, at least 1; `window`: `W`, a multiple of `B` plus 1 and at most
    ///   [`LONGEST_WINDOW`](super::LONGEST_WINDOW); `most`: `λ`, the stragglers of a window, from 0 to `n`
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
        if !(window - 1).is_multiple_of(burst) {
            return Err(CodingError::Window { burst, window });
        }
        let stragglers = (burst * most).div_ceil(window - 1 + burst);
        Ok(Self {
            code: GradientCode::new(workers, stragglers, kind)?,
            burst,
            window,
            most,
        })
    }

    /// The code of each job.
    pub fn code(&self) -> &GradientCode {
        &self.code
    }
}

impl CodingScheme for SrSgc {
    fn label(&self) -> String {
        let (n, b, w, most) = (self.workers(), self.burst, self.window, self.most);
        format!("SR-SGC(n={n}, B={b}, W={w}, lambda={most})")
    }

    fn workers(&self) -> usize {
        self.code.workers()
    }

    fn delay(&self) -> usize {
        self.burst
    }

    fn load(&self) -> f64 {
        self.code.load()
    }

    fn parts(&self) -> usize {
        self.code.parts()
    }

    fn part_load(&self) -> f64 {
        self.code.part_load()
    }

    fn chunk_shares(&self) -> Vec<f64> {
        self.code.chunk_shares()
    }

    fn combination(&self, worker: usize, part: usize) -> Result<Vec<(usize, f64)>, CodingError> {
        self.code.combination(worker, part)
    }

    fn models(&self) -> Vec<StragglerModel> {
        let bursty = StragglerModel::Bursty {
            burst: self.burst,
            window: self.window,
            most: self.most,
        };
        let mut models = self.code.models();
        models.push(bursty);
        models
    }

    fn assign(&self, history: &History) -> Vec<Vec<MiniTask>> {
        let mut tasks = self.code.assign(history);
        // The due job isn't open any more if it was decoded in its first round, luckily with less than n − s answers.
        let due = history.due_job().filter(|&job| !history.is_decoded(job));
        if let Some((job, returned)) = due.and_then(|job| Some((job, history.returned(job)?))) {
            let answered = returned.of_part(0);
            let missing = (0..self.workers()).filter(|&worker| !answered[worker]);
            let repeats = missing
                .clone()
                .count()
                .saturating_sub(self.code.stragglers());
            for worker in missing.take(repeats) {
                tasks[worker] = vec![MiniTask { job, part: 0 }];
            }
        }
        tasks
    }

    fn recoverable(&self, history: &History) -> bool {
        // However many answers of a later job are missing, its own repetition brings them.
        self.code.recoverable(history)
    }

    fn decodable(&self, returned: &Returned) -> bool {
        self.code.decodable(returned)
    }

    fn decoding(&self, returned: &Returned) -> Result<Vec<DecodingTerm>, CodingError> {
        self.code.decoding(returned)
    }

    fn prepare(&self) -> Result<(), CodingError> {
        self.code.prepare()
    }
}
