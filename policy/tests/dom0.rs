//! dom0's policy file, and the lines that its comments offer, evaluated as dom0 does.
//!
//! [`Evaluator`] mirrors what qrexec's policy daemon does of it: the files in the order of their names, in
//! them the first line that matches; service and argument exact or `*`; names, `@anyvm`, `@default`,
//! `@dispvm`, `@type:`, `@tag:`, `@adminvm`; no match is a refusal, and so is a call to oneself. A line that
//! it does not know fails the test. Left out: `!include`, `notify=`, the choice that a person makes.

#![allow(clippy::unwrap_used)] // A test that cannot go on fails.

use policy::Folder;

const FILE: &str = include_str!("../files/80-sharedfolders.policy");
const NAME: &str = "80-sharedfolders.policy";

#[derive(Clone, Debug, PartialEq)]
struct Line {
    service: String,
    argument: String,
    source: String,
    target: String,
    action: Action,
}

#[derive(Clone, Debug, PartialEq)]
enum Action {
    Allow,
    Deny,
    Ask { default_target: Option<String> },
}

impl Line {
    fn parse(text: &str) -> Result<Line, String> {
        let words: Vec<_> = text.split_whitespace().collect();
        let [service, argument, source, target, action, options @ ..] = &words[..] else {
            return Err(format!("too few words: {text}"));
        };
        if *argument != "*" && !argument.starts_with('+') {
            return Err(format!("no argument: {text}"));
        }
        if *service == "*" && *argument != "*" {
            return Err(format!("an argument of any service: {text}"));
        }
        for word in [source, target] {
            let is_name = word.parse::<policy::QubeName>().is_ok();
            let keywords = ["*", "@anyvm", "@dispvm", "@adminvm", "@default"];
            let is_kind = word.starts_with("@type:") || word.starts_with("@tag:");
            if !is_name && !keywords.contains(word) && !is_kind {
                return Err(format!("no qube: {text}"));
            }
        }
        if *source == "@default" {
            return Err(format!("nobody calls from there: {text}"));
        }
        let mut default_target = None;
        for option in options {
            match option.split_once('=') {
                Some(("default_target", qube)) if *action == "ask" => {
                    default_target = Some(qube.to_owned());
                }
                _ => return Err(format!("an option that is not known: {text}")),
            }
        }
        let action = match *action {
            "allow" => Action::Allow,
            "deny" => Action::Deny,
            "ask" => Action::Ask { default_target },
            _ => return Err(format!("no action: {text}")),
        };
        let [service, argument, source, target] =
            [service, argument, source, target].map(|word| (*word).to_owned());
        Ok(Line { service, argument, source, target, action })
    }
}

/// A qube, as dom0 knows it.
#[derive(Clone, Copy)]
struct Qube {
    name: &'static str,
    kind: &'static str,
    tags: &'static [&'static str],
}

const fn app(name: &'static str) -> Qube {
    Qube { name, kind: "AppVM", tags: &[] }
}

const QUBES: [Qube; 6] = [
    app("personal"),
    app("work"),
    app("untrusted"),
    app("vault"),
    Qube { name: "disp1234", kind: "DispVM", tags: &["created-by-personal"] },
    Qube { name: "dom0", kind: "AdminVM", tags: &[] },
];

struct Evaluator {
    /// Of all files, in the order in which dom0 reads them.
    lines: Vec<Line>,
}

impl Evaluator {
    fn new(files: &[(&str, &str)]) -> Evaluator {
        let mut files = files.to_vec();
        files.sort();
        let mut lines = Vec::new();
        for (name, text) in files {
            let fits = |b: u8| b.is_ascii_digit() || b.is_ascii_lowercase() || b"_.-".contains(&b);
            assert!(
                name.ends_with(".policy") && name.bytes().all(fits),
                "{name} breaks every call"
            );
            let text = text.lines().map(str::trim);
            let text = text.filter(|line| !line.is_empty() && !line.starts_with('#'));
            lines.extend(text.map(|line| Line::parse(line).unwrap()));
        }
        Evaluator { lines }
    }

    /// What dom0 does of `SERVICE+ARGUMENT` from one qube to another, or to `@default`.
    fn evaluate(&self, call: &str, source: &str, target: &str) -> Action {
        let (service, argument) = call.split_once('+').unwrap();
        let matches = |line: &&Line| {
            (line.service == "*" || line.service == service)
                && (line.argument == "*" || line.argument[1..] == *argument)
                && is_meant(&line.source, source, true)
                && is_meant(&line.target, target, false)
        };
        match self.lines.iter().find(matches) {
            _ if source == target => Action::Deny,
            Some(line) => line.action.clone(),
            None => Action::Deny,
        }
    }
}

