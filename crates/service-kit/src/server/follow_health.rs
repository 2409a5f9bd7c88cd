//! What the gRPC health service says, in step with what the service knows of itself.

use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::health::Health;
use crate::shutdown::ShutdownToken;

/// Keeps the gRPC health service in step with the service's health, for the server as a whole and
/// for each service by name. At the end it closes the streams of those who watch, who would
/// otherwise hold up the server's end.
pub(super) async fn follow_health(
    mut reporter: HealthReporter,
    health: Health,
    mut names: Vec<String>,
    shutdown: ShutdownToken,
) {
    names.push(String::new());
    let mut watch = health.watch();
    loop {
        let ready = watch.borrow_and_update().is_ready() && !shutdown.is_triggered();
        let status = if ready {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        for name in &names {
            reporter.set_service_status(name, status).await;
        }
        if shutdown.is_triggered() {
            break;
        }
        tokio::select! {
            _ = watch.changed() => {}
            () = shutdown.triggered() => {}
        }
    }
    for name in &names {
        reporter.clear_service_status(name).await;
    }
}
