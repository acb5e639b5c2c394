//! TLS: from files to a configuration, and from rustls's errors to what a person can do.
//!
//! The files are read with each connection, so a renewed certificate is taken up by the next one.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, ensure};
use porin_core::{
    config::{Broker, Identity, Login, Tls},
    status::CertificateStatus,
    time::Unix,
};
use rumqttc::{TlsConfiguration, Transport};
use rustls::{
    AlertDescription as Alert, CertificateError, ClientConfig, Error, InvalidMessage, RootCertStore,
    client::{Resumption, verify_server_cert_signed_by_trust_anchor},
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject},
    server::ParsedCertificate,
    time_provider::TimeProvider,
};

/// Bytes of a certificate, key or password file. Bundles of every public CA have 200 KB.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// What it takes to be let in, read from the files.
pub(crate) struct Access {
    pub(crate) transport: Transport,
    pub(crate) login: Option<(String, String)>,
    /// When what identifies us ends, and what identifies the broker.
    pub(crate) certificates: Vec<CertificateStatus>,
}

/// The system's time, but never before one at which it was right: a board without a clock starts in 1970.
#[derive(Debug)]
struct Clock {
    floor: UnixTime,
}

fn system_time() -> UnixTime {
    UnixTime::since_unix_epoch(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(system_time().max(self.floor))
    }
}

/// Reads what a broker wants. `floor`: certificates are never judged by an earlier time.
///
/// # Errors
/// The file, and what is wrong with it.
pub(crate) fn access(broker: &Broker, floor: Unix) -> anyhow::Result<Access> {
    let login = broker.login.as_ref().map(read_login).transpose()?;
    let Some(tls) = &broker.tls else { return Ok(Access { transport: Transport::Tcp, login, certificates: vec![] }) };
    let (config, certificates) = client_config(tls, floor)?;
    let transport = Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(config)));
    Ok(Access { transport, login, certificates })
}

fn read_login(Login { username, password_file }: &Login) -> anyhow::Result<(String, String)> {
    let password = match password_file {
        None => String::new(),
        Some(path) => {
            let text = String::from_utf8(read_secret(path)?).with_context(|| format!("{path}: it is not UTF-8"))?;
            text.trim_end_matches(['\r', '\n']).to_owned()
        }
    };
    Ok((username.clone(), password))
}

fn client_config(tls: &Tls, floor: Unix) -> anyhow::Result<(ClientConfig, Vec<CertificateStatus>)> {
    let mut roots = RootCertStore::empty();
    let mut status = Vec::new();
    let authorities = certificates(&tls.ca_file)?;
    status.extend(ends(&tls.ca_file, &authorities));
    for certificate in authorities {
        roots.add(certificate).with_context(|| format!("{}: a certificate in it cannot be used", tls.ca_file))?;
    }
    let clock = Clock { floor: UnixTime::since_unix_epoch(Duration::from_micros(floor.0)) };
    let builder = ClientConfig::builder_with_details(Arc::new(ring::default_provider()), Arc::new(clock));
    let builder = builder.with_safe_default_protocol_versions()?.with_root_certificates(roots);
    let mut config = match &tls.identity {
        None => builder.with_no_client_auth(),
        Some(Identity { cert_file, key_file }) => {
            let chain = certificates(cert_file)?;
            status.extend(chain.first().and_then(|own| ends(cert_file, std::slice::from_ref(own))));
            let key = PrivateKeyDer::from_pem_slice(&read_secret(key_file)?);
            let key = key.with_context(|| format!("{key_file}: no private key in PEM that is not encrypted"))?;
            builder
                .with_client_auth_cert(chain, key)
                .with_context(|| format!("{key_file} is not the key of {cert_file}, or porin cannot use them"))?
        }
    };
    config.alpn_protocols = tls.alpn.iter().map(|name| name.clone().into_bytes()).collect();
    // One broker, and a connection a day: nothing to be gained.
    config.resumption = Resumption::disabled();
    Ok((config, status))
}

fn certificates(path: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let bytes = read(path)?;
    let found = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    let found = found.with_context(|| format!("{path}: no certificates in PEM"))?;
    ensure!(!found.is_empty(), "{path}: no certificate in it");
    Ok(found)
}

fn read(path: &str) -> anyhow::Result<Vec<u8>> {
    let size = fs::metadata(path).with_context(|| format!("cannot read {path}"))?.len();
    ensure!(size <= MAX_FILE_BYTES, "{path} has {size} bytes, at most {MAX_FILE_BYTES} are read");
    fs::read(path).with_context(|| format!("cannot read {path}"))
}

