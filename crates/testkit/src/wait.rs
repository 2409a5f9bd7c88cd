//! Waiting for a condition with a deadline, instead of sleeping and hoping.

use std::time::{Duration, Instant};

/// How often a condition is looked at: often enough not to slow a test down, seldom enough not to
/// take the processor from what is being waited for.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Calls `look` until it answers `Some`, and returns that. Panics after `deadline`, naming `what`
/// was waited for.
///
/// ```no_run
/// # async fn example(lookup: impl AsyncFn() -> Option<u64>) {
/// use std::time::Duration;
/// let version = testkit::wait_for("the twin's version", Duration::from_secs(5), async || {
///     lookup().await.filter(|version| *version > 3)
/// })
/// .await;
/// # }
/// ```
pub async fn wait_for<T>(
    what: &str,
    deadline: Duration,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> T {
    let looked_until = tokio::time::timeout(deadline, async {
        loop {
            if let Some(seen) = look().await {
                return seen;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    });
    looked_until
        .await
        .unwrap_or_else(|_| panic!("gave up waiting for {what} after {deadline:?}"))
}

/// [`wait_for`] outside a runtime.
pub fn wait_for_blocking<T>(
    what: &str,
    deadline: Duration,
    mut look: impl FnMut() -> Option<T>,
) -> T {
    let started = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(
            started.elapsed() < deadline,
            "gave up waiting for {what} after {deadline:?}"
        );
        std::thread::sleep(LOOK_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_condition_that_comes_true_is_returned() {
        let mut looks = 0;
        let seen = wait_for("the third look", Duration::from_secs(5), async || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(seen.await, 3);
    }

    #[tokio::test]
    #[should_panic(expected = "gave up waiting for a pig to fly after 30ms")]
    async fn a_condition_that_never_holds_names_what_was_waited_for() {
        wait_for(
            "a pig to fly",
            Duration::from_millis(30),
            async || None::<()>,
        )
        .await;
    }
}
