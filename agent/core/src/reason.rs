//! Why something is not done: each word that reports and events give as a reason is one row below, with what it means and what helps.

use alloc::string::{String, ToString};

use serde::{Deserialize, Serialize};

/// Bytes of a text that says why.
pub const MAX_TEXT: usize = 400;

/// Why something is not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {text}")]
pub struct Reason {
    /// The word for machines: stable.
    pub code: Code,
    /// For people: what exactly.
    pub text: String,
    /// The slot that it is about.
    pub slot: Option<String>,
}

impl Reason {
    /// One that is about no slot.
    #[must_use]
    pub fn new(code: Code, text: &str) -> Self {
        Self { code, text: bounded(text), slot: None }
    }

    /// The same about a slot.
    #[must_use]
    pub fn of(self, slot: &str) -> Self {
        Self { slot: Some(slot.into()), ..self }
    }
}

/// A text cut to what is reported. It ends up on terminals, and some of it comes from cells.
#[must_use]
pub fn bounded(text: &str) -> String {
    let end = text.char_indices().map(|(at, _)| at).take_while(|at| *at <= MAX_TEXT - 4).last().unwrap_or(0);
    let text = if text.len() <= MAX_TEXT { text } else { &text[..end] };
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

macro_rules! codes {
    ($($code:ident = $word:literal, $meaning:literal, $hint:literal;)*) => {
        /// The word for a reason.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(from = "String", into = "String")]
        pub enum Code {
            $(#[doc = $meaning] $code,)*
            /// Of another version of porin.
            Other(String),
        }

        impl Code {
            /// All that this version knows.
            pub const KNOWN: &'static [Self] = &[$(Self::$code),*];

            /// The word, as it is reported.
            #[must_use]
            pub fn word(&self) -> &str {
                match self {
                    $(Self::$code => $word,)*
                    Self::Other(word) => word,
                }
            }

            /// One sentence for a person.
            #[must_use]
            pub fn meaning(&self) -> &'static str {
                match self {
                    $(Self::$code => $meaning,)*
                    Self::Other(_) => "a reason of another version of porin",
                }
            }

            /// What helps.
            #[must_use]
            pub fn hint(&self) -> &'static str {
                match self {
                    $(Self::$code => $hint,)*
                    Self::Other(_) => "docs/updates.md of that version has it",
                }
            }
        }

        impl From<String> for Code {
            fn from(word: String) -> Self {
                match word.as_str() {
                    $($word => Self::$code,)*
                    _ => Self::Other(word),
                }
            }
        }
    };
}

