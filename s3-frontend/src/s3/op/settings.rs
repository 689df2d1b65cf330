//! Settings of buckets and objects that exist here in one fixed form, or not at all.
//!
//! Clients ask for them by default (`s3cmd info`, SDKs, backup tools), so that each gets the answer that S3 gives for a bucket on which
//! nothing was ever set. Changing one is refused by the route.

use crate::s3::error::{Code, S3Error, S3Result};
use crate::s3::op::list_buckets::{OWNER_ID, owner};
use crate::s3::route::{BUCKET_SETTINGS, OBJECT_SETTINGS};
use crate::s3::xml::writer::XmlWriter;
use crate::server::call::{Answer, Call};
use crate::store::ObjectStore;

/// GET of a bucket's setting.
pub(crate) async fn get_bucket_setting<S: ObjectStore>(call: &Call<'_, S>) -> Answer<S> {
    call.store.bucket(call.bucket()).map_err(|error| call.refusal(error))?;
    let setting = asked(call, BUCKET_SETTINGS);
    let document = bucket_setting(setting).map_err(|error| error.with("BucketName", call.bucket()))?;
    Ok(call.document(document))
}

/// DELETE of a bucket's setting: what is not there is removed already.
pub(crate) async fn delete_bucket_setting<S: ObjectStore>(call: &Call<'_, S>) -> Answer<S> {
    call.store.bucket(call.bucket()).map_err(|error| call.refusal(error))?;
    Ok(call.empty(204))
}

/// GET of an object's setting.
pub(crate) async fn get_object_setting<S: ObjectStore>(call: &Call<'_, S>) -> Answer<S> {
    call.check_version()?;
    call.store.head(call.bucket(), call.key()).await.map_err(|error| call.refusal(error))?;
    let document = object_setting(asked(call, OBJECT_SETTINGS))?;
    Ok(call.document(document))
}

fn asked<S: ObjectStore>(call: &Call<'_, S>, settings: &[&'static str]) -> &'static str {
    settings.iter().find(|setting| call.target.has_query(setting)).copied().unwrap_or_default()
}

fn bucket_setting(setting: &str) -> S3Result<XmlWriter> {
    Ok(match setting {
        "acl" => access_control_policy(),
        "versioning" => empty("VersioningConfiguration"),
        "accelerate" => empty("AccelerateConfiguration"),
        "logging" => empty("BucketLoggingStatus"),
        "notification" => empty("NotificationConfiguration"),
        "requestPayment" => {
            let mut xml = XmlWriter::rooted("RequestPaymentConfiguration");
            xml.text("Payer", "BucketOwner");
            xml.close("RequestPaymentConfiguration");
            xml
        }
        "ownershipControls" => {
            let mut xml = XmlWriter::rooted("OwnershipControls");
            xml.open("Rule");
            xml.text("ObjectOwnership", "BucketOwnerEnforced");
            xml.close("Rule");
            xml.close("OwnershipControls");
            xml
        }
        "cors" => return Err(Code::NoSuchCORSConfiguration.into()),
        "encryption" => return Err(Code::ServerSideEncryptionConfigurationNotFoundError.into()),
        "lifecycle" => return Err(Code::NoSuchLifecycleConfiguration.into()),
        "object-lock" => return Err(Code::ObjectLockConfigurationNotFoundError.into()),
        "policy" | "policyStatus" => return Err(Code::NoSuchBucketPolicy.into()),
        "publicAccessBlock" => return Err(Code::NoSuchPublicAccessBlockConfiguration.into()),
        "replication" => return Err(Code::ReplicationConfigurationNotFoundError.into()),
        "tagging" => return Err(Code::NoSuchTagSet.into()),
        "website" => return Err(Code::NoSuchWebsiteConfiguration.into()),
        other => return Err(S3Error::not_implemented(other)),
    })
}

fn object_setting(setting: &str) -> S3Result<XmlWriter> {
    Ok(match setting {
        "acl" => access_control_policy(),
        "tagging" => {
            let mut xml = XmlWriter::rooted("Tagging");
            xml.open("TagSet");
            xml.close("TagSet");
            xml.close("Tagging");
            xml
        }
        "legal-hold" | "retention" => {
            return Err(Code::InvalidRequest.because("Bucket is missing Object Lock Configuration"));
        }
        other => return Err(S3Error::not_implemented(other)),
    })
}

fn empty(root: &str) -> XmlWriter {
    let mut xml = XmlWriter::rooted(root);
    xml.close(root);
    xml
}

/// The owner may do everything, as everywhere where ACLs are off.
fn access_control_policy() -> XmlWriter {
    let mut xml = XmlWriter::rooted("AccessControlPolicy");
    owner(&mut xml, "Owner");
    xml.open("AccessControlList");
    xml.open("Grant");
    let schema = [("xmlns:xsi", "http://www.w3.org/2001/XMLSchema-instance"), ("xsi:type", "CanonicalUser")];
    xml.open_with("Grantee", &schema);
    xml.text("ID", OWNER_ID);
    xml.text("DisplayName", "buckets");
    xml.close("Grantee");
    xml.text("Permission", "FULL_CONTROL");
    xml.close("Grant");
    xml.close("AccessControlList");
    xml.close("AccessControlPolicy");
    xml
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_that_is_routed_has_an_answer() {
        for setting in BUCKET_SETTINGS {
            let answer = bucket_setting(setting).err().map(|error| error.code);
            assert_ne!(answer, Some(Code::NotImplemented), "{setting}");
        }
        for setting in OBJECT_SETTINGS.iter().filter(|setting| **setting != "torrent") {
            let answer = object_setting(setting).err().map(|error| error.code);
            assert_ne!(answer, Some(Code::NotImplemented), "{setting}");
        }
    }
}
