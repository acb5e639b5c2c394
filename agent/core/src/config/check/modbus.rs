//! Source `modbus`: a line or a connection, the slaves on it, and their registers.

use alloc::{collections::BTreeSet, format, string::String, vec::Vec};

use toml::Spanned;

use super::{Checked, Parser, raw};
use crate::{
    config::{ModbusLine, ModbusSource, Parity, Slave},
    modbus::{Register, Table, Type, WordOrder},
};

/// Registers of a source at most.
const MAX_REGISTERS: usize = 10_000;

impl Parser<'_> {
    pub(super) fn modbus(&self, name: &Spanned<String>, raw: raw::Modbus) -> Checked<ModbusSource> {
        let raw::Modbus { tcp, serial, baud, parity, timeout, slaves } = raw;
        let line = match (tcp, serial) {
            (Some(tcp), None) => match tcp.get_ref().rsplit_once(':') {
                Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0) => {
                    ModbusLine::Tcp(tcp.into_inner())
                }
                _ => {
                    return self
                        .fail(tcp.span(), format!("tcp `{}`: HOST:PORT, such as 192.168.1.20:502", tcp.get_ref()));
                }
            },
            (None, Some(serial)) => {
                let device = self.absolute("serial", serial)?;
                let baud = self.number(baud.as_ref(), 9_600, super::lines::BAUD)?;
                let parity = self.one_of(parity.as_ref(), "parity", Parity::None, &Parity::ALL)?;
                ModbusLine::Rtu(device, baud, parity)
            }
            _ => {
                return self.fail(name.span(), format!("source `{}`: either `tcp` or `serial`", name.get_ref()));
            }
        };
        let timeout_us = match self.time(timeout.as_ref(), "500ms")? {
            timeout_us @ 10_000..=60_000_000 => timeout_us,
            _ => return self.fail(timeout.map_or(0..0, |timeout| timeout.span()), "timeout: 10ms to 1min".into()),
        };
        if slaves.is_empty() {
            return self.fail(name.span(), format!("source `{}` names no slaves", name.get_ref()));
        }
        let mut seen = BTreeSet::new();
        let mut checked = Vec::new();
        for raw::Slave { unit, every, registers } in slaves {
            // On a line 0 is everybody, whom nobody answers; 255 is whoever is at the other end of a connection.
            let units = if matches!(line, ModbusLine::Tcp(_)) { 0..=255 } else { 1..=247 };
            let unit = self.number(unit.as_ref(), 1, units)?;
            let every_us = self.every(every.as_ref())?;
            if registers.is_empty() {
                return self.fail(name.span(), format!("slave {unit} of source `{}` has no registers", name.get_ref()));
            }
            let mut list = Vec::new();
            for raw in registers {
                self.own_stream(&raw.stream, "register", &mut seen)?;
                list.push(self.register(raw)?);
            }
            checked.push(Slave { unit, every_us, registers: list });
        }
        if seen.len() > MAX_REGISTERS {
            let message = format!("source `{}` has {} registers: at most {MAX_REGISTERS}", name.get_ref(), seen.len());
            return self.fail(name.span(), message);
        }
        Ok(ModbusSource { line, timeout_us, slaves: checked })
    }

    fn register(&self, raw: raw::Register) -> Checked<Register> {
        let raw::Register { stream, table, address, kind, words, scale } = raw;
        let table = self.one_of(table.as_ref(), "table", Table::Holding, &Table::ALL)?;
        if let (true, Some(kind)) = (table.is_bits(), &kind) {
            return self.fail(kind.span(), format!("type `{}`: a bit has none", kind.get_ref()));
        }
        let scale = match scale {
            None => 1.0,
            Some(scale) if scale.get_ref().is_finite() => scale.into_inner(),
            Some(scale) => return self.fail(scale.span(), "scale: a finite number".into()),
        };
        let place = address.span();
        let register = Register {
            table,
            address: address.into_inner(),
            kind: self.one_of(kind.as_ref(), "type", Type::U16, &Type::ALL)?,
            order: self.one_of(words.as_ref(), "words", WordOrder::Big, &WordOrder::ALL)?,
            scale,
            stream: stream.into_inner(),
        };
        if u32::from(register.address) + u32::from(register.length()) > 65_536 {
            let (address, length) = (register.address, register.length());
            return self.fail(place, format!("address {address}: it has {length} words, and 65535 is the last"));
        }
        Ok(register)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, SourceKind};

    #[test]
    fn registers_of_modbus_have_a_table_an_address_and_a_type() {
        let parse = |line: &str, registers: &str| {
            let text = format!(
                "[gateway]\nid = \"a\"\n[uplink]\nbroker = \"mqtt://h\"\n[sources.s.modbus]\n{line}\n[[sources.s.modbus.slaves]]\n\
                 unit = 7\nregisters = [{{ {registers} }}]\n"
            );
            Config::parse(&text).map(|config| config.gateway.sources[0].kind.clone())
        };
        let (tcp, plain) = ("tcp = \"h:502\"", "stream = \"a\", address = 9");
        let all = "stream = \"a\", address = 9, table = \"input\", type = \"f32\", words = \"little\", scale = 0.5";
        let SourceKind::Modbus(source) = parse("serial = \"/dev/x\"\nparity = \"even\"", all).expect("it is good")
        else {
            panic!("another kind")
        };
        assert_eq!(source.line, ModbusLine::Rtu("/dev/x".into(), 9_600, Parity::Even));
        let register = &source.slaves[0].registers[0];
        assert_eq!((source.timeout_us, source.slaves[0].unit), (500_000, 7));
        assert_eq!((register.table, register.kind, register.order), (Table::Input, Type::F32, WordOrder::Little));
        assert!(parse(tcp, plain).is_ok());

        let check = |line: &str, registers: &str, expected: &str| {
            let error = parse(line, registers).expect_err(expected).to_string();
            assert!(error.contains(expected), "{error}");
        };
        let unit = |line: &str, unit: u8| {
            let text = format!("{line}\n[[sources.s.modbus.slaves]]\nunit = {unit}\nregisters = [{{ {plain} }}]");
            parse(&text, "stream = \"b\", address = 1").is_ok()
        };
        assert!(unit(tcp, 255) && unit(tcp, 0) && unit("serial = \"/dev/x\"", 247));
        assert!(!unit("serial = \"/dev/x\"", 248) && !unit("serial = \"/dev/x\"", 0), "nobody answers for everybody");
        check("tcp = \"h\"", plain, "line 6: tcp `h`: HOST:PORT");
        check("tcp = \"h:0\"", plain, "tcp `h:0`");
        check("baud = 9600", plain, "source `s`: either `tcp` or `serial`");
        check("serial = \"/dev/x\"\nparity = \"evn\"", plain, "did you mean `even`?");
        check("tcp = \"h:502\"\ntimeout = \"1ms\"", plain, "line 7: timeout: 10ms to 1min");
        check(tcp, "stream = \"a\", address = 65535, type = \"f32\"", "line 9: address 65535: it has 2 words");
        check(tcp, "stream = \"a\", address = 65536", "line 9");
        check(
            tcp,
            "stream = \"a\", address = 0, table = \"coil\", type = \"u16\"",
            "line 9: type `u16`: a bit has none",
        );
        check(tcp, "stream = \"a\", address = 0, type = \"float\"", "type `float`: known is u16");
        check(
            tcp,
            "stream = \"a\", address = 0 }, { stream = \"a\", address = 1",
            "stream `a`: another register has it",
        );
    }
}
