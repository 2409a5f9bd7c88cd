//! What the failure of a task means, and what a drain waits for.

use std::convert::Infallible;
use std::future::pending;
use std::io;

use super::*;

const DEADLINE: Duration = Duration::from_secs(5);

const QUICK: Policy = Policy {
    first: Duration::from_millis(10),
    cap: Duration::from_millis(100),
    budget: Some(3),
};

fn broken() -> Result<(), io::Error> {
    Err(io::Error::other("the disk is full"))
}

#[tokio::test(start_paused = true)]
async fn the_failure_of_a_vital_task_stops_the_service_and_is_remembered() {
    let tasks = Tasks::default();
    let token = tasks.shutdown_token();
    let other = token.clone();
    tasks.spawn(
        "other",
        OnFailure::Log,
        async move { other.triggered().await },
    );
    tasks.spawn("writer", OnFailure::StopService, async { broken() });
    token.triggered().await;
    assert_eq!(tasks.drain(DEADLINE).await, Ok(()));
    let failure = tasks.failure().expect("a failure");
    assert_eq!(
        failure.to_string(),
        "task `writer` failed: the disk is full"
    );
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_a_failure() {
    let tasks = Tasks::default();
    tasks.spawn("writer", OnFailure::StopService, async {
        assert_eq!(1 + 1, 3, "arithmetic");
    });
    tasks.shutdown_token().triggered().await;
    let failure = tasks.failure().expect("a failure").to_string();
    assert!(
        failure.starts_with("task `writer` failed: panicked: "),
        "{failure}"
    );
    assert!(failure.contains("arithmetic"), "{failure}");
}

#[tokio::test(start_paused = true)]
async fn the_failure_of_a_lesser_task_does_not_stop_the_service() {
    let tasks = Tasks::default();
    tasks.spawn("report", OnFailure::Log, async { broken() });
    while !tasks.running().is_empty() {
        tokio::task::yield_now().await;
    }
    assert!(!tasks.shutdown_token().is_triggered());
    assert!(tasks.failure().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_drain_names_who_did_not_end_and_keeps_to_its_one_deadline() {
    let tasks = Tasks::default();
    let token = tasks.shutdown_token();
    tasks.spawn("stuck", OnFailure::Log, pending::<()>());
    tasks.spawn("slow", OnFailure::Log, {
        let token = token.clone();
        async move {
            token.triggered().await;
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
    });
    let before = tokio::time::Instant::now();
    let unfinished = tasks.drain(DEADLINE).await.expect_err("one is stuck");
    assert_eq!(unfinished.tasks(), ["stuck"]);
    assert_eq!(
        unfinished.to_string(),
        "did not end before the deadline: stuck"
    );
    let took = before.elapsed();
    assert!(
        took >= DEADLINE && took < DEADLINE + Duration::from_secs(1),
        "{took:?}"
    );
    assert!(tasks.running().is_empty(), "it was cut off");
}

#[tokio::test(start_paused = true)]
async fn a_task_that_fails_starts_again_until_it_ends_well() {
    let tasks = Tasks::default();
    let (runs, mut counted) = tokio::sync::mpsc::channel(8);
    tasks.spawn_restarting("consumer", QUICK, OnFailure::StopService, move || {
        let runs = runs.clone();
        async move {
            runs.send(()).await?;
            if runs.capacity() > 5 {
                Err(BoxError::from("lost the connection"))
            } else {
                Ok(())
            }
        }
    });
    while !tasks.running().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut count = 0;
    while counted.try_recv().is_ok() {
        count += 1;
    }
    assert_eq!(count, 3, "two failures, then success");
    assert!(tasks.failure().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_task_that_keeps_failing_stops_the_service_when_its_budget_is_used_up() {
    let tasks = Tasks::default();
    tasks.spawn_restarting("consumer", QUICK, OnFailure::StopService, || async {
        broken()
    });
    tasks.shutdown_token().triggered().await;
    assert_eq!(tasks.failure().expect("a failure").task(), "consumer");
}

#[tokio::test(start_paused = true)]
async fn a_task_is_not_started_again_while_the_service_stops() {
    let tasks = Tasks::default();
    let token = tasks.shutdown_token();
    tasks.spawn_restarting(
        "consumer",
        Policy::FOREVER,
        OnFailure::StopService,
        move || {
            let token = token.clone();
            async move {
                token.triggered().await;
                broken()
            }
        },
    );
    assert_eq!(tasks.drain(DEADLINE).await, Ok(()));
    assert!(tasks.failure().is_none());
}

#[tokio::test]
async fn a_thread_is_told_to_stop_and_waited_for() {
    let tasks = Tasks::default();
    let (stopped, saw_stop) = std::sync::mpsc::channel();
    tasks
        .spawn_thread("writer", OnFailure::StopService, move |token| {
            while !token.is_triggered() {
                std::thread::yield_now();
            }
            stopped.send(())
        })
        .expect("a thread");
    assert_eq!(tasks.running(), ["writer"]);
    assert_eq!(tasks.drain(DEADLINE).await, Ok(()));
    saw_stop.try_recv().expect("it ended by itself");
}

#[tokio::test]
async fn the_panic_of_a_thread_stops_the_service() {
    let tasks = Tasks::default();
    tasks
        .spawn_thread(
            "writer",
            OnFailure::StopService,
            |_| -> Result<(), Infallible> { panic!("out of {}", "luck") },
        )
        .expect("a thread");
    tasks.shutdown_token().triggered().await;
    let failure = tasks.failure().expect("a failure").to_string();
    assert_eq!(failure, "task `writer` failed: panicked: out of luck");
}
