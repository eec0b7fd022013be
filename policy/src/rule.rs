//! The rules of a server qube: what its owner lets which qube have, on top of dom0's word.
//!
//! ```toml
//! [aliases]
//! media = "/mnt/nas/media"     # qvm-mount-folder SERVER media MOUNTPOINT
//!
//! [[export]]
//! client = "personal"          # a qube's name, or "*" for any
//! folder = "/srv/music"        # or an alias
//! access = "ro"                # "ro", "rw" or "deny"
//! max-msize = "256K"           # optional: the largest 9P message
//! backend = "diod"             # optional: "embedded" or "diod"
//! ```
//!
//! Without a file, what dom0 allowed is allowed. With one, whatever no rule permits is refused, and a
//! mistake anywhere in it is a mistake of all of it: the reader of a file that closes a folder must not
//! be left with half of it. So an unknown key is an error too. Which rule decides is
//! [`decide`](mod@crate::decide)'s.
//!
//! A folder is written in canonical spelling, so that a rule cannot look as if it were about another:
//! no `.`, `..`, `//` or final `/`. TOML is UTF-8; a folder whose name is not is written as dom0 shows it,
//! in its argument form (`"-srv-M_fcsik"`), which begins with `-` where a path begins with `/`.
//!
//! A rule goes by the path. A folder that a qube shows at two places (a bind mount) has two, and a rule
//! for one says nothing of the other.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::folder::{Alias, Folder, FolderPath};
use crate::name::QubeName;
use crate::printable::printable;

/// The least `max-msize`, in bytes: Linux mounts with no less.
pub const MIN_MSIZE: u32 = 4096;
/// The most, in bytes: Linux takes no more.
pub const MAX_MSIZE: u32 = 1024 * 1024;

/// The most bytes of a file that are shown in an error.
const MAX_SHOWN: usize = 80;

/// All that a file says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rules {
    aliases: BTreeMap<Alias, FolderPath>,
    rules: Vec<Rule>,
}

/// One `[[export]]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// Its line in the file.
    pub line: usize,
    /// Whom it is about.
    pub client: Client,
    /// Which folder, with all below it; an alias stands for its folder.
    pub folder: FolderPath,
    /// What it says of them.
    pub verdict: Verdict,
}

/// Whom a rule is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Client {
    /// Any qube.
    Any,
    /// The qube of this name.
    Named(QubeName),
}

/// What a rule says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The folder is not to be had.
    Deny,
    /// It is.
    Permit(Terms),
}

/// How a folder is to be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Terms {
    /// For reading only, or for writing too.
    pub access: Access,
    /// The largest 9P message in bytes, within [`MIN_MSIZE`]..=[`MAX_MSIZE`].
    pub max_msize: Option<u32>,
    /// Which file server serves it.
    pub backend: Option<Backend>,
}

/// What may be done in a folder.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Access {
    /// Reading.
    ReadOnly,
    /// Reading and writing.
    ReadWrite,
}

/// A file server's name in a rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Backend {
    /// This project's own.
    Embedded,
    /// Debian's diod.
    Diod,
}

/// What is wrong with a file, and where.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{line}:{column}: {}: {why}", printable(text.as_bytes()))]
pub struct Mistake {
    /// Counted from 1.
    pub line: usize,
    /// Counted from 1, in characters.
    pub column: usize,
    /// What stands there; from the file as it is.
    pub text: String,
    /// What is wrong with it.
    pub why: String,
}

impl Rules {
    /// Reads a file's text.
    pub fn parse(text: &[u8]) -> Result<Rules, Mistake> {
        let source = Source::of(text)?;
        let table = DeTable::parse(source.0).map_err(|error| {
            source.mistake(error.span().unwrap_or_default(), error.message().to_owned())
        })?;
        let mut rules = Rules::default();
        // Whatever their order is in the file: a rule may name an alias that comes after it.
        let mut exports = None;
        for (key, value) in table.get_ref() {
            match key.get_ref().as_ref() {
                "aliases" => rules.aliases = aliases(&source, value)?,
                "export" => exports = Some(value),
                _ => return Err(unknown(&source, key, "[aliases] and [[export]]")),
            }
        }
        if let Some(exports) = exports {
            let DeValue::Array(exports) = exports.get_ref() else {
                return Err(source.mistake(exports.span(), "write [[export]]".into()));
            };
            for export in exports.iter() {
                rules.rules.push(rule(&source, export, &rules.aliases)?);
            }
        }
        Ok(rules)
    }

