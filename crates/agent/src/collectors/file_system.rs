//! Changes below watched paths, by inotify, aggregated by path and kind.
//!
//! Reads are not reported: a log that is read all day is no news. Directories that appear below a
//! watched one are watched too when the configuration says so.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};
use jiff::Timestamp;
use posture::EventPayload;
use posture::agent_config::{FileSystemConfiguration, WatchDepth};
use posture::event::{FileAction, FileActivity};

use super::aggregate::Aggregate;
use super::{Collector, Health, Observation, Wakeup, text};

/// Directories watched at most: each costs kernel memory (about 1 KB), and the kernel's own limit for
/// all programs of a user is often 8192.
const WATCHES_MAX: usize = 4096;

/// Follows files.
#[derive(Debug)]
pub(crate) struct FileSystem {
    depth: WatchDepth,
    /// The agent's own directory. Each event is written there, so to watch it would never end.
    own: PathBuf,
    inotify: Option<Inotify>,
    watched: HashMap<WatchDescriptor, PathBuf>,
    seen: Aggregate<(String, FileAction), (String, FileAction)>,
    health: Health,
}

impl FileSystem {
    pub(crate) fn new(settings: &FileSystemConfiguration, own: PathBuf) -> Self {
        let mut collector = Self {
            depth: settings.depth,
            own,
            inotify: None,
            watched: HashMap::new(),
            seen: Aggregate::new(settings.cache_size),
            health: Health::running(),
        };
        if settings.paths.is_empty() {
            collector.health = Health::skipped("FileSystem_Paths names nothing to watch");
            return collector;
        }
        match Inotify::init() {
            Ok(inotify) => collector.inotify = Some(inotify),
            Err(error) => {
                collector.health = Health::failed(format!("cannot start inotify: {error}"));
                return collector;
            }
        }
        for path in &settings.paths {
            collector.watch(Path::new(path.trim()));
        }
        collector
    }

    /// Watches a path and, if wanted, the directories below it. Symbolic links are not followed,
    /// so there are no circles.
    fn watch(&mut self, path: &Path) {
        let mut waiting = vec![path.to_owned()];
        while let Some(path) = waiting.pop() {
            if path.starts_with(&self.own) {
                continue;
            }
            if self.watched.len() >= WATCHES_MAX {
                self.problem(format!(
                    "more than {WATCHES_MAX} directories; the rest is not watched"
                ));
                return;
            }
            if let Err(error) = self.add_watch(&path) {
                // What vanished since it was listed is no problem.
                if error.kind() != io::ErrorKind::NotFound || self.watched.is_empty() {
                    self.problem(format!("cannot watch {}: {error}", path.display()));
                }
                continue;
            }
            if self.depth == WatchDepth::Recursive {
                waiting.extend(directories_in(&path));
            }
        }
    }

    fn add_watch(&mut self, path: &Path) -> io::Result<()> {
        let Some(inotify) = &self.inotify else {
            return Ok(());
        };
        let mask = WatchMask::CREATE
            | WatchMask::MODIFY
            | WatchMask::DELETE
            | WatchMask::DELETE_SELF
            | WatchMask::MOVED_FROM
            | WatchMask::MOVED_TO
            | WatchMask::ATTRIB
            | WatchMask::DONT_FOLLOW;
        let descriptor = inotify.watches().add(path, mask)?;
        self.watched.insert(descriptor, path.to_owned());
        Ok(())
    }

    /// Keeps the first problem: it is the one to mend first.
    fn problem(&mut self, reason: String) {
        if self.health.reason.is_none() {
            self.health = Health::degraded(reason);
        }
    }

    fn add(&mut self, now: Timestamp, path: &Path, action: FileAction) {
        let path = text::path(path);
        self.seen.add(now, (path.clone(), action), (path, action));
    }

