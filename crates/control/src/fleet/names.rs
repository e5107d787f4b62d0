//! What the objects of a Gateway are called.

use aws_lc_rs::digest::{SHA256, digest};

/// What is put after the Gateway's name, as the name of the class often is (GEP-1762).
const SUFFIX: &str = "-portway";
/// The longest value of a label, and name of a Service, in bytes.
const LABEL: usize = 63;
/// A dash and ten hexadecimal digits.
const HASH: usize = 11;
/// The longest name of all: of a Service, less what further Services of the Gateway have after it.
const BASE: usize = LABEL - HASH;

/// The names of one Gateway's objects, all in its namespace. They follow from its name alone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Names {
    /// Of the workload, its Service, ServiceAccount, PodDisruptionBudget and HorizontalPodAutoscaler.
    pub base: String,
    /// Of the ConfigMap with the push server's certificate authority.
    pub config: String,
    /// The value of the label `gateway.networking.k8s.io/gateway-name`: the Gateway's name, cut if it is longer
    /// than a label may be.
    pub label: String,
}

impl Names {
    /// The name of the further Service for a static address.
    #[must_use]
    pub fn service_for(&self, address: &str) -> String {
        format!("{}-{}", self.base, hash(address))
    }
}

/// The names of the objects of a Gateway.
#[must_use]
pub fn names(gateway: &str) -> Names {
    let base = service_name(gateway);
    Names { config: format!("{base}-ca"), label: label(gateway), base }
}

/// A value for a label: the name, or its beginning and a hash of the whole where it is too long.
#[must_use]
pub fn label(name: &str) -> String {
    if name.len() <= LABEL {
        return name.to_owned();
    }
    with_hash(name, name, LABEL)
}

/// The Gateway's name as a Service can have it (RFC 1035: no dots, a letter first), and what makes it ours.
fn service_name(gateway: &str) -> String {
    let mut name = gateway.replace('.', "-");
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        name.insert_str(0, "gateway-");
    }
    let most = BASE - SUFFIX.len();
    // Two Gateways never get one name: whatever is not taken over as it is has a hash of the name.
    let stem = if name == gateway && name.len() <= most { name } else { with_hash(&name, gateway, most) };
    stem + SUFFIX
}

/// As much of `name` as fits into `most` bytes with the hash of `whole`.
fn with_hash(name: &str, whole: &str, most: usize) -> String {
    let mut end = name.len().min(most.saturating_sub(HASH));
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}-{}", name[..end].trim_end_matches(['-', '.']), hash(whole))
}

/// Ten hexadecimal digits that stay the same for all versions of Portway.
fn hash(text: &str) -> String {
    let digest = digest(&SHA256, text.as_bytes());
    digest.as_ref().iter().take(5).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_service_name(name: &str) -> bool {
        name.len() <= 63
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.ends_with(|c: char| c.is_ascii_alphanumeric())
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    }

    #[test]
    fn a_short_name_is_taken_over() {
        let names = names("edge");
        assert_eq!(names.base, "edge-portway");
        assert_eq!(names.config, "edge-portway-ca");
        assert_eq!(names.label, "edge");
    }

    #[test]
    fn every_name_makes_valid_names_and_no_two_the_same() {
        let longest = "a".repeat(253);
        let nearly = format!("{}b", "a".repeat(252));
        let dotted = format!("{}.{}", "a".repeat(40), "b".repeat(40));
        let gateways = [
            "a-b",
            "a.b",
            "1st",
            "gateway-1st",
            "edge",
            &longest,
            &nearly,
            &dotted,
            &"a".repeat(44),
            &"a".repeat(45),
        ];
        let mut seen = std::collections::BTreeSet::new();
        for gateway in gateways {
            let names = names(gateway);
            assert!(is_service_name(&names.base), "{}", names.base);
            assert!(is_service_name(&names.service_for("192.0.2.1")), "{gateway}");
            assert!(names.label.len() <= 63 && names.label.ends_with(|c: char| c.is_ascii_alphanumeric()));
            assert!(seen.insert(names.base.clone()), "{} is also that of another", names.base);
            assert!(seen.insert(format!("label {}", names.label)), "{gateway}");
        }
    }

    #[test]
    fn names_stay_what_they_were_in_earlier_versions() {
        assert_eq!(names("a.b").base, "a-b-2e7336dc8e-portway");
        assert_eq!(names(&"a".repeat(253)).label, format!("{}-32859a3ab6", "a".repeat(52)));
    }
}
