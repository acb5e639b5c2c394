//! What the demo prints, and what it insists on.

use std::{fs, path::Path};

use anyhow::bail;
use porin_core::{status::SlotStatus, topic::Topic};

use super::{Data, Recorded, Run};
use crate::output;

/// The stream on which the alarm cell reports.
const ALARM_STREAM: &str = "glucose/glucose_mg_dL/alarm";

/// What the reader is about to see.
pub(super) fn introduce(packets: usize, streams: usize) {
    eprintln!(
        "porin sits in a gateway between sensors and the cloud. Small sandboxed programs, cells, look at every reading;\n\
         only those that matter are sent. Here it replays {packets} recorded readings of {streams} sensors (a sea buoy, a\n\
         glucose monitor, a bicycle computer) to a broker on this machine, three times:\n"
    );
}

/// Prints the tables and fails if anything does not add up.
pub(super) fn print(
    data: &Data,
    each: &Run,
    batch: &Run,
    cells: &Run,
    percent: f64,
    cells_folder: &Path,
) -> anyhow::Result<()> {
    let mut wrong = Vec::new();
    let mut out = String::new();
    use std::fmt::Write as _;
    writeln!(
        out,
        "\n{:<30} {:>8} {:>9} {:>8} {:>5}  {:>10} {:>10} {:>10}  {:>9} {:>9}",
        "stream", "readings", "forwarded", "received", "lost", "bytes: 1.", "2.", "3.", "bound", "worst"
    )?;
    let mut total = [0; 3];
    let mut counts = [0; 4];
    for (name, recorded) in data {
        let row = Row::new(name, recorded, each, batch, cells);
        row.check(recorded, each, batch, percent, &mut wrong);
        let bound = recorded.span * percent / 100.0;
        let worst = worst_error(&recorded.readings, row.rebuilt);
        if worst.is_none_or(|worst| worst > bound) {
            wrong.push(format!("{name}: the worst error {worst:?} is above the bound {bound}"));
        }
        row.write(&mut out, &format!("{bound:9.4} {:9.4}", worst.unwrap_or(f64::NAN)))?;
        row.add(&mut counts, &mut total);
    }
    let alarms = Row::new(ALARM_STREAM, &Recorded { readings: Vec::new(), span: 0.0 }, each, batch, cells);
    if alarms.received == 0 || alarms.received != alarms.forwarded {
        wrong.push(format!("{ALARM_STREAM}: {} of {} alarms were received", alarms.received, alarms.forwarded));
    }
    alarms.write(&mut out, "")?;
    alarms.add(&mut counts, &mut total);
    let [readings, forwarded, received, lost] = counts;
    writeln!(
        out,
        "{:<30} {readings:>8} {forwarded:>9} {received:>8} {lost:>5}  {:>10} {:>10} {:>10}",
        "all", total[0], total[1], total[2]
    )?;
    writeln!(
        out,
        "\nbytes: MQTT publishes and acknowledgements, both ways, counted on the wire: 1. every reading its own JSON,\n\
         2. the same readings in batches of up to 60, 3. the same batches after the cells.\n\
         bound, worst: a reading that was not sent differs from the last one sent by at most the bound ({percent} % of the\n\
         stream's range); the worst is measured against the recorded file, from what the subscriber received."
    )?;
    #[allow(clippy::cast_precision_loss)]
    let share = |of: u64| 100.0 * total[2] as f64 / of as f64;
    writeln!(out, "\nwith cells: {:.1} % of the bytes of 1., {:.1} % of 2.\n", share(total[0]), share(total[1]))?;
    write_cells(&mut out, cells, cells_folder)?;

    for (run, what) in [(each, "1."), (batch, "2."), (cells, "3.")] {
        if let imbalance @ [_, ..] = run.status.imbalance.as_slice() {
            wrong.push(format!("run {what}: the agent's own counters do not add up: {imbalance:?}"));
        }
    }
    output::print(&out)?;
    if wrong.is_empty() {
        return output::print("everything adds up: nothing was lost\n");
    }
    bail!("it does not add up:\n  {}", wrong.join("\n  "))
}

/// A stream's line.
struct Row<'a> {
    name: &'a str,
    readings: u64,
    forwarded: u64,
    received: u64,
    bytes: [u64; 3],
    rebuilt: &'a [(u64, f64)],
}

