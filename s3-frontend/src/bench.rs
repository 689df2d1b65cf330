//! Entry points for benches (feature `bench`): what is done with the head of every request, in the memory that a connection
//! keeps from one request to the next.

use crate::http::head::Head;
use crate::http::target::Target;
use crate::s3::auth::signing::SigningKeys;
use crate::s3::auth::{self, Site};

/// A connection's memory for heads, and a core's for signing keys.
#[derive(Default)]
pub struct Heads {
    head: Head,
    target: Target,
    keys: SigningKeys,
}

impl Heads {
    /// Parses a head and its target; the number of its bytes, or `None` where it is no whole head.
    pub fn parse(&mut self, input: &[u8]) -> Option<usize> {
        let used = self.head.parse(input).ok().flatten()?;
        self.target.parse(self.head.target()).ok()?;
        Some(used)
    }

    /// Whether the head that was parsed last bears this user's signature.
    pub fn verify(&mut self, access_key: &str, secret: &str, unix_seconds: i64) -> bool {
        let site = Site { region: "us-east-1", is_also_region: &|_| false, unix_seconds };
        let user = |key: &str| (key == access_key).then(|| ((), secret.to_owned()));
        auth::authenticate(&self.head, &self.target, site, &mut self.keys, user).is_ok()
    }
}