codes! {
    // Of a document.
    TooLarge = "too-large", "a document of more than 16,384 bytes, or a piece of more than 8,192", "fewer routes and slots in one desired state";
    Malformed = "malformed", "not a document of porin, or a damaged one", "push again; who else may publish on its topic?";
    UnknownVersion = "unknown-version", "made by a newer porin than the gateway's", "update the agent";
    WrongType = "wrong-type", "a document of another kind than belongs on its topic", "who else may publish on its topic?";
    TooFewSignatures = "too-few-signatures", "too few signatures of keys that count for it", "does the gateway's [updates] root belong to these keys? `porin keys show`";
    OtherFleet = "other-fleet", "made for another fleet", "push with the keys of the gateway's fleet";
    RootOutOfTurn = "root-out-of-turn", "a root that does not follow the valid one", "push: it publishes every root in between";
    NewerRoot = "newer-root", "signed under a root that the gateway does not have yet", "push again: it publishes the missing roots";
    OtherNonce = "other-nonce", "the gateway lost its store, and the document does not echo its nonce", "the gateway has been started anew meanwhile; push again";
    TooOld = "too-old", "issued more than 30 days ago, and the gateway has no numbers", "push again";
    Older = "older", "the gateway has accepted a higher number", "push again; is the clock of this computer right?";
    SameNumber = "same-number", "another document with a number that is taken", "does someone else sign with this key? If not, `porin keys rotate` and push again";
    Expired = "expired", "its time is over", "push again";
    NotYet = "not-yet", "issued in the future of the gateway's clock", "compare the clocks of this computer and of the gateway";
    OtherGateway = "other-gateway", "made for another gateway or group", "`porin ls --json` prints the gateway's id and groups";
    OtherDigest = "other-digest", "other bytes than were asked for", "push again; who else may publish on its topic?";
    BelowFloor = "below-floor", "a release with a lower number than the floor of its cell", "a lower number than may run; release the cell again";
    OutsidePrefix = "outside-prefix", "no publisher who signed it may publish a cell of this name", "release it under the publisher's prefix: --name";
    OutsideSlots = "outside-slots", "its publisher may not publish for this slot", "another slot, or a publisher who may: `porin keys show`";
    OtherBoard = "other-board", "made for other boards", "release it with --board, or for any board without it";
    // Of a desired state that counts.
    BadSet = "bad-set", "its routes and slots are wrong, or do not fit the gateway's sources", "`porin desired show` prints them";
    Blocked = "blocked", "a release that was rolled back here, and `retry` has not risen", "push a corrected release, or a higher `retry` with `porin desired apply`";
    UnknownWorld = "unknown-world", "the agent does not have the release's world", "update the agent";
    OtherWorld = "other-world", "the slot has another world than the release", "push it into a slot of its world";
    BeyondPolicy = "beyond-policy", "the owner's policy does not allow a grant or a limit", "only root on the gateway can change its policy";
    NotGranted = "not-granted", "the component imports a capability that its slot does not grant", "--grant allows it, if the gateway's policy does, too";
    UndeclaredImport = "undeclared-import", "the component imports a capability that its release does not declare", "release the component again";
    OverMemory = "over-memory", "its cells may use more than 32 MB together", "lower `memory_pages` in the limits of its slots";
    Unfit = "unfit", "a component cannot be started with its parameters, or refuses a stream that the old cell accepts", "the cell's message says which";
    Damaged = "damaged", "its bytes on the gateway's disk have changed", "push again: the gateway fetches it anew";
    Stalled = "stalled", "a part does not come from the broker", "push again: it publishes every part";
    // On probation and after it.
    Fault = "fault", "a call into a cell failed", "`porin record` fetches what it was given, if its route records";
    LogFlood = "log-flood", "a new cell logs more than its slot may", "log less, or not each packet";
    OutputRatio = "output-ratio", "a new cell puts out another share of its input than its release says, or than the old cell", "if that is what it should do: --passes MIN..MAX in percent, other than 0..100";
    Fuel = "fuel", "a packet costs the new cell more than 10 times the old cell's fuel", "make it cheaper; `porin status --json` has the fuel of each slot";
    Memory = "memory", "the new cell uses more than 4 times the old cell's memory", "make it smaller; `porin status --json` has the memory of each slot";
    Interrupted = "interrupted", "its probation was interrupted three times", "push again when the gateway stays on";
    AgentCrash = "agent-crash", "the agent ended three times in a call into a new cell", "do not push this cell again, and report it: SECURITY.md";
    Compared = "compared", "no fault: how many packets the old and the new cells put out in the last stage", "nothing to do";
    LostStore = "lost-store", "the store is new, and the gateway had accepted a desired state before", "push to this gateway";
    Unproven = "unproven", "what it accepted may be an older state of its group", "push to this gateway or its group";
    Inconsistent = "inconsistent", "the desired state on the disk cannot run any more; the owner's configuration runs", "push again";
}

impl core::fmt::Display for Code {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.word())
    }
}

impl From<Code> for String {
    fn from(code: Code) -> Self {
        code.word().to_string()
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;

    use super::*;

    #[test]
    fn each_reason_is_a_row_of_the_documentation_and_each_row_is_a_reason() {
        let page = include_str!("../../../docs/updates.md");
        let section =
            page.split("### Reasons").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("the section is there");
        let rows: Vec<_> = section.lines().filter(|line| line.starts_with("| `")).collect();
        let row = |code: &Code| format!("| `{}` | {} | {} |", code.word(), code.meaning(), code.hint());
        assert_eq!(rows, Code::KNOWN.iter().map(row).collect::<Vec<_>>());
    }

    #[test]
    fn a_word_of_another_version_stays_as_it_is() {
        for code in Code::KNOWN {
            assert_eq!(Code::from(String::from(code.clone())), *code);
        }
        let other = Code::from("too-clever".to_string());
        assert_eq!((other.word(), &other), ("too-clever", &Code::Other("too-clever".into())));
        assert!(!Code::KNOWN.contains(&other));
        // A report has the word as text, as before.
        let reason = Reason::new(Code::Fault, "out of fuel").of("quiet");
        assert_eq!(
            postcard::to_allocvec(&reason).expect("bytes"),
            postcard::to_allocvec(&("fault", "out of fuel", Some("quiet"))).expect("bytes")
        );
    }
}
