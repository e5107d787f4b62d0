//! The API server's rules for names, labels and annotations (`k8s.io/apimachinery/pkg/util/validation`).

/// RFC 1123 label: up to 63 lowercase letters, digits and `-`, with a letter or digit at both ends.
pub(super) fn is_dns1123_label(name: &str) -> bool {
    name.len() <= 63 && is_dns_part(name)
}

/// RFC 1123 subdomain: such labels, of any length, with dots between, 253 characters at most.
pub(super) fn is_dns1123_subdomain(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_dns_part)
}

/// RFC 1035 label: as RFC 1123's, but a letter comes first.
pub(super) fn is_dns1035_label(name: &str) -> bool {
    is_dns1123_label(name) && name.starts_with(|c: char| c.is_ascii_lowercase())
}

fn is_dns_part(part: &str) -> bool {
    !part.is_empty()
        && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !part.starts_with('-')
        && !part.ends_with('-')
}

/// A label's or annotation's key: a name, with a DNS name and `/` before it or not.
pub(super) fn is_qualified_name(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => is_dns1123_subdomain(prefix) && is_label_name(name),
        None => is_label_name(key),
    }
}

/// A label's value: a name, or nothing.
pub(super) fn is_label_value(value: &str) -> bool {
    value.is_empty() || is_label_name(value)
}

fn is_label_name(name: &str) -> bool {
    let ends = |c: char| c.is_ascii_alphanumeric();
    name.len() <= 63
        && name.starts_with(ends)
        && name.ends_with(ends)
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rfcs() {
        let long = "a".repeat(63);
        for good in ["a", "a-b", "0", &long, "a.b-c.d0"] {
            assert!(is_dns1123_subdomain(good), "{good}");
        }
        for bad in ["", "A", "-a", "a-", "a_b", "a..b", ".a", "a.", "ä", &"a.".repeat(127), &"a".repeat(254)]
        {
            assert!(!is_dns1123_subdomain(bad), "{bad}");
        }
        assert!(is_dns1123_label(&long) && !is_dns1123_label(&"a".repeat(64)) && !is_dns1123_label("a.b"));
        assert!(is_dns1035_label("a0") && !is_dns1035_label("0a"));
    }

    #[test]
    fn label_keys_and_values() {
        for good in ["a", "App_1.x", "example.com/App", "kubernetes.io/metadata.name"] {
            assert!(is_qualified_name(good), "{good}");
        }
        for bad in ["", "/a", "a/", "a/b/c", "Example.com/a", "-a", "a b", &"a".repeat(64)] {
            assert!(!is_qualified_name(bad), "{bad}");
        }
        assert!(
            is_label_value("") && is_label_value("v1.2_x") && !is_label_value("a b") && !is_label_value(".a")
        );
    }
}
