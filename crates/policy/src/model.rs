//! Whatever happens to policies, twins, rollouts, freezes, the time of day and the service itself, it ends in
//! the desired state that a plain model computes from scratch; while a policy is closed nothing comes to what it
//! has set, and what others want is as it would be beside that.
//!
//! The decision, the store, the sweep, the batches of changes and the planning of rollouts are the
//! real ones. twin-store is a double over gRPC that applies settings by `twin::settings`
//! (`double`); the model (`plain`) shares no code with the decision: it has conditions, precedence and
//! merge of its own, and fills in templates and reads hours by itself. What happens is drawn at random
//! (`steps`) and played by `world`. More of it:
//! `PROPTEST_CASES=2000 cargo test -p policy model::`.

use proptest::prelude::ProptestConfig;
use proptest::test_runner::TestRunner;

mod double;
mod plain;
mod steps;
mod world;

/// So many stories in the gate; each takes some tenths of a second.
const CASES: u32 = 32;

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "a test asks how many cases it is to try"
)]
fn it_always_ends_in_what_a_plain_model_computes_from_scratch() {
    let by_default = ProptestConfig::default();
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    let config = ProptestConfig {
        cases: if asked { by_default.cases } else { CASES },
        // A failure prints its story; there is nothing beside the source to keep.
        failure_persistence: None,
        max_shrink_iters: 400,
        ..by_default
    };
    let mut runner = TestRunner::new(config);
    let outcome = runner.run(&steps::story(), |story| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(world::play(story))
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}
