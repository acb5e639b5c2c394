//! Whether a new set of cells may stay: what its new cells did on the same packets as the cells before them.
//!
//! Faults and a flooded log end it at once. How much comes out, what a packet costs and how much memory is used are judged when every new cell has had
//! its packets and the time is over: before, they say little.

use alloc::{format, string::String, vec::Vec};

use crate::{
    config::Probation,
    reason::{Code, Reason},
    status::{RefusedStream, SlotStatus},
    trust::Health,
};

/// A packet may cost so many times what it costs the cell before...
const MORE_FUEL: u64 = 10;

/// ...or this much, which is small beside any budget.
const LITTLE_FUEL: u64 = 2_000;

/// From so many packets that the cell before put out, one that puts out none is not well.
const ENOUGH: u64 = 10;

/// Memory may be so many times that of the cell before...
const MORE_MEMORY: usize = 4;

/// ...or this much.
const LITTLE_MEMORY: usize = 512 * 1_024;

/// What a new cell has done, and the one before it on the same packets.
#[derive(Clone, Copy, Debug)]
pub struct Compared<'a> {
    /// The new cell.
    pub new: &'a SlotStatus,
    /// The one that ran in the slot before, if there was one of the same kind.
    pub old: Option<&'a SlotStatus>,
    /// What its publisher says should come out of it.
    pub health: Option<Health>,
}

/// How it looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing can be said yet.
    Open,
    /// Every new cell is well.
    Passed,
    /// One is not.
    Failed(Reason),
}

