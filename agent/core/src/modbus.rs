//! Modbus: which registers are asked for together, and what their words mean.
//!
//! "MODBUS Application Protocol Specification V1.1b3". Addresses are those that go over the wire, from 0: 40001 in a manual is holding
//! register 0. What is asked for, how and when is the shell's.

use alloc::{string::String, vec::Vec};

/// Words in an answer at most (section 6.3).
const MAX_WORDS: u16 = 125;

/// Bits in an answer at most (section 6.1).
const MAX_BITS: u16 = 2_000;

/// Words that nobody wants and that are asked for all the same: a request costs more than they do. Some devices refuse addresses that they do
/// not have, so it is not many.
const MAX_GAP: u16 = 4;

/// One of the four tables of a device (section 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Table {
    Holding,
    Input,
    Coil,
    Discrete,
}

impl Table {
    /// Every one, by its word in a configuration.
    pub const ALL: [(&'static str, Self); 4] =
        [("holding", Self::Holding), ("input", Self::Input), ("coil", Self::Coil), ("discrete", Self::Discrete)];

    /// Whether it is one of bits.
    #[must_use]
    pub fn is_bits(self) -> bool {
        matches!(self, Self::Coil | Self::Discrete)
    }

    /// The word for it in a configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, table)| *table == self).map_or("", |(name, _)| name)
    }
}

/// What words mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Type {
    #[default]
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F32,
    F64,
}

impl Type {
    /// Every one, by its word in a configuration.
    pub const ALL: [(&'static str, Self); 8] = [
        ("u16", Self::U16),
        ("i16", Self::I16),
        ("u32", Self::U32),
        ("i32", Self::I32),
        ("u64", Self::U64),
        ("i64", Self::I64),
        ("f32", Self::F32),
        ("f64", Self::F64),
    ];

    /// How many words it has.
    #[must_use]
    pub fn words(self) -> u16 {
        match self {
            Self::U16 | Self::I16 => 1,
            Self::U32 | Self::I32 | Self::F32 => 2,
            Self::U64 | Self::I64 | Self::F64 => 4,
        }
    }
}

/// Which word of a value comes first. Within a word the standard leaves no choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WordOrder {
    /// The most significant one.
    #[default]
    Big,
    /// The least significant one.
    Little,
}

impl WordOrder {
    /// Every one, by its word in a configuration.
    pub const ALL: [(&'static str, Self); 2] = [("big", Self::Big), ("little", Self::Little)];
}

/// A value in a device: one or more words, or a bit.
#[derive(Clone, Debug, PartialEq)]
pub struct Register {
    /// Where.
    pub table: Table,
    /// Of its first word, from 0.
    pub address: u16,
    /// What its words mean; a bit has none.
    pub kind: Type,
    /// Which word comes first.
    pub order: WordOrder,
    /// What a count is worth.
    pub scale: f64,
    /// The stream.
    pub stream: String,
}

impl Register {
    /// Words, or one bit.
    #[must_use]
    pub fn length(&self) -> u16 {
        if self.table.is_bits() { 1 } else { self.kind.words() }
    }

    /// What its words mean. `None`: there are too few.
    #[must_use]
    pub fn value(&self, words: &[u16]) -> Option<f64> {
        let words = words.get(..usize::from(self.length()))?;
        if self.table.is_bits() {
            return Some(f64::from(words[0]));
        }
        let add = |sum: u64, word: &u16| sum << 16 | u64::from(*word);
        let bits = match self.order {
            WordOrder::Big => words.iter().fold(0, add),
            WordOrder::Little => words.iter().rev().fold(0, add),
        };
        #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, clippy::cast_precision_loss)]
        // as many bits as it has
        let value = match self.kind {
            Type::U16 | Type::U32 | Type::U64 => bits as f64,
            Type::I16 => f64::from(bits as u16 as i16),
            Type::I32 => f64::from(bits as u32 as i32),
            Type::I64 => bits as i64 as f64,
            Type::F32 => f64::from(f32::from_bits(bits as u32)),
            Type::F64 => f64::from_bits(bits),
        };
        Some(value * self.scale)
    }
}

/// Words, or bits, that are asked for at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Of which table.
    pub table: Table,
    /// From which address on.
    pub address: u16,
    /// How many.
    pub count: u16,
    /// The registers in it, by their numbers in the list.
    pub registers: Vec<usize>,
}

/// As few requests as bring all registers: neighbours go together.
#[must_use]
pub fn requests(registers: &[Register]) -> Vec<Request> {
    let mut order: Vec<usize> = (0..registers.len()).collect();
    order.sort_by_key(|index| (registers[*index].table, registers[*index].address));
    let mut requests: Vec<Request> = Vec::new();
    for index in order {
        let Register { table, address, .. } = registers[index];
        let length = registers[index].length();
        let most = if table.is_bits() { MAX_BITS } else { MAX_WORDS };
        if let Some(last) = requests.last_mut().filter(|last| last.table == table) {
            let end = u32::from(last.address) + u32::from(last.count);
            let new_end = (u32::from(address) + u32::from(length)).max(end);
            let count = new_end - u32::from(last.address);
            if u32::from(address) <= end + u32::from(MAX_GAP) && count <= u32::from(most) {
                last.count = u16::try_from(count).unwrap_or(most);
                last.registers.push(index);
                continue;
            }
        }
        requests.push(Request { table, address, count: length, registers: [index].into() });
    }
    requests
}

#[cfg(test)]
mod tests {
    use super::*;

