//! AWS's published examples, and what must be refused.

use super::signing::SigningKeys;
use super::{Authenticated, Payload, Site, authenticate};
use crate::date::parse_amz_date;
use crate::http::head::Head;
use crate::http::target::Target;
use crate::s3::error::{Code, S3Error};

const KEY: &str = "AKIAIOSFODNN7EXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn verify_at(text: &str, now: &str) -> Result<Authenticated<()>, S3Error> {
    let mut head = Head::default();
    head.parse(text.as_bytes()).unwrap().expect("a whole head");
    let mut target = Target::default();
    target.parse(head.target()).unwrap();
    let site =
        Site { region: "us-east-1", is_also_region: &|_| false, unix_seconds: parse_amz_date(now).unwrap() };
    authenticate(&head, &target, site, &mut SigningKeys::default(), |key| {
        (key == KEY).then(|| ((), SECRET.to_owned()))
    })
}

fn verify(text: &str) -> Result<Authenticated<()>, S3Error> {
    verify_at(text, "20130524T000500Z")
}

fn code(text: &str) -> Code {
    verify(text).unwrap_err().code
}

fn authorization(signed_headers: &str, signature: &str) -> String {
    format!(
        "Authorization: AWS4-HMAC-SHA256 Credential={KEY}/20130524/us-east-1/s3/aws4_request,\
         SignedHeaders={signed_headers},Signature={signature}\r\n"
    )
}

fn get_object() -> String {
    format!(
        "GET /test.txt HTTP/1.1\r\nHost: examplebucket.s3.amazonaws.com\r\n{}Range: bytes=0-9\r\n\
         x-amz-content-sha256: {EMPTY}\r\nx-amz-date: 20130524T000000Z\r\n\r\n",
        authorization(
            "host;range;x-amz-content-sha256;x-amz-date",
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        )
    )
}

const PRESIGNED: &str = "GET /test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524\
    %2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host\
    &X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404 HTTP/1.1\r\n\
    Host: examplebucket.s3.amazonaws.com\r\n\r\n";

#[test]
fn the_published_get_is_accepted() {
    let payload = verify(&get_object()).unwrap().payload;
    assert!(matches!(payload, Payload::Sha256(_)));
}

#[test]
fn the_published_put_is_accepted() {
    let hash = "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072";
    let text = format!(
        "PUT /test$file.text HTTP/1.1\r\nHost: examplebucket.s3.amazonaws.com\r\nContent-Length: 21\r\n\
         Date: Fri, 24 May 2013 00:00:00 GMT\r\n{}x-amz-date: 20130524T000000Z\r\n\
         x-amz-storage-class: REDUCED_REDUNDANCY\r\nx-amz-content-sha256: {hash}\r\n\r\n",
        authorization(
            "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
        )
    );
    verify(&text).unwrap();
}

