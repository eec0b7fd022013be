//! Which rule decides, and what a client may have of a folder.
//!
//! A rule *covers* a request where it is for this client or for any, and its folder is the one asked for
//! or lies above it. Of two rules that cover it, one is *more specific* if it names the qube where the
//! other says `*`, or names a folder further down, and is not less specific in the other respect. Then:
//!
//! 1. A denial holds unless a more specific permission takes it back. Where neither is more specific (one
//!    names the qube, the other a folder further down; or both say the same), they are of one rank, and
//!    the denial wins. So neither "not this qube" nor "nobody this folder" is undone by a rule that did
//!    not have it in mind.
//! 2. Where no denial holds, the most specific permission decides; of those of one rank the one that names
//!    the qube, since its owner had that qube in mind; of two that say the same, the one for reading only,
//!    then the first.
//! 3. Where nothing covers it, it is refused.
//!
//! A folder is served with all that is in it, and whoever has it could look at what a narrower rule closes
//! further down. So what is given of a folder is the least of what is given of it and of every folder below
//! it that a rule speaks of: one that is denied there refuses the folder above, one that is for reading
//! only makes the mount of the folder above read-only. In turn a folder below a permitted one is permitted
//! with at least the same access.

use crate::folder::FolderPath;
use crate::name::QubeName;
use crate::rule::{Access, Client, Rule, Rules, Terms, Verdict};

/// What a client may have of a folder, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decision<'a> {
    /// It may have it so.
    Permitted {
        /// How. Access may be less than its rule's, for the sake of `narrowed`.
        terms: Terms,
        /// The rule that permits it.
        by: &'a Rule,
        /// The rule for a folder further down that leaves it for reading only.
        narrowed: Option<&'a Rule>,
    },
    /// It may not have it.
    Refused(Refusal<'a>),
}

/// Why a folder is not to be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal<'a> {
    /// No rule permits it.
    NoRule,
    /// This rule denies it.
    Denied(&'a Rule),
    /// This rule denies a folder in it, which could not be kept from whoever has it.
    DeniedInside(&'a Rule),
}

impl Rule {
    fn covers(&self, client: &QubeName, folder: &FolderPath) -> bool {
        self.is_for(client) && folder.is_within(&self.folder)
    }

    fn is_for(&self, client: &QubeName) -> bool {
        match &self.client {
            Client::Any => true,
            Client::Named(name) => name == client,
        }
    }

    fn is_named(&self) -> bool {
        matches!(self.client, Client::Named(_))
    }

    /// For two rules that cover one request: their folders lie on one line then.
    fn is_more_specific_than(&self, other: &Rule) -> bool {
        let own = (self.is_named(), self.folder.components().count());
        let others = (other.is_named(), other.folder.components().count());
        own != others && own.0 >= others.0 && own.1 >= others.1
    }
}

/// What is said of the folder itself, whatever is said of those in it.
fn on_itself<'a>(
    rules: &'a Rules,
    client: &QubeName,
    folder: &FolderPath,
) -> Result<(Terms, &'a Rule), Refusal<'a>> {
    let covering: Vec<&Rule> =
        rules.rules().iter().filter(|rule| rule.covers(client, folder)).collect();
    let is_topmost = |rule: &Rule| !covering.iter().any(|other| other.is_more_specific_than(rule));
    let mut best: Option<(Terms, &Rule)> = None;
    for rule in covering.iter().copied().filter(|rule| is_topmost(rule)) {
        let Verdict::Permit(terms) = rule.verdict else { return Err(Refusal::Denied(rule)) };
        let goes_before = best.is_none_or(|(other, by)| {
            (rule.is_named(), other.access) > (by.is_named(), terms.access)
        });
        if goes_before {
            best = Some((terms, rule));
        }
    }
    best.ok_or(Refusal::NoRule)
}

/// Decides about `folder` for `client`.
pub fn decide<'a>(rules: &'a Rules, client: &QubeName, folder: &FolderPath) -> Decision<'a> {
    let (mut terms, by) = match on_itself(rules, client, folder) {
        Ok(permitted) => permitted,
        Err(refusal) => return Decision::Refused(refusal),
    };
    let mut narrowed = None;
    let inside = rules.rules().iter().filter(|rule| {
        rule.is_for(client) && rule.folder != *folder && rule.folder.is_within(folder)
    });
    for rule in inside {
        match on_itself(rules, client, &rule.folder) {
            Ok((inner, by)) if inner.access < terms.access => {
                terms.access = inner.access;
                narrowed = Some(by);
            }
            Ok(_) => {}
            Err(Refusal::Denied(by)) => return Decision::Refused(Refusal::DeniedInside(by)),
            Err(refusal) => return Decision::Refused(refusal),
        }
    }
    Decision::Permitted { terms, by, narrowed }
}

