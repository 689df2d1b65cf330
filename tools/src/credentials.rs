//! The root credentials: from the environment, the configuration, or a file that only its owner can read.
//!
//! What must hold: a secret is never printed by `Debug`, never written to a file that others can read, and never read from
//! one; half a pair is an error, not a reason to generate another.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Names the root access key.
pub const ACCESS_KEY_VARIABLE: &str = "BUCKETS_ROOT_ACCESS_KEY";
/// Names the root secret.
pub const SECRET_KEY_VARIABLE: &str = "BUCKETS_ROOT_SECRET_KEY";
/// The file's name in the directory of `--dev` and in the user's configuration directory.
pub const CREDENTIALS_FILE: &str = "credentials.toml";

const ACCESS_KEY_BYTES: std::ops::RangeInclusive<usize> = 3..=128;
const SECRET_KEY_BYTES: std::ops::RangeInclusive<usize> = 8..=128;

/// An access key and its secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    /// Letters, digits, `-`, `_`, `.`; 3 to 128 of them.
    pub access_key: String,
    /// 8 to 128 printable ASCII characters without spaces.
    pub secret_key: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("access_key", &self.access_key).finish_non_exhaustive()
    }
}

/// The `[credentials]` section of the configuration.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CredentialsSection {
    /// The root access key, together with `secret_key`.
    pub access_key: Option<String>,
    /// The root secret.
    pub secret_key: Option<String>,
    /// Where they are kept instead; made at the first start.
    pub file: Option<PathBuf>,
}

impl fmt::Debug for CredentialsSection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CredentialsSection { access_key, secret_key: _, file } = self;
        f.debug_struct("CredentialsSection")
            .field("access_key", access_key)
            .field("file", file)
            .finish_non_exhaustive()
    }
}

/// Where the credentials were found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The two environment variables.
    Environment,
    /// The configuration.
    Configuration,
    /// This file.
    File(PathBuf),
    /// Made just now and stored in this file: show them once.
    Generated(PathBuf),
}

/// Why there are no usable credentials.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// One of two.
    #[error("{present} is set but {missing} is not; set both or neither")]
    Half {
        /// The one that is there.
        present: &'static str,
        /// The one that is not.
        missing: &'static str,
    },
    /// Not a legal key.
    #[error("the root access key must be 3 to 128 letters, digits, `-`, `_` or `.`")]
    AccessKey,
    /// Not a legal secret.
    #[error("the root secret key must be 8 to 128 printable ASCII characters without spaces")]
    SecretKey,
    /// Others can read it.
    #[error("{} can be read by others (mode {mode:03o}); run: chmod 600 {}", path.display(), path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not readable or writable.
    #[error("the credentials in {}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What failed.
        error: io::Error,
    },
    /// Not what it should be.
    #[error("{} does not hold access_key and secret_key: {what}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Nowhere.
    #[error(
        "no root credentials: set {ACCESS_KEY_VARIABLE} and {SECRET_KEY_VARIABLE}, or name the server's configuration \
         with --config (looked for {})",
        path.display()
    )]
    NotFound {
        /// The file that was looked for.
        path: PathBuf,
    },
}

/// Where credentials are kept unless the configuration says otherwise.
pub fn default_file(env: impl Fn(&str) -> Option<String>) -> PathBuf {
    let absolute = |name| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let config = absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")));
    config.unwrap_or_else(|| PathBuf::from("/etc")).join("buckets").join(CREDENTIALS_FILE)
}

