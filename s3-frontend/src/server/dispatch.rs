//! From a request's head to its operation: target, endpoints of the node, route, signature, names, operation.

use super::Shared;
use super::admin;
use super::call::{Answer, Call, Frame, Response, ResponseBody};
use super::request_body::RequestBody;
use crate::http::head::{Head, Method};
use crate::http::target::Target;
use crate::s3::auth::{self, Payload, Site, version2};
use crate::s3::error::{Code, S3Result};
use crate::s3::names::{RESERVED_BUCKET, Resource, bucket_of_host};
use crate::s3::op::{
    complete_multipart_upload, copy_object, create_bucket, create_multipart_upload, delete_object,
    delete_objects, get_object, get_object_attributes, list_buckets, list_multipart_uploads, list_objects,
    list_parts, named_bucket, put_object, settings, upload_part,
};
use crate::s3::route::{Operation, route};
use crate::store::ObjectStore;
use buckets_engine::object::api::User;

/// What a request was and what came of it.
pub(super) struct Outcome<S: ObjectStore> {
    pub(super) operation: Operation,
    pub(super) result: Answer<S>,
}

/// What a request asks for, once its target is read.
enum Asked {
    Health,
    Ready,
    Metrics,
    Admin,
    S3(Operation),
}

/// Does what a request asks for.
pub(super) async fn dispatch<S: ObjectStore>(
    shared: &Shared<S>,
    head: &Head,
    target: &mut Target,
    frame: &Frame<'_>,
    body: &mut RequestBody<'_>,
    unix_ms: u64,
) -> Outcome<S> {
    if let Err(error) = target.parse(head.target()) {
        return Outcome { operation: Operation::Unknown, result: Err(error.into()) };
    }
    let target = &*target;
    let host = target.authority().or_else(|| head.header("host")).unwrap_or_default();
    let resource = Resource::locate(host, target.path(), &shared.options.domains);
    let asked = match asked(head, target, resource) {
        Ok(asked) => asked,
        Err(error) => return Outcome { operation: Operation::Unknown, result: Err(error) },
    };
    let operation = match asked {
        Asked::Health | Asked::Ready => Operation::Health,
        Asked::Metrics => Operation::Metrics,
        Asked::Admin => Operation::Admin,
        Asked::S3(operation) => operation,
    };
    let result = match asked {
        Asked::Health => Ok(plain_text(frame, 200, "ok\n".to_owned())),
        Asked::Ready => Ok(match shared.report.ready() {
            Ok(()) => plain_text(frame, 200, "ready\n".to_owned()),
            Err(why) => plain_text(frame, 503, format!("{why}\n")),
        }),
        Asked::Metrics => {
            let metrics = shared.metrics.to_text() + &shared.report.metrics().await;
            Ok(plain_text(frame, 200, metrics))
        }
        Asked::Admin | Asked::S3(_) => {
            signed(shared, operation, resource, head, target, frame, body, unix_ms).await
        }
    };
    Outcome { operation, result }
}

/// Names what is asked for. The node's own paths are only meant by requests that are not signed: for others they are buckets.
fn asked(head: &Head, target: &Target, resource: Resource<'_>) -> S3Result<Asked> {
    let is_signed = head.header_bytes("authorization").is_some()
        || target.has_query("X-Amz-Signature")
        || version2::is_presigned(target);
    if !is_signed && matches!(head.method(), Method::Get | Method::Head) {
        match target.path() {
            "/health" => return Ok(Asked::Health),
            "/ready" => return Ok(Asked::Ready),
            "/metrics" => return Ok(Asked::Metrics),
            _ => {}
        }
    }
    match resource {
        Resource::Object { bucket: RESERVED_BUCKET, key } if key.starts_with(admin::KEY_PREFIX) => {
            Ok(Asked::Admin)
        }
        _ => {
            let is_copy = head.header_bytes("x-amz-copy-source").is_some();
            route(head.method(), resource, target, is_copy).map(Asked::S3)
        }
    }
}

/// Does what a user asks for.
#[expect(clippy::too_many_arguments, reason = "the parts of one request, borrowed from its connection")]
async fn signed<S: ObjectStore>(
    shared: &Shared<S>,
    operation: Operation,
    resource: Resource<'_>,
    head: &Head,
    target: &Target,
    frame: &Frame<'_>,
    body: &mut RequestBody<'_>,
    unix_ms: u64,
) -> Answer<S> {
    if shared.in_flight.get() > shared.options.limits.in_flight_max {
        shared.counters().refused_total.add(1);
        return Err(Code::SlowDown.into());
    }
    let user = authenticate(shared, resource, head, target, body, unix_ms)?;
    let call = Call { store: &shared.store, options: &shared.options, head, target, resource, user, frame };
    if operation == Operation::Admin {
        return admin::admin(&call, &shared.env, shared.report.as_ref(), body).await;
    }
    resource.check()?;
    let answer = perform(&call, operation, body).await;
    // What is wrong with the body is known better here than by the engine that was given it.
    match body.failure() {
        Some(failure) if answer.is_err() => Err(failure.clone()),
        _ => answer,
    }
}

