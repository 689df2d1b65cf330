//! Certificates with which no other node would let this one in are refused at the start, each with its reason.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "support/authority.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]
mod authority;

use authority::{Authority, Files};
use buckets_peer::TlsFile;

#[test]
fn good_files_are_taken() {
    let authority = Authority::new("the CA");
    let files = authority.issue(&["node1", "127.0.0.1"]);
    for host in [Some("node1"), Some("127.0.0.1"), None] {
        assert!(files.tls(host).is_ok(), "{host:?}");
    }
    // While one CA takes the place of another.
    let both = Files { ca: Authority::new("another").pem() + &files.ca, ..files };
    assert!(both.tls(Some("node1")).is_ok());
}

#[test]
fn files_that_cannot_work_are_refused_by_their_fault() {
    let authority = Authority::new("the CA");
    let good = || authority.issue(&["node1"]);
    let other = Authority::new("another CA").issue(&["node1"]);
    let nothing = || "nothing of that kind\n".to_owned();
    let damaged = |pem: String| pem.replacen('M', "*", 3);
    let encrypted =
        || "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAA==\n-----END ENCRYPTED PRIVATE KEY-----\n".to_owned();
    let meaningless = || "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n".to_owned();
    let no_certificate = || "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned();
    let table = [
        (Files { ca: nothing(), ..good() }, TlsFile::Ca, "holds no certificate"),
        (Files { ca: no_certificate(), ..good() }, TlsFile::Ca, "no CA's certificate"),
        (Files { ca: damaged(good().ca), ..good() }, TlsFile::Ca, "no CA's certificate"),
        (Files { ca: other.ca.clone(), ..good() }, TlsFile::Certificate, "is not signed by the CA"),
        (Files { certificate: nothing(), ..good() }, TlsFile::Certificate, "holds no certificate"),
        (Files { certificate: no_certificate(), ..good() }, TlsFile::Certificate, "cannot be used"),
        (Files { key: nothing(), ..good() }, TlsFile::Key, "holds no private key"),
        (Files { key: damaged(good().key), ..good() }, TlsFile::Key, "cannot be used"),
        (Files { key: meaningless(), ..good() }, TlsFile::Key, "cannot be used"),
        (Files { key: encrypted(), ..good() }, TlsFile::Key, "passphrase"),
        (Files { key: other.key.clone(), ..good() }, TlsFile::Key, "is not the key of the certificate"),
        (authority.issue_expired(&["node1"]), TlsFile::Certificate, "expired"),
        (authority.issue_early(&["node1"]), TlsFile::Certificate, "is valid only in"),
        (authority.issue_for_servers(&["node1"]), TlsFile::Certificate, "may not be used as a client"),
        (authority.issue(&["node2"]), TlsFile::Certificate, "connect to `node1`"),
        (authority.issue(&[]), TlsFile::Certificate, "connect to `node1`"),
    ];
    for (files, file, what) in table {
        let error = files.tls(Some("node1")).unwrap_err();
        let text = error.to_string();
        assert_eq!(error.file(), file, "{what}: {text}");
        assert!(text.contains(what) && !text.contains('\n'), "{what}: {text}");
        // No line of the key is in it.
        assert!(files.key.lines().all(|line| line.is_empty() || !text.contains(line)), "{text}");
    }
}

#[test]
fn it_is_known_until_when_a_node_is_let_in() {
    let authority = Authority::new("the CA");
    // 2040-01-01T00:00:00Z.
    let until = |files: Files| files.tls(Some("node1")).unwrap().expires_unix_s();
    assert_eq!(until(authority.issue_until_2040(&["node1"])), Some(2_208_988_800));
    // rcgen's certificates end in the year 4096, where nothing else is said.
    assert_eq!(until(authority.issue(&["node1"])), None);
}
