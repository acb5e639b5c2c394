//! What the kernel says of the machine: its clocks, and which life of it this is.

use std::{
    fs,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use porin_core::{
    clock::{Chip, ClockSync},
    time::{Monotonic, Unix},
};

/// The wall clock.
#[must_use]
pub fn wall_clock() -> Unix {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Unix(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// The clock that never steps: time since the machine's start, so it means the same in the next run of the agent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Uptime {
    /// When this run began...
    start: Instant,
    /// ...and how long the machine had been up then, to 10 ms.
    before_us: u64,
}

impl Uptime {
    pub(crate) fn begin() -> Self {
        // Where the kernel does not tell, each run of the agent is a life of its own: see `boot_id`.
        let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
        let (seconds, rest) = text.split_once('.').unwrap_or(("0", ""));
        let hundredths = rest.get(..2).and_then(|digits| digits.parse().ok()).unwrap_or(0);
        let before_us =
            seconds.parse::<u64>().unwrap_or(0).saturating_mul(1_000_000).saturating_add(hundredths * 10_000);
        Self { start: Instant::now(), before_us }
    }

    pub(crate) fn now(self) -> Monotonic {
        let since = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        Monotonic(self.before_us.saturating_add(since))
    }

    #[cfg(test)]
    pub(crate) fn skip(&mut self, us: u64) {
        self.before_us += us;
    }

    /// Since the beginning of this run.
    pub(crate) fn running_s(self) -> u64 {
        self.start.elapsed().as_secs()
    }
}

/// Names this life of the machine: the kernel draws it at each start.
pub(crate) fn boot_id() -> u64 {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).take(16).collect();
    u64::from_str_radix(&digits, 16).unwrap_or_else(|_| wall_clock().0)
}

/// Whether something, such as NTP, keeps the wall clock right.
pub(crate) fn clock_is_kept() -> ClockSync {
    // SAFETY: all fields are integers, for which zeros are a value; modes = 0 asks and sets nothing.
    #[allow(unsafe_code)]
    let state = unsafe {
        let mut answer: libc::timex = std::mem::zeroed();
        libc::adjtimex(&raw mut answer)
    };
    if (0..libc::TIME_ERROR).contains(&state) { ClockSync::Synchronised } else { ClockSync::Free }
}

/// Whether the machine has a clock chip.
pub(crate) fn clock_chip() -> Chip {
    let has_one = fs::read_dir("/sys/class/rtc").is_ok_and(|mut chips| chips.next().is_some());
    if has_one { Chip::Present } else { Chip::Missing }
}

/// Gives every file that this process makes to its own user alone, whatever mode a library asks for. The store holds the gateway's key.
pub(crate) fn private_files_only() {
    // SAFETY: it sets a mask of the process and cannot fail.
    #[allow(unsafe_code)]
    unsafe {
        libc::umask(0o077);
    }
}

/// Keeps the kernel from giving this process, and its children, transparent huge pages. Where they are the default, as in Debian's kernel,
/// the first byte of a region that spans an aligned 2 MB makes all of it resident: some starts had 2 MB more than others, by where regions come to lie.
pub(crate) fn small_pages_only() {
    let (on, unused): (libc::c_ulong, libc::c_ulong) = (1, 0);
    // SAFETY: sets a flag of the process; no memory is passed. A kernel without it has no such pages to give.
    #[allow(unsafe_code)]
    unsafe {
        libc::prctl(libc::PR_SET_THP_DISABLE, on, unused, unused, unused);
    }
}

/// Gives the kernel back what is only zeroes. The interpreter fills a cell's memory with them, so that every page of it is resident;
/// most cells touch few. Whoever reads such a page again finds zeroes, whoever writes to it gets a new one.
pub(crate) fn release_zeroes(memory: &[u8]) {
    // SAFETY: it asks for a number.
    #[allow(unsafe_code)]
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let Ok(page) = usize::try_from(page) else { return };
    if page == 0 {
        return;
    }
    let skip = memory.as_ptr().align_offset(page);
    let pages = memory.get(skip..).unwrap_or_default().chunks_exact(page);
    let (mut first, mut count) = (None, 0);
    let release = |first: &mut Option<&[u8]>, count: &mut usize| {
        if let Some(start) = first.take() {
            // SAFETY: whole pages within `memory`, which is private and anonymous as all of the heap is. They hold zeroes before and after, so that
            // no reader can tell.
            #[allow(unsafe_code)]
            unsafe {
                libc::madvise(start.as_ptr().cast_mut().cast(), *count * page, libc::MADV_DONTNEED);
            }
        }
        *count = 0;
    };
    for page in pages {
        if page.iter().all(|byte| *byte == 0) {
            first = first.or(Some(page));
            count += 1;
        } else {
            release(&mut first, &mut count);
        }
    }
    release(&mut first, &mut count);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_been_up_for_a_while_and_its_life_has_one_name() {
        let uptime = Uptime::begin();
        let first = uptime.now().0;
        // A later beginning is no earlier, but for the 10 ms to which the kernel tells.
        assert!(first > 0 && Uptime::begin().now().0 + 10_000 >= first);
        assert_eq!(boot_id(), boot_id());
    }

    #[test]
    fn zeroes_that_are_given_back_stay_zeroes_and_the_rest_stays_what_it_is() {
        let mut memory = vec![1_u8; 1 << 20];
        memory[10_000..600_000].fill(0);
        memory[300_000] = 7;
        let before = memory.clone();
        let resident = || {
            let text = fs::read_to_string("/proc/self/smaps_rollup").expect("the kernel tells");
            let line = text.lines().find(|line| line.starts_with("Rss:")).expect("its size");
            line.split_whitespace().nth(1).and_then(|kb| kb.parse::<u64>().ok()).expect("a number")
        };
        let had = resident();
        release_zeroes(&memory);
        let has = resident();
        assert!(had >= has + 400, "{had} KB before, {has} KB after");
        assert!(memory == before);
        release_zeroes(&[]);
        release_zeroes(&[0; 100]);
    }
}
