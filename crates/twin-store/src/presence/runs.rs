//! Which runs of ingestion were heard of, and which are gone. Pure: the time is an argument.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

/// Between two echoes more than this is a gap: beats that were sent meanwhile may be lost.
const ECHO_GAP_MAX: Duration = Duration::from_secs(4);

/// Three beats of those that are there.
const LISTENED_FOR: Duration = Duration::from_secs(3);

/// Runs that are known at once. There are some dozen; over it a run is not noted, and its sessions
/// are found with the next look at all twins.
const RUNS_MAX: usize = 10_000;

/// Runs that a look leaves out of its search by their names; sessions of further ones are read and
/// left as they are. So many fit into a condition.
pub(super) const ALIVE_MAX: usize = 100;

/// Bytes of a run's name; ours have 32.
const NAME_MAX: usize = 64;

/// The name of all runs that say none: instances of a version from before there were runs. Their
/// sessions end when no such instance has been heard of for long.
pub(super) const UNNAMED: &str = "";

/// How long it is remembered that a run has ended, so that what was on its way from it makes no run.
const ENDED_KEPT: Duration = Duration::from_hours(1);

/// What was heard.
#[derive(Debug)]
pub(super) struct Runs {
    lost_after: Duration,
    /// Since when the bus has been seen to work without a gap, and when it was last seen.
    echoes: Option<(Instant, Instant)>,
    /// When each run was last heard of, or first met.
    known: HashMap<String, Run>,
    /// Runs whose sessions were ended here; if one is heard of after all, it is to call its roll.
    lost: HashSet<String>,
}

#[derive(Debug, Clone, Copy)]
struct Run {
    /// When it was last heard; of one that never was, when a session of it was first met.
    last: Instant,
    /// It was heard.
    has_spoken: bool,
    /// It said last that it has ended, and all of its sessions.
    has_ended: bool,
}

impl Runs {
    /// Nothing heard yet.
    pub(super) fn new(lost_after: Duration) -> Runs {
        Runs {
            lost_after,
            echoes: None,
            known: HashMap::new(),
            lost: HashSet::new(),
        }
    }

    /// The bus has brought back what we sent.
    pub(super) fn echoed(&mut self, now: Instant) {
        let since = match self.echoes {
            Some((since, last)) if now.duration_since(last) <= ECHO_GAP_MAX => since,
            Some(_) | None => now,
        };
        self.echoes = Some((since, now));
    }

    /// A run says something.
    pub(super) fn heard(&mut self, run: &str, now: Instant) {
        self.note(run, now, true);
    }

    /// A run says that it has ended, and all of its sessions: nobody has to look for them. One that
    /// is met all the same has its time.
    pub(super) fn ended(&mut self, run: &str, now: Instant) {
        self.known
            .retain(|_, run| !run.has_ended || now.duration_since(run.last) < ENDED_KEPT);
        self.note(run, now, true);
        if let Some(known) = self.known.get_mut(run) {
            known.has_ended = true;
        }
    }

    /// A session of a run was met.
    pub(super) fn met(&mut self, run: &str, now: Instant) {
        self.note(run, now, false);
    }

    fn note(&mut self, run: &str, now: Instant, says_so: bool) {
        let met = Run {
            last: now,
            has_spoken: says_so,
            has_ended: false,
        };
        if let Some(known) = self.known.get_mut(run) {
            // What comes late of one that has ended changes nothing.
            if says_so && !known.has_ended {
                *known = met;
            }
        } else if is_name(run) && self.known.len() < RUNS_MAX {
            self.known.insert(run.to_owned(), met);
        }
    }

    /// Whether it has listened for long enough to know the runs that there are.
    pub(super) fn has_listened(&self, now: Instant) -> bool {
        let since = self.echoes.filter(|_| self.bus_works(now));
        since.is_some_and(|(since, _)| now.duration_since(since) >= LISTENED_FOR)
    }

    /// Whether beats would arrive, as far as is known.
    fn bus_works(&self, now: Instant) -> bool {
        self.echoes
            .is_some_and(|(_, last)| now.duration_since(last) <= ECHO_GAP_MAX)
    }

    /// Runs that are gone.
    pub(super) fn gone(&self, now: Instant) -> Vec<String> {
        let known = self.known.iter();
        let gone = known.filter(|(_, run)| !run.has_ended && self.is_gone(**run, now));
        gone.map(|(name, _)| name.clone()).collect()
    }

    /// Whether a run is gone; one that is not known is noted.
    pub(super) fn is_gone_or_note(&mut self, run: &str, now: Instant) -> bool {
        self.met(run, now);
        let known = self.known.get(run);
        known.is_some_and(|known| self.is_gone(*known, now))
    }

    /// Silent for long, while we would have heard it.
    fn is_gone(&self, run: Run, now: Instant) -> bool {
        let Some((since, _)) = self.echoes.filter(|_| self.bus_works(now)) else {
            return false;
        };
        now.duration_since(run.last.max(since)) >= self.lost_after
    }

    /// Runs that were heard lately.
    pub(super) fn alive(&self, now: Instant) -> Vec<String> {
        let known = self.known.iter();
        let speaks = |run: &Run| run.has_spoken && !run.has_ended;
        let alive = known.filter(|(_, run)| speaks(run) && !self.is_gone(**run, now));
        alive
            .map(|(name, _)| name.clone())
            .take(ALIVE_MAX)
            .collect()
    }

