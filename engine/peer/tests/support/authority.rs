//! A CA for tests, and what it signs.

use buckets_peer::{Pem, Tls, TlsError};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    date_time_ymd,
};

pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// What a node has.
pub struct Files {
    pub ca: String,
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Authority { issuer }
    }

    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate for these hosts.
    pub fn issue(&self, hosts: &[&str]) -> Files {
        self.issue_with(hosts, |_| {})
    }

    pub fn issue_expired(&self, hosts: &[&str]) -> Files {
        self.issue_with(hosts, |params| params.not_after = date_time_ymd(2020, 1, 1))
    }

    pub fn issue_until_2040(&self, hosts: &[&str]) -> Files {
        self.issue_with(hosts, |params| params.not_after = date_time_ymd(2040, 1, 1))
    }

    pub fn issue_early(&self, hosts: &[&str]) -> Files {
        self.issue_with(hosts, |params| params.not_before = date_time_ymd(2900, 1, 1))
    }

    pub fn issue_for_servers(&self, hosts: &[&str]) -> Files {
        self.issue_with(hosts, |params| params.insert_extended_key_usage(ExtendedKeyUsagePurpose::ServerAuth))
    }

    fn issue_with(&self, hosts: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Files {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Files { ca: self.pem(), certificate, key: key.serialize_pem() }
    }
}

impl Files {
    pub fn tls(&self, own_host: Option<&str>) -> Result<Tls, TlsError> {
        let Files { ca, certificate, key } = self;
        let pem = Pem { ca: ca.as_bytes(), certificate: certificate.as_bytes(), key: key.as_bytes() };
        Tls::new(pem, own_host)
    }
}