/// The credentials from the environment, the configuration or `file`, in this order. Errors: `NotFound`.
pub fn find(
    env: impl Fn(&str) -> Option<String>,
    section: &CredentialsSection,
    file: &Path,
) -> Result<(Credentials, Origin), CredentialsError> {
    let given = [
        (
            env(ACCESS_KEY_VARIABLE),
            env(SECRET_KEY_VARIABLE),
            ACCESS_KEY_VARIABLE,
            SECRET_KEY_VARIABLE,
            Origin::Environment,
        ),
        (
            section.access_key.clone(),
            section.secret_key.clone(),
            "credentials.access_key",
            "credentials.secret_key",
            Origin::Configuration,
        ),
    ];
    for (access_key, secret_key, access_name, secret_name, origin) in given {
        match (access_key.filter(|key| !key.is_empty()), secret_key.filter(|key| !key.is_empty())) {
            (Some(access_key), Some(secret_key)) => {
                return Ok((Credentials { access_key, secret_key }.checked()?, origin));
            }
            (Some(_), None) => {
                return Err(CredentialsError::Half { present: access_name, missing: secret_name });
            }
            (None, Some(_)) => {
                return Err(CredentialsError::Half { present: secret_name, missing: access_name });
            }
            (None, None) => {}
        }
    }
    Ok((load(file)?, Origin::File(file.to_owned())))
}

/// As [`find`]; generates and stores credentials in `file` where there are none.
pub fn find_or_generate(
    env: impl Fn(&str) -> Option<String>,
    section: &CredentialsSection,
    file: &Path,
) -> Result<(Credentials, Origin), CredentialsError> {
    match find(env, section, file) {
        Err(CredentialsError::NotFound { .. }) => {
            let credentials = Credentials::generate().map_err(|error| at(file, error))?;
            store(file, &credentials)?;
            Ok((credentials, Origin::Generated(file.to_owned())))
        }
        found => found,
    }
}

impl Credentials {
    /// Random ones: an access key of 20 and a secret of 40 characters.
    pub fn generate() -> io::Result<Credentials> {
        let access_key = random_text(20, b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")?;
        let secret_key =
            random_text(40, b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")?;
        Ok(Credentials { access_key, secret_key })
    }

    fn checked(self) -> Result<Credentials, CredentialsError> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        if !ACCESS_KEY_BYTES.contains(&self.access_key.len()) || !self.access_key.bytes().all(legal) {
            return Err(CredentialsError::AccessKey);
        }
        let printable = self.secret_key.bytes().all(|b| b.is_ascii_graphic());
        if !SECRET_KEY_BYTES.contains(&self.secret_key.len()) || !printable {
            return Err(CredentialsError::SecretKey);
        }
        Ok(self)
    }
}

/// Characters of an alphabet whose size divides 256, so that all are equally likely.
fn random_text(len: usize, alphabet: &[u8]) -> io::Result<String> {
    assert!(256 % alphabet.len() == 0);
    let mut random = vec![0u8; len];
    getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(random.into_iter().map(|byte| char::from(alphabet[usize::from(byte) % alphabet.len()])).collect())
}

fn load(path: &Path) -> Result<Credentials, CredentialsError> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(CredentialsError::NotFound { path: path.to_owned() });
        }
        Err(error) => return Err(at(path, error)),
    };
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(CredentialsError::Exposed { path: path.to_owned(), mode });
    }
    let text = std::fs::read_to_string(path).map_err(|error| at(path, error))?;
    // The parser's own message would quote the line, and with it the secret.
    let malformed = || CredentialsError::Malformed {
        path: path.to_owned(),
        what: "two lines of TOML are expected".to_owned(),
    };
    toml::from_str::<Credentials>(&text).map_err(|_| malformed())?.checked()
}

/// Temporary file, flush, rename, flush of the directory: a crash leaves the whole file or none.
fn store(path: &Path, credentials: &Credentials) -> Result<(), CredentialsError> {
    let write = || -> io::Result<()> {
        let directory =
            path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let temporary = path.with_extension(format!("new-{}", std::process::id()));
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        let Credentials { access_key, secret_key } = credentials;
        writeln!(file, "# Root credentials of this deployment. Keep this file secret.")?;
        writeln!(file, "access_key = \"{access_key}\"\nsecret_key = \"{secret_key}\"")?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        std::fs::File::open(directory)?.sync_all()
    };
    write().map_err(|error| at(path, error))
}

