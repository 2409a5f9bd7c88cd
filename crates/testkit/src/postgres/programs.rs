//! Finds a PostgreSQL on the machine, and decides as whom it runs: it refuses to run as root.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::geteuid;

/// What is to be told to someone whose machine has no server.
const HOW_TO_GET_ONE: &str = "no PostgreSQL was found: run `cargo xtask tools`, install \
     PostgreSQL 15 or later (Debian: apt install postgresql), or name the folder of its programs \
     in TWINWARD_POSTGRES_BIN";

/// The oldest that the store accepts.
const OLDEST: u32 = 15;

/// Users that a machine has and that own nothing; the first one there is taken.
const USERS: [&str; 2] = ["nobody", "postgres"];

/// A user that the server can run as.
#[derive(Debug, Clone, Copy)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl User {
    /// None: we are no root, and the server runs as we do.
    pub(super) fn to_run_as() -> Option<Self> {
        if !geteuid().is_root() {
            return None;
        }
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let found = USERS.iter().find_map(|name| Self::named(&users, name));
        Some(found.unwrap_or_else(|| {
            panic!("PostgreSQL does not run as root, and /etc/passwd has none of {USERS:?}")
        }))
    }

    fn named(users: &str, name: &str) -> Option<Self> {
        let line = users
            .lines()
            .find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some(Self {
            uid: fields.next()?.parse().ok()?,
            gid: fields.next()?.parse().ok()?,
        })
    }
}

/// The folder with `postgres` and `initdb`: `TWINWARD_POSTGRES_BIN`, the path, what Debian's packages
/// installed, then what `cargo xtask tools` fetched.
pub(super) fn find() -> PathBuf {
    // A test has no configuration of its own to be told this by.
    #[allow(clippy::disallowed_methods)]
    let (named, path) = (
        std::env::var_os("TWINWARD_POSTGRES_BIN"),
        std::env::var_os("PATH"),
    );
    if let Some(named) = named.filter(|named| !named.is_empty()) {
        let named = PathBuf::from(named);
        assert!(
            named.join("initdb").is_file(),
            "TWINWARD_POSTGRES_BIN names {}, which holds no initdb",
            named.display()
        );
        return named;
    }
    let path = path.unwrap_or_default();
    // Links are followed, because the server looks for its other files beside its own.
    let on_path = std::env::split_paths(&path)
        .filter_map(|folder| fs::canonicalize(folder.join("postgres")).ok())
        .filter_map(|program| program.parent().map(Path::to_owned));
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let fetched = fs::canonicalize(workspace.join("target/tools/bin/postgres")).ok();
    let fetched = fetched.and_then(|program| program.parent().map(Path::to_owned));
    on_path
        .chain(of_debian())
        .chain(fetched)
        .find(|folder| is_good(folder))
        .expect(HOW_TO_GET_ONE)
}

/// Every version that Debian's packages have installed, newest first.
fn of_debian() -> Vec<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let mut folders: Vec<(u32, PathBuf)> = versions
        .flatten()
        .filter_map(|entry| {
            let major = entry.file_name().to_str()?.parse().ok()?;
            Some((major, entry.path().join("bin")))
        })
        .collect();
    folders.sort_unstable_by(|one, other| other.cmp(one));
    folders.into_iter().map(|(_, folder)| folder).collect()
}

fn is_good(folder: &Path) -> bool {
    if !folder.join("initdb").is_file() {
        return false;
    }
    let output = Command::new(folder.join("postgres"))
        .arg("--version")
        .output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.is_ok_and(|text| major_version(&text).is_some_and(|major| major >= OLDEST))
}

/// Reads `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
fn major_version(text: &str) -> Option<u32> {
    let (_, version) = text.split_once("(PostgreSQL) ")?;
    let end = version.find(|letter: char| !letter.is_ascii_digit());
    version[..end.unwrap_or(version.len())].parse().ok()
}

/// The folder of programs as the user can reach it: a checkout below root's home is closed to
/// everyone else, and then the whole installation is copied to `aside`.
pub(super) fn reachable(folder: &Path, user: Option<User>, aside: &Path) -> PathBuf {
    if user.is_none() || is_open(folder) {
        return folder.to_owned();
    }
    // `<installation>/bin`; the programs find share and lib by the way from there.
    let installation = folder
        .parent()
        .expect("a folder of programs lies in another");
    let copy = aside.join("programs");
    copy_tree(installation, &copy);
    copy.join(folder.file_name().expect("it has a name"))
}

/// Whether everybody may enter the folder and every one above it.
fn is_open(folder: &Path) -> bool {
    let folder = fs::canonicalize(folder).expect("it was found a moment ago");
    folder
        .ancestors()
        .all(|above| fs::metadata(above).is_ok_and(|metadata| metadata.mode() & 0o001 != 0))
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir(to).expect("our own directory can be written");
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).expect("it is ours");
    for entry in fs::read_dir(from).expect("an installation can be read") {
        let entry = entry.expect("an installation can be read");
        let target = to.join(entry.file_name());
        let metadata = fs::metadata(entry.path()).expect("an installation can be read");
        if metadata.is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            // With its permissions, so programs stay programs.
            fs::copy(entry.path(), &target).expect("our own directory can be written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_users_are_read() {
        let debian = "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n";
        assert_eq!(major_version(debian), Some(15));
        assert_eq!(major_version("nats-server: v2.15.1"), None);

        let users = "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65533:nobody:/:/bin/false\n";
        let nobody = User::named(users, "nobody").expect("it is there");
        assert_eq!((nobody.uid, nobody.gid), (65534, 65533));
        assert!(User::named(users, "postgres").is_none());
    }

    #[test]
    fn programs_in_a_closed_folder_are_copied() {
        let closed = tempfile::tempdir().expect("the temporary directory can be written");
        fs::set_permissions(closed.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let bin = closed.path().join("bin");
        fs::create_dir(&bin).unwrap();
        fs::write(bin.join("postgres"), "a program").unwrap();
        fs::set_permissions(bin.join("postgres"), fs::Permissions::from_mode(0o755)).unwrap();
        let aside = tempfile::tempdir().expect("the temporary directory can be written");

        let user = User { uid: 1, gid: 1 };
        assert_eq!(reachable(&bin, None, aside.path()), bin);
        let copied = reachable(&bin, Some(user), aside.path());
        assert_eq!(copied, aside.path().join("programs/bin"));
        let mode = fs::metadata(copied.join("postgres")).unwrap().mode();
        assert_eq!(mode & 0o777, 0o755);
    }
}
