//! `docs/reference/http1-differences.md` is what the corpus lists. `UPDATE=1` rewrites it.

use std::fmt::Write;
use std::path::Path;

use portway_testkit::engine::corpus::Case;

use super::{hyper, llhttp};
use crate::{hostile, responses};

const HEAD: &str = "# HTTP/1.1: differences from other parsers

The stored corpus of HTTP/1.1 (`crates/proxy/tests/h1/hostile` for requests, `responses` for answers of backends) goes
to Portway, to hyper and to llhttp (Node's parser, in strict mode), in every split of its bytes. This is where they
differ; written by `UPDATE=1 cargo test -p portway-proxy --test h1 documented`, and what it lists is tested.

*takes*: it takes what Portway refuses. The reason is the same for all of these: two readers could take the bytes for
two different messages, or RFC 9112 and RFC 9110 do not allow them. *refuses*: it refuses what Portway takes.
*differs*: it takes it for something else.
";

fn table(title: &str, cases: &[Case]) -> String {
    let mut text = format!("\n## {title}\n| file | what it is | Portway | hyper | llhttp |\n|-|-|-|-|-|\n");
    let (mut differing, mut reasons) = (0, String::new());
    for case in cases {
        let (hyper, llhttp) = (case.get("hyper"), case.get("llhttp"));
        if hyper.is_none() && llhttp.is_none() {
            continue;
        }
        differing += 1;
        let ours = match case.verdict() {
            "body" => "the body fails",
            verdict => verdict,
        };
        let (name, why) = (&case.name, case.why.replace('|', "\\|"));
        let (hyper, llhttp) = (hyper.unwrap_or(""), llhttp.unwrap_or(""));
        writeln!(text, "| `{name}` | {why} | {ours} | {hyper} | {llhttp} |").unwrap();
        if let Some(reason) = case.get("reason") {
            writeln!(reasons, "- `{name}`: {reason}").unwrap();
        }
    }
    writeln!(text, "\nThe other {} of {} mean the same to all three.", cases.len() - differing, cases.len())
        .unwrap();
    if !reasons.is_empty() {
        write!(text, "\nWhy Portway takes what another refuses or takes for something else:\n\n{reasons}")
            .unwrap();
    }
    text
}

#[test]
fn documented() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/http1-differences.md");
    let known: String =
        [hyper::KNOWN].iter().chain(&llhttp::KNOWN).map(|reason| format!("- {reason}\n")).collect();
    let text = HEAD.to_owned()
        + &table("Requests", &hostile::cases())
        + &table("Answers of backends", &responses::cases())
        + "\n## Changed messages\nMessages of the corpus that were changed at random mean the same to all three, if Portway \
           takes them, but for this:\n\n"
        + &known;
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let stored = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(stored == text, "{} is not what the corpus lists: UPDATE=1", path.display());
}