    /// The path that a folder asked for has; none for an alias that there is not.
    pub fn resolve<'a>(&'a self, folder: &'a Folder) -> Option<&'a FolderPath> {
        match folder {
            Folder::Path(path) => Some(path),
            Folder::Alias(alias) => self.aliases.get(alias),
        }
    }

    /// The rules, in the file's order.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Client::Any => f.write_str("*"),
            Client::Named(name) => name.fmt(f),
        }
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Access::ReadOnly => "ro",
            Access::ReadWrite => "rw",
        })
    }
}

/// Safe to show on a terminal.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client = \"{}\", folder = \"{}\", access = ", self.client, self.folder)?;
        match &self.verdict {
            Verdict::Deny => f.write_str("\"deny\""),
            Verdict::Permit(terms) => write!(f, "\"{}\"", terms.access),
        }
    }
}

/// A file's text, for finding places in it.
struct Source<'a>(&'a str);

impl<'a> Source<'a> {
    fn of(text: &'a [u8]) -> Result<Source<'a>, Mistake> {
        std::str::from_utf8(text).map(Source).map_err(|error| {
            let (good, bad) = text.split_at(error.valid_up_to());
            // It is valid up to here, by the line above.
            let source = Source(std::str::from_utf8(good).unwrap_or_default());
            let (line, column) = source.place(good.len());
            let length = error.error_len().unwrap_or(bad.len());
            let text = bad[..length].iter().map(|byte| format!("\\x{byte:02x}")).collect();
            let why = "the file is not UTF-8; a folder whose name is not is written as dom0 shows \
                       it, as \"-srv-M_fcsik\"";
            Mistake { line, column, text, why: why.into() }
        })
    }

    fn place(&self, at: usize) -> (usize, usize) {
        let before = self.0.get(..at).unwrap_or(self.0);
        let line = before.rsplit('\n').next().unwrap_or_default();
        (before.matches('\n').count() + 1, line.chars().count() + 1)
    }

    fn mistake(&self, span: Range<usize>, why: String) -> Mistake {
        let (line, column) = self.place(span.start);
        // Where the span is empty, something is missing: what stands before it tells where.
        let text = match self.0.get(span.clone()) {
            Some(text) if !text.trim().is_empty() => text,
            _ => self.0.lines().nth(line - 1).unwrap_or_default(),
        };
        let text = text.lines().next().unwrap_or_default().trim();
        let text = match text.char_indices().nth(MAX_SHOWN) {
            Some((end, _)) => format!("{}...", &text[..end]),
            None if text.is_empty() => "end of the file".to_owned(),
            None => text.to_owned(),
        };
        Mistake { line, column, text, why }
    }
}

type Key<'a> = Spanned<toml::de::DeString<'a>>;
type Value<'a> = Spanned<DeValue<'a>>;

fn unknown(source: &Source<'_>, key: &Key<'_>, known: &str) -> Mistake {
    source.mistake(key.span(), format!("there is no such key; there are {known}"))
}

fn text<'a>(source: &Source<'_>, value: &'a Value<'_>, what: &str) -> Result<&'a str, Mistake> {
    match value.get_ref() {
        DeValue::String(text) => Ok(text.as_ref()),
        _ => Err(source.mistake(value.span(), format!("{what} is a text, in quotes"))),
    }
}

fn aliases(source: &Source<'_>, value: &Value<'_>) -> Result<BTreeMap<Alias, FolderPath>, Mistake> {
    let DeValue::Table(table) = value.get_ref() else {
        return Err(source.mistake(value.span(), "write [aliases] and a line for each".into()));
    };
    let mut aliases = BTreeMap::new();
    for (key, value) in table {
        let alias = key.get_ref().parse::<Alias>();
        let alias = alias.map_err(|error| source.mistake(key.span(), error.to_string()))?;
        match folder(source, value)? {
            Folder::Path(path) => aliases.insert(alias, path),
            Folder::Alias(_) => {
                let why = "an alias stands for a path, which begins with '/'";
                return Err(source.mistake(value.span(), why.into()));
            }
        };
    }
    Ok(aliases)
}

