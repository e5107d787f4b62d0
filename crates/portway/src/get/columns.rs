//! The columns in which `kubectl get` shows a kind: the CRD's printer columns and the paths in them.

use anyhow::Context as _;
use portway_api::crds;
use portway_api::object::KindInfo;
use serde::Deserialize;
use serde_json::Value;

/// A column of a table.
#[derive(Clone, Debug)]
pub(super) struct Column {
    /// The heading, in capitals.
    pub(super) heading: String,
    /// Shown only when the table is wide.
    pub(super) wide: bool,
    path: Path,
    date: bool,
}

/// The columns of a kind, without those that all kinds have (namespace and name).
///
/// # Errors
/// When an embedded CRD cannot be read, which a test rules out.
pub(super) fn of(info: &KindInfo) -> anyhow::Result<Vec<Column>> {
    let file = format!("{}_{}.yaml", info.group, info.plural);
    let Some((_, text)) = crds::EXPERIMENTAL.iter().chain(crds::PORTWAY).find(|(name, _)| *name == file)
    else {
        return Ok(vec![Column::age()]);
    };
    let crd: Crd = serde_saphyr::from_str(text).with_context(|| format!("embedded {file}"))?;
    let served = info.versions.first().copied().unwrap_or_default();
    let version = crd.spec.versions.into_iter().find(|version| version.name == served);
    let columns = version.map(|version| version.additional_printer_columns).unwrap_or_default();
    Ok(columns.into_iter().map(Column::from).collect())
}

impl Column {
    fn age() -> Self {
        Self {
            heading: "AGE".to_owned(),
            wide: false,
            path: Path::parse(".metadata.creationTimestamp"),
            date: true,
        }
    }

    /// What an object has in this column.
    pub(super) fn cell(&self, object: &Value) -> String {
        let found = self.path.find(object);
        if self.date {
            // As kubectl: an object that no API server has dated is of unknown age.
            let at = found.first().and_then(|value| value.as_str()).and_then(age);
            return at.unwrap_or_else(|| "<unknown>".to_owned());
        }
        let texts: Vec<String> = found
            .into_iter()
            .map(|value| match value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            })
            .collect();
        texts.join(" ")
    }
}

/// How long ago that was, in its largest unit.
fn age(at: &str) -> Option<String> {
    let at = time::OffsetDateTime::parse(at, &time::format_description::well_known::Rfc3339).ok()?;
    let seconds = (time::OffsetDateTime::now_utc() - at).whole_seconds().max(0);
    Some(match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    })
}

#[derive(Deserialize)]
struct Crd {
    spec: CrdSpec,
}

#[derive(Deserialize)]
struct CrdSpec {
    versions: Vec<CrdVersion>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CrdVersion {
    name: String,
    #[serde(default)]
    additional_printer_columns: Vec<PrinterColumn>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PrinterColumn {
    name: String,
    json_path: String,
    #[serde(rename = "type")]
    type_: String,
    #[serde(default)]
    priority: i32,
}

impl From<PrinterColumn> for Column {
    fn from(column: PrinterColumn) -> Self {
        Self {
            heading: column.name.to_uppercase(),
            wide: column.priority > 0,
            path: Path::parse(&column.json_path),
            date: column.type_ == "date",
        }
    }
}

/// A JSON path as printer columns use them: `.a.b`, `[*]`, `[?(@.type=="Ready")]`.
#[derive(Clone, Debug)]
struct Path(Vec<Step>);

#[derive(Clone, Debug)]
enum Step {
    Field(String),
    Each,
    Where { field: String, value: String },
}

impl Path {
    fn parse(text: &str) -> Self {
        let mut steps = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix("[*]") {
                steps.push(Step::Each);
                rest = after;
            } else if let Some((condition, after)) =
                rest.strip_prefix("[?(@.").and_then(|r| r.split_once(")]"))
            {
                let (field, value) = condition.split_once("==").unwrap_or((condition, ""));
                steps
                    .push(Step::Where { field: field.to_owned(), value: value.trim_matches('"').to_owned() });
                rest = after;
            } else {
                rest = rest.strip_prefix('.').unwrap_or(rest);
                let end = rest.find(['.', '[']).unwrap_or(rest.len()).max(1).min(rest.len());
                let (field, after) = rest.split_at(end);
                steps.push(Step::Field(field.to_owned()));
                rest = after;
            }
        }
        Self(steps)
    }

    fn find<'a>(&self, object: &'a Value) -> Vec<&'a Value> {
        let mut found = vec![object];
        for step in &self.0 {
            found = found
                .into_iter()
                .flat_map(|value| -> Vec<&Value> {
                    match step {
                        Step::Field(name) => value.get(name).into_iter().collect(),
                        Step::Each => value.as_array().into_iter().flatten().collect(),
                        Step::Where { field, value: wanted } => {
                            let items = value.as_array().into_iter().flatten();
                            items
                                .filter(|item| item.get(field).is_some_and(|v| v == wanted.as_str()))
                                .collect()
                        }
                    }
                })
                .collect();
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use portway_api::object::KindId;
    use serde_json::json;

    use super::*;

    #[test]
    fn every_kind_has_its_columns() {
        for kind in KindId::ALL {
            assert!(!of(kind.info()).unwrap().is_empty(), "{kind}");
        }
    }

    #[test]
    fn a_gateway_looks_as_in_kubectl() {
        let gateway = json!({
            "metadata": {"name": "shared"},
            "spec": {"gatewayClassName": "portway"},
            "status": {
                "addresses": [{"value": "127.0.0.1"}, {"value": "::1"}],
                "conditions": [{"type": "Accepted", "status": "True"}, {"type": "Programmed", "status": "False"}],
            },
        });
        let columns = of(KindId::Gateway.info()).unwrap();
        let headings: Vec<_> = columns.iter().map(|column| column.heading.as_str()).collect();
        assert_eq!(headings, ["CLASS", "ADDRESS", "PROGRAMMED", "AGE"]);
        let cells: Vec<_> = columns.iter().map(|column| column.cell(&gateway)).collect();
        assert_eq!(cells, ["portway", "127.0.0.1 ::1", "False", "<unknown>"]);
    }

    #[test]
    fn lists_are_shown_as_json() {
        let route = json!({"spec": {"hostnames": ["shop.example.com"]}});
        let columns = of(KindId::HTTPRoute.info()).unwrap();
        assert_eq!(columns[0].cell(&route), r#"["shop.example.com"]"#);
    }
}
