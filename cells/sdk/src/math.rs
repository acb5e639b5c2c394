//! The mathematics that `core` leaves to std, with the same bits on every machine.

/// The square root, correctly rounded; NaN below zero.
#[must_use]
pub fn sqrt(value: f64) -> f64 {
    libm::sqrt(value)
}