    fn register(table: Table, address: u16, kind: Type) -> Register {
        Register { table, address, kind, order: WordOrder::Big, scale: 1.0, stream: String::new() }
    }

    #[test]
    fn words_mean_what_their_type_and_order_say() {
        let check = |kind, order, words: &[u16], expected: f64| {
            let value = Register { order, ..register(Table::Holding, 0, kind) }.value(words).expect("enough");
            assert!((value - expected).abs() <= expected.abs() * 1e-12, "{kind:?} {order:?}: {value}");
        };
        let (big, little) = (WordOrder::Big, WordOrder::Little);
        check(Type::U16, big, &[0xffff], 65_535.0);
        check(Type::I16, big, &[0xffff], -1.0);
        check(Type::U32, big, &[0x0001, 0x0002], 65_538.0);
        check(Type::U32, little, &[0x0001, 0x0002], 131_073.0);
        check(Type::I32, big, &[0xffff, 0xfffe], -2.0);
        check(Type::F32, big, &[0x42f6, 0xe979], f64::from(123.456_f32));
        check(Type::F32, little, &[0xe979, 0x42f6], f64::from(123.456_f32));
        check(Type::I64, big, &[0xffff, 0xffff, 0xffff, 0xfffd], -3.0);
        check(Type::U64, little, &[1, 0, 0, 0], 1.0);
        check(Type::F64, big, &[0x405e, 0xdd2f, 0x1a9f, 0xbe77], 123.456);
        let scaled = Register { scale: 0.1, ..register(Table::Input, 0, Type::I16) };
        assert!(scaled.value(&[0xff38]).is_some_and(|value| (value + 20.0).abs() < 1e-9));
        assert_eq!(register(Table::Coil, 0, Type::F64).value(&[1]), Some(1.0));
        assert_eq!(register(Table::Holding, 0, Type::U32).value(&[1]), None);
    }

    #[test]
    fn neighbours_are_asked_for_together() {
        let list = [
            register(Table::Holding, 10, Type::F32),
            register(Table::Holding, 0, Type::U16),
            register(Table::Holding, 5, Type::U16),
            register(Table::Input, 0, Type::U16),
            register(Table::Holding, 12, Type::I16),
            register(Table::Holding, 1_000, Type::U16),
            register(Table::Holding, 11, Type::U16),
        ];
        let asked = requests(&list);
        let shape = |request: &Request| (request.table, request.address, request.count, request.registers.clone());
        let shapes: Vec<_> = asked.iter().map(shape).collect();
        assert_eq!(
            shapes,
            [
                (Table::Holding, 0, 13, vec![1, 2, 0, 6, 4]),
                (Table::Holding, 1_000, 1, vec![5]),
                (Table::Input, 0, 1, vec![3]),
            ]
        );
    }

    #[test]
    fn every_register_is_in_one_request_that_may_be_made() {
        let mut state = 1_u64;
        let mut random = move |most: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % most
        };
        for _ in 0..200 {
            let list: Vec<_> = (0..random(300))
                .map(|_| {
                    let (_, table) = Table::ALL[usize::try_from(random(4)).expect("four")];
                    let (_, kind) = Type::ALL[usize::try_from(random(8)).expect("eight")];
                    let last = 65_536 - u64::from(kind.words());
                    let address = if random(3) == 0 { last - random(3) } else { random(700) };
                    register(table, u16::try_from(address).expect("within"), kind)
                })
                .collect();
            let asked = requests(&list);
            let mut seen: Vec<_> = asked.iter().flat_map(|request| request.registers.clone()).collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..list.len()).collect::<Vec<_>>());
            for request in &asked {
                assert!(request.count <= if request.table.is_bits() { MAX_BITS } else { MAX_WORDS });
                assert!(u32::from(request.address) + u32::from(request.count) <= 65_536);
                for index in &request.registers {
                    let (register, start) = (&list[*index], list[*index].address - request.address);
                    assert!(register.table == request.table && start + register.length() <= request.count);
                }
            }
        }
    }
}
