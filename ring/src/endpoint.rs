//! Where a disk is: a plain path, or a URL with host and path; and the patterns operators write for many of them.
//!
//! ```text
//! /mnt/disk{1...4}                                  four local disks
//! http://node{1...3}.lan:9000/mnt/disk{a...d}       twelve disks on three nodes
//! http://[fd00::1]:9000/mnt/disk{01...16}           zero-padded
//! ```
//!
//! What must hold: parsing and printing are inverse; two endpoints are equal exactly when they name the same place;
//! paths are normal (no `//`, no `.` or `..`, no slash at the end), so that equality of texts is equality of places.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// Most endpoints one command or file may name.
pub const ENDPOINTS_MAX: usize = 8192;
/// Longest endpoint or pattern, in bytes.
const ENDPOINT_BYTES_MAX: usize = 1024;
const ELLIPSIS: &str = "...";

/// Why an endpoint or a pattern was refused: each is a whole sentence with the text it is about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Nothing there.
    #[error(
        "an endpoint is empty; write a path such as /mnt/disk1 or a URL such as http://node1:9000/mnt/disk1"
    )]
    Empty,
    /// Over the length limit.
    #[error("an endpoint is {0} bytes long; at most {ENDPOINT_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// Neither a path nor a URL with http or https.
    #[error("`{0}`: the scheme must be http or https, or leave it out for a local path")]
    Scheme(String),
    /// Host missing or malformed.
    #[error(
        "`{0}`: the host is missing or malformed; write http://host:port/path, IPv6 addresses in brackets"
    )]
    Host(String),
    /// Port missing or not 1..=65535.
    #[error("`{0}`: the port is missing or not a number from 1 to 65535; write http://host:port/path")]
    Port(String),
    /// Path missing, the root, or with `..`.
    #[error("`{0}`: the path must be a directory below the root without `..`, for example /mnt/disk1")]
    Path(String),
    /// Query, fragment or user info.
    #[error("`{0}`: a disk's URL has no user, query or fragment")]
    Extra(String),
    /// A pattern with unbalanced or nested braces or without a range.
    #[error(
        "`{0}`: a pattern is written {{1...4}} or {{a...d}}, first and last of one kind and in ascending order"
    )]
    Pattern(String),
    /// The pattern names too many.
    #[error("`{0}` names more than {ENDPOINTS_MAX} disks")]
    TooMany(String),
    /// Named twice.
    #[error("`{0}` is named twice")]
    Duplicate(String),
    /// Paths and URLs mixed.
    #[error("`{0}` is a URL and `{1}` is a local path; name all disks one way")]
    Mixed(String, String),
    /// The number of disks is not a multiple of the set size.
    #[error(
        "{disks} disks cannot be divided into sets of {set}; name {fewer} or {more} disks, or choose another K+M"
    )]
    Division {
        /// Disks named.
        disks: usize,
        /// Disks of a set.
        set: usize,
        /// Next smaller number that can be divided.
        fewer: usize,
        /// Next larger number that can be divided.
        more: usize,
    },
}

/// http or https.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// Plain.
    Http,
    /// TLS.
    Https,
}

/// The node part of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeAddress {
    /// http or https.
    pub scheme: Scheme,
    /// Name (lower case), IPv4 address, or IPv6 address without its brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// Where one disk is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    node: Option<NodeAddress>,
    path: String,
}

impl Endpoint {
    /// The node, or `None` for a plain local path.
    pub fn node(&self) -> Option<&NodeAddress> {
        self.node.as_ref()
    }

    /// The same disk, where its node is connected to in another way. A plain path stays one.
    pub fn with_scheme(mut self, scheme: Scheme) -> Endpoint {
        if let Some(node) = &mut self.node {
            node.scheme = scheme;
        }
        self
    }

