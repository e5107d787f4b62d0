//! One file, one rule of the spec: input documents, and the plan, statuses and problems that come of them.
//! `UPDATE=1 cargo test -p portway-translate --test goldens` writes what is expected anew.

mod common;

use similar::TextDiff;

#[test]
fn translations_are_as_expected() {
    let update = std::env::var_os("UPDATE").is_some_and(|value| value == "1");
    let mut failed = Vec::new();
    let goldens = common::goldens();
    for (path, text) in &goldens {
        let name = path.file_name().unwrap().to_string_lossy();
        let input = common::input(text);
        let resources = common::resources(&name, input);
        let translation = portway_translate::translate(&resources, &common::options_of(input));
        let actual = format!("{input}{}{}", common::MARK, common::readable(&translation));
        if actual == *text {
            continue;
        }
        if update {
            std::fs::write(path, &actual).unwrap();
        } else {
            let diff = TextDiff::from_lines(text.as_str(), actual.as_str());
            failed.push(format!("{}\n{}", path.display(), diff.unified_diff().context_radius(3)));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
