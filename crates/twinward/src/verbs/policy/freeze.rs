//! `twinward policy freeze`, `unfreeze` and `freezes`: nothing more is changed until somebody says so.

use clap::Args;
use serde::Serialize;
use service_kit::clock::{Clock as _, SystemClock};
use service_kit::units::Duration;
use wire::policy::v1 as api;

use crate::connection::Connection;
use crate::exit::Kind;
use crate::failure::Failure;
use crate::output::{Output, Paper, View, table, time};
use crate::when::Time;

/// Arguments of `policy freeze`.
#[derive(Debug, Args)]
#[command(
    after_help = "What policies have set stays as it is; nothing is added and nothing taken out, also \
    on twins that are new or change. Rollouts stand still. Aborting a rollout still takes it back.\n\n\
    Examples:\n  \
    twinward policy freeze --reason \"incident 4711\"\n  \
    twinward policy freeze unexpected-listener --for 8h\n  \
    twinward policy freeze --from 2026-12-20 --until 2027-01-03 --reason holidays\n  \
    twinward policy unfreeze"
)]
pub(crate) struct FreezeArgs {
    /// Ids of the policies; none: all, also those that are created later
    #[arg(value_name = "POLICY")]
    policies: Vec<String>,
    /// When it begins (UTC, or with an offset); now if left out
    #[arg(long, value_name = "TIME", value_parser = Time::parse)]
    from: Option<Time>,
    /// When it ends (a date: with the end of that day); if left out, when somebody ends it
    #[arg(long, value_name = "TIME", value_parser = Time::parse_end)]
    until: Option<Time>,
    /// How long it lasts, as in 90m, 8h or 14d
    #[arg(long = "for", value_name = "TIME", conflicts_with = "until")]
    lasts: Option<Duration>,
    /// Why, for whoever comes upon it
    #[arg(long, value_name = "TEXT", default_value_t, hide_default_value = true)]
    reason: String,
}

/// Arguments of `policy unfreeze`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  twinward policy unfreeze\n  twinward policy unfreeze 12\n  \
    twinward policy unfreeze --all\n\nWithout a number it ends the freeze there is, if that is the only one \
    that holds now or is to come. The freeze calendars of policies themselves are in their files."
)]
pub(crate) struct UnfreezeArgs {
    /// Numbers of freezes, as `policy freezes` shows them
    #[arg(value_name = "FREEZE")]
    freezes: Vec<u64>,
    /// End every freeze that holds now or is to come, of all policies and of some, whoever ordered it
    #[arg(long, conflicts_with = "freezes")]
    all: bool,
}

fn instant(time: Option<Time>) -> Result<Option<prost_types::Timestamp>, Failure> {
    match time {
        None => Ok(None),
        Some(Time::At(at)) => Ok(Some(wire::time::to_wire(at))),
        Some(Time::Ago(_)) => {
            let what = "a freeze is for the time to come";
            let failure = Failure::new(Kind::Invalid, what.to_owned());
            Err(failure.advise("write a time as in 2026-12-20T18:00, or `--for 8h`"))
        }
    }
}

/// Orders a freeze.
pub(super) async fn freeze(
    args: &FreezeArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let policies = args.policies.iter().map(|id| format!("policies/{id}"));
    let request = api::CreateFreezeRequest {
        freeze: Some(api::Freeze {
            policies: policies.collect(),
            start_time: instant(args.from)?,
            end_time: instant(args.until)?,
            reason: args.reason.clone(),
            ..api::Freeze::default()
        }),
        lasts: args
            .lasts
            .and_then(|lasts| prost_types::Duration::try_from(lasts.get()).ok()),
    };
    let answer = connection.freezes()?.create_freeze(request).await;
    let freeze = answer.map_err(|status| connection.refused("cannot freeze policies", status))?;
    output.show(&FreezeView {
        freeze: freeze.into_inner(),
        done: "frozen",
    })
}

/// Ends freezes.
pub(super) async fn unfreeze(
    args: &UnfreezeArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let mut client = connection.freezes()?;
    let mut names: Vec<String> = args
        .freezes
        .iter()
        .map(|number| format!("freezes/{number}"))
        .collect();
    if names.is_empty() {
        let now = wire::time::to_wire(SystemClock.now());
        let mut open = all(connection).await?;
        open.retain(|freeze| {
            freeze.active || !freeze.end_time.is_some_and(|end| is_before(&end, &now))
        });
        if open.len() > 1 && !args.all {
            return Err(several(&open));
        }
        names = open.into_iter().map(|freeze| freeze.name).collect();
    }
    if names.is_empty() {
        let what = "nothing is frozen by order".to_owned();
        let failure = Failure::new(Kind::NotFound, what);
        return Err(failure.advise("`twinward policy get` says why a policy is closed"));
    }
    for name in names {
        let what = format!("cannot end {name}");
        let answer = client.end_freeze(api::EndFreezeRequest { name }).await;
        let freeze = answer.map_err(|status| connection.refused(&what, status))?;
        output.show_next(&FreezeView {
            freeze: freeze.into_inner(),
            done: "ended",
        })?;
    }
    Ok(())
}

