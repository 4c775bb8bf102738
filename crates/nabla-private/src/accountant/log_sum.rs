//! Sums of numbers that are too large or too small for f64.

/// A sum of positive numbers that are given by their logarithms.
pub struct LogSum {
    highest: f64,
    sum: f64,
}

impl Default for LogSum {
    fn default() -> Self {
        Self {
            highest: f64::NEG_INFINITY,
            sum: 0.0,
        }
    }
}

impl LogSum {
    /// Adds a number.
    pub fn add(&mut self, log: f64) {
        if log > self.highest {
            self.sum = self.sum * (self.highest - log).exp() + 1.0;
            self.highest = log;
        } else if log > f64::NEG_INFINITY {
            self.sum += (log - self.highest).exp();
        }
    }

    /// The logarithm of the sum.
    pub fn log(&self) -> f64 {
        match self.sum > 0.0 {
            true => self.highest + self.sum.ln(),
            false => f64::NEG_INFINITY,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_any_size_are_added() {
        let mut sum = LogSum::default();
        assert_eq!(sum.log(), f64::NEG_INFINITY);
        for log in [f64::NEG_INFINITY, -2000.0, 1000.0, 999.0, -1000.0] {
            sum.add(log);
        }
        assert!((sum.log() - 1000.0 - (-1.0_f64).exp().ln_1p()).abs() < 1e-12);
    }
}
