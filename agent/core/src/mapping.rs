//! What a publish of a local broker becomes: readings on streams, or a message.
//!
//! Pure and total: topic, payload and the moment of arrival go in, readings come out, or in words why not. Nothing here
//! remembers anything, so the same publish always means the same.

mod filter;
mod time;

use alloc::{
    borrow::{Cow, ToOwned},
    collections::BTreeMap,
    format,
    string::{String, ToString},
    vec::Vec,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::Value;

pub use self::{
    filter::{Captures, TopicFilter},
    time::TimeUnit,
};
use crate::{packet::MAX_PAYLOAD, payload::senml, stream::check_name, time::Unix};

/// How the publishes of some topics become packets.
#[derive(Clone, Debug, PartialEq)]
pub struct Mapping {
    /// Which topics, and what their levels are called.
    pub filter: TopicFilter,
    /// What the payload is.
    pub form: Form,
    /// Where in a JSON payload the time is; without it, or where a payload lacks it, a packet has the time of its arrival.
    pub time: Option<TimeField>,
    /// Texts that mean numbers.
    pub values: BTreeMap<String, f64>,
}

/// What a payload is. Stream names are templates: `{device}` is the topic's level of that name.
#[derive(Clone, Debug, PartialEq)]
pub enum Form {
    /// JSON with a stream for each field.
    Json(Vec<Field>),
    /// One number, flag or known text.
    Number {
        /// Of the reading.
        stream: String,
    },
    /// A SenML pack, in JSON or CBOR.
    Senml {
        /// Of each record; `{name}` is the record's name.
        stream: String,
    },
    /// Bytes that a cell will understand.
    Message {
        /// Of the message.
        stream: String,
        /// Where in a JSON payload the bytes are, in Base64; else the payload is the bytes.
        base64: Option<String>,
    },
}

/// A field of a JSON payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Of the readings.
    pub stream: String,
    /// RFC 6901.
    pub pointer: String,
}

/// A field of a JSON payload that holds the time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeField {
    /// RFC 6901.
    pub pointer: String,
    /// What a number counts since 1970. A text is RFC 3339.
    pub unit: TimeUnit,
}

/// What a publish became.
#[derive(Debug, PartialEq)]
pub enum Found<'a> {
    /// A reading: stream, time, value.
    Reading(&'a str, Unix, f64),
    /// A message: stream, time, bytes.
    Message(&'a str, Unix, Cow<'a, [u8]>),
}

