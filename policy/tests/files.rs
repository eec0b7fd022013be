//! The files that are installed say what their comments say.

#![allow(clippy::unwrap_used)] // A test that cannot go on fails.

use policy::{Access, FolderPath, Rules, decide};

#[test]
fn the_example_of_rules_does_what_it_says() {
    let rules = Rules::parse(include_bytes!("../files/exports.toml")).unwrap();
    let access = |client: &str, folder: &str| {
        let folder = FolderPath::parse(folder.as_ref()).unwrap();
        decide(&rules, &client.parse().unwrap(), &folder).access()
    };
    assert_eq!(access("personal", "/home/user/shared"), Some(Access::ReadWrite));
    assert_eq!(access("personal", "/home/user/shared/in"), Some(Access::ReadWrite));
    assert_eq!(access("personal", "/home/user"), None);
    assert_eq!(access("work", "/home/user/shared"), None);
    assert_eq!(access("work", "/mnt/nas/media"), Some(Access::ReadOnly));
    assert_eq!(access("untrusted", "/mnt/nas/media"), None);
    assert_eq!(access("personal", "/home/user/.ssh"), None);
}

#[test]
fn the_readmes_rules_are_rules() {
    let readme = include_str!("../../README.md");
    let (_, rest) = readme.split_once("```toml\n").unwrap();
    let (rules, _) = rest.split_once("```").unwrap();
    let rules = Rules::parse(rules.as_bytes()).unwrap();
    let folder = FolderPath::parse("/home/user/shared".as_ref()).unwrap();
    let decision = decide(&rules, &"personal".parse().unwrap(), &folder);
    assert_eq!(decision.access(), Some(Access::ReadWrite));
}