/// Refuses to guess which of several freezes is meant: the others are somebody else's.
fn several(open: &[api::Freeze]) -> Failure {
    let what = format!("there are {} freezes; say which is over", open.len());
    let failure = Failure::new(Kind::Usage, what);
    let failure = open.iter().map(line).fold(failure, Failure::detail);
    failure.advise("`twinward policy unfreeze NUMBER`, or `--all` for all of them")
}

/// A freeze in a few words.
fn line(freeze: &api::Freeze) -> String {
    let number = freeze.name.trim_start_matches("freezes/");
    let (whom, since) = (of_whom(freeze), time::short(freeze.start_time));
    let why = match freeze.reason.as_str() {
        "" => String::new(),
        reason => format!(" ({reason})"),
    };
    format!("{number} of {whom} by {}{why}, from {since}", freeze.author)
}

/// Lists freezes.
pub(super) async fn list(connection: &Connection, output: &Output) -> Result<(), Failure> {
    output.show(&Freezes(all(connection).await?))
}

async fn all(connection: &Connection) -> Result<Vec<api::Freeze>, Failure> {
    let mut request = api::ListFreezesRequest::default();
    let mut freezes = Vec::new();
    loop {
        let answer = connection.freezes()?.list_freezes(request.clone()).await;
        let page = answer.map_err(|status| connection.refused("cannot list freezes", status))?;
        let page = page.into_inner();
        freezes.extend(page.freezes);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return Ok(freezes);
        }
    }
}

fn is_before(one: &prost_types::Timestamp, other: &prost_types::Timestamp) -> bool {
    (one.seconds, one.nanos) < (other.seconds, other.nanos)
}

/// A freeze and what was done with it.
struct FreezeView {
    freeze: api::Freeze,
    done: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FreezeData<'a> {
    name: &'a str,
    policies: &'a [String],
    start_time: Option<String>,
    end_time: Option<String>,
    reason: &'a str,
    author: &'a str,
    active: bool,
}

fn data(freeze: &api::Freeze) -> FreezeData<'_> {
    FreezeData {
        name: &freeze.name,
        policies: &freeze.policies,
        start_time: time::precise(freeze.start_time),
        end_time: time::precise(freeze.end_time),
        reason: &freeze.reason,
        author: &freeze.author,
        active: freeze.active,
    }
}

fn of_whom(freeze: &api::Freeze) -> String {
    let ids = freeze.policies.iter();
    let ids: Vec<&str> = ids
        .map(|name| name.trim_start_matches("policies/"))
        .collect();
    match ids.as_slice() {
        [] => "all policies".to_owned(),
        _ => ids.join(", "),
    }
}

fn end(freeze: &api::Freeze) -> String {
    match freeze.end_time {
        None => "until unfreeze".to_owned(),
        time => time::short(time),
    }
}

impl View for FreezeView {
    fn data(&self) -> impl Serialize {
        data(&self.freeze)
    }

    fn text(&self, _paper: &Paper) -> String {
        let freeze = &self.freeze;
        format!(
            "{} {}: {}, from {} {}\n",
            freeze.name,
            self.done,
            of_whom(freeze),
            time::short(freeze.start_time),
            match freeze.end_time {
                None => "until somebody ends it (`twinward policy unfreeze`)".to_owned(),
                time => format!("to {}", time::short(time)),
            }
        )
    }
}

/// Several freezes.
struct Freezes(Vec<api::Freeze>);

impl View for Freezes {
    fn data(&self) -> impl Serialize {
        self.0.iter().map(data).collect::<Vec<_>>()
    }

    fn text(&self, paper: &Paper) -> String {
        if self.0.is_empty() {
            return "no freezes\n".to_owned();
        }
        let rows = self.0.iter().map(|freeze| {
            vec![
                freeze.name.trim_start_matches("freezes/").to_owned(),
                if freeze.active { "yes" } else { "no" }.to_owned(),
                of_whom(freeze),
                time::short(freeze.start_time),
                end(freeze),
                freeze.author.clone(),
                freeze.reason.clone(),
            ]
        });
        let header = ["FREEZE", "ACTIVE", "POLICIES", "FROM", "TO", "BY", "REASON"];
        table::table(paper, &header, rows.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::golden::{json, text};

    fn freeze(policies: &[&str], end: Option<i64>) -> api::Freeze {
        let at = |seconds| prost_types::Timestamp { seconds, nanos: 0 };
        api::Freeze {
            name: "freezes/12".to_owned(),
            policies: policies.iter().map(|id| format!("policies/{id}")).collect(),
            start_time: Some(at(1_766_188_800)),
            end_time: end.map(at),
            reason: "holidays".to_owned(),
            author: "operator:alice".to_owned(),
            create_time: Some(at(0)),
            active: true,
        }
    }

    #[test]
    fn a_freeze_says_what_is_frozen_and_until_when() {
        let all = freeze(&[], None);
        let some = freeze(&["a", "b"], Some(1_767_398_400));
        insta::assert_snapshot!("freezes", text(&Freezes(vec![all.clone(), some.clone()])));
        insta::assert_snapshot!("freezes_json", json(&Freezes(vec![some.clone()])));
        let refused = several(&[all.clone(), some.clone()]);
        insta::assert_snapshot!("several", refused.render());
        let view = |freeze, done| FreezeView { freeze, done };
        insta::assert_snapshot!("frozen", text(&view(all, "frozen")));
        insta::assert_snapshot!("ended", text(&view(some, "ended")));
    }
}
