//! The plans that the tests of `translate` make.

use std::path::PathBuf;
use std::sync::Arc;

use portway_api::object::Time;
use portway_plan::{Plan, Shards};
use portway_store::Loaded;
use portway_translate::{Layout, Options, translate};

use super::Pair;

/// The plans of all goldens, together for all Gateways and one for each.
fn plans() -> Vec<(PathBuf, Arc<Plan>)> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/translate");
    let mut found = Vec::new();
    for feature in std::fs::read_dir(&root).unwrap() {
        for case in std::fs::read_dir(feature.unwrap().path()).unwrap() {
            let path = case.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            let input = text.split("# --- expected\n").next().unwrap();
            let now = time::OffsetDateTime::from_unix_timestamp(1_795_392_000).unwrap();
            let resources = Loaded::from_documents("golden.yaml", input).resources;
            let options = Options::new(Time(now));
            found.push((path.clone(), translate(&resources, &options).plan));
            let options = Options { layout: Layout::PerGateway(Shards::default()), ..options };
            let plans = translate(&resources, &options).plans;
            found.extend(plans.values().map(|plan| (path.clone(), Arc::clone(plan))));
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

#[test]
fn every_plan_of_the_goldens_arrives_as_it_is() {
    let plans = plans();
    assert!(plans.len() > 50, "{} goldens", plans.len());
    // One pair for all: from each plan to the next, so that all kinds of changes are made.
    let mut pair = Pair::default();
    for (path, plan) in &plans {
        assert_eq!(*pair.follow(plan).0, **plan, "{}", path.display());
        assert_eq!(*Pair::default().follow(plan).0, **plan, "{}", path.display());
    }
}
