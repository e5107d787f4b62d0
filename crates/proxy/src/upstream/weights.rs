use std::sync::atomic::{AtomicU64, Ordering};

use smallvec::SmallVec;

/// Picks among weighted shares exactly to their weights: of each `sum of weights` consecutive picks (the
/// weights without their common divisor), over all workers, each share gets its weight, well spread.
#[derive(Debug)]
pub struct Weights(Kind);

#[derive(Debug)]
enum Kind {
    /// No share has a weight.
    None,
    /// The only share that has one: so it is with most rules, of which there can be very many.
    One(usize),
    Several(Box<Several>),
}

#[derive(Debug)]
struct Several {
    /// The running sums of the weights.
    ends: SmallVec<[u64; 4]>,
    /// Coprime to the total and near its golden section, so that a share's picks lie far apart.
    step: u64,
    /// Lest rules that are compiled anew often begin with the same share each time.
    seed: u64,
    count: AtomicU64,
}

impl Weights {
    /// Shares by their weights, in order.
    pub fn new(weights: &[u32]) -> Self {
        let mut shares = weights.iter().enumerate().filter(|(_, weight)| **weight > 0);
        Self(match (shares.next(), shares.next()) {
            (None, _) => Kind::None,
            (Some((index, _)), None) => Kind::One(index),
            (Some(_), Some(_)) => Kind::Several(Box::new(Several::new(weights))),
        })
    }

    /// The index of the share that gets the next request; `None` when all weights are 0 or there are none.
    #[inline]
    pub fn pick(&self) -> Option<usize> {
        match &self.0 {
            Kind::None => None,
            Kind::One(index) => Some(*index),
            Kind::Several(several) => several.pick(),
        }
    }
}

impl Several {
    fn new(weights: &[u32]) -> Self {
        let divisor = weights.iter().fold(0, |g, w| gcd(g, u64::from(*w))).max(1);
        let mut sum = 0;
        let ends = weights
            .iter()
            .map(|w| {
                sum += u64::from(*w) / divisor;
                sum
            })
            .collect();
        let mut step = (sum as f64 * 0.618_034) as u64;
        while gcd(step.max(1), sum.max(1)) != 1 {
            step += 1;
        }
        Self { ends, step: step.max(1), seed: rand::random(), count: AtomicU64::new(0) }
    }

    #[inline]
    fn pick(&self) -> Option<usize> {
        let total = *self.ends.last()?;
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        // Each round of `total` picks begins elsewhere, lest clients that alternate between two kinds of
        // request always meet the same share.
        let (round, place) = (count / total, count % total);
        let start = round.wrapping_add(self.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 17;
        let at = (u128::from(place) * u128::from(self.step) + u128::from(start)) % u128::from(total);
        let at = at as u64;
        Some(self.ends.partition_point(|end| *end <= at))
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(weights: &[u32], picks: usize) -> Vec<usize> {
        let shares = Weights::new(weights);
        let mut counts = vec![0; weights.len()];
        for _ in 0..picks {
            counts[shares.pick().expect("a share")] += 1;
        }
        counts
    }

    #[test]
    fn each_round_is_exact() {
        assert_eq!(counts(&[90, 10], 1000), [900, 100]);
        assert_eq!(counts(&[1, 1, 1], 999), [333, 333, 333]);
        assert_eq!(counts(&[0, 5, 0], 10), [0, 10, 0]);
        assert_eq!(counts(&[999_999, 1], 1_000_000), [999_999, 1]);
        assert_eq!(counts(&[70, 0, 30], 10), [7, 0, 3]);
    }

    #[test]
    fn a_part_of_a_round_is_close() {
        let got = counts(&[500_000, 300_000, 200_001], 1000);
        assert!((495..=505).contains(&got[0]) && (295..=305).contains(&got[1]), "{got:?}");
    }

    #[test]
    fn no_weight_no_share() {
        assert_eq!(Weights::new(&[0, 0]).pick(), None);
        assert_eq!(Weights::new(&[]).pick(), None);
    }

    #[test]
    fn alternating_clients_meet_both_shares() {
        let shares = Weights::new(&[1, 1]);
        let first: Vec<_> = (0..200).map(|i| (i, shares.pick())).filter(|(i, _)| i % 2 == 0).collect();
        let zeros = first.iter().filter(|(_, pick)| *pick == Some(0)).count();
        assert!((20..=80).contains(&zeros), "{zeros} of 100");
    }

    proptest::proptest! {
        #[test]
        fn any_round_is_exact(weights in proptest::collection::vec(0u32..50, 1..6)) {
            let total: u32 = weights.iter().sum();
            let shares = Weights::new(&weights);
            for _ in 0..3 {
                let mut counts = vec![0; weights.len()];
                for _ in 0..total {
                    counts[shares.pick().expect("a share")] += 1;
                }
                proptest::prop_assert_eq!(&counts, &weights);
            }
        }
    }
}
