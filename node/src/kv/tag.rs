//! The tag of a key: a leading `{tag}`. Keys that share a tag always live in one group, whatever the ranges are.

/// The tag, braces included, so that it is a prefix of the key; `{}` is no tag.
pub fn tag(key: &[u8]) -> Option<&[u8]> {
    if key.first() != Some(&b'{') {
        return None;
    }
    let close = key.iter().position(|byte| *byte == b'}')?;
    (close > 1).then(|| &key[..=close])
}

/// True if one command may touch both keys atomically: they are equal or share a tag.
pub fn together(first: &[u8], second: &[u8]) -> bool {
    first == second || matches!((tag(first), tag(second)), (Some(a), Some(b)) if a == b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_leading_and_not_empty() {
        assert_eq!(tag(b"{a}b"), Some(&b"{a}"[..]));
        assert_eq!(tag(b"{a}"), Some(&b"{a}"[..]));
        assert_eq!(tag(b"{}a}"), None);
        assert_eq!(tag(b"x{a}"), None);
        assert_eq!(tag(b"{a"), None);
        assert_eq!(tag(b""), None);
        assert_eq!(tag(b"{{a}}"), Some(&b"{{a}"[..]));
    }

    #[test]
    fn keys_without_tags_belong_together_only_when_equal() {
        assert!(together(b"{t}a", b"{t}b"));
        assert!(together(b"a", b"a"));
        assert!(!together(b"a", b"b"));
        assert!(!together(b"{}a", b"{}b"));
    }
}