/// A folder in canonical spelling, in its argument form, or an alias.
fn folder(source: &Source<'_>, value: &Value<'_>) -> Result<Folder, Mistake> {
    let text = text(source, value, "a folder")?;
    let mistake = |why: String| source.mistake(value.span(), why);
    if text.starts_with('-') {
        return Folder::from_argument(text.as_bytes()).map_err(|error| mistake(error.to_string()));
    }
    let folder = Folder::parse(text.as_ref()).map_err(|error| mistake(error.to_string()))?;
    if folder.as_bytes() != text.as_bytes() {
        return Err(mistake(format!(
            "write it as \"{folder}\": no '.', '//' or final '/' in a rule"
        )));
    }
    Ok(folder)
}

fn rule(
    source: &Source<'_>,
    value: &Value<'_>,
    aliases: &BTreeMap<Alias, FolderPath>,
) -> Result<Rule, Mistake> {
    let DeValue::Table(table) = value.get_ref() else {
        return Err(source.mistake(value.span(), "write [[export]]".into()));
    };
    let (mut client, mut path, mut access) = (None, None, None);
    let (mut max_msize, mut backend) = (None, None);
    for (key, value) in table {
        match key.get_ref().as_ref() {
            "client" => client = Some(self::client(source, value)?),
            "folder" => path = Some(resolved(source, value, aliases)?),
            "access" => access = Some(self::access(source, value)?),
            "max-msize" => max_msize = Some((size(source, value)?, key.span())),
            "backend" => backend = Some((self::backend(source, value)?, key.span())),
            _ => {
                let known = "client, folder, access, max-msize and backend";
                return Err(unknown(source, key, known));
            }
        }
    }
    let missing = |key| source.mistake(value.span(), format!("{key} is missing"));
    let client = client.ok_or_else(|| missing("client"))?;
    let folder = path.ok_or_else(|| missing("folder"))?;
    let verdict = match (access.ok_or_else(|| missing("access"))?, max_msize, backend) {
        (Some(access), max_msize, backend) => Verdict::Permit(Terms {
            access,
            max_msize: max_msize.map(|(size, _)| size),
            backend: backend.map(|(backend, _)| backend),
        }),
        (None, None, None) => Verdict::Deny,
        (None, Some((_, key)), _) | (None, _, Some((_, key))) => {
            return Err(source.mistake(key, "it has no meaning for a folder that is denied".into()));
        }
    };
    let (line, _) = source.place(value.span().start);
    Ok(Rule { line, client, folder, verdict })
}

fn client(source: &Source<'_>, value: &Value<'_>) -> Result<Client, Mistake> {
    match text(source, value, "client")? {
        "*" => Ok(Client::Any),
        name => name.parse().map(Client::Named).map_err(|error: crate::name::NameError| {
            source.mistake(value.span(), format!("{error}; \"*\" is any qube"))
        }),
    }
}

fn resolved(
    source: &Source<'_>,
    value: &Value<'_>,
    aliases: &BTreeMap<Alias, FolderPath>,
) -> Result<FolderPath, Mistake> {
    match folder(source, value)? {
        Folder::Path(path) => Ok(path),
        Folder::Alias(alias) => aliases.get(&alias).cloned().ok_or_else(|| {
            let why = "there is no such alias in [aliases], and a path begins with '/'";
            source.mistake(value.span(), why.into())
        }),
    }
}

/// Nothing for "deny".
fn access(source: &Source<'_>, value: &Value<'_>) -> Result<Option<Access>, Mistake> {
    match text(source, value, "access")? {
        "ro" => Ok(Some(Access::ReadOnly)),
        "rw" => Ok(Some(Access::ReadWrite)),
        "deny" => Ok(None),
        _ => Err(source.mistake(value.span(), "access is \"ro\", \"rw\" or \"deny\"".into())),
    }
}

fn backend(source: &Source<'_>, value: &Value<'_>) -> Result<Backend, Mistake> {
    match text(source, value, "backend")? {
        "embedded" => Ok(Backend::Embedded),
        "diod" => Ok(Backend::Diod),
        _ => Err(source.mistake(value.span(), "backend is \"embedded\" or \"diod\"".into())),
    }
}