    /// The directory on its node, normal.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl fmt::Display for NodeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(node) = &self.node {
            node.fmt(f)?;
        }
        f.write_str(&self.path)
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Endpoint, EndpointError> {
        if text.is_empty() {
            return Err(EndpointError::Empty);
        }
        if text.len() > ENDPOINT_BYTES_MAX {
            return Err(EndpointError::TooLong(text.len()));
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Ok(Endpoint { node: None, path: normal_path(text, text)? });
        };
        let scheme = scheme_of(scheme, text)?;
        if rest.contains(['@', '?', '#']) {
            return Err(EndpointError::Extra(text.to_owned()));
        }
        let (authority, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => return Err(EndpointError::Path(text.to_owned())),
        };
        let (host, port) = host_and_port(authority, text)?;
        Ok(Endpoint { node: Some(NodeAddress { scheme, host, port }), path: normal_path(path, text)? })
    }
}

impl FromStr for NodeAddress {
    type Err = EndpointError;

    /// `host:port`, or a URL without a path. Errors: as for an endpoint.
    fn from_str(text: &str) -> Result<NodeAddress, EndpointError> {
        if text.is_empty() {
            return Err(EndpointError::Empty);
        }
        if text.len() > ENDPOINT_BYTES_MAX {
            return Err(EndpointError::TooLong(text.len()));
        }
        let (scheme, authority) = match text.split_once("://") {
            Some((scheme, rest)) => (scheme_of(scheme, text)?, rest.strip_suffix('/').unwrap_or(rest)),
            None => (Scheme::Http, text),
        };
        let (host, port) = host_and_port(authority, text)?;
        Ok(NodeAddress { scheme, host, port })
    }
}

fn scheme_of(scheme: &str, text: &str) -> Result<Scheme, EndpointError> {
    match scheme.to_ascii_lowercase().as_str() {
        "http" => Ok(Scheme::Http),
        "https" => Ok(Scheme::Https),
        _ => Err(EndpointError::Scheme(text.to_owned())),
    }
}

fn host_and_port(authority: &str, text: &str) -> Result<(String, u16), EndpointError> {
    let host_error = || EndpointError::Host(text.to_owned());
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (address, port) = rest.split_once(']').ok_or_else(host_error)?;
        let address: std::net::Ipv6Addr = address.parse().map_err(|_| host_error())?;
        (address.to_string(), port.strip_prefix(':').unwrap_or(""))
    } else {
        let (host, port) = authority.split_once(':').unwrap_or((authority, ""));
        let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.' || b == b'_';
        if host.is_empty() || !host.bytes().all(legal) {
            return Err(host_error());
        }
        (host.to_ascii_lowercase(), port)
    };
    let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    match port.parse::<u16>() {
        Ok(number) if digits && number > 0 => Ok((host, number)),
        _ => Err(EndpointError::Port(text.to_owned())),
    }
}

/// `path` without empty and `.` components; `text` is what an error names.
fn normal_path(path: &str, text: &str) -> Result<String, EndpointError> {
    let error = || EndpointError::Path(text.to_owned());
    let mut normal = String::with_capacity(path.len());
    for component in path.split('/').filter(|component| !component.is_empty() && *component != ".") {
        if component == ".." || component.bytes().any(|b| b == 0) {
            return Err(error());
        }
        if !normal.is_empty() || path.starts_with('/') {
            normal.push('/');
        }
        normal.push_str(component);
    }
    if normal.is_empty() { Err(error()) } else { Ok(normal) }
}

/// The endpoints that `patterns` name, in order: the last range of a pattern varies fastest. Each is named once, and
/// all are URLs or all are paths.
pub fn expand<S: AsRef<str>>(patterns: &[S]) -> Result<Vec<Endpoint>, EndpointError> {
    let mut endpoints: Vec<Endpoint> = Vec::new();
    let mut seen = BTreeSet::new();
    for pattern in patterns.iter().map(AsRef::as_ref) {
        for text in expand_pattern(pattern)? {
            let endpoint: Endpoint = text.parse()?;
            if let Some(first) =
                endpoints.first().filter(|first| first.node.is_some() != endpoint.node.is_some())
            {
                let (url, path) = if first.node.is_some() { (first, &endpoint) } else { (&endpoint, first) };
                return Err(EndpointError::Mixed(url.to_string(), path.to_string()));
            }
            if !seen.insert(endpoint.clone()) {
                return Err(EndpointError::Duplicate(text));
            }
            endpoints.push(endpoint);
            if endpoints.len() > ENDPOINTS_MAX {
                return Err(EndpointError::TooMany(pattern.to_owned()));
            }
        }
    }
    if endpoints.is_empty() { Err(EndpointError::Empty) } else { Ok(endpoints) }
}

