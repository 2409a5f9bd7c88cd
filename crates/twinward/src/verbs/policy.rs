//! `twinward policy`: which twins get which settings. Without a verb it runs the service itself.

mod actions;
mod explain;
mod freeze;
mod preview;
mod reevaluation;
mod revisions;
mod view;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use policy::file;
use policy::policy_doc::{PolicySpec, labels};
use wire::policy::v1 as api;

use crate::connection::Connection;
use crate::exit::Kind;
use crate::failure::Failure;
use crate::files;
use crate::output::Output;
use crate::serve::{self, ServiceArgs};
use crate::verbs::device::Done;

use view::{Applied, Policies, PolicyView};

/// The most policies a page may hold.
const PAGE_MAX: i32 = 1000;

/// Arguments of `policy`, with and without a verb.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = serve::HELP
)]
pub(crate) struct PolicyArgs {
    #[command(subcommand)]
    pub(crate) command: Option<PolicyCommand>,
    #[command(flatten)]
    pub(crate) service: ServiceArgs,
}

/// What can be done with policies.
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Create policies or change them to what files say; repeating it changes nothing
    Apply(ApplyArgs),
    /// Show one policy; with -o yaml in the form that `apply` reads
    Get(GetArgs),
    /// List policies in the order of their ids
    #[command(after_help = "Examples:\n  \
        twinward policy list\n  \
        twinward policy list --label team=edge\n  \
        twinward policy list -o json | jq -r '.[].name'")]
    List(ListArgs),
    /// Remove policies; what they set is taken out of every twin
    Delete(DeleteArgs),
    /// List the revisions of a policy: who made them, when and why
    History(revisions::HistoryArgs),
    /// Show how two revisions of a policy differ, or files from what is in force
    Diff(revisions::DiffArgs),
    /// Tell who set each desired leaf of a twin, who lost it, and which policies apply and why not
    Explain(explain::ExplainArgs),
    /// Tell what files of policies would do to which twins; nothing is written
    Preview(preview::PreviewArgs),
    /// List the calls of a policy's actions: due, under way, and what came of them
    Actions(actions::ActionsArgs),
    /// Let policies change nothing on twins, all or some, now or at a time
    Freeze(freeze::FreezeArgs),
    /// End freezes; what waited goes on
    Unfreeze(freeze::UnfreezeArgs),
    /// List freezes, the newest first
    Freezes,
    /// Look at all twins again, in the background
    Reevaluate(reevaluation::ReevaluateArgs),
    /// Follow and end what `reevaluate` began
    #[command(subcommand, subcommand_required = true, arg_required_else_help = true)]
    Reevaluation(reevaluation::ReevaluationCommand),
}

/// Arguments of `policy apply`.
#[derive(Debug, Args)]
#[command(
    after_help = "A file holds one or several policies, in YAML (divided by ---) or JSON:\n\n  \
    kind: Policy\n  \
    name: unexpected-listener\n  \
    target: \"moduleId = 'DefenderIotMicroAgent'\"\n  \
    when: \"EXISTS(p IN posture.listeningPorts WHERE p.protocol = 'tcp'\n    \
    AND p.port NIN tags.allowedPorts)\"\n  \
    priority: 10\n  \
    settings:\n    \
    CollectorsCore_PriorityIntervals: \"1,2,5\"\n\nExamples:\n  \
    twinward policy apply -f unexpected-listener.yaml\n  \
    twinward policy apply -f policies.yaml --dry-run\n  \
    twinward policy apply -f policies.yaml --note \"hall 3 asked for it\""
)]
pub(crate) struct ApplyArgs {
    /// File with policies; - reads standard input; may be repeated
    #[arg(short, long = "file", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Let the service check everything, say what would change, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Why, kept with the revisions that this makes
    #[arg(long, value_name = "TEXT", default_value_t, hide_default_value = true)]
    note: String,
    /// Only if the policy, of which there is one in the files, still has this etag, as `policy get -o json` shows
    /// it: nobody has changed it since
    #[arg(long, value_name = "ETAG", default_value_t, hide_default_value = true)]
    etag: String,
}

/// Arguments of `policy get`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  twinward policy get unexpected-listener\n  \
    twinward policy get unexpected-listener -o yaml > unexpected-listener.yaml\n  \
    twinward policy get unexpected-listener --revision 3 -o yaml | twinward policy apply -f -"
)]
pub(crate) struct GetArgs {
    /// Id of the policy
    #[arg(value_name = "POLICY")]
    policy: String,
    /// As it was: a revision of `policy history`; also of a deleted policy
    #[arg(long, value_name = "NUMBER")]
    revision: Option<u64>,
}

/// Arguments of `policy list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only policies with this label; may be repeated: with all of them
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
}

/// Reads `key=value`.
fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or("a label is written key=value, as in team=edge")?;
    labels::check_key(key)?;
    labels::check_value(value)?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Arguments of `policy delete`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  twinward policy delete unexpected-listener")]
pub(crate) struct DeleteArgs {
    /// Ids of the policies
    #[arg(value_name = "POLICY", required = true)]
    policies: Vec<String>,
    /// Only if the policy still has this etag
    #[arg(long, value_name = "ETAG", default_value_t)]
    etag: String,
    /// Also while the policy may not change twins (maintenance windows, freezes), and also if it is
    /// in force on more of them than the mass-change guard lets change at once
    #[arg(long)]
    force: bool,
}

