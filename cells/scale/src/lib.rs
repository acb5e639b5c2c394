//! Scale: linear calibration and conversion of units.
//!
//! `value × gain + offset`, and then the conversion, if one is named. Time, stream and quality stay as they are.
//!
//! | parameter | unit | |
//! |---|---|---|
//! | `gain` | the sensor's truth per its reading | default 1 |
//! | `offset` | the sensor's truth | default 0 |
//! | `convert` | | one of the conversions below, by name; default none |
//!
//! | `convert` | result | source |
//! |---|---|---|
//! | `degF_to_Cel`, `K_to_Cel`, `Cel_to_K` | °C, °C, K | NIST SP 811 (2008), appendix B.8 |
//! | `psi_to_Pa`, `bar_to_Pa`, `hPa_to_Pa`, `inHg_to_Pa` | Pa | the same |
//! | `mph_to_mps`, `kmh_to_mps`, `kn_to_mps` | m/s | the same |
//! | `ft_to_m`, `in_to_m`, `gal_to_l`, `lb_to_kg` | m, m, l, kg | the same; the US gallon |
//! | `kWh_to_J` | J | the same |
//! | `deg_to_rad` | rad | π/180 |
//!
//! If the slot declares an output, the result goes there and the original is not forwarded; else it replaces the value on its
//! stream, whose `unit` in the configuration is then that of the result. A value that is not a number stays one. Not
//! for sensors that are not linear (thermistors): they need a table or a formula of their own.
#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;
use alloc::{string::String, vec::Vec};

use porin_sdk::{Cell, Malformed, Reading, StateReader, StateWriter, Stream};

/// Name, factor, and what is added after it.
const CONVERSIONS: [(&str, f64, f64); 16] = [
    ("degF_to_Cel", 1.0 / 1.8, -32.0 / 1.8),
    ("K_to_Cel", 1.0, -273.15),
    ("Cel_to_K", 1.0, 273.15),
    ("psi_to_Pa", 6_894.757_293_168_361, 0.0),
    ("bar_to_Pa", 100_000.0, 0.0),
    ("hPa_to_Pa", 100.0, 0.0),
    ("inHg_to_Pa", 3_386.389, 0.0),
    ("mph_to_mps", 0.447_04, 0.0),
    ("kmh_to_mps", 1.0 / 3.6, 0.0),
    ("kn_to_mps", 1_852.0 / 3_600.0, 0.0),
    ("ft_to_m", 0.304_8, 0.0),
    ("in_to_m", 0.025_4, 0.0),
    ("gal_to_l", 3.785_411_784, 0.0),
    ("lb_to_kg", 0.453_592_37, 0.0),
    ("kWh_to_J", 3_600_000.0, 0.0),
    ("deg_to_rad", core::f64::consts::PI / 180.0, 0.0),
];

/// The decision for one stream.
#[derive(Clone, Debug)]
pub struct Scale {
    gain: f64,
    offset: f64,
    factor: f64,
    summand: f64,
    output: u32,
}

impl Cell for Scale {
    const PARAMS: &'static [&'static str] = &["gain", "offset", "convert"];

    fn new(stream: &Stream) -> Result<Self, String> {
        let (factor, summand) = match stream.text("convert")? {
            None => (1.0, 0.0),
            Some(name) => match CONVERSIONS.iter().find(|(known, ..)| *known == name) {
                Some((_, factor, summand)) => (*factor, *summand),
                None => {
                    let known = CONVERSIONS.map(|(name, ..)| name).join(", ");
                    return Err(stream.error("convert", &["`", name, "` is not one of ", &known].concat()));
                }
            },
        };
        let output = match stream.outputs {
            [] => stream.info.id,
            [output] => output.id,
            _ => return Err("the slot names more than one output".into()),
        };
        let gain = stream.number("gain")?.unwrap_or(1.0);
        Ok(Self { gain, offset: stream.number("offset")?.unwrap_or(0.0), factor, summand, output })
    }

    fn process(&mut self, reading: Reading, out: &mut Vec<Reading>) {
        let calibrated = reading.value * self.gain + self.offset;
        out.push(Reading { value: calibrated * self.factor + self.summand, stream: self.output, ..reading });
    }

    fn save(&self, _state: &mut StateWriter) {}

    fn restore(&mut self, _state: &mut StateReader) -> Result<(), Malformed> {
        Ok(())
    }
}

