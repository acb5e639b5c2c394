//! Certificates made for a test: P-256, with names and days as wished.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose as Usage, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use time::{Duration, OffsetDateTime};

/// From when to when a certificate is valid, in days from now.
pub type Days = (i64, i64);

/// As it should be.
pub const VALID: Days = (-1, 365);

/// Who vouches for certificates.
#[derive(Debug)]
pub struct Authority {
    /// Its own certificate in PEM.
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key in PEM.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The certificate.
    pub cert: String,
    /// PKCS#8.
    pub key: String,
}

fn params(names: &[&str], common_name: &str, (from, to): Days) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("names are names");
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let now = OffsetDateTime::now_utc();
    (params.not_before, params.not_after) = (now + Duration::days(from), now + Duration::days(to));
    params
}

fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("random numbers")
}

impl Authority {
    /// A new one.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn new(common_name: &str) -> Self {
        let mut params = params(&[], common_name, (-3_650, 3_650));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = key();
        let pem = params.self_signed(&key).expect("it signs").pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// For a broker with these names or addresses.
    #[must_use]
    pub fn server(&self, names: &[&str], days: Days) -> Pair {
        self.sign(params(names, "broker", days), Usage::ServerAuth)
    }

    /// For a gateway; mosquitto's `use_identity_as_username` takes the common name.
    #[must_use]
    pub fn client(&self, common_name: &str, days: Days) -> Pair {
        self.sign(params(&[], common_name, days), Usage::ClientAuth)
    }

    fn sign(&self, mut params: CertificateParams, usage: Usage) -> Pair {
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        let key = key();
        let cert = params.signed_by(&key, &self.issuer).expect("it signs").pem();
        Pair { cert, key: key.serialize_pem() }
    }
}
