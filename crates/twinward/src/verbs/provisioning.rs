//! `twinward provisioning`: enrolments of devices that register themselves, as with Azure's Device
//! Provisioning Service. Tokens of our own agent are `twinward enrollment`.

mod adopt;
mod view;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use wire::registry::v1 as api;

use crate::connection::Connection;
use crate::exit::Kind;
use crate::failure::Failure;
use crate::files;
use crate::object::ObjectArg;
use crate::output::Output;
use crate::verbs::device::Done;
use crate::verbs::device::authentication::thumbprint;

use adopt::AdoptArgs;
use view::{Enrollments, Keys, One, Scope};

/// Enrolments of one answer.
const PAGE_SIZE: i32 = 1000;

/// What can be done with enrolments of devices that register themselves.
#[derive(Debug, Subcommand)]
pub(crate) enum ProvisioningCommand {
    /// Print the id scope, which devices have to be told
    Scope,
    /// Create an enrolment of a device, or of a group, and print its keys
    Create(Box<CreateArgs>),
    /// List enrolments
    List(ListArgs),
    /// Show one enrolment
    Get(GetArgs),
    /// Let the devices of an enrolment register again
    Enable(WhichArgs),
    /// Keep the devices of an enrolment from registering
    Disable(WhichArgs),
    /// Let a group take over the devices of an enrolment that was or will be deleted
    Adopt(AdoptArgs),
    /// Remove an enrolment; devices that were made by it stay
    Delete(DeleteArgs),
    /// Print the keys that a device of a group has
    DeriveKeys(DeriveArgs),
}

/// Names an enrolment.
#[derive(Debug, Args)]
pub(crate) struct WhichArgs {
    /// The registration id, or the id of the group
    #[arg(value_name = "ID")]
    id: String,
    /// It is a group
    #[arg(long)]
    group: bool,
}

impl WhichArgs {
    fn name(&self) -> String {
        if self.group {
            group_name(&self.id)
        } else {
            format!("enrollments/{}", self.id)
        }
    }
}

fn group_name(id: &str) -> String {
    format!("enrollmentGroups/{id}")
}

/// What becomes of a device that registers again.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Policy {
    /// It keeps its twin and gets the credentials that it proves
    Keep,
    /// It gets them, and its twin begins anew
    Reset,
    /// It stays as it is
    Never,
}

/// Arguments of `provisioning create`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    twinward provisioning create plant-1 --group --tags '{\"site\": \"plant-1\"}'\n  \
    twinward provisioning create sn-007 --device-id cam-7\n  \
    twinward provisioning create plant-2 --group --ca-file ca.pem")]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    which: WhichArgs,
    /// The id of the device that is made [default: the registration id]
    #[arg(
        long,
        value_name = "DEVICE",
        default_value_t,
        hide_default_value = true
    )]
    device_id: String,
    /// File with the two keys in base64, a line each [default: new ones are made]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["thumbprints", "ca_file"])]
    keys_file: Option<PathBuf>,
    /// SHA-1 or SHA-256 of the device's certificate, in hex; given twice, the second is accepted,
    /// too
    #[arg(long = "thumbprint", value_name = "HEX", value_parser = thumbprint)]
    #[arg(conflicts_with_all = ["group", "ca_file"])]
    thumbprints: Vec<String>,
    /// PEM file with the authorities that sign the certificates of the group's devices
    #[arg(long, value_name = "FILE", requires = "group")]
    ca_file: Option<PathBuf>,
    /// What the twin's tags begin with: a JSON object, or a file that holds one
    #[arg(long, value_name = "JSON|FILE", value_parser = ObjectArg::parse)]
    tags: Option<ObjectArg>,
    /// What the desired section begins with: a JSON object, or a file that holds one
    #[arg(long, value_name = "JSON|FILE", value_parser = ObjectArg::parse)]
    desired: Option<ObjectArg>,
    /// What becomes of a device that registers again
    #[arg(long, value_enum, value_name = "WHAT", default_value = "keep")]
    reprovision: Policy,
    /// Make `IoT` Edge devices
    #[arg(long)]
    iot_edge: bool,
    /// Make no security module with the device
    #[arg(long)]
    no_security_module: bool,
    /// Keep its devices from registering until it is enabled
    #[arg(long)]
    disabled: bool,
}

