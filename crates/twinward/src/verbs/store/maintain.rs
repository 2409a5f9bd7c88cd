//! `twinward store verify|backup|restore`: a store as a whole, by its files and not by its service.

mod view;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use clap::Args;
use twin_store::store::maintain::{self, Gaps, Maintain, MaintainError, Restoring, Table};
use twin_store::store::postgres::{PostgresRows, PostgresSettings};
use twin_store::store::sqlite::SqliteFiles;

use crate::exit::Kind;
use crate::failure::Failure;
use crate::files;
use crate::os_user;
use crate::output::progress::Progress;
use crate::output::{Format, Output};
use crate::private_file;
use crate::whole_file::WholeFile;

use view::{BackedUp, RestoredView, Verified};

/// The file in a store's folder without which no stored key opens.
const MASTER_KEY: &str = "master.key";
/// Connections to a database; the work is one after the other.
const CONNECTIONS: u16 = 1;

/// Which store is meant.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// Folder of an embedded store [default: twin-store in the data directory of `twinward up`]
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// A PostgreSQL store: file that holds its URL, postgresql: and so on with user and password. A
    /// file, because others on this machine can see command lines
    #[arg(long, value_name = "FILE", conflicts_with = "store")]
    database_url_file: Option<PathBuf>,
    /// PEM file of the authority that signed the database's certificate
    #[arg(long, value_name = "FILE", requires = "database_url_file")]
    database_ca_file: Option<PathBuf>,
}

/// Arguments of `store verify`.
#[derive(Debug, Args)]
#[command(
    after_help = "Reads every row and changes nothing; the service may go on running. Finds every \
    flipped byte of a\ntwin or revision, gaps in the log, broken chains of the audit log. Exits \
    with 1 if anything is wrong.\n\nExamples:\n  \
    twinward store verify\n  \
    twinward store verify --store /var/lib/twinward/twin-store -o json | jq .findings\n  \
    twinward store verify --database-url-file database.url --database-ca-file ca.pem"
)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    place: Place,
}

/// Arguments of `store backup`.
#[derive(Debug, Args)]
#[command(
    after_help = "The service may go on running: the backup is the store as it is at one moment. \
    Keys stay sealed in\nit; back up the master key (master.key in the store's folder) too, and \
    keep it elsewhere. A store that\ncannot be read to its end gets no backup, unless --partial is \
    given: a file that was there stays.\n\nExamples:\n  \
    twinward store backup twins.backup\n  \
    twinward store backup - | zstd > twins.backup.zst"
)]
pub(crate) struct BackupArgs {
    /// File to write; - writes standard output
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Back up what can be read of a store that cannot be read as a whole; the backup says so
    #[arg(long)]
    partial: bool,
    #[command(flatten)]
    place: Place,
}

/// Arguments of `store restore`.
#[derive(Debug, Args)]
#[command(
    after_help = "The store must be empty or not there yet, and its service stopped. All is \
    restored, or nothing.\nEvery twin gets versions above all that were given since the backup, so \
    that devices and policies\ntake it for new, and the audit log has an entry of it by os:USER, your name on this machine.\n\
    Put the master key of the former store (master.key) into the folder, too: keys open under it alone.\n\nExamples:\n  \
    twinward store restore twins.backup\n  \
    zstd -dc twins.backup.zst | twinward store restore - --store /var/lib/twinward/twin-store"
)]
pub(crate) struct RestoreArgs {
    /// File to read; - reads standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Restore also from a backup that was made with --partial: twins are missing in it
    #[arg(long)]
    partial: bool,
    #[command(flatten)]
    place: Place,
}

/// Whether less than all will do.
const fn gaps(partial: bool) -> Gaps {
    if partial {
        Gaps::Accepted
    } else {
        Gaps::Refused
    }
}

/// A store, and what to call it.
struct Found {
    store: Box<dyn Maintain>,
    name: String,
    /// Where it is, if it is embedded.
    folder: Option<PathBuf>,
}