    fn on_event(&mut self, now: Timestamp, event: &RawEvent) {
        if event.mask.contains(EventMask::Q_OVERFLOW) {
            self.problem(
                "the kernel dropped file events, because too many came at once".to_owned(),
            );
            return;
        }
        if event.mask.contains(EventMask::IGNORED) {
            self.watched.remove(&event.descriptor);
            return;
        }
        let Some(base) = self.watched.get(&event.descriptor) else {
            return;
        };
        let path = event
            .name
            .as_ref()
            .map_or_else(|| base.clone(), |name| base.join(name));
        let Some(action) = action(event.mask) else {
            return;
        };
        if path.starts_with(&self.own) {
            return;
        }
        self.add(now, &path, action);
        let new_directory = event.mask.contains(EventMask::ISDIR)
            && event
                .mask
                .intersects(EventMask::CREATE | EventMask::MOVED_TO);
        if new_directory && self.depth == WatchDepth::Recursive {
            self.watch(&path);
            // What was put into it before the watch stood made no event.
            for child in fs::read_dir(&path).into_iter().flatten().flatten() {
                self.add(now, &child.path(), FileAction::Created);
            }
        }
    }

    /// Takes what the kernel has queued.
    fn read(&mut self) -> Vec<RawEvent> {
        let mut events = Vec::new();
        let mut buffer = [0; 16 * 1024];
        while let Some(inotify) = &mut self.inotify {
            match inotify.read_events(&mut buffer) {
                Ok(found) => events.extend(found.map(|event| RawEvent {
                    descriptor: event.wd,
                    mask: event.mask,
                    name: event.name.map(PathBuf::from),
                })),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    self.health = Health::failed(format!("cannot read from inotify: {error}"));
                    break;
                }
            }
            if events.len() > EVENTS_PER_LOOK {
                break;
            }
        }
        events
    }
}

/// Events taken before they are folded into the aggregate, so that memory stays bounded.
const EVENTS_PER_LOOK: usize = 16 * 1024;

struct RawEvent {
    descriptor: WatchDescriptor,
    mask: EventMask,
    name: Option<PathBuf>,
}

fn action(mask: EventMask) -> Option<FileAction> {
    if mask.contains(EventMask::CREATE) {
        Some(FileAction::Created)
    } else if mask.intersects(EventMask::DELETE | EventMask::DELETE_SELF) {
        Some(FileAction::Deleted)
    } else if mask.intersects(EventMask::MOVED_FROM | EventMask::MOVED_TO) {
        Some(FileAction::Moved)
    } else if mask.contains(EventMask::MODIFY) {
        Some(FileAction::Modified)
    } else if mask.contains(EventMask::ATTRIB) {
        Some(FileAction::MetadataChanged)
    } else {
        None
    }
}

