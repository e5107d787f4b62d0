//! One copy of what very many rules say alike: paths, places in routes, backends.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use portway_plan::{ObjectRef, PathMatch, Share, Target};

use crate::backend::Dependency;
use crate::draft::Draft;
use crate::route::RouteNode;

/// What has been said, for all routes.
#[derive(Debug, Default)]
pub(crate) struct Texts {
    texts: Known<str>,
    objects: Known<ObjectRef>,
}

impl Texts {
    /// Has the draft share what others have said.
    pub(crate) fn share(&mut self, draft: &mut Draft) {
        for rule in &mut draft.rules {
            for matched in &mut rule.matches {
                if let PathMatch::Exact(path) | PathMatch::Prefix(path) = &mut matched.path {
                    self.texts.share(path);
                }
            }
            // Nobody else has it yet.
            let Some(rule) = Arc::get_mut(&mut rule.rule) else { continue };
            self.texts.share(&mut rule.source.path);
            rule.backends.iter_mut().for_each(|share| self.share_of(share));
        }
        if let Some(rule) = draft.forward.as_mut().and_then(Arc::get_mut) {
            self.texts.share(&mut rule.source.path);
            rule.backends.iter_mut().for_each(|share| self.share_of(share));
        }
    }

    /// Has what is kept of a route share it, too.
    pub(crate) fn share_names(&mut self, route: &mut RouteNode) {
        route.backends.iter_mut().for_each(|key| self.objects.share(&mut key.object));
        for dependency in &mut route.dependencies {
            match dependency {
                Dependency::Service(namespace, name) | Dependency::XBackend(namespace, name) => {
                    self.texts.share(namespace);
                    self.texts.share(name);
                }
                Dependency::Grants(namespace)
                | Dependency::BackendTls(namespace)
                | Dependency::Namespace(namespace) => self.texts.share(namespace),
                Dependency::Parent(key) => {
                    self.texts.share(&mut key.namespace);
                    self.texts.share(&mut key.name);
                }
            }
        }
    }

    fn share_of(&mut self, share: &mut Share) {
        self.texts.share(&mut share.path);
        if let Target::Backend(key) = &mut share.target {
            self.objects.share(&mut key.object);
        }
    }

    /// Forgets what nobody says any more, once there can be as much of it as of the rest.
    pub(crate) fn sweep(&mut self) {
        self.texts.sweep();
        self.objects.sweep();
    }
}

#[derive(Debug)]
struct Known<T: ?Sized> {
    all: HashSet<Arc<T>>,
    /// How many were left by the last sweep.
    left: usize,
}

impl<T: ?Sized> Default for Known<T> {
    fn default() -> Self {
        Self { all: HashSet::new(), left: 0 }
    }
}

impl<T: Eq + Hash + ?Sized> Known<T> {
    fn share(&mut self, value: &mut Arc<T>) {
        match self.all.get(&**value) {
            Some(known) => value.clone_from(known),
            None => drop(self.all.insert(Arc::clone(value))),
        }
    }

    fn sweep(&mut self) {
        /// Fewer are not worth a look.
        const FEW: usize = 64;
        if self.all.len() > 2 * self.left + FEW {
            self.all.retain(|value| Arc::strong_count(value) > 1);
            self.all.shrink_to_fit();
            self.left = self.all.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_alike_is_kept_once_and_for_as_long_as_someone_says_it() {
        let mut known = Known::<str>::default();
        let mut said: Vec<Arc<str>> = (0..1000).map(|n| format!("/{}", n % 500).into()).collect();
        said.iter_mut().for_each(|text| known.share(text));
        assert!(Arc::ptr_eq(&said[7], &said[507]) && !Arc::ptr_eq(&said[7], &said[8]));
        known.sweep();
        assert_eq!(known.all.len(), 500);
        said.truncate(100);
        let mut more: Vec<Arc<str>> = (500..1200).map(|n| format!("/{n}").into()).collect();
        more.iter_mut().for_each(|text| known.share(text));
        known.sweep();
        assert_eq!(known.all.len(), 800, "100 that are left and 700 more");
    }
}
