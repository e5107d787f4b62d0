//! Which file says what, and which object serves where two files say the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use portway_api::diagnostic::{Diagnostic, Severity};
use portway_api::object::ObjectKey;

use crate::read::{self, Content};
use crate::resources::{AnyObject, Change, Changes, Origin, Resources};

/// What the files together say.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    /// The objects that serve.
    pub(crate) resources: Resources,
    /// The files, in order of name.
    files: BTreeMap<Arc<str>, File>,
    /// Objects that do not serve because another has their key.
    rivals: BTreeMap<ObjectKey, Vec<AnyObject>>,
}

/// What is kept of a file.
#[derive(Debug, Default)]
struct File {
    keys: Vec<ObjectKey>,
    diagnostics: Vec<Diagnostic>,
    ignored: BTreeMap<(String, String), (Origin, usize)>,
}

impl Catalog {
    /// Takes over what became of some files: their contents, or `None` for those that are gone.
    ///
    /// All at once, so that an object that moves from one file to another is the same object still.
    pub(crate) fn apply(&mut self, files: Vec<(Arc<str>, Option<Content>)>) -> Changes {
        let read: BTreeSet<Arc<str>> = files.iter().map(|(name, _)| Arc::clone(name)).collect();
        let mut claims: BTreeMap<ObjectKey, Vec<AnyObject>> = BTreeMap::new();
        for (name, content) in files {
            let before = self.files.remove(&name).map(|file| file.keys).unwrap_or_default();
            for key in &before {
                claims.entry(key.clone()).or_default();
            }
            if let Some(content) = content {
                let file = self.take_over(&name, &before, content, &mut claims);
                self.files.insert(name, file);
            }
        }
        let mut changes = Changes::default();
        for (key, mut claims) in claims {
            let rivals = self.rivals.remove(&key).unwrap_or_default();
            let served = self.resources.any(&key);
            let others = rivals.into_iter().chain(served.clone());
            claims.extend(
                others.filter(|object| object.origin().is_none_or(|origin| !read.contains(&origin.file))),
            );
            self.settle(key, served, claims, &mut changes);
        }
        changes
    }

    /// Takes over one file's content: its objects are added to `claims`.
    fn take_over(
        &self,
        name: &Arc<str>,
        before: &[ObjectKey],
        content: Content,
        claims: &mut BTreeMap<ObjectKey, Vec<AnyObject>>,
    ) -> File {
        let mut diagnostics = content.diagnostics;
        let now: BTreeSet<ObjectKey> = content.objects.iter().map(|object| object.key().clone()).collect();
        let refused: BTreeSet<&ObjectKey> = content.refused.iter().collect();
        let mut kept = Vec::new();
        for key in before.iter().filter(|key| !now.contains(key)) {
            // Whoever cannot be read may be any of those that are missing.
            if !(content.unreadable || refused.contains(key)) {
                continue;
            }
            let Some(object) = self.resources.any(key) else { continue };
            if object.origin().is_some_and(|origin| origin.file == *name) {
                claims.entry(key.clone()).or_default().push(object);
                kept.push(key.clone());
            }
        }
        if !kept.is_empty() {
            let names: Vec<String> = kept.iter().take(3).map(ObjectKey::to_string).collect();
            let more = kept.len().saturating_sub(names.len());
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let message = format!("stays in use as it was before: {}{more}", names.join(", "));
            diagnostics.push(Diagnostic::new(Severity::Notice, message).in_file(name));
        }
        for object in content.objects {
            claims.entry(object.key().clone()).or_default().push(object);
        }
        File { keys: now.into_iter().chain(kept).collect(), diagnostics, ignored: content.ignored }
    }

    /// Decides which of the objects that claim a key serves.
    fn settle(
        &mut self,
        key: ObjectKey,
        served: Option<AnyObject>,
        mut claims: Vec<AnyObject>,
        changes: &mut Changes,
    ) {
        if claims.len() > 1 {
            // What served stays, by its file or at least by what it says; then the first in order of files.
            claims.sort_by_cached_key(|claim| {
                let file = |object: &AnyObject| object.origin().map(|origin| Arc::clone(&origin.file));
                let stays = served.as_ref().is_some_and(|served| file(served) == file(claim));
                let same = served.as_ref().is_some_and(|served| served.same_spec(claim));
                (!stays, !same, claim.origin().cloned())
            });
        }
        let mut claims = claims.into_iter();
        let Some(winner) = claims.next() else {
            if self.resources.remove(&key).is_some() {
                changes.record(key, Change::Removed);
            }
            return;
        };
        let rivals: Vec<AnyObject> = claims.collect();
        if !rivals.is_empty() {
            self.rivals.insert(key.clone(), rivals);
        }
        let Some(served) = served else {
            self.resources.insert(winner);
            return changes.record(key, Change::Added);
        };
        let same = served.same_spec(&winner);
        let generation = served.metadata().generation + i64::from(!same);
        let winner = winner.with_metadata(|metadata| metadata.generation = generation);
        if !(same && served.metadata() == winner.metadata()) {
            changes.record(key, Change::Changed);
        } else if served.origin() == winner.origin() {
            return;
        }
        self.resources.insert(winner);
    }

