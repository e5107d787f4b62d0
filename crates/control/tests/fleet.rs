//! The objects of a Gateway: input documents, then what is applied (`tests/fleet/*.yaml`).
//!
//! `UPDATE=1 cargo test -p portway-control --test fleet` writes what is expected anew.

use std::path::PathBuf;
use std::sync::Arc;

use portway_api::gateway::Gateway;
use portway_api::object::Time;
use portway_control::fleet::{self, Settings, Wanted};
use portway_store::Resources;
use portway_translate::{Layout, Options, parameters, translate};
use serde_json::Value;

/// The line between the input and what is expected of it.
const MARK: &str = "# --- expected\n";

fn settings() -> Settings {
    Settings {
        controller_name: "portway.dev/gateway-controller".into(),
        image: "portway:test".into(),
        controller: "portway.portway-system.svc:9910".into(),
        server_name: "portway.portway-system.svc".into(),
    }
}

/// The objects for the only Gateway of the documents.
fn objects(documents: &str) -> Vec<Value> {
    let resources = Resources::from_documents(documents).unwrap();
    let mut options = Options::new(Time(time::OffsetDateTime::UNIX_EPOCH));
    options.layout = Layout::PerGateway(portway_plan::Shards::default());
    let translation = translate(&resources, &options);
    let mut gateway = Arc::clone(resources.all::<Gateway>().next().unwrap());
    Arc::make_mut(&mut gateway).object.metadata.uid = Some("0b5e-uid".into());
    let ports = Wanted::ports_of(&translation.plans[&gateway.key]);
    let parameters = Arc::new(parameters(&resources, &gateway).unwrap());
    fleet::desired(&Wanted { gateway, parameters, ports }, &settings(), "CERTIFICATE")
}

#[test]
fn the_objects_are_as_expected() {
    let update = std::env::var_os("UPDATE").is_some_and(|value| value == "1");
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fleet");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let (input, expected) = text.split_once(MARK).unwrap();
        let objects: Vec<String> =
            objects(input).iter().map(|object| serde_saphyr::to_string(object).unwrap()).collect();
        let found = objects.join("---\n");
        if update {
            std::fs::write(&path, format!("{input}{MARK}{found}")).unwrap();
        } else {
            assert_eq!(found, expected, "{}", path.display());
        }
        seen += 1;
    }
    assert!(seen >= 5, "{seen}");
}
