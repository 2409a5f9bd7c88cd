//! The description of the API and the table of calls say the same.

use std::collections::BTreeSet;

use serde_json::Value;

use super::*;
use crate::rest::OPENAPI;

/// The source of the table: the names of all calls stand in it, and nowhere else.
const TABLE: &str = include_str!("../route.rs");
/// Ends the name of an operation that has another path for modules.
const OF_MODULE: &str = "_of_module";

#[test]
fn every_operation_described_is_a_call_of_its_name() {
    let document: Value = serde_json::from_str(OPENAPI).expect("JSON");
    let paths = document["paths"].as_object().expect("paths");
    let mut described = BTreeSet::new();
    for (path, operations) in paths {
        let sample = path.replace("{id}", "d").replace("{mid}", "m");
        for (method, operation) in operations.as_object().expect("operations") {
            let method = method.to_uppercase().parse().expect("a method");
            let route = Route::parse(&method, &sample).expect(path);
            let name = operation["operationId"].as_str().expect("a name");
            let name = name.strip_suffix(OF_MODULE).unwrap_or(name);
            assert_eq!(route.label(), name, "{method} {path}");
            described.insert(name.to_owned());
        }
    }
    let labels = TABLE.split_once("fn label").expect("the function").1;
    let labels = labels.split_once("\n    }\n").expect("its end").0;
    let labels: BTreeSet<String> = labels
        .split('"')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect();
    assert_eq!(
        described, labels,
        "openapi.json and the table of calls differ"
    );
}