/// Arguments of `provisioning list`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  twinward provisioning list --group")]
pub(crate) struct ListArgs {
    /// Groups instead of single devices
    #[arg(long)]
    group: bool,
}

/// Arguments of `provisioning get`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  twinward provisioning get plant-1 --group --show-keys")]
pub(crate) struct GetArgs {
    #[command(flatten)]
    which: WhichArgs,
    /// Also print its keys
    #[arg(long)]
    show_keys: bool,
}

/// Arguments of `provisioning delete`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  twinward provisioning delete sn-007")]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    which: WhichArgs,
    /// Only if the enrolment still has this etag
    #[arg(long, value_name = "ETAG", default_value_t, hide_default_value = true)]
    etag: String,
}

/// Arguments of `provisioning derive-keys`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  twinward provisioning derive-keys plant-1 sn-007")]
pub(crate) struct DeriveArgs {
    /// The id of the group
    #[arg(value_name = "GROUP")]
    group: String,
    /// Of the device
    #[arg(value_name = "REGISTRATION_ID")]
    registration_id: String,
}

/// Does what was asked for.
pub(crate) async fn run(
    command: ProvisioningCommand,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let mut enrollments = connection.enrollments()?;
    match command {
        ProvisioningCommand::Scope => {
            let request = api::GetProvisioningRequest {};
            let answer = enrollments.get_provisioning(request).await;
            let answer = answer
                .map_err(|status| connection.refused("cannot read the id scope", status))?
                .into_inner();
            output.show(&Scope(answer.id_scope))
        }
        ProvisioningCommand::Create(args) => {
            let what = format!("cannot create {}", args.which.name());
            let request = api::CreateEnrollmentRequest {
                enrollment: Some(asked(*args)?),
                ..Default::default()
            };
            let made = enrollments.create_enrollment(request).await;
            let made = made.map_err(|status| connection.refused(&what, status))?;
            output.show(&One(made.into_inner()))
        }
        ProvisioningCommand::List(args) => list(&args, connection, output).await,
        ProvisioningCommand::Get(args) => {
            let name = args.which.name();
            let what = format!("cannot read {name}");
            let view = if args.show_keys {
                api::IdentityView::Full
            } else {
                api::IdentityView::Basic
            };
            let request = api::GetEnrollmentRequest {
                name,
                view: view.into(),
            };
            let read = enrollments.get_enrollment(request).await;
            let read = read.map_err(|status| connection.refused(&what, status))?;
            output.show(&One(read.into_inner()))
        }
        ProvisioningCommand::Enable(which) => {
            set_status(&which, api::Status::Enabled, connection, output).await
        }
        ProvisioningCommand::Disable(which) => {
            set_status(&which, api::Status::Disabled, connection, output).await
        }
        ProvisioningCommand::Adopt(args) => adopt::run(args, connection, output).await,
        ProvisioningCommand::Delete(args) => {
            let name = args.which.name();
            let request = api::DeleteEnrollmentRequest {
                name: name.clone(),
                etag: args.etag,
                ..Default::default()
            };
            let done = enrollments.delete_enrollment(request).await;
            done.map_err(|status| connection.refused(&format!("cannot delete {name}"), status))?;
            output.show_next(&Done {
                name,
                done: "deleted",
            })
        }
        ProvisioningCommand::DeriveKeys(args) => {
            let name = group_name(&args.group);
            let what = format!("cannot derive keys from {name}");
            let request = api::DeriveDeviceKeysRequest {
                name,
                registration_id: args.registration_id,
            };
            let derived = enrollments.derive_device_keys(request).await;
            let derived = derived.map_err(|status| connection.refused(&what, status))?;
            output.show(&Keys(derived.into_inner().keys.unwrap_or_default()))
        }
    }
}

