//! `portway get`: objects with the statuses that Kubernetes would show.

mod columns;
mod table;

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use portway_api::object::{KindId, ObjectKey};
use portway_store::AnyObject;
use portway_translate::{Status, Statuses};
use serde_json::{Value, json};

use crate::print;
use crate::world::{Files, World};

/// The arguments of `portway get`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    files: Files,
    /// The kind as kubectl has it (gateways, gtw, httproute, …), or `all` for the Gateway API's
    kind: String,
    /// Only the object of this name
    name: Option<String>,
    /// Only objects of this namespace
    #[arg(short, long)]
    namespace: Option<String>,
    /// How objects are printed
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// In kubectl's columns
    Table,
    /// With more columns
    Wide,
    /// Whole objects
    Yaml,
    /// Whole objects
    Json,
}

/// Prints the objects.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let kinds = if args.kind == "all" {
        KindId::ALL
            .iter()
            .copied()
            .filter(|kind| kind.info().group.ends_with("gateway.networking.k8s.io"))
            .collect()
    } else {
        let known = || KindId::ALL.iter().map(|kind| kind.info().plural).collect::<Vec<_>>().join(", ");
        vec![
            KindId::from_word(&args.kind)
                .with_context(|| format!("no kind {:?}; there are {}", args.kind, known()))?,
        ]
    };
    if !args.files.are_there("get") {
        return Ok(ExitCode::from(crate::USAGE));
    }
    let world = World::read(&args.files.paths);
    for diagnostic in world.diagnostics.iter().filter(|diagnostic| diagnostic.is_error()) {
        print::complaint(diagnostic.one_line());
    }
    let mut found: Vec<(KindId, Vec<(ObjectKey, Value)>)> = Vec::new();
    for kind in kinds {
        let keys = world.resources.keys(kind).into_iter();
        let of_kind: Vec<_> = keys
            .filter(|key| args.namespace.as_deref().is_none_or(|namespace| namespace == &*key.namespace))
            .filter(|key| args.name.as_deref().is_none_or(|name| name == &*key.name))
            .filter_map(|key| {
                let object = value(&world.resources.any(&key)?, &world.translation.statuses);
                Some((key, object))
            })
            .collect();
        if !of_kind.is_empty() {
            found.push((kind, of_kind));
        }
    }
    if found.is_empty() {
        print::complaint(format_args!("No {} found.", args.kind));
        if args.name.is_none() && matches!(args.output, Output::Json | Output::Yaml) {
            print_whole(found, args)?;
        }
        return Ok(if args.name.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS });
    }
    match args.output {
        Output::Table | Output::Wide => {
            let tables: anyhow::Result<Vec<String>> = found
                .iter()
                .map(|(kind, objects)| table(*kind, objects, args.output == Output::Wide, &world))
                .collect();
            print::answer(tables?.join("\n"))?;
        }
        Output::Json | Output::Yaml => print_whole(found, args)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn print_whole(found: Vec<(KindId, Vec<(ObjectKey, Value)>)>, args: &Args) -> anyhow::Result<()> {
    if let Some((kind, _)) = found.iter().find(|(kind, _)| !has_whole(*kind)) {
        bail!("{kind} has no status; only its name can be printed, the rest is in your file");
    }
    let mut objects: Vec<Value> =
        found.into_iter().flat_map(|(_, objects)| objects).map(|(_, value)| value).collect();
    let whole = match (&args.name, objects.len()) {
        (Some(_), 1) => objects.remove(0),
        _ => json!({"apiVersion": "v1", "kind": "List", "items": objects}),
    };
    if args.output == Output::Json {
        print::answer(format_args!("{}\n", serde_json::to_string_pretty(&whole)?))?;
    } else {
        print::answer(serde_saphyr::to_string(&whole)?)?;
    }
    Ok(())
}

/// Whether objects of the kind can be printed whole. Of core kinds only parts are kept, and none of Secrets is
/// shown.
fn has_whole(kind: KindId) -> bool {
    kind.info().group.ends_with("gateway.networking.k8s.io")
}

/// An object as JSON, with the status that Portway gives it.
fn value(object: &AnyObject, statuses: &Statuses) -> Value {
    let mut value = whole(object).unwrap_or_else(|| {
        let metadata = object.metadata();
        json!({"metadata": {"name": metadata.name, "namespace": metadata.namespace}})
    });
    if let (Some(status), Some(map)) = (statuses.get(object.key()), value.as_object_mut()) {
        map.insert("status".to_owned(), json_of(&**status).unwrap_or_default());
    }
    value
}

/// A Gateway API object as JSON; core kinds are not kept whole.
fn whole(object: &AnyObject) -> Option<Value> {
    match object {
        AnyObject::GatewayClass(stored) => json_of(&stored.object),
        AnyObject::Gateway(stored) => json_of(&stored.object),
        AnyObject::ListenerSet(stored) => json_of(&stored.object),
        AnyObject::HTTPRoute(stored) => json_of(&stored.object),
        AnyObject::GRPCRoute(stored) => json_of(&stored.object),
        AnyObject::TLSRoute(stored) => json_of(&stored.object),
        AnyObject::TCPRoute(stored) => json_of(&stored.object),
        AnyObject::UDPRoute(stored) => json_of(&stored.object),
        AnyObject::ReferenceGrant(stored) => json_of(&stored.object),
        AnyObject::BackendTLSPolicy(stored) => json_of(&stored.object),
        AnyObject::XBackend(stored) => json_of(&stored.object),
        AnyObject::XBackendTrafficPolicy(stored) => json_of(&stored.object),
        AnyObject::XMesh(stored) => json_of(&stored.object),
        AnyObject::XTelemetryPolicy(stored) => json_of(&stored.object),
        AnyObject::GatewayParameters(stored) => json_of(&stored.object),
        AnyObject::Namespace(_)
        | AnyObject::Service(_)
        | AnyObject::EndpointSlice(_)
        | AnyObject::Pod(_)
        | AnyObject::Secret(_)
        | AnyObject::ConfigMap(_)
        | AnyObject::ClusterTrustBundle(_) => None,
    }
}

/// A function of its own for each kind: all of them inlined into one take LLVM many minutes.
#[inline(never)]
fn json_of(object: &impl serde::Serialize) -> Option<Value> {
    serde_json::to_value(object).ok()
}

fn table(kind: KindId, objects: &[(ObjectKey, Value)], wide: bool, world: &World) -> anyhow::Result<String> {
    let info = kind.info();
    let columns: Vec<_> = columns::of(info)?.into_iter().filter(|column| wide || !column.wide).collect();
    let mut headings = Vec::new();
    if info.namespaced {
        headings.push("NAMESPACE".to_owned());
    }
    headings.push("NAME".to_owned());
    headings.extend(columns.iter().map(|column| column.heading.clone()));
    if wide {
        headings.extend(["ATTACHED", "MESSAGE"].map(str::to_owned));
    }
    let rows: Vec<Vec<String>> = objects
        .iter()
        .map(|(key, object)| {
            let mut row = Vec::new();
            if info.namespaced {
                row.push(key.namespace.to_string());
            }
            row.push(key.name.to_string());
            row.extend(columns.iter().map(|column| column.cell(object)));
            if wide {
                let status = world.translation.statuses.get(key);
                row.push(status.map(|status| attached(status)).unwrap_or_default());
                let problems = world.translation.problems.of(key).iter();
                row.push(problems.map(|problem| problem.message.clone()).collect::<Vec<_>>().join("; "));
            }
            row
        })
        .collect();
    Ok(table::render(&headings, &rows))
}

/// What hangs on what: `https:3` for listeners and their routes, `infra/shared:Accepted` for parents.
fn attached(status: &Status) -> String {
    let mut parts: Vec<String> = status
        .listeners()
        .iter()
        .map(|listener| format!("{}:{}", listener.name, listener.attached_routes))
        .collect();
    for parent in status.route().iter().flat_map(|route| &route.parents) {
        let reference = &parent.parent_ref;
        let namespace =
            reference.namespace.as_ref().map(|namespace| format!("{namespace}/")).unwrap_or_default();
        let section =
            reference.section_name.as_ref().map(|section| format!("#{section}")).unwrap_or_default();
        let accepted = parent.conditions.iter().find(|condition| condition.type_ == "Accepted");
        let reason = accepted.map(|condition| condition.reason.as_str()).unwrap_or("Unknown");
        parts.push(format!("{namespace}{}{section}:{reason}", reference.name));
    }
    parts.join(",")
}