/// A file that nobody but its owner may read.
fn read_secret(path: &str) -> anyhow::Result<Vec<u8>> {
    let mode = fs::metadata(path).with_context(|| format!("cannot read {path}"))?.permissions().mode() & 0o7777;
    ensure!(mode & 0o077 == 0, "{path} has mode {mode:04o}: others may read it; chmod 600 {path}");
    read(path)
}

/// When the first of them is not valid any more.
fn ends(path: &str, certificates: &[CertificateDer<'_>]) -> Option<CertificateStatus> {
    let not_after = certificates.iter().filter_map(not_after).min()?;
    Some(CertificateStatus { file: path.to_owned(), not_after_s: not_after.as_secs() })
}

/// Asks the verifier at the end of time: that a certificate is over is found before who made it.
fn not_after(certificate: &CertificateDer<'_>) -> Option<UnixTime> {
    let certificate = ParsedCertificate::try_from(certificate).ok()?;
    let end_of_time = UnixTime::since_unix_epoch(Duration::from_secs(u64::MAX));
    let algorithms = ring::default_provider().signature_verification_algorithms.all;
    let none = RootCertStore::empty();
    match verify_server_cert_signed_by_trust_anchor(&certificate, &none, &[], end_of_time, algorithms) {
        Err(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => Some(not_after),
        _ => None,
    }
}

/// The rustls error inside an I/O error: `source` passes over it.
pub(crate) fn inside(error: &std::io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

/// What is wrong, in words that say what to do. `host`: what was asked for.
#[allow(clippy::wildcard_enum_match_arm)] // rustls's enums: most of what they list has no better words than its own
pub(crate) fn explain(error: &Error, host: &str) -> String {
    match error {
        Error::InvalidCertificate(error) => match error {
            CertificateError::NotValidForNameContext { presented, .. } if presented.is_empty() => {
                format!("the broker's certificate names no host (subjectAltName), you asked for `{host}`")
            }
            CertificateError::NotValidForNameContext { presented, .. } => {
                // `DnsName("a")`, as webpki writes it.
                let names: Vec<_> = presented.iter().map(|name| name.split('"').nth(1).unwrap_or(name)).collect();
                format!("the broker's certificate is for `{}`, you asked for `{host}`", names.join("`, `"))
            }
            CertificateError::ExpiredContext { not_after, .. } => format!(
                "the broker's certificate has expired on {}; this gateway's clock says {}",
                date(*not_after),
                date(system_time())
            ),
            CertificateError::NotValidYetContext { not_before, .. } => format!(
                "the broker's certificate is not yet valid: it begins on {}; this gateway's clock says {}",
                date(*not_before),
                date(system_time())
            ),
            CertificateError::UnknownIssuer => {
                "the broker's certificate is not by anybody in `ca_file`; is it the right CA?".into()
            }
            error => format!("the broker's certificate: {error}"),
        },
        Error::AlertReceived(Alert::UnknownCA) => "the broker does not know the CA of our certificate".into(),
        Error::AlertReceived(Alert::CertificateExpired) => "the broker says that our certificate has expired".into(),
        Error::AlertReceived(Alert::CertificateRequired) => {
            "the broker wants a certificate of ours: set tls.cert_file and tls.key_file".into()
        }
        Error::AlertReceived(Alert::BadCertificate) => {
            "the broker does not take our certificate: is it valid yet, and is it a client's?".into()
        }
        Error::AlertReceived(Alert::NoApplicationProtocol) => "the broker does not know what `tls.alpn` names".into(),
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "this port of the broker does not speak TLS".into()
        }
        error => format!("TLS: {error}"),
    }
}

/// `2026-11-23`. By Howard Hinnant's `civil_from_days`, which is exact.
fn date(time: UnixTime) -> String {
    let days = time.as_secs() / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let (day, month) =
        (day_of_year - (153 * shifted + 2) / 5 + 1, if shifted < 10 { shifted + 3 } else { shifted - 9 });
    format!("{:04}-{month:02}-{day:02}", year_of_era + era * 400 + u64::from(month <= 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let check = |seconds, expected: &str| {
            assert_eq!(date(UnixTime::since_unix_epoch(Duration::from_secs(seconds))), expected);
        };
        check(0, "1970-01-01");
        check(951_782_399, "2000-02-28");
        check(951_782_400, "2000-02-29");
        check(1_795_403_393, "2026-11-23");
        check(4_102_444_799, "2099-12-31");
    }
}