fn asked(args: CreateArgs) -> Result<api::Enrollment, Failure> {
    let is_x509 = !args.thumbprints.is_empty() || args.ca_file.is_some();
    let mut thumbprints = args.thumbprints.into_iter();
    let shown = thumbprints.next().map(|primary| api::Thumbprints {
        primary,
        secondary: thumbprints.next().unwrap_or_default(),
    });
    if thumbprints.next().is_some() {
        let what = "--thumbprint may be given twice at most";
        return Err(Failure::new(Kind::Usage, what));
    }
    let ca_certificates_pem = match &args.ca_file {
        Some(path) => files::read(path)?,
        None => String::new(),
    };
    Ok(api::Enrollment {
        name: args.which.name(),
        status: if args.disabled {
            api::Status::Disabled
        } else {
            api::Status::Enabled
        }
        .into(),
        attestation_type: if is_x509 {
            api::AttestationType::X509
        } else {
            api::AttestationType::SymmetricKey
        }
        .into(),
        keys: args.keys_file.as_deref().map(read_keys).transpose()?,
        thumbprints: shown,
        ca_certificates_pem,
        device_id: args.device_id,
        iot_edge: args.iot_edge,
        without_security_module: args.no_security_module,
        tags_json: ObjectArg::print(args.tags)?,
        desired_json: ObjectArg::print(args.desired)?,
        reprovision_policy: match args.reprovision {
            Policy::Keep => api::ReprovisionPolicy::Keep,
            Policy::Reset => api::ReprovisionPolicy::Reset,
            Policy::Never => api::ReprovisionPolicy::Never,
        }
        .into(),
        ..Default::default()
    })
}

/// Two lines, the primary key first. What is no key the service says.
fn read_keys(path: &Path) -> Result<api::SymmetricKeys, Failure> {
    let text = files::read(path)?;
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    if let [primary, secondary] = lines[..] {
        return Ok(api::SymmetricKeys {
            primary: primary.to_owned(),
            secondary: secondary.to_owned(),
        });
    }
    let what = format!("{} does not hold two lines", path.display());
    let failure = Failure::new(Kind::Invalid, what);
    Err(failure.advise("the primary key in base64 is needed, and the secondary one below"))
}

async fn list(args: &ListArgs, connection: &Connection, output: &Output) -> Result<(), Failure> {
    let mut enrollments = connection.enrollments()?;
    let kind = if args.group {
        api::EnrollmentKind::Group
    } else {
        api::EnrollmentKind::Individual
    };
    let mut found = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = api::ListEnrollmentsRequest {
            kind: kind.into(),
            page_size: PAGE_SIZE,
            page_token,
        };
        let page = enrollments.list_enrollments(request).await;
        let page = page
            .map_err(|status| connection.refused("cannot list enrolments", status))?
            .into_inner();
        for name in &page.damaged {
            output.note(&format!(
                "what is stored of {name} is damaged; it was left out"
            ));
        }
        found.extend(page.enrollments);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return output.show(&Enrollments(found));
        }
    }
}

async fn set_status(
    which: &WhichArgs,
    status: api::Status,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let name = which.name();
    let request = api::UpdateEnrollmentRequest {
        enrollment: Some(api::Enrollment {
            name: name.clone(),
            status: status.into(),
            ..Default::default()
        }),
        update_mask: Some(prost_types::FieldMask {
            paths: vec!["status".to_owned()],
        }),
        ..Default::default()
    };
    let mut enrollments = connection.enrollments()?;
    let changed = enrollments.update_enrollment(request).await;
    let changed = changed
        .map_err(|status| connection.refused(&format!("cannot change {name}"), status))?
        .into_inner();
    output.show(&One(changed))
}
