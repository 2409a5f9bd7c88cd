//! `twinward provisioning adopt`: a group that takes over the devices of an enrolment that is no more.

use clap::Args;
use wire::registry::v1 as api;

use super::view::One;
use super::{WhichArgs, group_name};
use crate::connection::Connection;
use crate::failure::Failure;
use crate::output::Output;

/// Arguments of `provisioning adopt`.
#[derive(Debug, Args)]
#[command(
    after_help = "Devices register again with what the group knows them by, and are refused as \
    long as their former enrolment exists.\n\nExamples:\n  \
    twinward provisioning adopt plant-2 plant-1\n  \
    twinward provisioning adopt plant-2 sn-007 --single"
)]
pub(crate) struct AdoptArgs {
    /// The id of the group
    #[arg(value_name = "GROUP")]
    group: String,
    /// The id of the group whose devices it takes over
    #[arg(value_name = "FORMER")]
    former: String,
    /// FORMER is the registration id of a single device
    #[arg(long)]
    single: bool,
}

/// Adds to what a group adopts; who changes the group at the same time is told so.
pub(super) async fn run(
    args: AdoptArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let name = group_name(&args.group);
    let former = WhichArgs {
        id: args.former,
        group: !args.single,
    }
    .name();
    let what = format!("{name} cannot adopt the devices of {former}");
    let refused = |status| connection.refused(&what, status);
    let mut enrollments = connection.enrollments()?;
    let request = api::GetEnrollmentRequest {
        name,
        view: api::IdentityView::Basic.into(),
    };
    let read = enrollments.get_enrollment(request).await;
    let mut group = read.map_err(refused)?.into_inner();
    let change = |group| api::UpdateEnrollmentRequest {
        enrollment: Some(group),
        update_mask: Some(prost_types::FieldMask {
            paths: vec!["adopts".to_owned()],
        }),
        ..Default::default()
    };
    // What it adopts already is what had the name then. Said again, it is what has it now.
    if group.adopts.contains(&former) {
        group.adopts.retain(|adopted| *adopted != former);
        let without = enrollments.update_enrollment(change(group)).await;
        group = without.map_err(refused)?.into_inner();
    }
    group.adopts.push(former);
    let changed = enrollments.update_enrollment(change(group)).await;
    output.show(&One(changed.map_err(refused)?.into_inner()))
}
