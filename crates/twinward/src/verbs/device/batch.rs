//! Reads many twins by name, however large they are.

use std::collections::HashMap;

use prost_types::FieldMask;
use wire::twin::v1 as twins;

use crate::connection::Connection;
use crate::failure::Failure;
use crate::patience;

/// Names in one call; the service takes no more.
const NAMES_MAX: usize = 1000;

/// The fields of these twins, by name; those that are deleted or damaged are left out.
pub(super) async fn twins(
    connection: &Connection,
    names: Vec<String>,
    fields: &[&str],
) -> Result<HashMap<String, twins::Twin>, Failure> {
    let paths: Vec<_> = fields.iter().map(|field| (*field).to_owned()).collect();
    let mut found = HashMap::with_capacity(names.len());
    let mut rest = names;
    while !rest.is_empty() {
        let later = rest.split_off(rest.len().min(NAMES_MAX));
        let answer = patience::call(connection, "cannot read twins", async || {
            let request = twins::BatchGetTwinsRequest {
                names: rest.clone(),
                read_mask: Some(FieldMask {
                    paths: paths.clone(),
                }),
            };
            let answer = connection.twins()?.batch_get_twins(request).await;
            answer.map_err(Into::into)
        })
        .await?;
        let twins = answer.twins.into_iter();
        found.extend(twins.map(|twin| (twin.name.clone(), twin)));
        // What did not fit goes first: at least one fits every time.
        rest = answer.unread;
        rest.extend(later);
    }
    Ok(found)
}
