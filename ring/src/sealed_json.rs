//! JSON files that people read and machines trust: the identity files of a disk.
//!
//! What must hold: the `checksum` member covers every other member, whatever the order and spacing of the file, so a
//! torn, rotten or hand-edited file is told from a good one before any of it is believed.
//!
//! The checksum is `xxh3-128:` and 32 hex digits: XXH3-128 of the object without `checksum`, members sorted by
//! name at every level, no spaces.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

const CHECKSUM_MEMBER: &str = "checksum";
const CHECKSUM_PREFIX: &str = "xxh3-128:";

/// Why a file is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Not a JSON object.
    #[error("it is not a JSON object ({0})")]
    NotJson(String),
    /// No checksum in it.
    #[error("it has no checksum")]
    Unsealed,
    /// The content is not what was sealed.
    #[error("its checksum is {stored} but its content has {computed}: it is damaged or was edited")]
    Checksum {
        /// As in the file.
        stored: String,
        /// Of the content.
        computed: String,
    },
    /// A member is missing or of the wrong kind.
    #[error("it is intact but not understood ({0})")]
    Shape(String),
}

/// The file's bytes: indented for people, sealed, with a newline at the end.
pub(crate) fn seal<T: Serialize>(content: &T) -> Vec<u8> {
    // Plain structs of strings and integers: there is nothing in them that JSON cannot say.
    let Ok(Value::Object(mut members)) = serde_json::to_value(content) else {
        unreachable!("identity files are JSON objects")
    };
    let checksum = checksum(&Value::Object(members.clone()));
    members.insert(CHECKSUM_MEMBER.to_owned(), Value::String(checksum));
    let Ok(mut bytes) = serde_json::to_vec_pretty(&members) else { unreachable!("values print") };
    bytes.push(b'\n');
    bytes
}

/// The content, if the seal is right.
pub(crate) fn open<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, SealError> {
    let value: Value = serde_json::from_slice(bytes).map_err(|e| SealError::NotJson(e.to_string()))?;
    let Value::Object(mut members) = value else {
        return Err(SealError::NotJson("another kind of value".to_owned()));
    };
    let Some(Value::String(stored)) = members.remove(CHECKSUM_MEMBER) else {
        return Err(SealError::Unsealed);
    };
    let content = Value::Object(members);
    let computed = checksum(&content);
    if stored != computed {
        return Err(SealError::Checksum { stored, computed });
    }
    serde_json::from_value(content).map_err(|e| SealError::Shape(e.to_string()))
}

fn checksum(value: &Value) -> String {
    let mut text = String::new();
    write_canonical(value, &mut text);
    format!("{CHECKSUM_PREFIX}{:032x}", xxhash_rust::xxh3::xxh3_128(text.as_bytes()))
}

/// Sorted here, not by the map: its order depends on a feature of serde_json that any dependency may switch on.
fn write_canonical(value: &Value, out: &mut String) {
    match value {
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_canonical(item, out);
            }
            out.push(']');
        }
        Value::Object(members) => {
            let mut names: Vec<&String> = members.keys().collect();
            names.sort();
            out.push('{');
            for (i, name) in names.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                out.push_str(&Value::String(name.clone()).to_string());
                out.push(':');
                write_canonical(&members[name], out);
            }
            out.push('}');
        }
        leaf => out.push_str(&leaf.to_string()),
    }
}
