//! Quantities with units in the configuration: times, bytes, and the units of streams.

use alloc::{format, string::String};

use super::nearest::nearest;

/// Units of time, in microseconds.
const TIMES: [(&str, f64); 6] = [("us", 1.0), ("ms", 1e3), ("s", 1e6), ("min", 6e7), ("h", 3.6e9), ("d", 8.64e10)];

/// Units of bytes.
const BYTES: [(&str, f64); 4] = [("B", 1.0), ("kB", 1e3), ("MB", 1e6), ("GB", 1e9)];

/// A time such as `250ms`, `1.5 s` or `5min`, in microseconds.
pub fn microseconds(text: &str) -> Result<u64, String> {
    quantity(text, "time", TIMES)
}

/// A size such as `500MB` or `1.5 GB`, in bytes.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    quantity(text, "bytes", BYTES)
}

fn quantity<const N: usize>(text: &str, what: &str, units: [(&str, f64); N]) -> Result<u64, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (text[..split].trim(), text[split..].trim());
    let value: f64 = number.parse().map_err(|_| String::from("it does not start with a number"))?;
    let known = || units.map(|(name, _)| name);
    let Some((_, factor)) = units.iter().find(|(name, _)| *name == unit) else {
        let guess = nearest(unit, known()).map_or_else(String::new, |name| format!("; did you mean `{name}`?"));
        return Err(format!("unknown unit of {what} `{unit}` (known: {}){guess}", known().join(", ")));
    };
    // A float cast saturates; a hundred thousand years are for ever.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Ok((value * factor) as u64)
}

/// The SenML units of IANA's registry: RFC 8428 section 12.1, RFC 8798 sections 2 and 3, and later entries.
const SENML: &[&str] = &[
    "m", "kg", "g", "s", "A", "K", "cd", "mol", "Hz", "rad", "sr", "N", "Pa", "J", "W", "C", "V", "F", "Ohm", "S",
    "Wb", "T", "H", "Cel", "lm", "lx", "Bq", "Gy", "Sv", "kat", "m2", "m3", "l", "m/s", "m/s2", "m3/s", "l/s", "W/m2",
    "cd/m2", "bit", "bit/s", "lat", "lon", "pH", "dB", "dBW", "Bspl", "count", "/", "%", "%RH", "%EL", "EL", "1/s",
    "1/min", "beat/min", "beats", "S/m", "B", "VA", "VAs", "var", "vars", "J/m", "kg/m3", "deg", "NTU", "ms", "min",
    "h", "MHz", "kW", "kVA", "kvar", "Ah", "Wh", "kWh", "varh", "kvarh", "kVAh", "Wh/km", "KiB", "GB", "Mbit/s", "B/s",
    "MB/s", "mV", "mA", "dBm", "ug/m3", "mm/h", "m/h", "ppm", "/100", "/1000", "hPa", "mm", "cm", "km", "km/h", "ppb",
    "ppt", "VAh", "mg/l", "ug/l", "g/l",
];

/// Checks that a stream's unit is one that SenML names.
pub(super) fn unit(text: &str) -> Result<(), String> {
    if SENML.contains(&text) {
        return Ok(());
    }
    let guess =
        nearest(text, SENML.iter().copied()).map_or_else(String::new, |name| format!("; did you mean `{name}`?"));
    Err(format!("`{text}` is no SenML unit (RFC 8428 and RFC 8798){guess}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(microseconds("250ms"), Ok(250_000));
        assert_eq!(microseconds("1.5 s"), Ok(1_500_000));
        assert_eq!(microseconds("5min"), Ok(300_000_000));
        assert!(microseconds("5 parsecs").expect_err("unit").contains("unknown unit of time `parsecs`"));
        assert!(microseconds("5 mn").expect_err("unit").contains("did you mean"));
        for bad in ["", "5", "s", "-1s", "1..5s"] {
            assert!(microseconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!((bytes("1GB"), bytes("1.5 kB"), bytes("7B")), (Ok(1_000_000_000), Ok(1_500), Ok(7)));
        assert!(bytes("1Gb").expect_err("unit").contains("did you mean `GB`?"));
        assert!(bytes("1024").is_err());
    }

    #[test]
    fn units_are_senml() {
        assert_eq!(unit("Cel"), Ok(()));
        assert!(unit("Cell").expect_err("no unit").contains("did you mean `Cel`?"));
    }
}