impl Place {
    fn find(&self, default: impl FnOnce() -> Result<PathBuf, Failure>) -> Result<Found, Failure> {
        let Some(file) = &self.database_url_file else {
            let folder = self.store.clone().map_or_else(default, Ok)?;
            return Ok(Found {
                store: Box::new(SqliteFiles::new(&folder)),
                name: folder.display().to_string(),
                folder: Some(folder),
            });
        };
        let settings = PostgresSettings {
            ca_file: self.database_ca_file.clone(),
            connections: CONNECTIONS,
            ..PostgresSettings::at(files::read(file)?.trim())
        };
        settings.check().map_err(|error| {
            let what = format!("{} holds no address of a database", file.display());
            Failure::new(Kind::Invalid, what).because(service_kit::error::chain(&error))
        })?;
        Ok(Found {
            store: Box::new(PostgresRows::new(settings)),
            name: "the database".to_owned(),
            folder: None,
        })
    }
}

/// Checks a store.
pub(super) async fn verify(
    args: &VerifyArgs,
    default: impl FnOnce() -> Result<PathBuf, Failure>,
    output: &Output,
) -> Result<(), Failure> {
    let Found { store, name, .. } = args.place.find(default)?;
    let what = format!("cannot verify the store in {name}");
    let rows = Rows::begin("verifying", output.format());
    let report = maintain::verify(&*store, rows.teller())
        .await
        .map_err(|error| failed(&what, &error))?;
    rows.end();
    let sound = report.is_sound();
    output.show(&Verified(&report))?;
    if sound {
        return Ok(());
    }
    Err(Failure::new(
        Kind::Failed,
        format!("the store in {name} is damaged"),
    ))
}

/// Writes a store into a file.
pub(super) async fn backup(
    args: &BackupArgs,
    default: impl FnOnce() -> Result<PathBuf, Failure>,
    output: &Output,
) -> Result<(), Failure> {
    let Found { store, name, .. } = args.place.find(default)?;
    let what = format!("cannot back up the store in {name}");
    let to = Target::open(&args.file)?;
    let rows = Rows::begin("backing up", output.format());
    let (to, report) =
        maintain::backup(&*store, to, output.now(), gaps(args.partial), rows.teller())
            .await
            .map_err(|error| failed(&what, &error))?;
    rows.end();
    if to.finish()? == Shown::Yes {
        output.show(&BackedUp(&report))?;
    }
    if report.is_sound() {
        return Ok(());
    }
    if !report.incomplete.is_empty() {
        let tables: Vec<_> = report.incomplete.iter().map(|table| table.name()).collect();
        let what = format!("the backup is not whole: {} breaks off", tables.join(", "));
        let advice = "`twinward store restore` takes it with --partial only";
        return Err(Failure::new(Kind::Failed, what).advise(advice));
    }
    // A backup of what is damaged is better than none, but nobody should rely on it unwarned.
    let found = crate::output::plural(report.found, "damage", "damages");
    Err(Failure::new(
        Kind::Failed,
        format!("the backup holds {found} that the store had"),
    )
    .advise("`twinward store verify` lists them; a restore leaves them out"))
}

/// Fills an empty store.
pub(super) async fn restore(
    args: &RestoreArgs,
    default: impl FnOnce() -> Result<PathBuf, Failure>,
    output: &Output,
) -> Result<(), Failure> {
    let Found {
        store,
        name,
        folder,
    } = args.place.find(default)?;
    let what = format!("cannot restore into {name}");
    let from = source(&args.file)?;
    if let Some(folder) = &folder {
        private_file::create_directory(folder)
            .map_err(|error| Failure::new(Kind::Failed, what.clone()).because(error))?;
    }
    let rows = Rows::begin("restoring", output.format());
    let restored = maintain::restore(
        from,
        &*store,
        Restoring {
            now: output.now(),
            gaps: gaps(args.partial),
            actor: format!("os:{}", os_user::name()),
            source: args.file.display().to_string(),
        },
        rows.teller(),
    )
    .await
    .map_err(|error| failed(&what, &error))?;
    rows.end();
    output.show(&RestoredView(&restored))?;
    if let Some(folder) = folder.filter(|folder| !folder.join(MASTER_KEY).exists()) {
        output.note(&format!(
            "{} has no {MASTER_KEY}; put the former store's there, or name it with \
             master_key_file, before the service starts",
            folder.display()
        ));
    }
    if restored.is_whole() {
        return Ok(());
    }
    let left_out = crate::output::plural(restored.report.found, "damage", "damages");
    let orphans = crate::output::plural(restored.orphans, "revision", "revisions");
    Err(Failure::new(
        Kind::Failed,
        format!(
            "restored without what was damaged in the backup: {left_out}, and {orphans} of twins \
             that are missing"
        ),
    )
    .advise("-o json lists what is damaged"))
}