fn directories_in(path: &Path) -> Vec<PathBuf> {
    fs::read_dir(path)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

impl Collector for FileSystem {
    fn wakeup(&self) -> Wakeup {
        self.inotify
            .as_ref()
            .and_then(|inotify| inotify.as_fd().try_clone_to_owned().ok())
            .map_or(Wakeup::Never, Wakeup::Readable)
    }

    fn observe(&mut self, now: Timestamp, out: &mut Vec<Observation>) {
        loop {
            let events = self.read();
            if events.is_empty() {
                return;
            }
            for event in events {
                self.on_event(now, &event);
                if self.seen.is_full() {
                    self.flush(out);
                }
            }
        }
    }

    fn snapshot(&mut self, now: Timestamp, out: &mut Vec<Observation>) {
        self.observe(now, out);
        self.flush(out);
    }

    fn flush(&mut self, out: &mut Vec<Observation>) {
        for entry in self.seen.drain() {
            let (path, action) = entry.first;
            let payload = FileActivity {
                action,
                path,
                hit_count: entry.hit_count,
            };
            out.push(Observation::routine(
                entry.first_at,
                EventPayload::FileActivity(payload),
            ));
        }
    }

    fn health(&self) -> Health {
        self.health.clone()
    }
}

#[cfg(test)]
mod tests {
    use posture::event::CollectorState;

    use super::*;
    use crate::collectors::testing::at;

    fn watching(path: &Path, depth: WatchDepth) -> FileSystem {
        let settings = FileSystemConfiguration {
            depth,
            paths: vec![path.to_str().unwrap().to_owned()],
            ..FileSystemConfiguration::default()
        };
        FileSystem::new(&settings, path.join("own"))
    }

    fn seen(collector: &mut FileSystem, base: &Path) -> Vec<(FileAction, String, u32)> {
        let mut out = Vec::new();
        collector.snapshot(at(1), &mut out);
        out.into_iter()
            .map(|seen| match seen.payload {
                EventPayload::FileActivity(file) => {
                    let path = Path::new(&file.path).strip_prefix(base).unwrap();
                    (
                        file.action,
                        path.to_str().unwrap().to_owned(),
                        file.hit_count,
                    )
                }
                other => panic!("not a file: {other:?}"),
            })
            .collect()
    }

    #[test]
    fn real_changes_are_seen_and_gathered_by_path_and_kind() {
        let dir = tempfile::tempdir().unwrap();
        let mut collector = watching(dir.path(), WatchDepth::Recursive);
        assert_eq!(collector.health(), Health::running());
        let file = dir.path().join("a");
        fs::write(&file, "1").unwrap();
        assert_eq!(
            seen(&mut collector, dir.path()),
            [
                (FileAction::Created, "a".to_owned(), 1),
                (FileAction::Modified, "a".to_owned(), 1),
            ]
        );
        for text in ["2", "3"] {
            fs::write(&file, text).unwrap();
            collector.observe(at(1), &mut Vec::new());
        }
        let changes = seen(&mut collector, dir.path());
        assert!(changes[0].2 >= 2 && changes.len() == 1, "{changes:?}");
        fs::remove_file(&file).unwrap();
        assert!(seen(&mut collector, dir.path()).contains(&(
            FileAction::Deleted,
            "a".to_owned(),
            1
        )));
    }

    #[test]
    fn a_new_directory_is_watched_with_what_was_already_put_into_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut collector = watching(dir.path(), WatchDepth::Recursive);
        fs::create_dir_all(dir.path().join("d/e")).unwrap();
        fs::write(dir.path().join("d/f"), "").unwrap();
        let first = seen(&mut collector, dir.path());
        assert!(
            first
                .iter()
                .any(|(action, path, _)| *action == FileAction::Created && path == "d/f")
        );
        fs::write(dir.path().join("d/e/g"), "").unwrap();
        let second = seen(&mut collector, dir.path());
        assert!(
            second.iter().any(|(_, path, _)| path == "d/e/g"),
            "{second:?}"
        );
    }

    #[test]
    fn the_agents_own_directory_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("own")).unwrap();
        let mut collector = watching(dir.path(), WatchDepth::Recursive);
        fs::write(dir.path().join("own/spool"), "event").unwrap();
        assert_eq!(seen(&mut collector, dir.path()), []);
    }

    #[test]
    fn a_single_depth_leaves_directories_below_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        let mut collector = watching(dir.path(), WatchDepth::Single);
        fs::write(dir.path().join("d/f"), "").unwrap();
        assert_eq!(seen(&mut collector, dir.path()), []);
    }

    #[test]
    fn nothing_to_watch_and_what_cannot_be_watched_are_said() {
        let nothing = FileSystem::new(&FileSystemConfiguration::default(), PathBuf::new());
        assert_eq!(nothing.health().state, CollectorState::Skipped);
        let missing = watching(Path::new("/nowhere/at/all"), WatchDepth::Recursive);
        assert_eq!(missing.health().state, CollectorState::Degraded);
        assert!(missing.health().reason.unwrap().contains("/nowhere/at/all"));
    }
}
