//! How far a long piece of work is: a bar on a terminal, a line every few seconds elsewhere.
//!
//! On standard error, so that results can be piped. Programs (`-o json`) get neither, unless a
//! person watches the terminal beside them.

use std::fmt;
use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use service_kit::clock::{Clock as _, SystemClock};

use super::{Format, say};

/// Between two lines where there is no terminal: a log of an hour stays readable.
const LINE_INTERVAL: Duration = Duration::from_secs(5);
/// How often the bar is drawn at most, per second; each draw is a write to the terminal.
const DRAWS_PER_SECOND: u8 = 10;

/// A piece of work that takes long.
pub(crate) struct Progress {
    what: &'static str,
    shown: Shown,
}

enum Shown {
    Bar(ProgressBar),
    Lines { next: Instant },
    Nothing,
}

impl Progress {
    /// Begins; the total may be unknown.
    pub(crate) fn begin(what: &'static str, total: Option<u64>, format: Format) -> Self {
        let shown = if io::stderr().is_terminal() {
            Shown::Bar(bar(what, total))
        } else {
            match format {
                Format::Table => Shown::Lines {
                    next: SystemClock.monotonic() + LINE_INTERVAL,
                },
                Format::Json | Format::Yaml => Shown::Nothing,
            }
        };
        Self { what, shown }
    }

    /// Tells how many are done, and what else is worth a word.
    pub(crate) fn at(&mut self, done: u64, total: Option<u64>, words: &str) {
        match &mut self.shown {
            Shown::Bar(bar) => {
                if let Some(total) = total
                    && bar.length() != Some(total)
                {
                    bar.set_length(total);
                    bar.set_style(style(Some(total)));
                }
                bar.set_position(done);
                bar.set_message(words.to_owned());
            }
            Shown::Lines { next } => {
                let now = SystemClock.monotonic();
                if now >= *next {
                    *next = now + LINE_INTERVAL;
                    say(&line(self.what, done, total, words));
                }
            }
            Shown::Nothing => {}
        }
    }

    /// Prints a line beside the bar without tearing it.
    pub(crate) fn say(&self, text: &str) {
        match &self.shown {
            Shown::Bar(bar) => bar.suspend(|| say(text)),
            Shown::Lines { .. } | Shown::Nothing => say(text),
        }
    }

    /// Runs what prints results, which must not mix with the bar.
    pub(crate) fn beside<T>(&self, print: impl FnOnce() -> T) -> T {
        match &self.shown {
            Shown::Bar(bar) => bar.suspend(print),
            Shown::Lines { .. } | Shown::Nothing => print(),
        }
    }
}

/// The bar goes when the work has ended, however it ended: what was done is said in words then.
impl Drop for Progress {
    fn drop(&mut self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}

fn bar(what: &'static str, total: Option<u64>) -> ProgressBar {
    let target = ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SECOND);
    let bar = ProgressBar::with_draw_target(total, target)
        .with_style(style(total))
        .with_prefix(what);
    bar.tick();
    bar
}

fn style(total: Option<u64>) -> ProgressStyle {
    let template = match total {
        Some(_) => "{prefix} [{bar:24}] {human_pos}/{human_len} {rate} {eta} left {wide_msg}",
        None => "{prefix} {spinner} {human_pos} {rate} {wide_msg}",
    };
    ProgressStyle::with_template(template)
        .expect("the template is fixed and a test draws it")
        .progress_chars("=> ")
        .with_key(
            "rate",
            |state: &ProgressState, text: &mut dyn fmt::Write| {
                // A line that cannot be written to memory is not there to be read either.
                let _ = write!(text, "{:.0}/s", state.per_sec());
            },
        )
}

fn line(what: &str, done: u64, total: Option<u64>, words: &str) -> String {
    let mut text = match total {
        Some(total) => format!("{what}: {done} of {total}"),
        None => format!("{what}: {done}"),
    };
    if !words.is_empty() {
        text.push_str(", ");
        text.push_str(words);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_templates_can_be_drawn() {
        for total in [None, Some(10)] {
            bar("importing", total).set_style(style(total));
        }
    }

    #[test]
    fn a_line_says_how_far_it_is() {
        assert_eq!(line("importing", 5, Some(9), ""), "importing: 5 of 9");
        assert_eq!(
            line("importing", 5, None, "1 failed"),
            "importing: 5, 1 failed"
        );
    }
}
