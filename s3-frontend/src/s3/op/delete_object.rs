//! DeleteObject.

use crate::s3::op::write_condition;
use crate::server::call::{Answer, Call};
use crate::store::ObjectStore;

pub(crate) async fn delete_object<S: ObjectStore>(call: &Call<'_, S>) -> Answer<S> {
    call.check_version()?;
    let condition = write_condition::of_delete(call.head)?;
    let deleted = call.store.delete(call.bucket(), call.key(), condition).await;
    deleted.map_err(|error| call.refusal(error))?;
    Ok(call.empty(204))
}