fn is_meant(word: &str, name: &str, as_source: bool) -> bool {
    let qube = QUBES.iter().find(|qube| qube.name == name);
    match (word, qube) {
        ("*", _) => true,
        // A target that is none yet is nobody.
        ("@default", _) => !as_source && name == "@default",
        ("@dispvm", _) => !as_source && name == "@dispvm",
        ("@adminvm", _) => name == "dom0",
        // Any but dom0: that is never meant unless it is named.
        ("@anyvm", Some(qube)) => qube.kind != "AdminVM",
        ("@anyvm", None) => !as_source && name.starts_with('@'),
        (word, Some(qube)) => match (word.strip_prefix("@type:"), word.strip_prefix("@tag:")) {
            (Some(kind), _) => qube.kind == kind,
            (_, Some(tag)) => qube.tags.contains(&tag),
            _ => word == qube.name,
        },
        (_, None) => false,
    }
}

/// `SERVICE+ARGUMENT` as the client sends it.
fn call(folder: &str, read_only: bool) -> String {
    Folder::parse(folder.as_ref()).unwrap().service_with_argument(read_only).unwrap()
}

/// The lines that the comments offer: those after "#   ".
fn offered() -> Vec<&'static str> {
    FILE.lines().filter_map(|line| line.strip_prefix("#   ")).collect()
}

#[test]
fn dom0_asks_for_every_mount() {
    let dom0 = Evaluator::new(&[(NAME, FILE)]);
    assert_eq!(dom0.lines.len(), 2);
    for read_only in [false, true] {
        for folder in ["/", "/home/user/My docs", "media"] {
            let call = call(folder, read_only);
            for target in ["work", "vault", "disp1234", "@default", "@dispvm"] {
                let asked = Action::Ask { default_target: None };
                assert_eq!(dom0.evaluate(&call, "personal", target), asked, "{call} {target}");
            }
            // Nobody mounts dom0, and nobody itself.
            assert_eq!(dom0.evaluate(&call, "personal", "dom0"), Action::Deny);
            assert_eq!(dom0.evaluate(&call, "work", "work"), Action::Deny);
        }
    }
    for other in ["sharedfolders.Mounts+-srv", "sharedfolders.mount+-srv", "qubes.Filecopy+"] {
        assert_eq!(dom0.evaluate(other, "personal", "work"), Action::Deny, "{other}");
    }
}

#[test]
fn each_line_that_is_offered_does_what_is_said_of_it() {
    let lines = offered();
    assert_eq!(lines.len(), 9, "{lines:?}");
    let with =
        |lines: &[&str]| Evaluator::new(&[("30-user.policy", &lines.join("\n")), (NAME, FILE)]);
    let ask = Action::Ask { default_target: None };
    let shared = "/home/user/shared";

    let one = with(&lines[..1]);
    for (folder, read_only, source, target, action) in [
        (shared, false, "personal", "work", Action::Allow),
        (shared, true, "personal", "work", ask.clone()),
        ("/home/user/shared/in", false, "personal", "work", ask.clone()),
        ("/home/user", false, "personal", "work", ask.clone()),
        (shared, false, "untrusted", "work", ask.clone()),
        (shared, false, "personal", "vault", ask.clone()),
    ] {
        assert_eq!(one.evaluate(&call(folder, read_only), source, target), action, "{folder}");
    }

    let reading = with(&lines[1..2]);
    assert_eq!(reading.evaluate(&call(shared, true), "personal", "work"), Action::Allow);
    assert_eq!(reading.evaluate(&call("/", true), "personal", "work"), Action::Allow);
    assert_eq!(reading.evaluate(&call(shared, false), "personal", "work"), ask);

    let nothing = with(&lines[2..6]);
    for read_only in [false, true] {
        let call = call(shared, read_only);
        assert_eq!(nothing.evaluate(&call, "untrusted", "work"), Action::Deny);
        assert_eq!(nothing.evaluate(&call, "personal", "vault"), Action::Deny);
        assert_eq!(nothing.evaluate(&call, "personal", "work"), ask);
    }

    let disposables = with(&lines[6..8]);
    for read_only in [false, true] {
        let call = call(shared, read_only);
        assert_eq!(disposables.evaluate(&call, "disp1234", "work"), Action::Deny);
        assert_eq!(disposables.evaluate(&call, "personal", "work"), ask);
    }

    let default = with(&lines[8..]);
    let work = Action::Ask { default_target: Some("work".into()) };
    assert_eq!(default.evaluate(&call(shared, false), "personal", "@default"), work);
    assert_eq!(default.evaluate(&call(shared, false), "personal", "work"), ask);
}

#[test]
fn the_argument_in_the_comments_is_the_clients() {
    assert_eq!(call("/home/user/My docs", false), "sharedfolders.Mount+-home-user-My_20docs");
    assert!(FILE.contains("\"+-home-user-My_20docs\""));
    assert_eq!(call("/home/user/shared", false), "sharedfolders.Mount+-home-user-shared");
}

#[test]
fn what_dom0_would_not_understand_is_no_line() {
    for line in [
        "sharedfolders.Mount * @anyvm ask",
        "sharedfolders.Mount -srv personal work allow",
        "sharedfolders.Mount * personal work maybe",
        "sharedfolders.Mount * personal work deny default_target=work",
        "sharedfolders.Mount * @default work allow",
        "* +-srv personal work allow",
    ] {
        assert!(Line::parse(line).is_err(), "{line}");
    }
}