/// Counts rows of all tables for one progress.
struct Rows(Arc<Mutex<Option<Counted>>>);

/// A progress, and what it is the sum of.
type Counted = (Progress, BTreeMap<Table, u64>);

impl Rows {
    fn begin(what: &'static str, format: Format) -> Self {
        let progress = Progress::begin(what, None, format);
        Self(Arc::new(Mutex::new(Some((progress, BTreeMap::new())))))
    }

    /// What the work tells about rows.
    fn teller(&self) -> impl FnMut(Table, u64) + Send + 'static + use<> {
        let shared = Arc::clone(&self.0);
        move |table, done| {
            let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((progress, rows)) = shared.as_mut() {
                rows.insert(table, done);
                progress.at(rows.values().sum(), None, table.name());
            }
        }
    }

    /// Takes the bar away.
    fn end(self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// Whether standard output is free for words.
#[derive(Debug, PartialEq, Eq)]
enum Shown {
    Yes,
    No,
}

/// Where a backup goes.
enum Target {
    Output(io::Stdout),
    File(WholeFile),
}

impl Target {
    fn open(path: &Path) -> Result<Self, Failure> {
        if path == Path::new("-") {
            return Ok(Self::Output(io::stdout()));
        }
        WholeFile::begin(path).map(Self::File)
    }

    fn finish(self) -> Result<Shown, Failure> {
        match self {
            Self::Output(mut output) => output
                .flush()
                .map(|()| Shown::No)
                .map_err(|error| Failure::new(Kind::Failed, "cannot write it").because(error)),
            Self::File(file) => file.finish().map(|()| Shown::Yes),
        }
    }
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Output(output) => output.write(bytes),
            Self::File(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Output(output) => output.flush(),
            Self::File(file) => file.flush(),
        }
    }
}

fn source(path: &Path) -> Result<Box<dyn Read + Send>, Failure> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdin()));
    }
    let file = File::open(path).map_err(|error| {
        let kind = match error.kind() {
            io::ErrorKind::NotFound => Kind::NotFound,
            _ => Kind::Failed,
        };
        Failure::new(kind, format!("cannot read {}", path.display())).because(error)
    })?;
    Ok(Box::new(BufReader::new(file)))
}

fn failed(what: &str, error: &MaintainError) -> Failure {
    let kind = match error {
        MaintainError::Missing(_) => Kind::NotFound,
        MaintainError::Older { .. } | MaintainError::Newer { .. } => Kind::Precondition,
        MaintainError::NotEmpty => Kind::Conflict,
        MaintainError::Foreign
        | MaintainError::Damaged { .. }
        | MaintainError::Incomplete(_)
        | MaintainError::NoPartitions(_) => Kind::Invalid,
        MaintainError::Unreadable(_)
        | MaintainError::Store(_)
        | MaintainError::Write(_)
        | MaintainError::Read(_)
        | MaintainError::Stopped => Kind::Failed,
    };
    let failure = Failure::new(kind, what).because(service_kit::error::chain(error));
    let advice = match error {
        MaintainError::Missing(_) => "--store names the folder of another store",
        MaintainError::Unreadable(_) => {
            "restore an earlier backup, or save what can be read with --partial"
        }
        MaintainError::Incomplete(_) => {
            "restore an earlier backup, or what there is of this one with --partial"
        }
        MaintainError::NoPartitions(_) => "restore an earlier backup",
        MaintainError::Store(_)
        | MaintainError::Older { .. }
        | MaintainError::NotEmpty
        | MaintainError::Write(_)
        | MaintainError::Read(_)
        | MaintainError::Foreign
        | MaintainError::Newer { .. }
        | MaintainError::Damaged { .. }
        | MaintainError::Stopped => return failure,
    };
    failure.advise(advice)
}
