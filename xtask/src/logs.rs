//! What controllers of a test bed write: whether they write it again and again.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use crate::cluster::{self, Cluster};

/// How much the controllers had written.
#[derive(Default)]
pub(crate) struct Logs(BTreeMap<PathBuf, usize>);

impl Logs {
    /// What they have written so far.
    pub(crate) fn of(cluster: &Cluster) -> Self {
        let files = Self::files(cluster).map(|file| {
            let lines = Self::lines(&file).len();
            (file, lines)
        });
        Self(files.collect())
    }

    fn files(cluster: &Cluster) -> impl Iterator<Item = PathBuf> {
        cluster.pod_logs().into_iter().filter(|file| file.to_string_lossy().contains(cluster::NAMESPACE))
    }

    fn lines(file: &PathBuf) -> Vec<String> {
        fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// The lines since then without their times and numbers, and how often the one controller that wrote it most
    /// often wrote each.
    pub(crate) fn repeated(&self, cluster: &Cluster) -> BTreeMap<String, usize> {
        let mut most = BTreeMap::new();
        for file in Self::files(cluster) {
            let mut counts: BTreeMap<String, usize> = BTreeMap::new();
            let known = self.0.get(&file).copied().unwrap_or_default();
            for line in Self::lines(&file).into_iter().skip(known) {
                // The times come first, the container's and the program's.
                let words =
                    line.split_whitespace().skip_while(|word| word.starts_with(|c: char| c.is_ascii_digit()));
                let text = words.collect::<Vec<_>>().join(" ").replace(|c: char| c.is_ascii_digit(), "#");
                *counts.entry(text).or_default() += 1;
            }
            for (line, count) in counts {
                let known = most.entry(line).or_default();
                *known = count.max(*known);
            }
        }
        most
    }
}