    /// All that there is to say about the files, in order of file and line.
    pub(crate) fn diagnostics(&self) -> Vec<Diagnostic> {
        let mut all: Vec<Diagnostic> =
            self.files.values().flat_map(|file| file.diagnostics.iter().cloned()).collect();
        for (key, rivals) in &self.rivals {
            let served = self.resources.any(key);
            let served = served.as_ref().and_then(AnyObject::origin);
            for rival in rivals {
                let by = served
                    .map_or_else(String::new, |origin| format!(" by {origin}, which is the one in use"));
                let mut error = Diagnostic::error(format!("already defined{by}"))
                    .about(key.to_string())
                    .hint("remove one of them, or give it another name");
                if let Some(origin) = rival.origin() {
                    read::place(&mut error, origin);
                }
                all.push(error);
            }
        }
        let mut ignored: BTreeMap<&(String, String), (&Origin, usize)> = BTreeMap::new();
        for (kind, (first, count)) in self.files.values().flat_map(|file| &file.ignored) {
            ignored.entry(kind).or_insert((first, 0)).1 += count;
        }
        all.extend(
            ignored
                .into_iter()
                .map(|((kind, version), (first, count))| read::ignored(kind, version, first, count)),
        );
        all.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
        all
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use portway_api::core::ConfigMap;
    use portway_api::gateway::GatewayClass;
    use portway_api::yaml::Limits;

    use super::*;

    /// A ConfigMap for each `name=value`; a value of `!` makes one that cannot be used.
    fn maps(entries: &[&str]) -> String {
        let mut text = String::new();
        for entry in entries {
            let (name, value) = entry.split_once('=').unwrap();
            let data = if value == "!" { "[no map]".to_owned() } else { format!("{{v: '{value}'}}") };
            let _ = write!(
                text,
                "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {data}\n"
            );
        }
        text
    }

    struct Fixture(Catalog);

    impl Fixture {
        fn apply(&mut self, files: &[(&str, Option<&str>)]) -> Vec<String> {
            let files = files.iter().map(|(name, text)| {
                let name: Arc<str> = (*name).into();
                let content = text
                    .map(|text| read::read(&name, text.as_bytes(), &Limits::default(), &self.0.resources));
                (name, content)
            });
            let changes = self.0.apply(files.collect());
            changes.iter().map(|(key, change)| format!("{change:?} {}", key.name)).collect()
        }

        /// `name=value@file#generation` of each object.
        fn objects(&self) -> Vec<String> {
            let show = |map: &Arc<crate::Stored<ConfigMap>>| {
                let file = map.origin.as_ref().map(|origin| Arc::clone(&origin.file)).unwrap_or_default();
                let generation = map.metadata.generation;
                format!("{}={}@{file}#{generation}", map.key.name, map.spec.data["v"])
            };
            self.0.resources.all::<ConfigMap>().map(show).collect()
        }

        fn errors(&self) -> Vec<String> {
            self.0.diagnostics().iter().filter(|found| found.is_error()).map(Diagnostic::one_line).collect()
        }
    }

    fn fixture() -> Fixture {
        Fixture(Catalog::default())
    }

    #[test]
    fn a_change_counts_up_the_generation_of_what_changed() {
        let mut files = fixture();
        assert_eq!(files.apply(&[("a", Some(&maps(&["x=1", "y=1"])))]), ["Added x", "Added y"]);
        assert_eq!(files.apply(&[("a", Some(&maps(&["x=1", "y=2", "z=1"])))]), ["Changed y", "Added z"]);
        assert_eq!(files.objects(), ["x=1@a#1", "y=2@a#2", "z=1@a#1"]);
        assert_eq!(files.apply(&[("a", Some(&maps(&["y=2"])))]), ["Removed x", "Removed z"]);
        assert_eq!(files.objects(), ["y=2@a#2"]);
    }

    #[test]
    fn an_object_that_only_moves_does_not_change() {
        let mut files = fixture();
        files.apply(&[("a", Some(&maps(&["x=1", "y=1"])))]);
        files.apply(&[("a", Some(&maps(&["x=1", "y=2"])))]);
        let moved = files.apply(&[("a", Some(&maps(&["x=1"]))), ("b", Some(&maps(&["y=2"])))]);
        assert_eq!(moved, [""; 0]);
        assert_eq!(files.objects(), ["x=1@a#1", "y=2@b#2"]);
        let renamed = files.apply(&[("a", None), ("c", Some(&maps(&["x=1"])))]);
        assert_eq!(renamed, [""; 0]);
        assert_eq!(files.objects(), ["x=1@c#1", "y=2@b#2"]);
    }

    #[test]
    fn a_refused_object_stays_as_it_was_and_the_others_change() {
        let mut files = fixture();
        files.apply(&[("a", Some(&maps(&["x=1", "y=1", "z=1"])))]);
        assert_eq!(files.apply(&[("a", Some(&maps(&["x=!", "y=2"])))]), ["Changed y", "Removed z"]);
        assert_eq!(files.objects(), ["x=1@a#1", "y=2@a#2"]);
        assert_eq!(files.errors().len(), 1);
        assert_eq!(files.apply(&[("a", Some(&maps(&["x=2", "y=2"])))]), ["Changed x"]);
        assert_eq!(files.errors(), [""; 0]);
    }

    #[test]
    fn a_file_that_cannot_be_read_takes_nothing_back() {
        let mut files = fixture();
        files.apply(&[("a", Some(&maps(&["x=1", "y=1"])))]);
        let half = maps(&["x=2", "y=2"]).replace("{name: y}", "{name: y");
        assert_eq!(files.apply(&[("a", Some(&half))]), ["Changed x"]);
        assert_eq!(files.objects(), ["x=2@a#2", "y=1@a#1"]);
        let notices: Vec<_> = files.0.diagnostics().iter().map(Diagnostic::one_line).collect();
        assert!(
            notices.iter().any(|line| line.contains("stays in use") && line.contains("ConfigMap default/y"))
        );
    }

    #[test]
    fn a_rule_that_compares_with_the_past_sees_what_serves() {
        let class = |controller: &str| {
            format!(
                "{{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {{name: c}}, \
                 spec: {{controllerName: example.com/{controller}}}}}"
            )
        };
        let mut files = fixture();
        assert_eq!(files.apply(&[("a", Some(&class("a")))]), ["Added c"]);
        assert_eq!(files.apply(&[("a", Some(&class("b")))]), [""; 0]);
        assert!(files.errors()[0].contains("spec.controllerName"), "{:?}", files.errors());
        let serving = files.0.resources.get::<GatewayClass>("", "c").unwrap();
        assert_eq!(serving.spec.controller_name, "example.com/a");
        files.apply(&[("a", None)]);
        assert_eq!(files.apply(&[("a", Some(&class("b")))]), ["Added c"], "a new one may differ");
    }

    #[test]
    fn of_two_that_claim_one_name_the_one_that_served_stays() {
        let mut files = fixture();
        files.apply(&[("b", Some(&maps(&["x=b"])))]);
        assert_eq!(files.apply(&[("a", Some(&maps(&["x=a"])))]), [""; 0]);
        assert_eq!(files.objects(), ["x=b@b#1"]);
        let error = "a:2:1: error: ConfigMap default/x: already defined by b:2:1, which is the one in use \
                     (remove one of them, or give it another name)";
        assert_eq!(files.errors(), [error]);
        assert_eq!(files.apply(&[("b", Some(&maps(&["x=c"])))]), ["Changed x"], "the one in use can change");
        assert_eq!(files.apply(&[("b", None)]), ["Changed x"]);
        assert_eq!(files.objects(), ["x=a@a#3"]);
        assert_eq!(files.errors(), [""; 0]);
    }

    #[test]
    fn of_two_at_once_the_first_in_order_serves() {
        let mut files = fixture();
        files.apply(&[("b", Some(&maps(&["x=b"]))), ("a", Some(&maps(&["x=a", "x=a2"])))]);
        assert_eq!(files.objects(), ["x=a@a#1"]);
        assert_eq!(files.errors().len(), 2);
        files.apply(&[("a", Some(&maps(&["x=0", "x=a"])))]);
        assert_eq!(files.objects(), ["x=a@a#1"], "what served is still there, if further down");
    }
}
