//! Source `gpio`: lines that are inputs.

use alloc::{collections::BTreeSet, format, string::String, vec::Vec};

use toml::Spanned;

use super::{Checked, Parser, raw};
use crate::{
    config::{Bias, Edge, Edges, GpioInput, GpioSource, Level},
    words::Word,
};

/// The kernel counts a debounce period in 32 bits of microseconds; a bounce takes some milliseconds.
const MAX_DEBOUNCE_US: u64 = 10_000_000;

impl Parser<'_> {
    pub(super) fn gpio(&self, name: &Spanned<String>, raw: raw::Gpio) -> Checked<GpioSource> {
        if raw.inputs.is_empty() {
            return self.fail(name.span(), format!("source `{}` names no inputs", name.get_ref()));
        }
        let mut seen = BTreeSet::new();
        let mut inputs = Vec::new();
        for raw::GpioInput { line, stream, active, bias, debounce, count, every, rate } in raw.inputs {
            for stream in core::iter::once(&stream).chain(&rate) {
                self.own_stream(stream, "input", &mut seen)?;
            }
            let debounce_us = match self.time(debounce.as_ref(), "0s")? {
                debounce_us @ 0..=MAX_DEBOUNCE_US => debounce_us,
                _ => {
                    return self
                        .fail(debounce.map_or(0..0, |debounce| debounce.span()), "debounce: at most 10s".into());
                }
            };
            let edges = match (count, every, rate) {
                (Some(count), every, rate) => Edges::Counted {
                    which: self.one_of(Some(&count), "count", Edge::default(), &Edge::ALL)?,
                    every_us: self.every(every.as_ref())?,
                    rate: rate.map(Spanned::into_inner),
                },
                (None, None, None) => Edges::Told,
                (None, Some(other), _) | (None, _, Some(other)) => {
                    return self
                        .fail(other.span(), "`every` and `rate` go with `count`: each edge is sent at once".into());
                }
            };
            inputs.push(GpioInput {
                line: self.gpio_line(&line)?,
                stream: stream.into_inner(),
                active: self.one_of(active.as_ref(), "active", Level::High, Level::WORDS)?,
                bias: self.one_of(bias.as_ref(), "bias", Bias::default(), &Bias::ALL)?,
                debounce_us,
                edges,
            });
        }
        Ok(GpioSource { inputs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, GpioLine, SourceKind, tests::refuses};

    const INPUTS: &str = r##"
[gateway]
id = "kitchen"
[uplink]
broker = "mqtt://localhost"
[sources.pins.gpio]
inputs = [
    { line = "GPIO27", stream = "door/open", debounce = "20ms", bias = "pull-up", active = "low" },
    { line = "/dev/gpiochip1:3", stream = "water/pulses", count = "falling", every = "10s", rate = "water/rate" },
]
"##;

    #[test]
    fn edges_are_told_or_counted() {
        let SourceKind::Gpio(source) = &Config::parse(INPUTS).expect("it is good").gateway.sources[0].kind else {
            panic!("another kind")
        };
        let door = GpioInput {
            line: GpioLine::Named("GPIO27".into()),
            stream: "door/open".into(),
            active: Level::Low,
            bias: Bias::PullUp,
            debounce_us: 20_000,
            edges: Edges::Told,
        };
        assert_eq!(source.inputs[0], door);
        let counted = Edges::Counted { which: Edge::Falling, every_us: 10_000_000, rate: Some("water/rate".into()) };
        assert_eq!((&source.inputs[1].edges, source.inputs[1].active), (&counted, Level::High));
        let check = |good: &str, bad: &str, expected: &str| refuses(INPUTS, good, bad, expected);
        check("\"20ms\"", "\"1min\"", "line 8: debounce: at most 10s");
        check("pull-up", "pull-upp", "line 8: bias `pull-upp`: known is as-is, none, pull-up, pull-down; did you mean");
        check("water/rate", "door/open", "line 9: stream `door/open`: another input has it");
        check("count = \"falling\", ", "", "line 9: `every` and `rate` go with `count`");
        check("\"falling\"", "\"down\"", "line 9: count `down`: known is rising, falling, both");
        check("gpiochip1:3", "gpiochip1", "line 9: line `/dev/gpiochip1`");
    }
}
