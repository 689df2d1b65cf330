//! The files with which nodes encrypt what they say to each other.
//!
//! What must hold: an error is one sentence with the setting, the file, what was expected and what to do; the key is in none.

use buckets_peer::{Pem, Tls, TlsError, TlsFile};
use serde::Deserialize;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// The permission bits of everybody who is neither owner nor group.
const MODE_OTHERS: u32 = 0o007;

/// `[tls]`, as written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsSection {
    /// Certificates of the CA that signed those of all nodes.
    pub ca: Option<PathBuf>,
    /// This node's certificate, and what leads from it to the CA.
    pub certificate: Option<PathBuf>,
    /// The certificate's private key.
    pub key: Option<PathBuf>,
}

/// All three files, each PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates of the CA that signed those of all nodes.
    pub ca: PathBuf,
    /// This node's certificate, and what leads from it to the CA.
    pub certificate: PathBuf,
    /// The certificate's private key.
    pub key: PathBuf,
}

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsFilesError {
    /// One cannot be read.
    #[error("{}: {} cannot be read: {error}; name a PEM file that bucketsd may read", setting(*file), path.display())]
    Read {
        /// Which.
        file: TlsFile,
        /// Where.
        path: PathBuf,
        /// What failed.
        error: io::Error,
    },
    /// One is of no use.
    #[error("{}: {} {error}", setting(error.file()), path.display())]
    Unusable {
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        error: TlsError,
    },
}

fn setting(file: TlsFile) -> &'static str {
    match file {
        TlsFile::Ca => "tls.ca",
        TlsFile::Certificate => "tls.certificate",
        TlsFile::Key => "tls.key",
    }
}

impl TlsSection {
    /// Names relative to a directory.
    pub(crate) fn below(&mut self, directory: &Path) {
        for path in [&mut self.ca, &mut self.certificate, &mut self.key].into_iter().flatten() {
            *path = directory.join(&*path);
        }
    }

    /// What is set here, or else there.
    pub(crate) fn or(self, other: TlsSection) -> TlsSection {
        TlsSection {
            ca: self.ca.or(other.ca),
            certificate: self.certificate.or(other.certificate),
            key: self.key.or(other.key),
        }
    }

    /// All three, or none of them. Errors: the name of the first one that is missing.
    pub(crate) fn complete(self) -> Result<Option<TlsFiles>, &'static str> {
        match self {
            TlsSection { ca: None, certificate: None, key: None } => Ok(None),
            TlsSection { ca: Some(ca), certificate: Some(certificate), key: Some(key) } => {
                Ok(Some(TlsFiles { ca, certificate, key }))
            }
            TlsSection { ca: None, .. } => Err("ca"),
            TlsSection { certificate: None, .. } => Err("certificate"),
            TlsSection { .. } => Err("key"),
        }
    }
}

impl TlsFiles {
    /// Reads the files and checks them as other nodes will; `own_host` is where those connect to, `None` for a gateway.
    pub fn load(&self, own_host: Option<&str>) -> Result<Tls, TlsFilesError> {
        let read = |file: TlsFile| {
            let path = self.path(file).to_owned();
            std::fs::read(&path).map_err(|error| TlsFilesError::Read { file, path, error })
        };
        let (ca, certificate) = (read(TlsFile::Ca)?, read(TlsFile::Certificate)?);
        let key = Zeroizing::new(read(TlsFile::Key)?);
        let pem = Pem { ca: &ca, certificate: &certificate, key: &key };
        Tls::new(pem, own_host)
            .map_err(|error| TlsFilesError::Unusable { path: self.path(error.file()).to_owned(), error })
    }

    /// A sentence where everybody on the machine can read the key, or even write it.
    pub fn exposure(&self) -> Option<String> {
        let path = self.key.display();
        let mode = std::fs::metadata(&self.key).ok()?.permissions().mode() & 0o777;
        (mode & MODE_OTHERS != 0).then(|| {
            format!("tls.key: {path} is open to every user of this machine (mode {mode:03o}); run: chmod 600 {path}")
        })
    }

    fn path(&self, file: TlsFile) -> &Path {
        match file {
            TlsFile::Ca => &self.ca,
            TlsFile::Certificate => &self.certificate,
            TlsFile::Key => &self.key,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_setting_and_file() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let files = TlsFiles { ca: at("ca.pem"), certificate: at("node.pem"), key: at("node.key") };
        let refused = || files.load(Some("node1")).map(drop).unwrap_err().to_string();
        let missing = refused();
        assert!(missing.starts_with("tls.ca: ") && missing.contains("ca.pem cannot be read: "), "{missing}");
        std::fs::write(&files.ca, "something else").unwrap();
        assert!(refused().starts_with("tls.certificate: "), "{}", refused());
        std::fs::write(&files.certificate, "").unwrap();
        assert!(refused().starts_with("tls.key: "), "{}", refused());
        std::fs::write(&files.key, "").unwrap();
        assert!(refused().contains("ca.pem holds no certificate; expected is PEM"), "{}", refused());
    }

    #[test]
    fn a_key_that_everybody_can_read_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let key = directory.path().join("node.key");
        std::fs::write(&key, "").unwrap();
        let files = TlsFiles { ca: "ca.pem".into(), certificate: "node.pem".into(), key };
        for (mode, is_exposed) in [(0o600, false), (0o640, false), (0o644, true)] {
            std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(files.exposure().is_some(), is_exposed, "{mode:o}");
        }
    }

    #[test]
    fn flags_come_before_the_file_and_none_may_be_missing() {
        let section = |ca: Option<&str>, certificate: Option<&str>, key: Option<&str>| TlsSection {
            ca: ca.map(Into::into),
            certificate: certificate.map(Into::into),
            key: key.map(Into::into),
        };
        assert_eq!(TlsSection::default().complete(), Ok(None));
        let file = section(Some("a"), Some("b"), Some("c"));
        let both = section(None, Some("flag"), None).or(file).complete().unwrap().unwrap();
        let expected = TlsFiles { ca: "a".into(), certificate: "flag".into(), key: "c".into() };
        assert_eq!(both, expected);
        assert_eq!(section(None, Some("b"), Some("c")).complete(), Err("ca"));
        assert_eq!(section(Some("a"), None, Some("c")).complete(), Err("certificate"));
        assert_eq!(section(Some("a"), Some("b"), None).complete(), Err("key"));
    }
}
