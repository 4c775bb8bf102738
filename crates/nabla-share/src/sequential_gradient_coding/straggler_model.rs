//! Which workers may straggle in which rounds.

/// A set of patterns of stragglers, by what may happen in any `W` consecutive rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StragglerModel {
    /// At most `most` stragglers in each round.
    PerRound {
        /// `s`.
        most: usize,
    },
    /// `(B, W, λ)`-bursty: in every window at most `most` workers straggle, each within `burst` consecutive rounds.
    Bursty {
        /// `B`.
        burst: usize,
        /// `W`.
        window: usize,
        /// `λ`.
        most: usize,
    },
    /// `(N, W, λ)`-arbitrary: in every window at most `most` workers straggle, each at most `times` times.
    Arbitrary {
        /// `N`.
        times: usize,
        /// `W`.
        window: usize,
        /// `λ`.
        most: usize,
    },
}

impl StragglerModel {
    /// Whether a new round fits, given that all rounds before do: whether the window that ends with it fits.
    ///
    /// - `past`: for every round so far who straggled, `[rounds][workers]`; `new`: who straggles now, `[workers]`
    ///
    /// ```
    /// use nabla_share::sequential_gradient_coding::StragglerModel;
    ///
    /// let model = StragglerModel::Bursty { burst: 1, window: 3, most: 1 };
    /// let past = [vec![true, false], vec![false, false]];
    /// assert!(model.admits(&past, &[false, false]));
    /// assert!(!model.admits(&past, &[true, false])); // again, within three rounds
    /// assert!(!model.admits(&past, &[false, true])); // a second worker
    /// ```
    pub fn admits(&self, past: &[Vec<bool>], new: &[bool]) -> bool {
        let (window, most) = match *self {
            Self::PerRound { most } => (1, most),
            Self::Bursty { window, most, .. } | Self::Arbitrary { window, most, .. } => {
                (window, most)
            }
        };
        let start = (past.len() + 1).saturating_sub(window);
        let past = &past[start.min(past.len())..];
        let straggled = |worker: usize| past.iter().filter(move |round| round[worker]).count();
        let distinct = (0..new.len())
            .filter(|&worker| new[worker] || straggled(worker) > 0)
            .count();
        let again = |worker: usize| match *self {
            Self::PerRound { .. } => true,
            Self::Bursty { burst, .. } => {
                let old = (past.len() + 1).saturating_sub(burst).min(past.len());
                past[..old].iter().all(|round| !round[worker])
            }
            Self::Arbitrary { times, .. } => straggled(worker) < times,
        };
        distinct <= most && (0..new.len()).all(|worker| !new[worker] || again(worker))
    }

    /// Whether all of these rounds fit, one after another.
    pub fn admits_all(&self, rounds: &[Vec<bool>]) -> bool {
        let numbered = rounds.iter().enumerate();
        numbered
            .into_iter()
            .all(|(round, new)| self.admits(&rounds[..round], new))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One worker's rounds, as `"x.x"`.
    fn rounds(pattern: &str) -> Vec<Vec<bool>> {
        pattern.chars().map(|c| vec![c == 'x']).collect()
    }

    #[test]
    fn a_burst_is_within_consecutive_rounds() {
        let model = StragglerModel::Bursty {
            burst: 2,
            window: 4,
            most: 1,
        };
        for fitting in ["xx...xx", ".x...x", "x...xx", "xx...x"] {
            assert!(model.admits_all(&rounds(fitting)), "{fitting}");
        }
        for other in ["x.x", "xxx", "x..x", "xx..xx"] {
            assert!(!model.admits_all(&rounds(other)), "{other}");
        }
    }

    #[test]
    fn a_history_looks_at_each_round_once_and_finds_what_all_rounds_give() {
        use crate::sequential_gradient_coding::{CodeKind, CodingScheme, History, SrSgc};

        let scheme = SrSgc::new(4, 1, 2, 2, CodeKind::Fitting).unwrap();
        for seed in 0..200_u32 {
            let mut history = History::new(&scheme, 6);
            let mut rounds: Vec<Vec<bool>> = Vec::new();
            for round in 0..6_u32 {
                history.begin_round(scheme.assign(&history));
                let draw = seed.wrapping_mul(0x9e37_79b9).rotate_left(round * 5);
                for worker in 0..4 {
                    if draw >> (3 * worker) & 7 > 1 {
                        history.record(worker as usize);
                    }
                }
                rounds.push(history.missing());
                let models = scheme.models();
                let whole = models.iter().any(|model| model.admits_all(&rounds));
                assert_eq!(history.fits_a_model(), whole, "{rounds:?}");
                history.end_round();
            }
        }
    }

    #[test]
    fn an_arbitrary_pattern_is_counted() {
        let model = StragglerModel::Arbitrary {
            times: 2,
            window: 4,
            most: 1,
        };
        for fitting in ["x.x..x", "xx..xx", "x..x.."] {
            assert!(model.admits_all(&rounds(fitting)), "{fitting}");
        }
        assert!(!model.admits_all(&rounds("x.xx")));
    }

    #[test]
    fn the_workers_of_a_window_are_counted() {
        let two = [vec![true, false, false], vec![false, true, false]];
        let bursty = |window, most| StragglerModel::Bursty {
            burst: 1,
            window,
            most,
        };
        assert!(bursty(2, 2).admits_all(&two) && !bursty(2, 1).admits_all(&two));
        assert!(bursty(1, 1).admits_all(&two));
        assert!(StragglerModel::PerRound { most: 1 }.admits_all(&two));
        assert!(!StragglerModel::PerRound { most: 0 }.admits_all(&two));
    }
}
