//! Finds a `nats-server` that is new enough. Nothing is downloaded here; what is missing is said.
//!
//! A program that lies anywhere else, for instance below the directory we stand in, is never run:
//! whoever may write there would decide what runs in our name.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::environment::Environment;
use crate::exit::Kind;
use crate::failure::Failure;

/// The oldest version that has what the bus uses.
const OLDEST: Version = Version(2, 12, 0);
/// Asking a program for its version takes milliseconds.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
const PROGRAM: &str = "nats-server";
const VARIABLE: &str = "TWINWARD_NATS_SERVER";

/// A version of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(u32, u32, u32);

impl Version {
    /// Reads `nats-server: v2.15.1`, also with a suffix such as `-preview.1`.
    fn parse(text: &str) -> Option<Self> {
        let number = text.trim().rsplit('v').next()?;
        let mut parts = number.splitn(3, '.');
        let major = parts.next()?.parse().ok()?;
        let minor = parts.next()?.parse().ok()?;
        let patch = parts.next()?;
        let digits = patch
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(patch.len());
        Some(Self(major, minor, patch[..digits].parse().ok()?))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// A program that can be used.
#[derive(Debug)]
pub(crate) struct Found {
    /// Where it is.
    pub(crate) path: PathBuf,
    version: Version,
}

impl Found {
    /// Its version, for people.
    pub(crate) fn version(&self) -> String {
        self.version.to_string()
    }
}

/// Looks where it was named, else in the variable, else in `PATH`, else where `cargo xtask tools`
/// puts its tools beside this program.
pub(super) async fn find(
    named: Option<&Path>,
    environment: &Environment,
) -> Result<Found, Failure> {
    let beside = std::env::current_exe()
        .ok()
        .and_then(|exe| beside(&exe))
        .filter(|path| path.is_file());
    find_with(named, environment, beside).await
}

async fn find_with(
    named: Option<&Path>,
    environment: &Environment,
    beside: Option<PathBuf>,
) -> Result<Found, Failure> {
    let given = match (named, environment.get(VARIABLE)) {
        (Some(path), _) => Some((path.to_owned(), "--nats-server")),
        (None, Some(path)) => Some((PathBuf::from(path), VARIABLE)),
        (None, None) => None,
    };
    if let Some((path, origin)) = given {
        // A wrong name is an error, not a reason to look elsewhere.
        return check(&path).await.map_err(|why| {
            Failure::new(
                Kind::Failed,
                format!("cannot use the NATS server of {origin}"),
            )
            .because(why)
        });
    }
    let mut looked = Vec::new();
    for path in in_path(environment).into_iter().chain(beside) {
        match check(&path).await {
            Ok(found) => return Ok(found),
            Err(why) => looked.push(why),
        }
    }
    let mut failure = Failure::new(Kind::Failed, format!("no NATS server of {OLDEST} or later"));
    for why in looked {
        failure = failure.detail(why);
    }
    Err(failure
        .detail("not in PATH, and not in tools/bin of the target directory of this program")
        .advise("`cargo xtask tools` puts one into target/tools/bin of a checkout")
        .advise(
            "or install one (https://github.com/nats-io/nats-server/releases) and name it with \
             --nats-server or TWINWARD_NATS_SERVER",
        )
        .advise("or use a server that is running: --nats-url nats://host:4222"))
}

/// The programs in `PATH`, best first.
fn in_path(environment: &Environment) -> Vec<PathBuf> {
    let directories = environment.get("PATH").unwrap_or_default().split(':');
    directories
        // An empty part means the current directory to a shell; it is not trusted here.
        .filter(|directory| !directory.is_empty())
        .map(|directory| Path::new(directory).join(PROGRAM))
        .filter(|path| path.is_file())
        .collect()
}

/// Where `cargo xtask tools` puts the server for a program that cargo built:
/// `<target>/tools/bin/nats-server` for `<target>/release/twinward`.
fn beside(exe: &Path) -> Option<PathBuf> {
    let profile = exe.parent()?;
    if !(profile.ends_with("debug") || profile.ends_with("release")) {
        return None;
    }
    Some(profile.parent()?.join("tools/bin").join(PROGRAM))
}

/// Asks a program for its version.
async fn check(path: &Path) -> Result<Found, String> {
    let shown = path.display();
    let ask = tokio::process::Command::new(path)
        .arg("--version")
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(ANSWERS_WITHIN, ask)
        .await
        .map_err(|_| format!("{shown} does not answer --version"))?
        .map_err(|error| format!("{shown} cannot be run: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = Version::parse(&text)
        .ok_or_else(|| format!("{shown} is not a NATS server: it says {:?}", text.trim()))?;
    if version < OLDEST {
        return Err(format!(
            "{shown} is {version}, too old: {OLDEST} is the oldest that works"
        ));
    }
    Ok(Found {
        path: path.to_owned(),
        version,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn program(directory: &Path, says: &str) -> PathBuf {
        let path = directory.join(PROGRAM);
        std::fs::write(&path, format!("#!/bin/sh\necho '{says}'\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn versions_are_read_and_compared() {
        assert_eq!(
            Version::parse("nats-server: v2.15.1\n"),
            Some(Version(2, 15, 1))
        );
        assert_eq!(
            Version::parse("nats-server: v2.12.0-RC.1"),
            Some(Version(2, 12, 0))
        );
        assert_eq!(Version::parse("something else"), None);
        assert!(Version(2, 9, 25) < OLDEST);
        assert!(Version(3, 0, 0) > OLDEST);
    }

    #[tokio::test]
    async fn a_named_server_that_is_too_old_is_an_error_that_says_which_would_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = program(dir.path(), "nats-server: v2.9.10");
        let failure = find(Some(&path), &Environment::default())
            .await
            .unwrap_err();
        let text = failure.render();
        for words in ["--nats-server", "2.9.10", "2.12.0"] {
            assert!(text.contains(words), "{words}: {text}");
        }
    }

    #[tokio::test]
    async fn the_first_in_the_path_that_is_new_enough_is_taken() {
        let old = tempfile::tempdir().unwrap();
        let new = tempfile::tempdir().unwrap();
        program(old.path(), "nats-server: v2.9.10");
        let path = program(new.path(), "nats-server: v2.15.1");
        let both = format!("{}:{}", old.path().display(), new.path().display());
        let environment = Environment::from([("PATH", both.as_str())]);
        let found = find(None, &environment).await.unwrap();
        assert_eq!(found.path, path);
        assert_eq!(found.version(), "2.15.1");
    }

    #[test]
    fn a_program_that_cargo_built_has_its_tools_in_the_same_target_directory() {
        let tools = Some(PathBuf::from("/w/target/tools/bin/nats-server"));
        assert_eq!(beside(Path::new("/w/target/debug/twinward")), tools);
        assert_eq!(beside(Path::new("/w/target/release/twinward")), tools);
        assert_eq!(beside(Path::new("/usr/local/bin/twinward")), None);
        assert_eq!(beside(Path::new("/w/target/debug/deps/it-1")), None);
    }

    #[tokio::test]
    async fn the_one_beside_this_program_is_taken_after_the_path() {
        let old = tempfile::tempdir().unwrap();
        let tools = tempfile::tempdir().unwrap();
        program(old.path(), "nats-server: v2.9.10");
        let path = program(tools.path(), "nats-server: v2.15.1");
        let environment = Environment::from([("PATH", old.path().to_str().unwrap())]);
        let found = find_with(None, &environment, Some(path.clone()))
            .await
            .unwrap();
        assert_eq!(found.path, path);
    }

    #[tokio::test]
    async fn when_there_is_none_the_failure_says_what_to_do() {
        let failure = find_with(None, &Environment::from([("PATH", ":")]), None)
            .await
            .unwrap_err();
        let text = failure.render();
        for words in ["PATH", "cargo xtask tools", "--nats-server", "--nats-url"] {
            assert!(text.contains(words), "{words}: {text}");
        }
    }
}
