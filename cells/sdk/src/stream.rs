//! A stream as a cell sees it when it makes a decision for it: name, unit, parameters, outputs.

use alloc::string::String;

use crate::{Param, StreamInfo, Value};

/// A stream with the parameters that hold for it.
///
/// A parameter of the stream itself wins over the slot's parameter of the same name: so limits are set once for
/// the slot and overridden where one stream differs.
#[derive(Clone, Copy, Debug)]
pub struct Stream<'a> {
    /// The stream: id, name, unit and its own parameters.
    pub info: &'a StreamInfo,
    /// The slot's parameters.
    pub params: &'a [Param],
    /// The streams that this one's cell may emit on besides it, in the order of the slot's `outputs`.
    pub outputs: &'a [StreamInfo],
}

impl Stream<'_> {
    /// A number, or `None` if it is not given. Integers count as numbers. Not a number: an error for the operator.
    pub fn number(&self, name: &str) -> Result<Option<f64>, String> {
        match self.value(name) {
            None => Ok(None),
            #[allow(clippy::cast_precision_loss)]
            Some(Value::Integer(value)) => Ok(Some(*value as f64)),
            Some(Value::Number(value)) if value.is_finite() => Ok(Some(*value)),
            Some(Value::Number(_) | Value::Flag(_) | Value::Text(_)) => {
                Err(self.error(name, "must be a finite number"))
            }
        }
    }

    /// A number that must not be below zero.
    pub fn positive(&self, name: &str) -> Result<Option<f64>, String> {
        match self.number(name)? {
            Some(value) if value < 0.0 => Err(self.error(name, "must not be negative")),
            other => Ok(other),
        }
    }

    /// A time in seconds as microseconds, fractions allowed.
    pub fn seconds_as_us(&self, name: &str) -> Result<Option<u64>, String> {
        // A float cast saturates: "for ever" stays for ever.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        Ok(self.positive(name)?.map(|seconds| (seconds * 1e6) as u64))
    }

    /// An integer, or `None` if it is not given.
    pub fn integer(&self, name: &str) -> Result<Option<i64>, String> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Integer(value)) => Ok(Some(*value)),
            Some(Value::Number(_) | Value::Flag(_) | Value::Text(_)) => Err(self.error(name, "must be an integer")),
        }
    }

    /// A flag, or `None` if it is not given.
    pub fn flag(&self, name: &str) -> Result<Option<bool>, String> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Flag(value)) => Ok(Some(*value)),
            Some(Value::Integer(_) | Value::Number(_) | Value::Text(_)) => {
                Err(self.error(name, "must be true or false"))
            }
        }
    }

    /// A text, or `None` if it is not given.
    pub fn text(&self, name: &str) -> Result<Option<&str>, String> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Text(value)) => Ok(Some(value)),
            Some(Value::Integer(_) | Value::Number(_) | Value::Flag(_)) => Err(self.error(name, "must be a text")),
        }
    }

    /// How far a rebuilt stream may be from what was measured, in the stream's unit: the parameter `absolute`, or `percent` of
    /// the stream's `span`; exactly one of them.
    pub fn error_bound(&self) -> Result<f64, String> {
        match (self.positive("absolute")?, self.positive("percent")?) {
            (Some(bound), None) => Ok(bound),
            (None, Some(percent)) => match self.positive("span")? {
                Some(span) => Ok(percent / 100.0 * span),
                None => Err(self.error("span", "missing, and `percent` is a share of it")),
            },
            (None, None) => Err(self.error("absolute", "missing; give it or `percent`")),
            (Some(_), Some(_)) => Err(self.error("absolute", "give it or `percent`, not both")),
        }
    }

    /// An error text that names the parameter and the stream.
    pub fn error(&self, name: &str, what: &str) -> String {
        ["parameter `", name, "` of stream `", &self.info.name, "`: ", what].concat()
    }

    fn value(&self, name: &str) -> Option<&Value> {
        let named = |param: &&Param| param.name == name;
        self.info.params.iter().find(named).or_else(|| self.params.iter().find(named)).map(|param| &param.value)
    }
}