/// Does what was asked for.
pub(crate) async fn run(
    command: PolicyCommand,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    match command {
        PolicyCommand::Apply(args) => apply(&args, connection, output).await,
        PolicyCommand::Get(args) => get(&args, connection, output).await,
        PolicyCommand::List(args) => list(&args, connection, output).await,
        PolicyCommand::Delete(args) => delete(&args, connection, output).await,
        PolicyCommand::History(args) => revisions::history(&args, connection, output).await,
        PolicyCommand::Diff(args) => revisions::diff(&args, connection, output).await,
        PolicyCommand::Explain(args) => explain::run(&args, connection, output).await,
        PolicyCommand::Preview(args) => preview::run(&args, connection, output).await,
        PolicyCommand::Actions(args) => actions::run(&args, connection, output).await,
        PolicyCommand::Freeze(args) => freeze::freeze(&args, connection, output).await,
        PolicyCommand::Unfreeze(args) => freeze::unfreeze(&args, connection, output).await,
        PolicyCommand::Freezes => freeze::list(connection, output).await,
        PolicyCommand::Reevaluate(args) => reevaluation::begin(args, connection, output).await,
        PolicyCommand::Reevaluation(verb) => reevaluation::run(verb, connection, output).await,
    }
}

async fn apply(args: &ApplyArgs, connection: &Connection, output: &Output) -> Result<(), Failure> {
    // Everything is read and checked before anything is applied.
    let policies = read_all(&args.files)?;
    if !args.etag.is_empty() && policies.len() != 1 {
        let found = policies.len();
        let failure = Failure::new(Kind::Invalid, "an etag is of one policy");
        return Err(failure.because(format!("the files have {found}")));
    }
    let mut client = connection.policies()?;
    if !args.dry_run {
        // A service may refuse what the file check let through (another version); asking first
        // keeps a set of policies from being applied by half.
        for spec in policies.iter().skip(usize::from(policies.len() == 1)) {
            send(
                &mut client,
                spec,
                (true, &args.note, &args.etag),
                connection,
            )
            .await?;
        }
    }
    for spec in &policies {
        let answer = send(
            &mut client,
            spec,
            (args.dry_run, &args.note, &args.etag),
            connection,
        )
        .await?;
        output.show_next(&Applied {
            id: spec.id.clone(),
            answer,
            dry_run: args.dry_run,
        })?;
    }
    Ok(())
}

async fn send(
    client: &mut crate::connection::Policies,
    spec: &PolicySpec,
    (validate_only, note, etag): (bool, &str, &str),
    connection: &Connection,
) -> Result<api::ApplyPolicyResponse, Failure> {
    let request = api::ApplyPolicyRequest {
        policy: Some(policy::resource::to_request(spec)),
        validate_only,
        note: note.to_owned(),
        etag: etag.to_owned(),
    };
    let what = format!("cannot apply policy {}", spec.id);
    Ok(client
        .apply_policy(request)
        .await
        .map_err(|status| connection.refused(&what, status))?
        .into_inner())
}

/// All policies of some files.
fn read_all(files: &[PathBuf]) -> Result<Vec<PolicySpec>, Failure> {
    let mut policies = Vec::new();
    for path in files {
        policies.extend(read(path)?);
    }
    Ok(policies)
}

fn read(path: &std::path::Path) -> Result<Vec<PolicySpec>, Failure> {
    let text = files::read(path)?;
    file::parse(&text).map_err(|problems| {
        let what = format!("{} cannot be applied", path.display());
        let mut failure = Failure::new(Kind::Invalid, what);
        for problem in problems.list() {
            failure = failure.detail(problem.to_string());
        }
        failure.advise("`twinward policy apply --help` shows a policy file")
    })
}

async fn get(args: &GetArgs, connection: &Connection, output: &Output) -> Result<(), Failure> {
    if let Some(revision) = args.revision {
        let policy = revisions::content(&args.policy, revision, connection).await?;
        return output.show(&PolicyView::read(policy)?);
    }
    let what = format!("cannot get policy {}", args.policy);
    let policy = connection
        .policies()?
        .get_policy(api::GetPolicyRequest {
            name: format!("policies/{}", args.policy),
        })
        .await
        .map_err(|status| connection.refused(&what, status))?
        .into_inner();
    output.show(&PolicyView::read(policy)?)
}

async fn list(args: &ListArgs, connection: &Connection, output: &Output) -> Result<(), Failure> {
    let policies = with_labels(&args.labels, connection).await?;
    let views = policies
        .into_iter()
        .map(PolicyView::read)
        .collect::<Result<_, _>>()?;
    output.show(&Policies(views))
}

/// Reads all policies.
pub(crate) async fn all(connection: &Connection) -> Result<Vec<api::Policy>, Failure> {
    with_labels(&[], connection).await
}

async fn with_labels(
    labels: &[(String, String)],
    connection: &Connection,
) -> Result<Vec<api::Policy>, Failure> {
    let mut client = connection.policies()?;
    let mut policies = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = api::ListPoliciesRequest {
            page_size: PAGE_MAX,
            page_token,
            labels: labels.iter().cloned().collect(),
        };
        let page = client
            .list_policies(request)
            .await
            .map_err(|status| connection.refused("cannot list policies", status))?
            .into_inner();
        policies.extend(page.policies);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(policies);
        }
    }
}

async fn delete(
    args: &DeleteArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let mut client = connection.policies()?;
    for id in &args.policies {
        let name = format!("policies/{id}");
        let request = api::DeletePolicyRequest {
            name: name.clone(),
            etag: args.etag.clone(),
            force: args.force,
        };
        client
            .delete_policy(request)
            .await
            .map_err(|status| connection.refused(&format!("cannot delete policy {id}"), status))?;
        output.show_next(&Done {
            name,
            done: "deleted",
        })?;
    }
    Ok(())
}
