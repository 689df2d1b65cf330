//! The admin interface: JSON under `/buckets/admin/v1/`, signed like any S3 request, by the root user.
//!
//! | request | answer |
//! |---|---|
//! | `GET info` | the state of the node, its sets and disks |
//! | `GET users` | `{"users":[{"accessKey","createdUnixMs"}]}` |
//! | `POST users` with `{"accessKey"?,"secretKey"?}`; what is left out is generated | `{"accessKey","secretKey"}`, or 409 where it exists |
//! | `DELETE users?accessKey=<key>` | 204, or 409 where there is none |
//! | `POST nodes/drain?node=<host:port>` | 204: the node hands over what it leads, and leads nothing until it starts again; 409 where there is none, 503 where it does not answer |
//! | `DELETE nodes/drain?node=<host:port>` | 204: it leads again what it should; 409 and 503 as above |
//!
//! Errors are `{"code","message"}` with S3's codes.

use super::call::{Answer, Blocks, Call, Response, ResponseBody};
use super::request_body::RequestBody;
use crate::http::head::Method;
use crate::limits::SMALL_XML_BYTES_MAX;
use crate::s3::error::{Code, S3Error, S3Result};
use crate::store::{NodeReport, ObjectStore};
use buckets_engine::object::api::ObjectError;
use buckets_env::Env;
use serde::Deserialize;
use serde_json::{Value, json};

/// Where the interface begins, inside the bucket name that is kept for it.
pub(crate) const KEY_PREFIX: &str = "admin/v1/";

/// Characters of an access key, and of a secret.
const ACCESS_KEY_LEN: std::ops::RangeInclusive<usize> = 3..=128;
const SECRET_KEY_LEN: std::ops::RangeInclusive<usize> = 8..=128;
/// Characters, of five random bits each, of generated ones.
const ACCESS_KEY_GENERATED: usize = 20;
const SECRET_KEY_GENERATED: usize = 40;

pub(crate) async fn admin<S: ObjectStore>(
    call: &Call<'_, S>,
    env: &Env,
    report: &dyn NodeReport,
    body: &mut RequestBody<'_>,
) -> Answer<S> {
    match perform(call, env, report, body).await {
        Ok(Some(value)) => Ok(document(call, 200, &value)),
        Ok(None) => Ok(call.empty(204)),
        Err((status, error)) => {
            let value = json!({ "code": error.code.name(), "message": error.message });
            Ok(document(call, status, &value))
        }
    }
}

/// An error and its status, which is S3's but for conflicts.
type AdminResult<T> = Result<T, (u16, S3Error)>;

async fn perform<S: ObjectStore>(
    call: &Call<'_, S>,
    env: &Env,
    report: &dyn NodeReport,
    body: &mut RequestBody<'_>,
) -> AdminResult<Option<Value>> {
    if !call.user.is_root {
        return Err(refusal(Code::AccessDenied.because("The admin interface is for the root user.")));
    }
    let path = call.key().strip_prefix(KEY_PREFIX).unwrap_or_default();
    match (call.head.method(), path) {
        (Method::Get, "info") => Ok(Some(report.info().await)),
        (Method::Get, "users") => {
            let users = call.store.users();
            let users = users
                .iter()
                .map(|user| json!({ "accessKey": user.access_key, "createdUnixMs": user.created_unix_ms }));
            Ok(Some(json!({ "users": users.collect::<Vec<_>>() })))
        }
        (Method::Post, "users") => {
            let user = read_user(body).await.map_err(refusal)?;
            let access_key = user.access_key.unwrap_or_else(|| random_text(env, ACCESS_KEY_GENERATED));
            let secret_key = user.secret_key.unwrap_or_else(|| random_text(env, SECRET_KEY_GENERATED));
            call.store.add_user(&access_key, &secret_key).await.map_err(store_refusal)?;
            Ok(Some(json!({ "accessKey": access_key, "secretKey": secret_key })))
        }
        (Method::Delete, "users") => {
            let access_key = call.query("accessKey").unwrap_or_default();
            call.store.remove_user(access_key).await.map_err(store_refusal)?;
            Ok(None)
        }
        (Method::Post | Method::Delete, "nodes/drain") => {
            let node = call.query("node").filter(|node| !node.is_empty());
            let missing = || refusal(Code::InvalidRequest.because("Which node? Write ?node=host:port."));
            let draining = call.head.method() == Method::Post;
            report.drain(node.ok_or_else(missing)?, draining).await.map_err(store_refusal)?;
            Ok(None)
        }
        (_, "info" | "users" | "nodes/drain") => Err(refusal(Code::MethodNotAllowed.into())),
        _ => Err((404, Code::InvalidRequest.because("There is no such admin request."))),
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct NewUser {
    access_key: Option<String>,
    secret_key: Option<String>,
}

/// So many random letters and digits.
fn random_text(env: &Env, len: usize) -> String {
    const CHARACTERS: &[u8; 32] = b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789";
    let mut text = String::with_capacity(len);
    while text.len() < len {
        let mut random = env.random_u64();
        for _ in 0..12.min(len - text.len()) {
            text.push(char::from(CHARACTERS[(random & 31) as usize]));
            random >>= 5;
        }
    }
    text
}

async fn read_user(body: &mut RequestBody<'_>) -> S3Result<NewUser> {
    let document = body.read_document(SMALL_XML_BYTES_MAX).await?;
    let user: NewUser = serde_json::from_slice(&document)
        .map_err(|error| Code::InvalidRequest.because(format!("The JSON is not a user: {error}")))?;
    let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    let is_access_key =
        |key: &str| ACCESS_KEY_LEN.contains(&key.len()) && is_plain(key) && !key.contains(['/', ',', '=']);
    if !user.access_key.as_deref().is_none_or(is_access_key) {
        return Err(Code::InvalidRequest
            .because("An access key has 3 to 128 printable ASCII characters, none of them / , or =."));
    }
    let is_secret_key = |key: &str| SECRET_KEY_LEN.contains(&key.len()) && is_plain(key);
    if !user.secret_key.as_deref().is_none_or(is_secret_key) {
        return Err(Code::InvalidRequest.because("A secret key has 8 to 128 printable ASCII characters."));
    }
    Ok(user)
}

fn refusal(error: S3Error) -> (u16, S3Error) {
    (error.code.status(), error)
}

fn store_refusal(error: ObjectError) -> (u16, S3Error) {
    let is_conflict = matches!(error, ObjectError::Conflict(_));
    let error = S3Error::from(error);
    if is_conflict { (409, error) } else { refusal(error) }
}

fn document<S: ObjectStore>(call: &Call<'_, S>, status: u16, value: &Value) -> Response<Blocks<S>> {
    let mut head = call.start(status);
    head.header("Content-Type", "application/json");
    Response { head, body: ResponseBody::Bytes(value.to_string().into_bytes()) }
}