/// Bytes, or `64K` and `1M`, as the client's `--msize` takes them.
fn size(source: &Source<'_>, value: &Value<'_>) -> Result<u32, Mistake> {
    let bytes = match value.get_ref() {
        DeValue::Integer(number) if number.radix() == 10 => {
            number.as_str().replace('_', "").parse::<u32>().ok()
        }
        DeValue::String(text) => {
            let (digits, unit) = match text.as_bytes() {
                [.., b'K' | b'k'] => (&text[..text.len() - 1], 1 << 10),
                [.., b'M' | b'm'] => (&text[..text.len() - 1], 1 << 20),
                _ => (text.as_ref(), 1),
            };
            let only_digits = digits.bytes().all(|byte| byte.is_ascii_digit());
            let number = digits.parse::<u32>().ok().filter(|_| only_digits);
            number.and_then(|number| number.checked_mul(unit))
        }
        _ => None,
    };
    bytes.filter(|bytes| (MIN_MSIZE..=MAX_MSIZE).contains(bytes)).ok_or_else(|| {
        let why =
            format!("max-msize is {MIN_MSIZE} to {MAX_MSIZE} bytes, or such as \"64K\", \"1M\"");
        source.mistake(value.span(), why)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> FolderPath {
        FolderPath::parse(text.as_ref()).unwrap()
    }

    #[test]
    fn every_key_is_read() {
        let text = r#"
            [[export]]
            client = "personal"
            folder = "media"
            access = "rw"
            max-msize = "256K"
            backend = "diod"

            [[export]]
            client = "*"
            folder = "/srv/music"
            access = "ro"
            max-msize = 65_560

            [[export]]
            client = "*"
            folder = "-srv-M_fcsik"
            access = "deny"

            [aliases]
            media = "/mnt/nas/media"
            rest = "-srv-_ff"
        "#;
        let rules = Rules::parse(text.as_bytes()).unwrap();
        let permit = |access, max_msize, backend| {
            Verdict::Permit(Terms { access, max_msize: Some(max_msize), backend })
        };
        let personal = Client::Named("personal".parse().unwrap());
        let umlaut = Folder::from_argument(b"-srv-M_fcsik").unwrap();
        let Folder::Path(umlaut) = umlaut else { panic!("no path") };
        let rule = |line, client, folder, verdict| Rule { line, client, folder, verdict };
        let diod = Some(Backend::Diod);
        assert_eq!(
            rules.rules(),
            [
                rule(2, personal, path("/mnt/nas/media"), permit(Access::ReadWrite, 262_144, diod)),
                rule(9, Client::Any, path("/srv/music"), permit(Access::ReadOnly, 65_560, None)),
                rule(15, Client::Any, umlaut, Verdict::Deny),
            ]
        );
        let resolve = |text: &str| {
            let folder = Folder::parse(text.as_ref()).unwrap();
            rules.resolve(&folder).map(|path| path.as_bytes().to_vec())
        };
        assert_eq!(resolve("media"), Some(b"/mnt/nas/media".to_vec()));
        assert_eq!(resolve("rest"), Some(b"/srv/\xff".to_vec()));
        assert_eq!(resolve("other"), None);
        assert_eq!(resolve("/etc"), Some(b"/etc".to_vec()));
    }

    #[test]
    fn an_empty_file_permits_nothing_and_is_no_mistake() {
        for text in ["", "# nothing\n", "[aliases]\n"] {
            assert_eq!(Rules::parse(text.as_bytes()), Ok(Rules::default()), "{text:?}");
        }
    }

    /// `[[export]]` with these lines.
    fn export(lines: &[&str]) -> String {
        format!("[[export]]\n{}\n", lines.join("\n"))
    }

    const GOOD: [&str; 3] = ["client = \"work\"", "folder = \"/srv\"", "access = \"ro\""];

    #[test]
    fn each_mistake_is_shown_with_its_place_and_text() {
        let with = |line: &str| export(&[GOOD[0], GOOD[1], GOOD[2], line]);
        let instead = |at: usize, line: &str| {
            let mut lines = GOOD;
            lines[at] = line;
            export(&lines)
        };
        for (text, shown) in [
            ("[alias]\n".into(), "1:2: alias: there is no such key"),
            ("export = 1\n".into(), "1:10: 1: write [[export]]"),
            ("export = [1]\n".into(), "1:11: 1: write [[export]]"),
            ("aliases = 1\n".into(), "1:11: 1: write [aliases]"),
            ("[[export]\n".into(), "1:10: [[export]: unclosed array table"),
            ("[aliases]\na = \"/x\"\na = \"/y\"\n".into(), "3:1: a: duplicate key"),
            ("[aliases]\n-a = \"/x\"\n".into(), "2:1: -a: -a is no folder"),
            ("[aliases]\na = \"b\"\n".into(), "2:5: \"b\": an alias stands for a path"),
            ("[aliases]\na = 5\n".into(), "2:5: 5: a folder is a text"),
            (export(&GOOD[1..]), "1:1: [[export]]: client is missing"),
            (export(&[GOOD[0], GOOD[2]]), "1:1: [[export]]: folder is missing"),
            (export(&GOOD[..2]), "1:1: [[export]]: access is missing"),
            (with("read-only = true"), "5:1: read-only: there is no such key"),
            (with("max-msize = \"2M\""), "5:13: \"2M\": max-msize is 4096 to 1048576"),
            (with("max-msize = 4095"), "5:13: 4095: max-msize"),
            (with("max-msize = \"+5000\""), "5:13: \"+5000\": max-msize"),
            (with("max-msize = 0x10000"), "5:13: 0x10000: max-msize"),
            (with("max-msize = \"K\""), "5:13: \"K\": max-msize"),
            (with("backend = \"nfs\""), "5:11: \"nfs\": backend is"),
            (instead(0, "client = \"1x\""), "2:10: \"1x\": the name of a qube begins"),
            (instead(0, "client = \"@anyvm\""), "2:10: \"@anyvm\": the name of a qube begins"),
            (instead(0, "client = [\"a\"]"), "2:10: [\"a\"]: client is a text"),
            (instead(1, "folder = \"/srv/\""), "3:10: \"/srv/\": write it as \"/srv\""),
            (instead(1, "folder = \"/srv/./x\""), "3:10: \"/srv/./x\": write it as \"/srv/x\""),
            (instead(1, "folder = \"//srv\""), "3:10: \"//srv\": write it as \"/srv\""),
            (instead(1, "folder = \"/srv/../x\""), "3:10: \"/srv/../x\": /srv/../x has '..'"),
            (instead(1, "folder = \"srv/x\""), "3:10: \"srv/x\": srv/x is a relative path"),
            (instead(1, "folder = \"media\""), "3:10: \"media\": there is no such alias"),
            (instead(1, "folder = \"-srv-_2f\""), "3:10: \"-srv-_2f\": byte 0x2f is never"),
            (instead(1, "folder = \"\""), "3:10: \"\": the folder's name is empty"),
            (instead(2, "access = \"wr\""), "4:10: \"wr\": access is"),
            (instead(2, "access = "), "4:10: access =: string values must be quoted"),
            (
                instead(2, "access = \"deny\"\nmax-msize = 8192"),
                "5:1: max-msize: it has no meaning",
            ),
            (
                instead(2, "access = \"deny\"\nbackend = \"diod\""),
                "5:1: backend: it has no meaning",
            ),
            ("# M\u{fc}sik\n\u{fc} = \"\n".into(), "2:1: \\u{fc}: invalid unquoted key"),
        ] {
            let mistake = Rules::parse(text.as_bytes()).unwrap_err().to_string();
            let shown = shown.replace("\\u{fc}", "\u{fc}");
            assert!(mistake.starts_with(&shown), "{text}\n{mistake}\n{shown}");
        }
        let mistake = Rules::parse(b"# ok\n# M\xfcsik\n").unwrap_err().to_string();
        assert!(mistake.starts_with(r"2:4: \\xfc: the file is not UTF-8"), "{mistake}");
        let mistake = Rules::parse(with("backend = \"\x1b[2J\"").as_bytes()).unwrap_err();
        assert!(!mistake.to_string().contains('\x1b'), "{mistake}");
        let long = Rules::parse(with(&format!("{} = 1", "k".repeat(900))).as_bytes()).unwrap_err();
        assert!(long.to_string().len() < 250, "{long}");
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_bring_it_down(bytes: Vec<u8>) {
            let _ = Rules::parse(&bytes).map_err(|mistake| mistake.to_string());
        }
    }
}
