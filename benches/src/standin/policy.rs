//! A tiny qrexec policy, enough to allow and to refuse.
//!
//! Lines are `service|* +argument|* source|* target|* allow|deny`, `#` begins a comment, the first match
//! wins and no match is deny, as in dom0. Left out: `ask`, tags and types, and key=value parts.

/// Whether `text` allows `source` to call `service` (with its argument behind a `+`) in `target`.
pub(super) fn allows(text: &str, service: &str, source: &str, target: &str) -> bool {
    let (name, argument) = match service.split_once('+') {
        Some((name, argument)) => (name, format!("+{argument}")),
        None => (service, "+".into()),
    };
    let matches = |pattern: &str, value: &str| {
        pattern == "*" || pattern == value || (pattern == "@anyvm" && !value.is_empty())
    };
    text.lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find_map(|words| match words[..] {
            [by_name, by_argument, from, to, action, ..] if !by_name.starts_with('#') => {
                let hit = matches(by_name, name)
                    && matches(by_argument, &argument)
                    && matches(from, source)
                    && matches(to, target);
                hit.then_some(action == "allow")
            }
            _ => None,
        })
        .unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "# ours\n\
        svc.Mount +-home-user  client work  deny\n\
        svc.Mount *            client @anyvm allow\n";

    #[test]
    fn the_first_match_wins() {
        assert!(!allows(POLICY, "svc.Mount+-home-user", "client", "work"));
        assert!(allows(POLICY, "svc.Mount+-home-user", "client", "vault"));
        assert!(allows(POLICY, "svc.Mount+-home-user2", "client", "work"));
        assert!(allows(POLICY, "svc.Mount", "client", "work"));
    }

    #[test]
    fn no_match_is_deny() {
        assert!(!allows(POLICY, "svc.Other+-home-user", "client", "work"));
        assert!(!allows(POLICY, "svc.Mount+x", "other", "work"));
        assert!(!allows("", "svc.Mount", "client", "work"));
    }
}