impl<'a> Row<'a> {
    fn new(name: &'a str, recorded: &Recorded, each: &Run, batch: &Run, cells: &'a Run) -> Self {
        let status = cells.status.streams.iter().find(|stream| stream.name == name);
        let rebuilt = cells.received.streams.get(name).map_or(&[][..], Vec::as_slice);
        Self {
            name,
            readings: recorded.readings.len() as u64,
            forwarded: status.map_or(0, |stream| stream.forwarded),
            received: rebuilt.len() as u64,
            bytes: [("each", each), ("batch", batch), ("cells", cells)].map(|(gateway, run)| {
                let topic = Topic::Data { gateway, below: name }.to_string();
                run.wire.topics.get(&topic).copied().unwrap_or(0)
            }),
            rebuilt,
        }
    }

    /// Runs without cells must deliver exactly what was recorded; the run with cells, what it says it forwarded.
    fn check(&self, recorded: &Recorded, each: &Run, batch: &Run, percent: f64, wrong: &mut Vec<String>) {
        let name = self.name;
        for (run, what) in [(each, "1."), (batch, "2.")] {
            if run.received.streams.get(name) != Some(&recorded.readings) {
                wrong.push(format!("{name}: run {what} did not deliver what was recorded"));
            }
        }
        if self.received != self.forwarded {
            wrong.push(format!("{name}: forwarded {} and received {}", self.forwarded, self.received));
        }
        if self.received == 0 {
            wrong.push(format!("{name}: at {percent} % nothing came"));
        }
    }

    fn lost(&self) -> u64 {
        self.forwarded.saturating_sub(self.received)
    }

    fn write(&self, out: &mut String, bound: &str) -> std::fmt::Result {
        use std::fmt::Write as _;
        let Self { name, readings, forwarded, received, bytes, .. } = self;
        let [each, batch, cells] = bytes;
        writeln!(
            out,
            "{name:<30} {readings:>8} {forwarded:>9} {received:>8} {:>5}  {each:>10} {batch:>10} {cells:>10}  {bound}",
            self.lost()
        )
    }

    fn add(&self, counts: &mut [u64; 4], bytes: &mut [u64; 3]) {
        let of_row = [self.readings, self.forwarded, self.received, self.lost()];
        counts.iter_mut().zip(of_row).for_each(|(sum, count)| *sum += count);
        bytes.iter_mut().zip(self.bytes).for_each(|(sum, count)| *sum += count);
    }
}

/// Holds each received value until the next one, and gives the worst difference to what was recorded. `None`: a reading
/// that was received is not in the recording at that place.
fn worst_error(recorded: &[(u64, f64)], received: &[(u64, f64)]) -> Option<f64> {
    let mut received = received.iter().peekable();
    let mut held = None;
    let mut worst: f64 = 0.0;
    for reading in recorded {
        if received.peek() == Some(&reading) {
            held = received.next();
        }
        worst = worst.max((held?.1 - reading.1).abs());
    }
    received.next().is_none().then_some(worst)
}

fn write_cells(out: &mut String, cells: &Run, folder: &Path) -> anyhow::Result<()> {
    use std::fmt::Write as _;
    writeln!(
        out,
        "{:<22} {:>8} {:>9} {:>9} {:>12} {:>8}",
        "cell in slot", "in", "out", "bytes", "fuel/packet", "faults"
    )?;
    for slot in cells.status.routes.iter().flat_map(|route| &route.slots) {
        let SlotStatus { name, input, output, faults, .. } = slot;
        let cell = if name == "limits" { "threshold" } else { "deadband" };
        let bytes = fs::metadata(folder.join(cell).with_extension("wasm"))?.len();
        #[allow(clippy::cast_precision_loss)]
        let fuel = slot.fuel as f64 / (*input).max(1) as f64;
        writeln!(out, "{name:<22} {input:>8} {output:>9} {bytes:>9} {fuel:>12.0} {faults:>8}")?;
    }
    writeln!(
        out,
        "\nfuel: WebAssembly instructions, the same on every machine; `make bench` measures time. A cell may have 51200 bytes.\n"
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_error_is_that_of_holding_the_last_value() {
        let recorded = [(0, 1.0), (1, 1.5), (2, 3.0), (3, 2.8)];
        assert_eq!(worst_error(&recorded, &[(0, 1.0), (2, 3.0)]), Some(0.5));
        assert_eq!(worst_error(&recorded, &[(0, 1.0)]), Some(2.0));
        assert_eq!(worst_error(&recorded, &[(2, 3.0)]), None);
        assert_eq!(worst_error(&recorded, &[(0, 1.0), (2, 9.0)]), None);
    }
}
