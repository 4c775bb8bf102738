//! What theory says of the Barron norm of the iterates.

/// `‖∂L/∂u‖ ≤ B_L ‖u‖^p` and `‖∂L/∂p_j‖ ≤ B_L ‖u‖^p` in Barron norms, for `‖u‖ ≥ 1`.
///
/// Where `∂L/∂p_j` holds slopes, their Barron norms are not bounded by that of `u`, but by the norm of second order
/// `Σ (1 + ‖ω‖)² |û_ω|`; the same `B_L` and `p` hold with it on the right.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Growth {
    /// `p`.
    pub degree: f64,
    /// `B_L`.
    pub factor: f64,
}

/// The greatest of `(1 + r) / (1 + r²)` and of `r (1 + r) / (1 + r²)`: what `(I − Δ)⁻¹` and `(I − Δ)⁻¹ ∂_j` at most make of a
/// Barron norm, as one of second order.
const SECOND_ORDER: f64 = 1.207_106_781_186_547_5;

impl Growth {
    /// `ln b_{t+1}` of the paper's recursion
    ///
    /// ```text
    /// b_{t+1} = b_t + η ((d/2 + 1) B_L b_t^p + ‖f‖)
    /// ```
    ///
    /// in logarithms, since it leaves the range of numbers in a few steps.
    ///
    /// - `log_norm`: `ln b_t`, −∞ for 0
    /// - `right_side`: `‖f‖`, the Barron norm
    pub fn next_log_norm(self, log_norm: f64, rate: f64, dims: usize, right_side: f64) -> f64 {
        self.next(log_norm, rate, dims as f64 / 2.0 + 1.0, right_side)
    }

    /// The same for the norm of second order, for which it always holds:
    ///
    /// ```text
    /// b_{t+1} = b_t + 1.2071 η ((d + 1) B_L b_t^p + ‖f‖)
    /// ```
    pub fn next_log_second_norm(
        self,
        log_norm: f64,
        rate: f64,
        dims: usize,
        right_side: f64,
    ) -> f64 {
        self.next(log_norm, SECOND_ORDER * rate, dims as f64 + 1.0, right_side)
    }

    fn next(self, log_norm: f64, rate: f64, count: f64, right_side: f64) -> f64 {
        // B_L holds from the norm 1 on.
        let power = (count * self.factor).ln() + self.degree * log_norm.max(0.0);
        let terms = [log_norm, rate.ln() + power, (rate * right_side).ln()];
        let greatest = terms.into_iter().fold(f64::NEG_INFINITY, f64::max);
        if greatest == f64::NEG_INFINITY {
            return greatest;
        }
        let sum: f64 = terms.iter().map(|term| (term - greatest).exp()).sum();
        greatest + sum.ln()
    }
}
