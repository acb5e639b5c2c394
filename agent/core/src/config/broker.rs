//! How a broker is reached, and who the agent is there.

use alloc::{
    format,
    string::{String, ToString},
};

/// A broker: the uplink's, or a local one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    /// Host name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// `None`: plain TCP.
    pub tls: Option<Tls>,
    /// `None`: the broker takes anybody, or knows the certificate.
    pub login: Option<Login>,
}

/// What a TLS connection needs. Paths are read with each connection, so what is renewed is taken up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// PEM with the certificates of those who vouch for the broker's.
    pub ca_file: String,
    /// Our own certificate and its key.
    pub identity: Option<Identity>,
    /// What ALPN names: `x-amzn-mqtt-ca` for AWS IoT on port 443.
    pub alpn: Option<String>,
}

/// Our own certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// PEM with the certificate, and those between it and its CA.
    pub cert_file: String,
    /// PEM with its key (PKCS#8, SEC1), readable by its owner only.
    pub key_file: String,
}

/// User name and password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// As the broker knows it.
    pub username: String,
    /// A file with the password, readable by its owner only; `None`: there is none.
    pub password_file: Option<String>,
}

/// The versions of MQTT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// With reasons in acknowledgements, limits that the broker tells, content types.
    #[default]
    V5,
    /// For brokers that speak nothing newer: a publish that the broker does not allow is acknowledged like any other.
    V311,
}

impl Protocol {
    /// All of them, with their words in a configuration.
    pub const ALL: [(&str, Self); 2] = [("5", Self::V5), ("3.1.1", Self::V311)];
}

/// Reads `mqtt://HOST:PORT` or `mqtts://HOST:PORT`: whether TLS is spoken, the host without brackets, the port.
///
/// # Errors
/// What is wrong, in words.
pub fn address(text: &str) -> Result<(bool, String, u16), String> {
    let wrong = || "it must be mqtt://HOST, mqtt://HOST:PORT, or mqtts://… for TLS".to_string();
    let (secure, rest) = match (text.strip_prefix("mqtt://"), text.strip_prefix("mqtts://")) {
        (Some(rest), _) => (false, rest),
        (_, Some(rest)) => (true, rest),
        (None, None) => return Err(wrong()),
    };
    let (host, port) = match rest.rsplit_once(':') {
        // The last colon of an address in brackets is one of its own.
        Some((host, port)) if !port.ends_with(']') && !host.ends_with(':') => match port.parse() {
            Ok(port) if port > 0 => (host, port),
            _ => return Err(format!("`{port}` is not a port (1 to 65535)")),
        },
        _ => (rest, if secure { 8883 } else { 1883 }),
    };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if host.is_empty() || host.contains(['/', '@', ' ', '?', '[', ']']) {
        return Err(wrong());
    }
    Ok((secure, host.into(), port))
}