#[test]
fn the_published_queries_are_accepted() {
    for (query, signature) in [
        ("lifecycle", "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
        ("max-keys=2&prefix=J", "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
        ("prefix=%4A&max-keys=2", "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
    ] {
        let text = format!(
            "GET /?{query} HTTP/1.1\r\nHost: examplebucket.s3.amazonaws.com\r\n{}x-amz-date: 20130524T000000Z\r\n\
             x-amz-content-sha256: {EMPTY}\r\n\r\n",
            authorization("host;x-amz-content-sha256;x-amz-date", signature)
        );
        verify(&text).unwrap();
    }
}

#[test]
fn the_published_presigned_url_is_accepted_while_it_is_valid() {
    let payload = verify(PRESIGNED).unwrap().payload;
    assert!(matches!(payload, Payload::Unsigned));
    assert!(verify_at(PRESIGNED, "20130525T000000Z").is_ok());
    let expired = verify_at(PRESIGNED, "20130525T000001Z").unwrap_err();
    assert_eq!((expired.code, expired.message.as_ref()), (Code::AccessDenied, "Request has expired"));
    let early = verify_at(PRESIGNED, "20130523T234000Z").unwrap_err();
    assert_eq!((early.code, early.message.as_ref()), (Code::AccessDenied, "Request is not valid yet"));
}

#[test]
fn anything_changed_on_the_way_breaks_the_signature() {
    for (from, to) in [
        ("GET /test.txt", "GET /test.tx_"),
        ("GET", "PUT"),
        ("bytes=0-9", "bytes=0-8"),
        ("examplebucket", "otherbucket"),
        ("20130524T000000Z", "20130524T000001Z"),
        ("36bdb41", "36bdb42"),
        ("Signature=f0", "Signature="),
        ("/test.txt", "/test.txt?acl"),
    ] {
        assert_eq!(code(&get_object().replace(from, to)), Code::SignatureDoesNotMatch, "{from}");
    }
    let other = PRESIGNED.replace("X-Amz-Expires=86400", "X-Amz-Expires=86401");
    assert_eq!(code(&other), Code::SignatureDoesNotMatch);
}

#[test]
fn blanks_inside_and_around_values_do_not_matter() {
    verify(&get_object().replace("Range: bytes=0-9", "Range:    bytes=0-9   ")).unwrap();
}

#[test]
fn each_flaw_has_its_code() {
    for (from, to, expected) in [
        (KEY, "AKIAIOSFODNN7UNKNOWN", Code::InvalidAccessKeyId),
        ("/us-east-1/", "/eu-west-1/", Code::AuthorizationHeaderMalformed),
        ("/s3/", "/sqs/", Code::AuthorizationHeaderMalformed),
        ("/20130524/", "/20130525/", Code::AuthorizationHeaderMalformed),
        ("/20130524/", "/", Code::AuthorizationHeaderMalformed),
        ("aws4_request", "aws5_request", Code::AuthorizationHeaderMalformed),
        ("Signature=", "Sig=", Code::AuthorizationHeaderMalformed),
        ("x-amz-date: 20130524T000000Z", "x-amz-date: 20130523T000000Z", Code::AuthorizationHeaderMalformed),
        ("x-amz-date: 20130524T000000Z\r\n", "", Code::AccessDenied),
        ("x-amz-date: 20130524T000000Z", "x-amz-date: yesterday", Code::AccessDenied),
        ("AWS4-HMAC-SHA256 ", "AWS ", Code::InvalidRequest),
        ("AWS4-HMAC-SHA256 ", "Bearer ", Code::InvalidArgument),
        ("SignedHeaders=host;", "SignedHeaders=", Code::AccessDenied),
        ("Range:", "x-amz-acl: private\r\nRange:", Code::AccessDenied),
        (EMPTY, "abc", Code::InvalidArgument),
    ] {
        assert_eq!(code(&get_object().replace(from, to)), expected, "{from} -> {to}");
    }
    let without_hash = get_object().replace(&format!("x-amz-content-sha256: {EMPTY}\r\n"), "");
    assert_eq!(code(&without_hash), Code::InvalidRequest);
    assert_eq!(code("GET / HTTP/1.1\r\nHost: h\r\n\r\n"), Code::AccessDenied);
    let twice = PRESIGNED.replace("Host:", "Authorization: AWS4-HMAC-SHA256 x\r\nHost:");
    assert_eq!(code(&twice), Code::InvalidArgument);
    for (from, to) in [
        ("X-Amz-Expires=86400&", ""),
        ("X-Amz-Expires=86400", "X-Amz-Expires=604801"),
        ("X-Amz-Expires=86400", "X-Amz-Expires=-1"),
        ("X-Amz-Expires=86400", "X-Amz-Expires=0"),
        ("X-Amz-Expires=86400", "X-Amz-Expires=soon"),
        ("X-Amz-Algorithm=AWS4-HMAC-SHA256", "X-Amz-Algorithm=AWS4-HMAC-SHA1"),
        ("X-Amz-Date=20130524T000000Z", "X-Amz-Date=2013-05-24"),
        ("us-east-1", "eu-west-1"),
        ("aws4_request", "x"),
    ] {
        let text = PRESIGNED.replace(from, to);
        assert_eq!(code(&text), Code::AuthorizationQueryParametersError, "{from} -> {to}");
    }
}

#[test]
fn a_clock_more_than_a_quarter_of_an_hour_off_is_refused() {
    for (now, expected) in [
        ("20130524T001500Z", None),
        ("20130524T001501Z", Some(Code::RequestTimeTooSkewed)),
        ("20130523T234500Z", None),
        ("20130523T234459Z", Some(Code::RequestTimeTooSkewed)),
    ] {
        assert_eq!(verify_at(&get_object(), now).err().map(|error| error.code), expected, "{now}");
    }
}

#[test]
fn a_wrong_region_is_told_the_right_one() {
    let error = verify(&get_object().replace("/us-east-1/", "/eu-west-1/")).unwrap_err();
    assert!(error.details.contains(&("Region", "us-east-1".to_owned())));
}

proptest::proptest! {
    #[test]
    fn no_authorization_header_breaks_the_reader(text in "(AWS4-HMAC-SHA256 )?[ -~]{0,80}") {
        let head = format!("GET / HTTP/1.1\r\nHost: h\r\nAuthorization: {text}\r\nx-amz-date: 20130524T000000Z\r\n\r\n");
        proptest::prop_assert!(verify(&head).is_err());
    }
}
