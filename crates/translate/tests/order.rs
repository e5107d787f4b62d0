//! The order in which objects are read does not matter.

mod common;

use portway_translate::translate;

/// All orders are too many; these put every two documents in both orders.
fn orders(documents: &[&str]) -> Vec<Vec<String>> {
    let own = |order: Vec<&str>| order.into_iter().map(str::to_owned).collect();
    let reversed: Vec<&str> = documents.iter().rev().copied().collect();
    let sorted = {
        let mut sorted = documents.to_vec();
        sorted.sort_unstable();
        sorted
    };
    let interleaved: Vec<&str> =
        documents.iter().skip(1).step_by(2).chain(documents.iter().step_by(2)).copied().collect();
    [reversed, sorted, interleaved].map(own).into()
}

#[test]
fn any_order_of_documents_translates_alike() {
    for (path, text) in common::goldens() {
        let name = path.display().to_string();
        let input = common::input(&text);
        let options = common::options_of(input);
        let expected = translate(&common::resources(&name, input), &options);
        let documents: Vec<&str> = input.split("\n---\n").collect();
        assert!(documents.len() > 1, "{name}");
        for order in orders(&documents) {
            let resources = common::resources(&name, &order.join("\n---\n"));
            assert_eq!(translate(&resources, &options), expected, "{name}");
        }
    }
}
