//! The README's picture: an excerpt of a recorded stream, what was forwarded of it, and what the cloud makes of that.

use super::{Data, PERCENT, Run};
use crate::plot::{KEPT, Plot, RAW};

/// The stream that is drawn.
const STREAM: &str = "buoy/sea_temperature_C";

/// Readings of it, one each half hour: six days.
const READINGS: usize = 288;

const DAY_US: f64 = 86_400e6;

/// Draws the excerpt, with the bytes of the whole recording in the three runs below it.
#[allow(clippy::cast_precision_loss)] // times of some days and bytes of some MB
pub(super) fn draw(data: &Data, runs: [&Run; 3]) -> Option<String> {
    let recorded = data.get(STREAM)?;
    let raw: Vec<_> = recorded.readings.iter().take(READINGS).map(|(time, value)| (*time as f64, *value)).collect();
    let ((first, _), (last, _)) = (*raw.first()?, *raw.last()?);
    let kept = runs[2].received.streams.get(STREAM)?;
    let shown: Vec<_> =
        kept.iter().map(|(time, value)| (*time as f64, *value)).filter(|(time, _)| *time <= last).collect();
    let values = || raw.iter().map(|(_, value)| *value);
    let y = (values().fold(f64::MAX, f64::min), values().fold(f64::MIN, f64::max));
    let y = ((y.0 * 5.0).floor() / 5.0, (y.1 * 5.0).ceil() / 5.0);
    let tick = |day: u32| (first + f64::from(day) * DAY_US, format!("{day} d"));
    let ticks: Vec<_> = (0..).map(tick).take_while(|(time, _)| *time <= last).collect();
    let (shown_count, raw_count) = (shown.len(), raw.len());
    let title = format!(
        "{shown_count} of {raw_count} sea temperatures are forwarded; the error is at most {PERCENT} % of the range"
    );
    let mut plot = Plot::new(&title, "°C", (first, last), y, &ticks);
    plot.steps(&shown, last, recorded.span * PERCENT / 100.0, KEPT);
    plot.line(&raw, RAW);
    plot.dots(&shown, KEPT);
    plot.legend(&[(RAW, "recorded"), (KEPT, "forwarded, and the rebuilt stream with its error band")]);
    let bytes = runs.map(|run| {
        run.wire.topics.iter().filter(|(topic, _)| topic.ends_with(STREAM)).map(|(_, bytes)| *bytes).sum::<u64>()
    });
    let number = |bytes: u64| format!("{} bytes", grouped(bytes));
    let bars = ["every reading is a message", "60 readings in a message", "60 in a message, after the cell"];
    let bars: Vec<_> = bars.into_iter().zip(bytes).map(|(label, bytes)| (label, bytes as f64, number(bytes))).collect();
    plot.bars(&bars, KEPT);
    Some(plot.finish())
}

/// `1,768,249`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}