    /// Sessions of a run were ended.
    pub(super) fn lost(&mut self, run: &str) {
        if run != UNNAMED && self.lost.len() < RUNS_MAX {
            self.lost.insert(run.to_owned());
        }
    }

    /// Whether the roll of a run that is there is to be called; once, unless that fails.
    pub(super) fn is_to_call(&mut self, run: &str) -> bool {
        self.lost.remove(run)
    }

    /// These have no session any more, as far as is known.
    pub(super) fn forget(&mut self, runs: &[String]) {
        for run in runs {
            self.known.remove(run);
        }
    }
}

/// Whether a run may be called so: its name goes into a condition.
fn is_name(run: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    run == UNNAMED || run.len() <= NAME_MAX && run.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOST_AFTER: Duration = Duration::from_secs(30);

    /// Runs, and the beginning of time.
    fn runs() -> (Runs, Instant) {
        (Runs::new(LOST_AFTER), Instant::now())
    }

    fn after(begin: Instant, seconds: u64) -> Instant {
        begin + Duration::from_secs(seconds)
    }

    /// Hears echoes, and beats of `alive`, each second of a span.
    fn hear(
        runs: &mut Runs,
        begin: Instant,
        seconds: std::ops::RangeInclusive<u64>,
        alive: &[&str],
    ) {
        for second in seconds {
            runs.echoed(after(begin, second));
            for run in alive {
                runs.heard(run, after(begin, second));
            }
        }
    }

    #[test]
    fn a_run_that_is_silent_while_the_bus_works_is_gone() {
        let (mut runs, begin) = runs();
        hear(&mut runs, begin, 0..=10, &["a", "b"]);
        hear(&mut runs, begin, 11..=39, &["b"]);
        assert!(runs.gone(after(begin, 39)).is_empty(), "not yet");
        hear(&mut runs, begin, 40..=40, &["b"]);
        assert_eq!(runs.gone(after(begin, 40)), ["a"]);
        assert_eq!(runs.alive(after(begin, 40)), ["b"]);
        runs.forget(&["a".to_owned()]);
        assert!(runs.gone(after(begin, 40)).is_empty());
    }

    #[test]
    fn silence_on_a_bus_that_does_not_work_says_nothing() {
        let (mut runs, begin) = runs();
        hear(&mut runs, begin, 0..=10, &["a"]);
        assert!(!runs.bus_works(after(begin, 60)));
        assert!(runs.gone(after(begin, 60)).is_empty(), "no echo either");
        hear(&mut runs, begin, 60..=89, &[]);
        assert!(
            runs.gone(after(begin, 89)).is_empty(),
            "it has its time anew"
        );
        hear(&mut runs, begin, 90..=90, &[]);
        assert_eq!(runs.gone(after(begin, 90)), ["a"]);
    }

    #[test]
    fn a_run_of_which_only_a_session_is_known_has_its_time_from_then_on() {
        let (mut runs, begin) = runs();
        hear(&mut runs, begin, 0..=40, &["b"]);
        assert!(!runs.is_gone_or_note("a", after(begin, 40)));
        hear(&mut runs, begin, 41..=69, &["b"]);
        assert!(!runs.is_gone_or_note("a", after(begin, 69)), "met again");
        hear(&mut runs, begin, 70..=70, &["b"]);
        assert_eq!(runs.gone(after(begin, 70)), ["a"]);
        assert!(runs.is_gone_or_note("a", after(begin, 70)));
        assert_eq!(runs.alive(after(begin, 70)), ["b"]);
    }

    #[test]
    fn odd_names_are_not_noted() {
        let (mut runs, begin) = runs();
        let long = "a".repeat(NAME_MAX + 1);
        for odd in ["a'b", "a b", "\u{e4}", &long] {
            runs.heard(odd, begin);
            assert!(!runs.is_gone_or_note(odd, after(begin, 99)));
        }
        assert!(runs.known.is_empty());
    }

    #[test]
    fn a_run_that_ended_in_order_is_never_gone_and_is_not_there_either() {
        let (mut runs, begin) = runs();
        hear(&mut runs, begin, 0..=10, &["a", "b"]);
        runs.ended("a", after(begin, 10));
        assert_eq!(runs.alive(after(begin, 10)), ["b"]);
        // What was on its way from it.
        runs.heard("a", after(begin, 20));
        hear(&mut runs, begin, 11..=90, &["b"]);
        assert!(runs.gone(after(begin, 90)).is_empty());
        assert_eq!(runs.alive(after(begin, 90)), ["b"]);
        // A session that names it after all ends with the next look.
        assert!(runs.is_gone_or_note("a", after(begin, 90)));
        runs.ended("b", after(begin, 90 + 3600));
        assert_eq!(runs.known.len(), 1, "it is not remembered for ever");
    }

    #[test]
    fn the_roll_is_called_of_whom_sessions_were_ended_and_of_nobody_else() {
        let (mut runs, _) = runs();
        assert!(!runs.is_to_call("a"));
        runs.lost("a");
        assert!(!runs.is_to_call("b"));
        assert!(runs.is_to_call("a"));
        assert!(!runs.is_to_call("a"), "once");
    }

    #[test]
    fn runs_without_a_name_are_one() {
        let (mut runs, begin) = runs();
        hear(&mut runs, begin, 0..=10, &["b", UNNAMED]);
        assert!(runs.alive(after(begin, 10)).contains(&UNNAMED.to_owned()));
        hear(&mut runs, begin, 11..=40, &["b"]);
        assert_eq!(runs.gone(after(begin, 40)), [UNNAMED]);
    }
}