/// The texts that one pattern stands for; a text without braces stands for itself.
pub fn expand_pattern(pattern: &str) -> Result<Vec<String>, EndpointError> {
    if pattern.is_empty() {
        return Err(EndpointError::Empty);
    }
    if pattern.len() > ENDPOINT_BYTES_MAX {
        return Err(EndpointError::TooLong(pattern.len()));
    }
    let error = || EndpointError::Pattern(pattern.to_owned());
    let mut texts = vec![String::new()];
    let mut rest = pattern;
    loop {
        let Some(brace) = rest.find(['{', '}']) else {
            texts.iter_mut().for_each(|text| text.push_str(rest));
            return Ok(texts);
        };
        let (literal, after) = rest.split_at(brace);
        let (range, after) = after.strip_prefix('{').and_then(|a| a.split_once('}')).ok_or_else(error)?;
        let values = range_values(range).ok_or_else(error)?;
        if texts.len().saturating_mul(values.count()) > ENDPOINTS_MAX {
            return Err(EndpointError::TooMany(pattern.to_owned()));
        }
        texts = texts
            .iter()
            .flat_map(|text| values.iter().map(move |value| format!("{text}{literal}{value}")))
            .collect();
        rest = after;
    }
}

/// The values of one range, counted before they are made.
enum RangeValues {
    Numbers { first: u64, last: u64, width: usize },
    Letters { first: u8, last: u8 },
}

impl RangeValues {
    fn count(&self) -> usize {
        match *self {
            RangeValues::Numbers { first, last, .. } => {
                usize::try_from(last - first).unwrap_or(usize::MAX - 1) + 1
            }
            RangeValues::Letters { first, last } => usize::from(last - first) + 1,
        }
    }

    fn iter(&self) -> impl Iterator<Item = String> {
        let (range, width, letters) = match *self {
            RangeValues::Numbers { first, last, width } => (first..=last, width, false),
            RangeValues::Letters { first, last } => (u64::from(first)..=u64::from(last), 0, true),
        };
        range.map(move |value| match u8::try_from(value) {
            Ok(letter) if letters => char::from(letter).to_string(),
            _ => format!("{value:0width$}"),
        })
    }
}

fn range_values(range: &str) -> Option<RangeValues> {
    let (first, last) = range.split_once(ELLIPSIS)?;
    if let ([first @ b'a'..=b'z'], [last @ b'a'..=b'z']) | ([first @ b'A'..=b'Z'], [last @ b'A'..=b'Z']) =
        (first.as_bytes(), last.as_bytes())
    {
        return (first <= last).then_some(RangeValues::Letters { first: *first, last: *last });
    }
    let number = |text: &str| {
        let digits = (1..=9).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse::<u64>().ok()).flatten()
    };
    // A zero in front asks for padding to that width.
    let width = if first.len() > 1 && first.starts_with('0') { first.len() } else { 0 };
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some(RangeValues::Numbers { first, last, width })
}

