//! The man pages: what is generated, and the written sections behind it.

use std::io::Result;

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use client::exit::Exit;

const FRONTEND: &str = ".TP
.BI frontend= auto|v9fs|fuse , \\0idmap= HOW , \\0coherence= TIME , \\0allow_other
the same.
";

/// Every page and its file's name.
pub fn pages() -> Result<Vec<(String, String)>> {
    let mut mount = generated(client::cli::Cli::command(), "1", "User commands")?;
    mount += ".SH EXIT STATUS\n";
    for exit in Exit::ALL {
        mount += &format!(".TP\n.B {}\n{}\n", exit.code(), escaped(exit.meaning()));
    }
    mount += include_str!("../../man/qvm-mount-folder.1.roff");

    let helper = generated(client::helper::Helper::command(), "8", "System administration")?;
    // What `qvm-mount-folder` has no long option for is no mount option either.
    let known = |long: &str| {
        client::cli::Cli::command().get_arguments().any(|a| a.get_long() == Some(long))
    };
    let front_ends = if known("frontend") { FRONTEND } else { "" };
    let written = include_str!("../../man/mount.qvm.8.roff").replace("@FRONTEND@\n", front_ends);

    let server = generated(server::cli::Cli::command(), "1", "User commands")?;
    Ok(vec![
        ("qvm-mount-folder.1".into(), mount),
        ("mount.qvm.8".into(), helper + &written),
        ("qvm-folder-server.1".into(), server + include_str!("../../man/qvm-folder-server.1.roff")),
        (
            "qubes-shared-folders-exports.toml.5".into(),
            include_str!("../../man/qubes-shared-folders-exports.toml.5").into(),
        ),
    ])
}

/// Title, name, synopsis, description and options of a command.
fn generated(command: Command, section: &str, manual: &str) -> Result<String> {
    let source = format!("qubes-shared-folders {}", env!("CARGO_PKG_VERSION"));
    let usage = command.get_overridden_usage().map(ToString::to_string);
    // Code is shown as such in a terminal's help only.
    let man = Man::new(command).section(section).source(source).manual(manual).date("");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    match usage {
        None => man.render_synopsis_section(&mut page)?,
        Some(usage) => {
            let lines = usage.lines().map(|line| escaped(line.trim()));
            page.extend_from_slice(b".SH SYNOPSIS\n.nf\n");
            lines.for_each(|line| page.extend_from_slice(format!("{line}\n").as_bytes()));
            page.extend_from_slice(b".fi\n");
        }
    }
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    Ok(String::from_utf8(page).expect("a page is made of strings"))
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-").replace('`', "\\(cq")
}
