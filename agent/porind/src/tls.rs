//! TLS: from files to a configuration, and from rustls's errors to what a person can do.
//!
//! The files are read with each connection, so a renewed certificate is taken up by the next one.

use std::{
    io::Read,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, ensure};
use porin_core::{
    clock::CertificateTime,
    config::{Broker, Identity, Login, Tls},
    status::CertificateStatus,
    time::Unix,
};
use rumqttc::{TlsConfiguration, Transport};
use rustls::{
    AlertDescription as Alert, CertificateError, ClientConfig, DigitallySignedStruct, Error, InvalidMessage,
    RootCertStore, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
    time_provider::TimeProvider,
};
use tokio::sync::watch;
use tracing::warn;

use crate::guarded::{self, Guard};

/// Bytes of a certificate, key or password file. Bundles of every public CA have 200 KB.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// What it takes to be let in, read from the files.
pub(crate) struct Access {
    pub(crate) transport: Transport,
    pub(crate) login: Option<(String, String)>,
    /// When what identifies us ends, and what identifies the broker.
    pub(crate) certificates: Vec<CertificateStatus>,
}

/// The time by which certificates are judged. A board without a clock chip starts in 1970, or where its image was built.
#[derive(Debug)]
struct Clock(CertificateTime);

fn system_time() -> UnixTime {
    UnixTime::since_unix_epoch(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

fn unix_time(time: Unix) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_micros(time.0))
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(match self.0 {
            CertificateTime::Clock(floor) => system_time().max(unix_time(floor)),
            CertificateTime::Floor(floor) => unix_time(floor),
        })
    }
}

/// Certificates of a chain that begin later than now, at most: a chain has three or four.
const MAX_LATER: usize = 8;

/// Judges the ends of certificates, and not their beginnings: for a clock that nothing has set.
#[derive(Debug)]
struct EndsOnly(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for EndsOnly {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // The earliest time from now on at which the whole chain counts, if there is one. It is used for nothing else.
        let mut time = now;
        for _ in 0..MAX_LATER {
            match self.0.verify_server_cert(end_entity, intermediates, name, ocsp, time) {
                Err(Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. }))
                    if not_before > time =>
                {
                    time = not_before;
                }
                verdict => return verdict,
            }
        }
        Err(CertificateError::NotValidYet.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Returns the reason to connect again, once the clock is set and the broker's certificate was judged by a floor. Never returns for other
/// connections.
pub(crate) async fn clock_was_set(
    broker: &Broker,
    judged_by: CertificateTime,
    time: &mut watch::Receiver<CertificateTime>,
) -> &'static str {
    if broker.tls.is_some() && matches!(judged_by, CertificateTime::Floor(_)) {
        // An error: the agent ends.
        let _ = time.wait_for(|time| matches!(time, CertificateTime::Clock(_))).await;
        return "the clock has been set: the broker's certificate is judged again, now with its beginning";
    }
    std::future::pending().await
}

/// Reads what a broker wants.
///
/// # Errors
/// The file, and what is wrong with it.
pub(crate) fn access(broker: &Broker, judged_by: CertificateTime) -> anyhow::Result<Access> {
    let login = broker.login.as_ref().map(read_login).transpose()?;
    let Some(tls) = &broker.tls else { return Ok(Access { transport: Transport::Tcp, login, certificates: vec![] }) };
    let (config, certificates) = client_config(tls, judged_by)?;
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

fn client_config(tls: &Tls, judged_by: CertificateTime) -> anyhow::Result<(ClientConfig, Vec<CertificateStatus>)> {
    let mut roots = RootCertStore::empty();
    let mut status = Vec::new();
    let authorities = certificates(&tls.ca_file)?;
    status.extend(ends(&tls.ca_file, &authorities));
    for certificate in authorities {
        roots.add(certificate).with_context(|| format!("{}: a certificate in it cannot be used", tls.ca_file))?;
    }
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_details(provider.clone(), Arc::new(Clock(judged_by)));
    let builder = builder.with_safe_default_protocol_versions()?;
    let builder = match judged_by {
        CertificateTime::Clock(_) => builder.with_root_certificates(roots),
        CertificateTime::Floor(floor) => {
            warn!(
                floor = date(unix_time(floor)),
                "the clock has not been set: of the broker's certificate only the end is judged"
            );
            let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
            builder.dangerous().with_custom_certificate_verifier(Arc::new(EndsOnly(verifier)))
        }
    };
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
    let mut bytes = Vec::new();
    let file = guarded::open(path, "", MAX_FILE_BYTES)?;
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes).with_context(|| format!("cannot read {path}"))?;
    Ok(bytes)
}

fn read_secret(path: &str) -> anyhow::Result<Vec<u8>> {
    guarded::read(path, "", Guard::Secret, MAX_FILE_BYTES)
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
            CertificateError::ExpiredContext { time, not_after } => {
                format!("the broker's certificate has expired on {}; {}", date(*not_after), judged_on(*time))
            }
            CertificateError::NotValidYetContext { time, not_before } => format!(
                "the broker's certificate is not yet valid: it begins on {}; {}",
                date(*not_before),
                judged_on(*time)
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

/// By which time a certificate was judged: the clock's, or the floor where the clock says less or has not been set.
fn judged_on(time: UnixTime) -> String {
    let clock = format!("this gateway's clock says {}", date(system_time()));
    match date(time) == date(system_time()) {
        true => clock,
        false => format!("{clock}, and it is judged by {}, when the clock was last trusted", date(time)),
    }
}

/// `2026-11-23`.
fn date(time: UnixTime) -> String {
    format!("{:.0}", Unix(time.as_secs().saturating_mul(1_000_000)))
}
