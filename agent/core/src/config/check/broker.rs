//! Brokers: from the configuration as written to the types.

use alloc::{
    format,
    string::{String, ToString},
};

use toml::Spanned;

use super::{Checked, KEEP_ALIVE, Parser, raw};
use crate::config::{Broker, Identity, LinkConfig, Login, Protocol, Tls};

/// Bytes of a publish, where the broker does not tell: AWS IoT takes 128 KB, Azure and others 256 KB.
const MAX_PUBLISH_BYTES: u64 = 262_144;

/// One packet with the longest names there are.
const MIN_PUBLISH_BYTES: u64 = 2_000;

/// AWS IoT allows one CONNECT a second for a client id.
const RECONNECT: &str = "1s";

/// A broker that is back has its gateways back within five minutes, not all at once.
const MAX_PAUSE_US: u64 = 300_000_000;

impl Parser<'_> {
    pub(super) fn uplink(&self, raw: raw::Uplink, id: &str) -> Checked<LinkConfig> {
        self.link(raw, MAX_PAUSE_US, || format!("porin-{id}"))
    }

    pub(super) fn link(
        &self,
        raw: raw::Uplink,
        max_pause_us: u64,
        client_id: impl FnOnce() -> String,
    ) -> Checked<LinkConfig> {
        let default = self.defaults.broker.map(|broker| Spanned::new(0..0, broker.to_string()));
        let Some(broker) = raw.broker.as_ref().or(default.as_ref()) else {
            return self.fail(0..0, "[uplink] names no broker, such as broker = \"mqtt://HOST\"".into());
        };
        let max_publish_bytes = match &raw.max_publish {
            None => MAX_PUBLISH_BYTES,
            Some(text) => match self.bytes(text)? {
                bytes @ MIN_PUBLISH_BYTES..=268_435_455 => bytes,
                _ => return self.fail(text.span(), format!("max_publish `{}`: 2kB to 268MB", text.get_ref())),
            },
        };
        let reconnect_us = self.time(raw.reconnect.as_ref(), RECONNECT)?;
        if !(1_000..=300_000_000).contains(&reconnect_us) {
            return self.fail(raw.reconnect.map_or(0..0, |at| at.span()), "reconnect: 1ms to 5min".into());
        }
        Ok(LinkConfig {
            client_id: self.client_id(raw.client_id.as_ref(), client_id)?,
            protocol: self.one_of(raw.protocol.as_ref(), "protocol", Protocol::V5, &Protocol::ALL)?,
            keep_alive_s: self.keep_alive(raw.keep_alive.as_ref(), KEEP_ALIVE)?,
            in_flight: self.number(raw.in_flight.as_ref(), 100, 9..=1_000)?,
            max_publish_bytes: usize::try_from(max_publish_bytes).unwrap_or(usize::MAX),
            reconnect_us,
            max_pause_us,
            broker: self.broker(broker, raw.tls, raw.login)?,
        })
    }

    /// An address such as `mqtt://HOST:PORT`, and what it takes to be let in.
    pub(super) fn broker(
        &self,
        address: &Spanned<String>,
        tls: Option<Spanned<raw::Tls>>,
        login: Option<raw::Login>,
    ) -> Checked<Broker> {
        let (secure, host, port) = self.address(address)?;
        let tls = match (secure, tls) {
            (true, Some(tls)) => Some(self.tls(tls.into_inner())?),
            (false, None) => None,
            (true, None) => {
                let message =
                    "mqtts needs `tls`, a table with `ca_file`: the certificates of those who vouch for the broker";
                return self.fail(address.span(), format!("broker `{}`: {message}", address.get_ref()));
            }
            (false, Some(tls)) => return self.fail(tls.span(), "`tls` goes with a broker = \"mqtts://…\" only".into()),
        };
        let login = login.map(|raw::Login { username, password_file }| match username.get_ref().len() {
            1..=65_535 => Ok(Login { username: username.into_inner(), password_file }),
            _ => self.fail(username.span(), "username: 1 to 65535 bytes".into()),
        });
        Ok(Broker { host, port, tls, login: login.transpose()? })
    }

    fn tls(&self, raw::Tls { ca_file, cert_file, key_file, alpn }: raw::Tls) -> Checked<Tls> {
        let identity = match (cert_file, key_file) {
            (None, None) => None,
            (Some(cert_file), Some(key_file)) => {
                Some(Identity { cert_file: cert_file.into_inner(), key_file: key_file.into_inner() })
            }
            (Some(alone), None) | (None, Some(alone)) => {
                return self.fail(alone.span(), "cert_file and key_file go together".into());
            }
        };
        let alpn = alpn.map(|alpn| match alpn.get_ref().len() {
            1..=255 => Ok(alpn.into_inner()),
            _ => self.fail(alpn.span(), "alpn: 1 to 255 bytes".into()),
        });
        Ok(Tls { ca_file, identity, alpn: alpn.transpose()? })
    }

    /// Whether TLS is spoken, host and port.
    fn address(&self, raw: &Spanned<String>) -> Checked<(bool, String, u16)> {
        super::super::broker::address(raw.get_ref())
            .or_else(|what| self.fail(raw.span(), format!("broker `{}`: {what}", raw.get_ref())))
    }
}