/// Looks at the new cells after so long a time of a stage that takes `stage_us`.
#[must_use]
pub fn verdict(compared: &[Compared<'_>], rule: Probation, stage_us: u64, elapsed_us: u64) -> Verdict {
    for Compared { new, .. } in compared {
        if new.faults > 0 {
            let fault = new.last_fault.as_deref().unwrap_or("unknown");
            return Verdict::Failed(Reason::new(Code::Fault, fault).of(&new.name));
        }
        let flood = new.log_lines_dropped.saturating_sub(new.log_lines_unwritten);
        if flood > 0 {
            let text = format!("{flood} lines more than the slot may log");
            return Verdict::Failed(Reason::new(Code::LogFlood, &text).of(&new.name));
        }
    }
    if elapsed_us < stage_us || compared.iter().any(|cell| cell.new.input < rule.packets) {
        return Verdict::Open;
    }
    match compared.iter().find_map(unhealthy) {
        Some(reason) => Verdict::Failed(reason),
        None => Verdict::Passed,
    }
}

/// A stream that a new cell does not take, and that the one before it takes.
#[must_use]
pub fn newly_refused(new: &[SlotStatus], old: &[SlotStatus]) -> Option<Reason> {
    new.iter().find_map(|new| {
        let old = old.iter().find(|old| old.name == new.name);
        let (count, old) = old.map_or((0, &[][..]), |old| (old.streams_refused, &old.refused_streams[..]));
        // Where not all are named, only their number can be compared.
        if count > old.len() && new.streams_refused <= count {
            return None;
        }
        let is_new = |stream: &&RefusedStream| old.iter().all(|before| before.stream != stream.stream);
        let RefusedStream { stream, reason } = new.refused_streams.iter().find(is_new)?;
        Some(Reason::new(Code::Unfit, &format!("it does not take stream `{stream}`: {reason}")).of(&new.name))
    })
}

/// What came out of the new cells, and of those before them.
#[must_use]
pub fn outputs(compared: &[Compared<'_>]) -> String {
    let one = |Compared { new, old, .. }: &Compared<'_>| {
        let of = |slot: &SlotStatus| format!("{} of {}", slot.output, slot.input);
        let old = old.map_or_else(String::new, |old| format!("old: {}, ", of(old)));
        format!("{}: {old}new: {}", new.name, of(new))
    };
    compared.iter().map(one).collect::<Vec<_>>().join("; ")
}

fn unhealthy(Compared { new, old, health }: &Compared<'_>) -> Option<Reason> {
    let reason = |code, text: &str| Some(Reason::new(code, text).of(&new.name));
    if let Some(health) = health
        && new.input > 0
    {
        let per_mille = new.output.saturating_mul(1_000) / new.input;
        let (min, max) = (u64::from(health.min_per_mille), u64::from(health.max_per_mille));
        if !(min..=max).contains(&per_mille) {
            let (min, max) = (percent(min), percent(max));
            let text = format!("{} of {} packets came out, {min} to {max} % should", new.output, new.input);
            return reason(Code::OutputRatio, &text);
        }
    }
    let old = old.filter(|old| old.processed > 0 && new.processed > 0)?;
    // Where the publisher says nothing of it, everything or nothing is suspicious if the cell before did the contrary.
    let silent = old.output >= ENOUGH && new.output == 0;
    let loud = old.output == 0 && new.output > new.input / 2;
    if health.is_none_or(|health| health == Health::UNSAID) && (silent || loud) {
        let text = format!("old: {} of {}, new: {} of {}", old.output, old.input, new.output, new.input);
        return reason(Code::OutputRatio, &text);
    }
    let (fuel, before) = (new.fuel / new.processed, old.fuel / old.processed);
    if fuel > before.saturating_mul(MORE_FUEL).max(LITTLE_FUEL) {
        return reason(Code::Fuel, &format!("a packet costs {fuel} fuel, it cost {before}"));
    }
    if new.memory_bytes > old.memory_bytes.saturating_mul(MORE_MEMORY).max(LITTLE_MEMORY) {
        return reason(Code::Memory, &format!("{} bytes, the cell before has {}", new.memory_bytes, old.memory_bytes));
    }
    None
}

/// As `--passes` takes it.
fn percent(per_mille: u64) -> String {
    match per_mille % 10 {
        0 => format!("{}", per_mille / 10),
        tenth => format!("{}.{tenth}", per_mille / 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Probation = Probation { shadow_us: 10, canary_us: 10, packets: 100 };
    const HALF: Health = Health { min_per_mille: 100, max_per_mille: 500 };

    fn status(input: u64, output: u64) -> SlotStatus {
        let (fuel, memory_bytes) = (input * 100, 65_536);
        SlotStatus { name: "s".into(), input, processed: input, output, fuel, memory_bytes, ..SlotStatus::default() }
    }

    fn check(new: &SlotStatus, elapsed_us: u64) -> Verdict {
        let old = status(100, 30);
        verdict(&[Compared { new, old: Some(&old), health: Some(HALF) }], RULE, 10, elapsed_us)
    }

    fn code(new: &SlotStatus, elapsed_us: u64) -> String {
        match check(new, elapsed_us) {
            Verdict::Failed(reason) => reason.code.to_string(),
            other @ (Verdict::Open | Verdict::Passed) => format!("{other:?}"),
        }
    }

    #[test]
    fn a_verdict_needs_packets_and_time_or_a_hard_failure() {
        assert_eq!(check(&status(99, 30), 1_000), Verdict::Open);
        assert_eq!(check(&status(100, 30), 9), Verdict::Open);
        assert_eq!(check(&status(100, 30), 10), Verdict::Passed);
        assert_eq!(code(&SlotStatus { faults: 1, ..status(1, 1) }, 0), "fault");
        assert_eq!(code(&SlotStatus { log_lines_dropped: 1, ..status(1, 1) }, 0), "log-flood");
        let (log_lines_dropped, log_lines_unwritten) = (3, 3);
        assert_eq!(code(&SlotStatus { log_lines_dropped, log_lines_unwritten, ..status(1, 1) }, 0), "Open");
    }

    #[test]
    fn a_cell_that_forwards_everything_or_nothing_or_costs_much_more_fails() {
        assert_eq!(code(&status(100, 0), 9), "Open");
        assert_eq!(code(&status(100, 0), 10), "output-ratio");
        assert_eq!(code(&status(100, 100), 10), "output-ratio");
        assert_eq!(code(&status(100, 50), 10), "Passed");
        assert_eq!(code(&SlotStatus { fuel: 200_100, ..status(100, 30) }, 10), "fuel");
        assert_eq!(code(&SlotStatus { fuel: 200_000, ..status(100, 30) }, 10), "Passed");
        assert_eq!(code(&SlotStatus { memory_bytes: 524_289, ..status(100, 30) }, 10), "memory");
    }

    #[test]
    fn nothing_where_there_was_something_or_everything_where_there_was_nothing_fails_unless_the_publisher_says_otherwise()
     {
        let check = |old: (u64, u64), new: (u64, u64), health| {
            let (old, new) = (status(old.0, old.1), status(new.0, new.1));
            match verdict(&[Compared { new: &new, old: Some(&old), health }], RULE, 10, 10) {
                Verdict::Failed(reason) => reason.to_string(),
                other @ (Verdict::Open | Verdict::Passed) => format!("{other:?}"),
            }
        };
        for health in [None, Some(Health::UNSAID)] {
            assert_eq!(check((500, 42), (500, 0), health), "output-ratio: old: 42 of 500, new: 0 of 500");
            assert_eq!(check((500, 0), (500, 251), health), "output-ratio: old: 0 of 500, new: 251 of 500");
            for (old, new) in
                [((500, 9), (500, 0)), ((500, 42), (500, 1)), ((500, 0), (500, 250)), ((500, 0), (500, 0))]
            {
                assert_eq!(check(old, new, health), "Passed", "{old:?} {new:?}");
            }
        }
        let said = |min_per_mille, max_per_mille| Some(Health { min_per_mille, max_per_mille });
        assert_eq!(check((500, 42), (500, 0), said(0, 10)), "Passed");
        assert_eq!(check((500, 0), (500, 500), said(500, 1_000)), "Passed");
    }

    #[test]
    fn a_refusal_has_the_unit_of_the_option() {
        let health = Some(Health { min_per_mille: 5, max_per_mille: 500 });
        let new = status(1_000, 501);
        let Verdict::Failed(reason) = verdict(&[Compared { new: &new, old: None, health }], RULE, 10, 10) else {
            panic!("it is above its share")
        };
        assert_eq!(reason.text, "501 of 1000 packets came out, 0.5 to 50 % should");
    }

    #[test]
    fn a_stream_that_only_the_new_cell_refuses_is_found() {
        let refuses = |streams: &[&str], all| {
            let stream = |stream: &&str| RefusedStream { stream: (*stream).into(), reason: "no".into() };
            let refused_streams = streams.iter().map(stream).collect();
            [SlotStatus { streams_refused: all, refused_streams, ..status(0, 0) }]
        };
        let found = |new: &[SlotStatus], old: &[SlotStatus]| newly_refused(new, old).map(|reason| reason.to_string());
        let (one, other) = (refuses(&["a"], 1), refuses(&["b"], 1));
        assert_eq!(found(&one, &one), None);
        assert_eq!(found(&one, &other).as_deref(), Some("unfit: it does not take stream `a`: no"));
        assert!(found(&one, &[]).is_some(), "nothing ran before");
        // Of these only the first was named.
        assert_eq!(found(&one, &refuses(&["b"], 2)), None);
        assert!(found(&refuses(&["a"], 3), &refuses(&["b"], 2)).is_some());
    }

    #[test]
    fn where_nothing_ran_before_only_the_publisher_says_what_is_well() {
        let new = SlotStatus { fuel: 1_000_000_000, ..status(100, 0) };
        assert_eq!(verdict(&[Compared { new: &new, old: None, health: None }], RULE, 10, 10), Verdict::Passed);
        assert_eq!(verdict(&[], RULE, 10, 10), Verdict::Passed);
    }
}