impl Mapping {
    /// Gives every packet of a publish to `each`, or says what is wrong with it. A field that is not there, or null, is no
    /// error: devices send what they have. A field that is wrong does not keep the others back.
    ///
    /// # Errors
    /// The first thing that is wrong, in words, for the operator.
    pub fn apply(
        &self,
        captures: &Captures<'_>,
        payload: &[u8],
        arrival: Unix,
        mut each: impl FnMut(Found<'_>),
    ) -> Result<(), String> {
        if payload.len() > MAX_PAYLOAD {
            return Err(format!("it has {} bytes, more than {MAX_PAYLOAD}", payload.len()));
        }
        let mut wrong = Ok(());
        let mut note = |error: String| wrong = core::mem::replace(&mut wrong, Ok(())).and(Err(error));
        match &self.form {
            Form::Json(fields) => {
                let json = json(payload)?;
                let time = self.time_of(&json, arrival)?;
                for Field { stream, pointer } in fields {
                    let Some(value) = json.pointer(pointer).filter(|value| !value.is_null()) else { continue };
                    match (self.number(value), named(stream, captures, "")) {
                        (Ok(value), Ok(stream)) => each(Found::Reading(&stream, time, value)),
                        (Err(error), _) => note(format!("{pointer}: {error}")),
                        (_, Err(error)) => note(error),
                    }
                }
            }
            Form::Number { stream } => {
                let text = core::str::from_utf8(payload).map_err(|_| "it is not UTF-8")?.trim();
                let value = match text {
                    "true" => 1.0,
                    "false" => 0.0,
                    other => self.text(other)?,
                };
                each(Found::Reading(&named(stream, captures, "")?, arrival, value));
            }
            Form::Senml { stream } => {
                let form = if payload.first() == Some(&b'[') { senml::Form::Json } else { senml::Form::Cbor };
                for record in senml::records(form, payload).map_err(|error| error.to_string())? {
                    match self
                        .record(&record, arrival)
                        .and_then(|found| Ok((found, named(stream, captures, &record.name)?)))
                    {
                        Ok((Some((time, value)), stream)) => each(Found::Reading(&stream, time, value)),
                        Ok((None, _)) => {}
                        Err(error) => note(error),
                    }
                }
            }
            Form::Message { stream, base64: None } => {
                each(Found::Message(&named(stream, captures, "")?, arrival, payload.into()));
            }
            Form::Message { stream, base64: Some(pointer) } => {
                let json = json(payload)?;
                let time = self.time_of(&json, arrival)?;
                let Some(text) = json.pointer(pointer).filter(|value| !value.is_null()) else { return Ok(()) };
                let text = text.as_str().ok_or_else(|| format!("{pointer}: it is not text"))?;
                let bytes =
                    BASE64_STANDARD.decode(text).map_err(|error| format!("{pointer}: it is no Base64: {error}"))?;
                each(Found::Message(&named(stream, captures, "")?, time, bytes.into()));
            }
        }
        wrong
    }

    /// What a publish would have to hold, for one that gave nothing.
    #[must_use]
    pub fn wanted(&self) -> String {
        match &self.form {
            Form::Json(fields) => {
                let pointers: Vec<_> = fields.iter().map(|field| field.pointer.as_str()).collect();
                format!("there is nothing at {}", pointers.join(", "))
            }
            Form::Senml { .. } => "no record has a value".to_owned(),
            Form::Message { base64: Some(pointer), .. } => format!("there is nothing at {pointer}"),
            Form::Number { .. } | Form::Message { base64: None, .. } => "it is empty".to_owned(),
        }
    }

    /// Time and value of a SenML record; `None` if it has no value.
    fn record(&self, record: &senml::Record, arrival: Unix) -> Result<Option<(Unix, f64)>, String> {
        let value = match &record.value {
            Some(senml::Value::Number(number)) => *number,
            Some(senml::Value::Flag(flag)) => f64::from(u8::from(*flag)),
            Some(senml::Value::Text(text)) => self.text(text).map_err(|error| format!("{}: {error}", record.name))?,
            None => return Ok(None),
        };
        // Below 2^28 seconds a time is relative to now.
        let from = if record.time_us < senml::ABSOLUTE_FROM_US { i128::from(arrival.0) } else { 0 };
        let time = u64::try_from(record.time_us + from);
        let time = time.map_err(|_| format!("{}: a time that porin cannot hold", record.name))?;
        Ok(Some((Unix(time), value)))
    }

    fn time_of(&self, json: &Value, arrival: Unix) -> Result<Unix, String> {
        let Some(TimeField { pointer, unit }) = &self.time else { return Ok(arrival) };
        match json.pointer(pointer) {
            None | Some(Value::Null) => Ok(arrival),
            Some(value) => time::parse(value, *unit).map_err(|error| format!("{pointer}: {error}")),
        }
    }

    fn number(&self, value: &Value) -> Result<f64, String> {
        match value {
            Value::Bool(flag) => Ok(f64::from(u8::from(*flag))),
            Value::Number(number) => number.as_f64().ok_or_else(|| format!("`{number}` is not a float")),
            Value::String(text) => self.text(text),
            Value::Null | Value::Array(_) | Value::Object(_) => Err("it is not a number, flag or text".to_owned()),
        }
    }

    /// A text that is known to mean a number, or is one.
    fn text(&self, text: &str) -> Result<f64, String> {
        if let Some(value) = self.values.get(text) {
            return Ok(*value);
        }
        match text.parse() {
            Ok(value) => Ok(value),
            Err(_) => {
                let text: String = text.chars().take(32).collect();
                Err(format!("`{}` is not a number; `values` may say what it means", text.escape_debug()))
            }
        }
    }
}

fn json(payload: &[u8]) -> Result<Value, String> {
    serde_json::from_slice(payload).map_err(|error| format!("it is no JSON: {error}"))
}

/// A stream's name: the template with the topic's levels and a record's name filled in.
fn named<'a>(template: &'a str, captures: &Captures<'_>, record: &str) -> Result<Cow<'a, str>, String> {
    let mut name = Cow::Borrowed(template);
    if template.contains('{') {
        let filled =
            captures.iter().fold(template.to_owned(), |name, (key, value)| name.replace(&format!("{{{key}}}"), value));
        name = Cow::Owned(filled.replace("{name}", record));
    }
    match check_name(&name) {
        Ok(()) => Ok(name),
        Err(error) => Err(format!("the stream `{}` has {error}", name.escape_debug())),
    }
}

#[cfg(test)]
mod tests;
