//! Words of enums, as configurations, statuses and reports have them.

#[cfg(feature = "read")]
use alloc::string::String;

use serde::Serializer;
#[cfg(feature = "read")]
use serde::{Deserialize, Deserializer, de::Error};

/// An enum whose values have a word each.
pub trait Word: Copy + PartialEq + 'static {
    /// Every value with its word.
    const WORDS: &'static [(&'static str, Self)];

    /// The word of this value.
    #[must_use]
    fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, value)| *value == self).map_or("", |(word, _)| *word)
    }

    /// The value with this word.
    #[must_use]
    fn of_word(word: &str) -> Option<Self> {
        Self::WORDS.iter().find(|(known, _)| *known == word).map(|(_, value)| *value)
    }
}

/// For `#[serde(with)]`: as its word.
///
/// # Errors
/// Those of the serializer.
#[allow(clippy::trivially_copy_pass_by_ref)] // as serde calls it
pub fn serialize<T: Word, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(value.word())
}

/// For `#[serde(with)]`: by its word.
///
/// # Errors
/// Those of the deserializer; a word that is not known.
#[cfg(feature = "read")]
pub fn deserialize<'de, T: Word, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    let word = String::deserialize(deserializer)?;
    T::of_word(&word).ok_or_else(|| unknown(&word))
}

#[cfg(feature = "read")]
fn unknown<E: Error>(word: &str) -> E {
    E::custom(alloc::format!("unknown word `{word}`"))
}

/// The same for what may be missing.
pub mod optional {
    use serde::{Serialize, Serializer};

    use super::Word;
    #[cfg(feature = "read")]
    use super::{Deserialize, Deserializer, String, unknown};

    /// As its word, or null.
    ///
    /// # Errors
    /// Those of the serializer.
    #[allow(clippy::trivially_copy_pass_by_ref, clippy::ref_option)] // as serde calls it
    pub fn serialize<T: Word, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
        value.map(Word::word).serialize(serializer)
    }

    /// By its word, or null.
    ///
    /// # Errors
    /// Those of the deserializer; a word that is not known.
    #[cfg(feature = "read")]
    pub fn deserialize<'de, T: Word, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
        let Some(word) = Option::<String>::deserialize(deserializer)? else {
            return Ok(None);
        };
        T::of_word(&word).map(Some).ok_or_else(|| unknown(&word))
    }
}