porin_sdk::export!(Scale);

#[cfg(test)]
mod tests {
    use porin_sdk::{Param, StreamInfo, Value};

    use super::*;

    fn scale(params: &[(&str, Value)], outputs: &[u32]) -> Result<Scale, String> {
        let param = |(name, value): &(&str, Value)| Param { name: (*name).into(), value: value.clone() };
        let params: Vec<_> = params.iter().map(param).collect();
        let info = |id: &u32| StreamInfo { id: *id, name: "a".into(), unit: String::new(), params: vec![] };
        let outputs: Vec<_> = outputs.iter().map(info).collect();
        Scale::new(&Stream { info: &info(&1), params: &params, outputs: &outputs })
    }

    fn scaled(params: &[(&str, Value)], value: f64) -> f64 {
        let mut out = Vec::new();
        scale(params, &[]).expect("good").process(Reading { time_us: 7, value, stream: 1, quality: 2 }, &mut out);
        assert_eq!((out.len(), out[0].time_us, out[0].stream, out[0].quality), (1, 7, 1, 2));
        out[0].value
    }

    fn text(name: &str) -> Value {
        Value::Text(name.into())
    }

    #[test]
    fn a_sensor_is_calibrated_and_converted() {
        assert_eq!(scaled(&[], 3.25), 3.25);
        assert_eq!(scaled(&[("gain", Value::Integer(2)), ("offset", Value::Number(-0.5))], 3.25), 6.0);
        let two_points = [("gain", Value::Number(2.0)), ("convert", text("bar_to_Pa"))];
        assert_eq!(scaled(&two_points, 1.5), 300_000.0);
        assert!(scaled(&[], f64::NAN).is_nan());
    }

    /// Values that everybody knows, or that NIST SP 811 gives.
    #[test]
    fn conversions_are_right() {
        for (name, value, expected) in [
            ("degF_to_Cel", 212.0, 100.0),
            ("degF_to_Cel", -40.0, -40.0),
            ("K_to_Cel", 273.15, 0.0),
            ("Cel_to_K", 100.0, 373.15),
            ("psi_to_Pa", 14.695_948_775, 101_325.0),
            ("inHg_to_Pa", 29.921_26, 101_325.0),
            ("mph_to_mps", 60.0, 26.822_4),
            ("kmh_to_mps", 36.0, 10.0),
            ("kn_to_mps", 1.0, 0.514_444),
            ("ft_to_m", 10.0, 3.048),
            ("in_to_m", 12.0, 0.304_8),
            ("gal_to_l", 1.0, 3.785_412),
            ("lb_to_kg", 1.0, 0.453_592_4),
            ("kWh_to_J", 1.0, 3.6e6),
            ("hPa_to_Pa", 1_013.25, 101_325.0),
            ("deg_to_rad", 180.0, core::f64::consts::PI),
        ] {
            let got = scaled(&[("convert", text(name))], value);
            assert!((got - expected).abs() <= expected.abs().max(1.0) * 1e-5, "{name}: {got} is not {expected}");
        }
    }

    #[test]
    fn an_output_takes_the_result() {
        let mut out = Vec::new();
        let mut cell = scale(&[], &[9]).expect("good");
        cell.process(Reading { time_us: 0, value: 1.0, stream: 1, quality: 0 }, &mut out);
        assert_eq!(out[0].stream, 9);
        assert!(scale(&[], &[8, 9]).is_err());
    }

    #[test]
    fn an_unknown_conversion_is_refused_with_those_there_are() {
        let error = scale(&[("convert", text("F_to_C"))], &[]).expect_err("unknown");
        assert!(error.contains("`F_to_C` is not one of degF_to_Cel"), "{error}");
    }
}
