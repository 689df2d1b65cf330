//! Reading TOML files that may hold secrets.
//!
//! What must hold: an error says where and what on one line and quotes no line of the file, because that may be the secret.

use serde::de::DeserializeOwned;
use std::io;
use std::path::Path;

/// Longest file, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Longest name that an error repeats, in bytes: longer than any setting's, shorter than a secret.
const NAME_BYTES_MAX: usize = 32;

/// Why a file gave no value.
#[derive(Debug)]
pub(crate) enum TomlFileError {
    /// It cannot be read.
    Read(io::Error),
    /// It is not understood: what and where.
    Syntax(String),
}

/// The text of a file. Errors: unreadable, or longer than a MiB.
pub(crate) fn read(path: &Path) -> Result<String, TomlFileError> {
    let size = std::fs::metadata(path).map_err(TomlFileError::Read)?.len();
    if size > FILE_BYTES_MAX {
        return Err(TomlFileError::Syntax(format!("it is {size} bytes long")));
    }
    std::fs::read_to_string(path).map_err(TomlFileError::Read)
}

/// What a text says. Errors: `Syntax`.
pub(crate) fn parse<T: DeserializeOwned>(text: &str) -> Result<T, TomlFileError> {
    toml::from_str(text).map_err(|error| TomlFileError::Syntax(one_line(&error, text)))
}

/// Where and what, without the line itself, which the parser's own report quotes.
fn one_line(error: &toml::de::Error, text: &str) -> String {
    let start = error.span().map_or(0, |span| span.start.min(text.len()));
    let before = text.as_bytes().get(..start).unwrap_or_default();
    let number = before.iter().filter(|byte| **byte == b'\n').count();
    let name =
        text.lines().nth(number).and_then(|line| line.split_once('=')).map_or("", |(name, _)| name.trim());
    let message = if name.contains("secret") { "not a text in quotes" } else { error.message() };
    let message = message.replace('\n', ", ");
    // What stands before a `=` may be a secret's own end.
    let is_name = name.len() <= NAME_BYTES_MAX && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    if name.is_empty() || !is_name {
        return format!("line {}: {message}", number + 1);
    }
    format!("line {} ({name}): {message}", number + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        match parse::<toml::Table>(text) {
            Err(TomlFileError::Syntax(what)) => what,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn errors_name_line_and_setting_but_not_the_secret() {
        assert!(
            error("a = 1\nlisten = 1.2.3").starts_with("line 2 (listen): "),
            "{}",
            error("a = 1\nlisten = 1.2.3")
        );
        for text in [
            "secret = \"c2VjcmV0c2VjcmV0==",
            "secret = \"\nc2VjcmV0c2VjcmV0==\"",
            "secret =\nc2VjcmV0c2VjcmV0==\n",
            "secret = c2VjcmV0c2VjcmV0==\n",
        ] {
            assert!(!error(text).contains("c2Vj"), "{}", error(text));
        }
    }
}