/// Divides endpoints into sets of `set_disks`, the disks of each set spread over as many nodes as there are: the first
/// disk of every node, then the second of every node, and so on, cut into sets.
pub fn group(endpoints: &[Endpoint], set_disks: usize) -> Result<Vec<Vec<Endpoint>>, EndpointError> {
    assert!(set_disks > 0);
    let disks = endpoints.len();
    if disks == 0 || !disks.is_multiple_of(set_disks) {
        let more = disks.next_multiple_of(set_disks).max(set_disks);
        return Err(EndpointError::Division { disks, set: set_disks, fewer: more - set_disks, more });
    }
    let mut nodes: Vec<(Option<&NodeAddress>, Vec<&Endpoint>)> = Vec::new();
    for endpoint in endpoints {
        match nodes.iter_mut().find(|(node, _)| *node == endpoint.node()) {
            Some((_, disks)) => disks.push(endpoint),
            None => nodes.push((endpoint.node(), vec![endpoint])),
        }
    }
    let longest = nodes.iter().map(|(_, disks)| disks.len()).max().unwrap_or(0);
    let interleaved: Vec<Endpoint> = (0..longest)
        .flat_map(|at| {
            nodes.iter().filter_map(move |(_, disks)| disks.get(at)).map(|endpoint| (*endpoint).clone())
        })
        .collect();
    Ok(interleaved.chunks(set_disks).map(<[Endpoint]>::to_vec).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn texts(patterns: &[&str]) -> Vec<String> {
        expand(patterns).unwrap().iter().map(Endpoint::to_string).collect()
    }

    #[test]
    fn patterns_name_what_operators_mean() {
        assert_eq!(texts(&["/mnt/disk{1...4}"]), ["/mnt/disk1", "/mnt/disk2", "/mnt/disk3", "/mnt/disk4"]);
        assert_eq!(texts(&["/d/{a...c}"]), ["/d/a", "/d/b", "/d/c"]);
        assert_eq!(texts(&["/d{08...11}/x"]), ["/d08/x", "/d09/x", "/d10/x", "/d11/x"]);
        assert_eq!(texts(&["/a", "/b"]), ["/a", "/b"]);
        assert_eq!(
            texts(&["http://node{1...2}:9000/d{1...2}"]),
            ["http://node1:9000/d1", "http://node1:9000/d2", "http://node2:9000/d1", "http://node2:9000/d2"]
        );
    }

    #[test]
    fn equal_places_are_equal_endpoints() {
        let same = [
            ("/mnt//disk1/", "/mnt/disk1"),
            ("/mnt/./disk1", "/mnt/disk1"),
            ("./data/d1", "data/d1"),
            ("HTTP://Node:9000/d/", "http://node:9000/d"),
            ("http://[FD00:0:0::1]:9000/d", "http://[fd00::1]:9000/d"),
        ];
        for (one, other) in same {
            let one: Endpoint = one.parse().unwrap();
            assert_eq!(one.to_string(), other);
            assert_eq!(one, other.parse().unwrap());
        }
    }

    #[test]
    fn a_node_is_named_with_and_without_its_scheme() {
        let node: NodeAddress = "Node1:9100".parse().unwrap();
        assert_eq!(node.to_string(), "http://node1:9100");
        for text in ["http://node1:9100", "http://node1:9100/", "HTTP://NODE1:9100"] {
            assert_eq!(text.parse(), Ok(node.clone()), "{text}");
        }
        let endpoint: Endpoint = "https://[fd00::1]:9100/d".parse().unwrap();
        assert_eq!("https://[FD00::1]:9100".parse().as_ref(), Ok(endpoint.node().unwrap()));
        for text in
            ["", "node1", "node1:0", "http://node1:9100/d", "node1:9100/", "fd00::1:9100", "ftp://a:1"]
        {
            assert!(text.parse::<NodeAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn malformed_endpoints_are_refused_with_their_reason() {
        type Reason = fn(String) -> EndpointError;
        let table: [(&str, Reason); 17] = [
            ("ftp://a:1/d", EndpointError::Scheme),
            ("http://:9000/d", EndpointError::Host),
            ("http://a b:9000/d", EndpointError::Host),
            ("http://[::1:9000/d", EndpointError::Host),
            ("http://[nonsense]:9000/d", EndpointError::Host),
            ("http://a/d", EndpointError::Port),
            ("http://a:0/d", EndpointError::Port),
            ("http://a:65536/d", EndpointError::Port),
            ("http://a:+1/d", EndpointError::Port),
            ("http://[::1]/d", EndpointError::Port),
            ("http://a:1", EndpointError::Path),
            ("http://a:1/", EndpointError::Path),
            ("/", EndpointError::Path),
            ("/mnt/../etc", EndpointError::Path),
            (".", EndpointError::Path),
            ("http://user@a:1/d", EndpointError::Extra),
            ("http://a:1/d?x", EndpointError::Extra),
        ];
        for (text, error) in table {
            assert_eq!(text.parse::<Endpoint>(), Err(error(text.to_owned())), "{text}");
        }
        assert_eq!("".parse::<Endpoint>(), Err(EndpointError::Empty));
    }

    #[test]
    fn malformed_patterns_are_refused() {
        for text in [
            "/d{1..4}",
            "/d{4...1}",
            "/d{1...}",
            "/d{...4}",
            "/d{a...4}",
            "/d{a...D}",
            "/d{ab...cd}",
            "/d{1...4",
            "/d1}",
            "/d{{1...2}}",
            "/d{-1...4}",
            "/d{}",
            "/d{1...9999999999}",
        ] {
            assert_eq!(expand_pattern(text), Err(EndpointError::Pattern(text.to_owned())), "{text}");
        }
        for text in ["/d{1...999999999}", "/{1...100}/{1...100}"] {
            assert_eq!(expand_pattern(text), Err(EndpointError::TooMany(text.to_owned())), "{text}");
        }
        assert!(matches!(expand(&["/d{1...2}", "/d2/"]), Err(EndpointError::Duplicate(_))));
        assert!(matches!(expand(&["/d1", "http://a:1/d"]), Err(EndpointError::Mixed(_, _))));
    }

    #[test]
    fn sets_are_spread_over_nodes() {
        let endpoints = expand(&["http://n{1...3}:1/d{1...4}"]).unwrap();
        let sets = group(&endpoints, 6).unwrap();
        assert_eq!(sets.len(), 2);
        for set in &sets {
            for node in ["n1", "n2", "n3"] {
                assert_eq!(set.iter().filter(|e| e.node().unwrap().host == node).count(), 2);
            }
        }
        let local = expand(&["/d{1...8}"]).unwrap();
        assert_eq!(group(&local, 4).unwrap(), [&local[..4], &local[4..]]);
    }

    #[test]
    fn a_number_of_disks_that_does_not_divide_is_refused_with_the_numbers_that_would() {
        let endpoints = expand(&["/d{1...5}"]).unwrap();
        assert_eq!(
            group(&endpoints, 4),
            Err(EndpointError::Division { disks: 5, set: 4, fewer: 4, more: 8 })
        );
    }

    proptest! {
        #[test]
        fn printing_is_the_inverse_of_parsing(text in "(http://[a-z0-9.]{1,8}:[1-9][0-9]{0,3})?/[a-z0-9./_-]{1,20}") {
            if let Ok(endpoint) = text.parse::<Endpoint>() {
                prop_assert_eq!(endpoint.to_string().parse::<Endpoint>(), Ok(endpoint));
            }
        }

        #[test]
        fn no_text_makes_parsing_panic(text in "\\PC*", braces in "[{}.0-9a-c/]{0,30}") {
            let _ = text.parse::<Endpoint>();
            let _ = expand(&[text]);
            let _ = expand(&[braces]);
        }

        #[test]
        fn grouping_keeps_every_disk_once(nodes in 1usize..6, disks in 1usize..6, set in 1usize..12) {
            let endpoints = expand(&[format!("http://n{{1...{nodes}}}:1/d{{1...{disks}}}")]).unwrap();
            if let Ok(sets) = group(&endpoints, set) {
                let mut all: Vec<Endpoint> = sets.into_iter().flatten().collect();
                all.sort();
                let mut expected = endpoints;
                expected.sort();
                prop_assert_eq!(all, expected);
            }
        }
    }
}
