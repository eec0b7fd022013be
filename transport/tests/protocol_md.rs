//! PROTOCOL.md's byte examples: each is read, decoded, encoded again and compared, and every kind of
//! frame and both prefaces must have one. Its tables of kinds and reasons are the code's.
//!
//! An example is a fenced block whose info string is `hex`, what it is, and which: `hex frame OPEN`.
//! A `#` begins a comment.
#![allow(clippy::unwrap_used)] // a test stops where its helpers do

use bytes::{Bytes, BytesMut};
use transport::accel::hint::{Hint, Writer, decode_forget, forget};
use transport::mux::Code;
use transport::mux::frame::{Frame, HEADER, Header, Kind};
use transport::mux::preface::{Answer, ClientHello, Preface, PrefaceReader, Role, Taken};
use transport::ninep::framer::Assembler;
use transport::ninep::{Framer, Packet, Rmessage, Tmessage};

const TEXT: &str = include_str!("../PROTOCOL.md");

struct Example {
    /// For failures.
    line: usize,
    what: String,
    which: String,
    bytes: Vec<u8>,
}

fn examples() -> Vec<Example> {
    let mut examples = Vec::new();
    let mut lines = TEXT.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let Some(info) = line.strip_prefix("```hex ") else { continue };
        let (what, which) = info.split_once(' ').unwrap();
        let body = lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```");
        let bytes = body
            .flat_map(|line| line.split('#').next().unwrap().split_whitespace())
            .map(|byte| u8::from_str_radix(byte, 16).unwrap())
            .collect();
        let (what, which) = (what.to_owned(), which.to_owned());
        examples.push(Example { line: number + 1, what, which, bytes });
    }
    examples
}

fn preface<P: Preface>(example: &Example) -> P {
    let bytes = Bytes::from(example.bytes.clone());
    let fed = PrefaceReader::<P>::default().feed(bytes).unwrap();
    let (preface, rest) = fed.unwrap_or_else(|| panic!("line {}: too short", example.line));
    assert!(rest.is_empty(), "line {}: {} bytes too many", example.line, rest.len());
    assert_eq!(preface.encode(), example.bytes, "line {}", example.line);
    preface
}

fn frame(example: &Example) -> Kind {
    let (raw, payload) = example.bytes.split_first_chunk::<HEADER>().unwrap();
    let header = Header::read(raw).unwrap();
    let frame = Frame::decode(header, payload);
    let frame = frame.unwrap_or_else(|error| panic!("line {}: {error}", example.line));
    let mut back = BytesMut::new();
    frame.encode(&mut back);
    assert_eq!(back, example.bytes, "line {}", example.line);
    assert_eq!(frame.kind().name(), example.which, "line {}", example.line);
    frame.kind()
}

fn ninep(example: &Example) {
    let mut framer = Framer::new(8192);
    let mut assembler = Assembler::default();
    framer.push(Bytes::from(example.bytes.clone()));
    let mut packet = None;
    while let Some(item) = framer.poll().unwrap() {
        packet = assembler.push(item);
    }
    let packet = packet.unwrap_or_else(|| panic!("line {}: not whole", example.line));
    assert!(framer.is_between());
    let (name, back) = if example.which.starts_with('T') {
        let (tag, message) = Tmessage::decode(&packet).unwrap();
        (format!("{message:?}"), message.with_body(tag, packet.body.to_vec()))
    } else {
        let (tag, message) = Rmessage::decode(&packet).unwrap();
        (format!("{message:?}"), message.with_body(tag, packet.body.to_vec()))
    };
    assert!(name.starts_with(&example.which), "line {}: {name}", example.line);
    assert_eq!(back.to_vec(), example.bytes, "line {}", example.line);
}

/// Writes again what an example says.
fn hint(example: &Example) -> Packet {
    let hint =
        Hint::decode(&example.bytes).unwrap_or_else(|e| panic!("line {}: {e}", example.line));
    let mut writer = Writer::new(hint.tag, hint.dir, hint.watched);
    hint.entries.iter().for_each(|entry| writer.push(entry));
    writer.finish()
}

#[test]
fn every_example_is_what_it_says_and_none_is_missing() {
    let mut kinds = Vec::new();
    let mut seen = Vec::new();
    for example in &examples() {
        seen.push(format!("{} {}", example.what, example.which));
        match (example.what.as_str(), example.which.as_str()) {
            ("client-preface", which) => {
                let hello: ClientHello = preface(example);
                assert_eq!(matches!(hello.role, Role::Grant(_)), which == "grant");
            }
            ("server-preface", which) => match preface::<Answer>(example) {
                Answer::Refused(reason) => {
                    assert_eq!((reason.code, which), (Code::VERSION, "refused"))
                }
                Answer::Taken(hello) => {
                    let granted = matches!(hello.taken, Taken::Grant(_));
                    assert_eq!(which, if granted { "granted" } else { "taken" });
                    assert_eq!(hello.name, b"work");
                }
            },
            ("frame", _) => kinds.push(frame(example)),
            ("9p", _) => ninep(example),
            ("hint", "Rhint") => assert_eq!(hint(example).to_vec(), example.bytes),
            ("hint", "Rforget") => {
                let records = decode_forget(&example.bytes).unwrap();
                assert_eq!(records, [(42, &b"a"[..])]);
                assert_eq!(forget(records).to_vec(), example.bytes, "line {}", example.line);
            }
            (other, _) => panic!("line {}: {other} is no sort of example", example.line),
        }
    }
    for &kind in Kind::ALL {
        let reserved = matches!(kind, Kind::Hint | Kind::Invalidate);
        assert_ne!(kinds.contains(&kind), reserved, "{kind} has an example unless it is reserved");
    }
    for needed in [
        "client-preface channel",
        "client-preface grant",
        "server-preface taken",
        "server-preface granted",
        "server-preface refused",
        "9p Twalk",
        "9p Rread",
        "hint Rhint",
        "hint Rforget",
    ] {
        assert!(seen.iter().any(|example| example == needed), "{needed} has an example");
    }
}

/// The first two cells of the rows of all tables.
fn rows() -> Vec<(&'static str, &'static str)> {
    let cells = |line: &'static str| {
        let mut cells = line.strip_prefix("| ")?.split(" | ");
        Some((cells.next()?.trim(), cells.next()?.trim_end_matches('|').trim()))
    };
    TEXT.lines().filter_map(cells).collect()
}

#[test]
fn the_table_of_kinds_is_the_codes() {
    let rows = rows();
    for &kind in Kind::ALL {
        let row = ((kind as u8).to_string(), kind.name());
        assert!(rows.iter().any(|&(a, b)| (a, b) == (&row.0, row.1)), "{row:?} is in the table");
    }
}

#[test]
fn the_table_of_reasons_is_the_codes() {
    let rows = rows();
    let table = rows.iter().skip_while(|row| row.0 != "code").skip(1);
    let table: Vec<_> = table.filter(|row| !row.0.starts_with('-')).collect();
    assert_eq!(table.len(), Code::ALL.len());
    for (row, (code, word)) in table.into_iter().zip(Code::ALL) {
        assert_eq!(row.0, code.0.to_string());
        assert!(row.1.starts_with(word), "{} is {word}", row.0);
    }
}