impl Decision<'_> {
    /// What may be done in the folder, if anything.
    pub fn access(&self) -> Option<Access> {
        match self {
            Decision::Permitted { terms, .. } => Some(terms.access),
            Decision::Refused(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(text: &str) -> FolderPath {
        FolderPath::parse(text.as_ref()).unwrap()
    }

    /// Rules written as `client folder access`, one a line.
    fn rules(lines: &[&str]) -> Rules {
        let export = |line: &&str| {
            let words: Vec<_> = line.split(' ').collect();
            let [client, folder, access] = words[..] else { panic!("{line}") };
            format!(
                "[[export]]\nclient = \"{client}\"\nfolder = \"{folder}\"\naccess = \"{access}\"\n"
            )
        };
        Rules::parse(lines.iter().map(export).collect::<String>().as_bytes()).unwrap()
    }

    #[test]
    fn examples() {
        use Access::{ReadOnly, ReadWrite};
        let (ro, rw) = (Some(ReadOnly), Some(ReadWrite));
        for (lines, client, folder, access) in [
            // A folder and what is in it; nothing beside or above it.
            (&["work /srv rw"][..], "work", "/srv", rw),
            (&["work /srv rw"], "work", "/srv/a/b", rw),
            (&["work /srv rw"], "work", "/", None),
            (&["work /srv rw"], "work", "/srv2", None),
            (&["work /srv rw"], "evil", "/srv", None),
            (&["* /srv ro"], "evil", "/srv", ro),
            (&["* / ro"], "evil", "/", ro),
            (&[], "work", "/srv", None),
            // The one that names the qube, the one further down.
            (&["* /srv ro", "work /srv rw"], "work", "/srv", rw),
            (&["* /srv deny", "work /srv rw"], "work", "/srv", rw),
            (&["* /srv rw", "work /srv deny"], "work", "/srv", None),
            (&["* /srv rw", "work /srv deny"], "home", "/srv", rw),
            (&["* /srv ro", "* /srv/in rw"], "work", "/srv/in/x", rw),
            (&["* /srv deny", "* /srv/in ro"], "work", "/srv/in", ro),
            (&["* /srv deny", "* /srv/in ro"], "work", "/srv", None),
            // Of one rank: a denial wins, then the name, then reading only.
            (&["work /srv rw", "work /srv deny"], "work", "/srv", None),
            (&["evil /srv deny", "* /srv/in ro"], "evil", "/srv/in", None),
            (&["work /srv rw", "* /srv/in deny"], "work", "/srv/in", None),
            (&["work /srv rw", "* /srv/in ro"], "work", "/srv/in", rw),
            (&["work /srv ro", "* /srv/in rw"], "work", "/srv/in", ro),
            (&["work /srv rw", "work /srv ro"], "work", "/srv", ro),
            // What a folder further down closes cannot be had with the one above.
            (&["work /srv rw", "work /srv/in deny"], "work", "/srv", None),
            (&["work /srv rw", "work /srv/in deny"], "work", "/srv/out", rw),
            (&["work /srv rw", "* /srv/in deny"], "work", "/srv", None),
            (&["work /srv rw", "* /srv/in deny", "work /srv/in rw"], "work", "/srv", rw),
            (&["work /srv rw", "home /srv/in deny"], "work", "/srv", rw),
            (&["work /srv rw", "work /srv/in ro"], "work", "/srv", ro),
            (&["work /srv ro", "work /srv/in rw"], "work", "/srv", ro),
            (&["work /srv ro", "work /srv/in rw"], "work", "/srv/in", rw),
        ] {
            let rules = rules(lines);
            let decision = decide(&rules, &client.parse().unwrap(), &path(folder));
            assert_eq!(decision.access(), access, "{lines:?}: {client} {folder}: {decision:?}");
        }
    }

    #[test]
    fn the_rule_that_decided_is_told() {
        let rules = rules(&["* /srv ro", "work /srv rw", "* /srv/in ro", "work /srv/no deny"]);
        let all = rules.rules();
        let decide = |client: &str, folder: &str| {
            super::decide(&rules, &client.parse().unwrap(), &path(folder))
        };
        let Decision::Permitted { by, narrowed, .. } = decide("work", "/srv/x") else { panic!() };
        assert_eq!((by, narrowed), (&all[1], None));
        assert_eq!(decide("work", "/srv/no"), Decision::Refused(Refusal::Denied(&all[3])));
        assert_eq!(decide("work", "/srv"), Decision::Refused(Refusal::DeniedInside(&all[3])));
        assert_eq!(decide("home", "/"), Decision::Refused(Refusal::NoRule));
        let rules = super::tests::rules(&["work /srv rw", "work /srv/in ro"]);
        let decision = super::decide(&rules, &"work".parse().unwrap(), &path("/srv"));
        let Decision::Permitted { by, narrowed, .. } = decision else { panic!() };
        assert_eq!((by.line, narrowed.map(|rule| rule.line)), (1, Some(5)));
    }

    /// The module's rules, said once more in another way: what is permitted is kept in a set of pairs
    /// from which each step strikes some.
    fn naive(rules: &Rules, client: &QubeName, folder: &FolderPath) -> Option<Access> {
        let depth = |rule: &Rule| {
            rule.folder.as_bytes().iter().filter(|&&b| b == b'/').count()
                - usize::from(rule.folder.as_bytes() == b"/")
        };
        let says = |folder: &FolderPath| {
            let mine = |rule: &&Rule| match &rule.client {
                Client::Any => true,
                Client::Named(name) => name == client,
            };
            let above = |rule: &&Rule| {
                let own = rule.folder.as_bytes();
                let prefix = if own == b"/" { own.to_vec() } else { [own, b"/"].concat() };
                folder.as_bytes() == own || folder.as_bytes().starts_with(&prefix)
            };
            let covering: Vec<_> = rules.rules().iter().filter(mine).filter(above).collect();
            let permits = |rule: &Rule| match &rule.verdict {
                Verdict::Deny => None,
                Verdict::Permit(terms) => Some(terms.access),
            };
            let named = |rule: &Rule| rule.client != Client::Any;
            // Every denial must be taken back by something that is more specific, and so on.
            let taken_back = |denial: &Rule| {
                covering.iter().any(|rule| {
                    let deeper = depth(rule) > depth(denial) && named(rule) >= named(denial);
                    let nearer = named(rule) && !named(denial) && depth(rule) >= depth(denial);
                    deeper || nearer
                })
            };
            if covering.iter().any(|rule| permits(rule).is_none() && !taken_back(rule)) {
                return None;
            }
            for by_name in [true, false] {
                let group = covering.iter().filter(|rule| named(rule) == by_name);
                let deepest = group.clone().map(|rule| depth(rule)).max();
                let group = group.filter(|rule| Some(depth(rule)) == deepest);
                let accesses: Vec<_> = group.map(|rule| permits(rule)).collect();
                if !accesses.is_empty() {
                    return accesses.into_iter().min().flatten();
                }
            }
            None
        };
        let inside = rules.rules().iter().map(|rule| &rule.folder);
        let inside = inside.filter(|inner| inner.is_within(folder));
        let for_client = |inner: &&FolderPath| {
            rules.rules().iter().any(|rule| {
                rule.folder == **inner
                    && match &rule.client {
                        Client::Any => true,
                        Client::Named(name) => name == client,
                    }
            })
        };
        let mut least = says(folder)?;
        for inner in inside.filter(for_client) {
            least = least.min(says(inner)?);
        }
        Some(least)
    }

    fn any_folder() -> impl Strategy<Value = String> {
        proptest::collection::vec(proptest::sample::select(&["a", "b"][..]), 0..4)
            .prop_map(|names| format!("/{}", names.join("/")))
    }

    fn any_rules() -> impl Strategy<Value = Vec<String>> {
        let client = proptest::sample::select(&["*", "work", "home"][..]);
        let access = proptest::sample::select(&["ro", "rw", "deny"][..]);
        let rule = (client, any_folder(), access)
            .prop_map(|(client, folder, access)| format!("{client} {folder} {access}"));
        proptest::collection::vec(rule, 0..7)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn it_is_what_the_naive_reading_says(lines in any_rules(), folder in any_folder()) {
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            let (rules, client) = (rules(&lines), "work".parse().unwrap());
            let folder = path(&folder);
            let decided = decide(&rules, &client, &folder).access();
            prop_assert_eq!(decided, naive(&rules, &client, &folder));
        }

        #[test]
        fn a_folder_gives_nothing_that_one_in_it_would_not(
            lines in any_rules(), folder in any_folder(), more in any_folder(),
        ) {
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            let (rules, client) = (rules(&lines), "work".parse().unwrap());
            let inner = path(&format!("{folder}{more}"));
            let outer = decide(&rules, &client, &path(&folder)).access();
            prop_assert!(outer <= decide(&rules, &client, &inner).access());
        }

        #[test]
        fn no_rule_that_names_another_matters(lines in any_rules(), folder in any_folder()) {
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            let others: Vec<&str> =
                lines.iter().copied().filter(|line| !line.starts_with("home")).collect();
            let client = "work".parse().unwrap();
            let (all, fewer) = (rules(&lines), rules(&others));
            let folder = path(&folder);
            prop_assert_eq!(
                decide(&all, &client, &folder).access(),
                decide(&fewer, &client, &folder).access()
            );
        }
    }
}