fn at(path: &Path, error: io::Error) -> CredentialsError {
    CredentialsError::Io { path: path.to_owned(), error }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing(_: &str) -> Option<String> {
        None
    }

    fn environment(access: &'static str, secret: &'static str) -> impl Fn(&str) -> Option<String> {
        move |name| {
            let value = if name == ACCESS_KEY_VARIABLE { access } else { secret };
            (!value.is_empty()).then(|| value.to_owned())
        }
    }

    #[test]
    fn the_environment_comes_before_the_configuration_before_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("deep/er").join(CREDENTIALS_FILE);
        let section = CredentialsSection {
            access_key: Some("configured".to_owned()),
            secret_key: Some("configured-secret".to_owned()),
            file: None,
        };
        let empty = CredentialsSection::default();
        let (_, origin) = find(environment("from-env", "env-secret"), &section, &file).unwrap();
        assert_eq!(origin, Origin::Environment);
        assert_eq!(find(nothing, &section, &file).unwrap().1, Origin::Configuration);
        assert!(matches!(find(nothing, &empty, &file), Err(CredentialsError::NotFound { .. })));

        let (generated, origin) = find_or_generate(nothing, &empty, &file).unwrap();
        assert_eq!(origin, Origin::Generated(file.clone()));
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let again = find_or_generate(nothing, &empty, &file).unwrap();
        assert_eq!(again, (generated, Origin::File(file)));
    }

    #[test]
    fn half_a_pair_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(CREDENTIALS_FILE);
        for env in [("only-access", ""), ("", "only-secret")] {
            let result = find_or_generate(environment(env.0, env.1), &CredentialsSection::default(), &file);
            assert!(matches!(result, Err(CredentialsError::Half { .. })));
        }
        assert!(!file.exists());
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(CREDENTIALS_FILE);
        store(&file, &Credentials::generate().unwrap()).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        let result = find(nothing, &CredentialsSection::default(), &file);
        assert!(matches!(result, Err(CredentialsError::Exposed { mode: 0o640, .. })));
    }

    #[test]
    fn a_malformed_file_is_refused_without_showing_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(CREDENTIALS_FILE);
        std::fs::write(&file, "access_key = \"abc\"\nsecret_key = very-secret").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let error = find_or_generate(nothing, &CredentialsSection::default(), &file).unwrap_err();
        assert!(!error.to_string().contains("very-secret"), "{error}");
    }

    #[test]
    fn secrets_are_not_in_debug_output() {
        let credentials =
            Credentials { access_key: "abc".to_owned(), secret_key: "hidden-secret".to_owned() };
        let section =
            CredentialsSection { secret_key: Some("hidden-secret".to_owned()), ..Default::default() };
        assert!(!format!("{credentials:?}{section:?}").contains("hidden"));
    }

    #[test]
    fn illegal_keys_are_refused() {
        let check = |access: &str, secret: &str| {
            Credentials { access_key: access.to_owned(), secret_key: secret.to_owned() }.checked()
        };
        assert!(check("abc", "12345678").is_ok());
        assert!(matches!(check("ab", "12345678"), Err(CredentialsError::AccessKey)));
        assert!(matches!(check("a/b/c", "12345678"), Err(CredentialsError::AccessKey)));
        assert!(matches!(check("abc", "1234567"), Err(CredentialsError::SecretKey)));
        assert!(matches!(check("abc", "1234 5678"), Err(CredentialsError::SecretKey)));
        assert!(Credentials::generate().unwrap().checked().is_ok());
    }

    #[test]
    fn the_default_file_is_in_the_users_configuration() {
        let home = |name: &str| (name == "HOME").then(|| "/home/op".to_owned());
        assert_eq!(default_file(home), Path::new("/home/op/.config/buckets/credentials.toml"));
        assert_eq!(default_file(nothing), Path::new("/etc/buckets/credentials.toml"));
    }
}