fn authenticate<S: ObjectStore>(
    shared: &Shared<S>,
    resource: Resource<'_>,
    head: &Head,
    target: &Target,
    body: &mut RequestBody<'_>,
    unix_ms: u64,
) -> S3Result<User> {
    let look_up = |access_key: &str| {
        shared.store.user(access_key).map(|mut user| {
            let secret = std::mem::take(&mut user.secret_key);
            (user, secret)
        })
    };
    let is_also_region =
        |region: &str| shared.store.bucket(resource.bucket()).is_ok_and(|bucket| bucket.location == region);
    let site = Site {
        region: &shared.options.region,
        is_also_region: &is_also_region,
        unix_seconds: i64::try_from(unix_ms / 1000).unwrap_or(i64::MAX),
    };
    let proven = if version2::is_presigned(target) {
        let host = target.authority().or_else(|| head.header("host")).unwrap_or_default();
        let host_bucket = bucket_of_host(host, &shared.options.domains);
        version2::authenticate(head, target, host_bucket, site, look_up).map(|user| (user, Payload::Unsigned))
    } else {
        auth::authenticate(head, target, site, &mut shared.keys.borrow_mut(), look_up)
            .map(|proven| (proven.user, proven.payload))
    };
    shared.counters().authenticated(proven.is_ok());
    let (user, payload) = proven?;
    body.expect(head, payload)?;
    Ok(user)
}

async fn perform<S: ObjectStore>(
    call: &Call<'_, S>,
    operation: Operation,
    body: &mut RequestBody<'_>,
) -> Answer<S> {
    match operation {
        Operation::ListBuckets => list_buckets::list_buckets(call).await,
        Operation::CreateBucket => create_bucket::create_bucket(call, body).await,
        Operation::HeadBucket => named_bucket::head_bucket(call).await,
        Operation::DeleteBucket => named_bucket::delete_bucket(call).await,
        Operation::GetBucketLocation => named_bucket::get_bucket_location(call).await,
        Operation::GetBucketSetting => settings::get_bucket_setting(call).await,
        Operation::DeleteBucketSetting => settings::delete_bucket_setting(call).await,
        Operation::ListObjects => list_objects::list_objects(call).await,
        Operation::ListObjectsV2 => list_objects::list_objects_v2(call).await,
        Operation::ListObjectVersions => list_objects::list_object_versions(call).await,
        Operation::ListMultipartUploads => list_multipart_uploads::list_multipart_uploads(call).await,
        Operation::DeleteObjects => delete_objects::delete_objects(call, body).await,
        Operation::GetObject => get_object::get_object(call).await,
        Operation::HeadObject => get_object::head_object(call).await,
        Operation::GetObjectAttributes => get_object_attributes::get_object_attributes(call).await,
        Operation::GetObjectSetting => settings::get_object_setting(call).await,
        Operation::PutObject => put_object::put_object(call, body).await,
        Operation::CopyObject => copy_object::copy_object(call).await,
        Operation::DeleteObject => delete_object::delete_object(call).await,
        Operation::CreateMultipartUpload => create_multipart_upload::create_multipart_upload(call).await,
        Operation::UploadPart => upload_part::upload_part(call, body).await,
        Operation::UploadPartCopy => upload_part::upload_part_copy(call).await,
        Operation::CompleteMultipartUpload => {
            complete_multipart_upload::complete_multipart_upload(call, body).await
        }
        Operation::AbortMultipartUpload => create_multipart_upload::abort_multipart_upload(call).await,
        Operation::ListParts => list_parts::list_parts(call).await,
        Operation::Admin | Operation::Health | Operation::Metrics | Operation::Unknown => {
            unreachable!("answered before")
        }
    }
}

fn plain_text<B>(frame: &Frame<'_>, status: u16, text: String) -> Response<B> {
    let mut head = frame.start(status);
    head.header("Content-Type", "text/plain; version=0.0.4; charset=utf-8");
    Response { head, body: ResponseBody::Bytes(text.into_bytes()) }
}
