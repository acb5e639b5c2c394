//! What corrects a stream: data of the owner's, applied once, to what a source has read and before any cell sees it.

use alloc::vec::Vec;

/// Coefficients of a polynomial at most: what a calibration laboratory fits has four.
pub const MAX_COEFFICIENTS: usize = 8;

/// `x = value × scale + offset`, then `c₀ + c₁x + c₂x² + …` if there are coefficients.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    /// Factor.
    pub scale: f64,
    /// What is added after it.
    pub offset: f64,
    /// From the constant on; none: `x` itself.
    pub polynomial: Vec<f64>,
}

impl Calibration {
    /// The corrected value. What is not a number stays so.
    #[must_use]
    pub fn apply(&self, value: f64) -> f64 {
        let x = value * self.scale + self.offset;
        // Horner's rule.
        self.polynomial.iter().rev().copied().reduce(|sum, coefficient| sum * x + coefficient).unwrap_or(x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn a_value_is_scaled_shifted_and_put_into_the_polynomial() {
        let check = |scale, offset, polynomial: Vec<f64>, value, expected: f64| {
            let corrected = Calibration { scale, offset, polynomial }.apply(value);
            assert!((corrected - expected).abs() < 1e-12, "{corrected}");
        };
        check(1.0, 0.0, vec![], 7.0, 7.0);
        check(0.001, -0.5, vec![], 20_000.0, 19.5);
        check(1.0, 0.0, vec![3.0], 7.0, 3.0);
        // 1 + 2x + 3x² at x = 2 × 1.5 − 1 = 2.
        check(2.0, -1.0, vec![1.0, 2.0, 3.0], 1.5, 17.0);
        assert!(Calibration { scale: 1.0, offset: 0.0, polynomial: vec![1.0, 0.0] }.apply(f64::NAN).is_nan());
    }
}
