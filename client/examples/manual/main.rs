//! Writes the man pages and the completions below a folder: `manual FOLDER`. `make man` runs it.
//!
//! What options there are comes from the programs' own command lines; what no command line knows is in
//! `client/man`.

mod completions;
mod man;

use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from);
    let folder =
        folder.ok_or_else(|| std::io::Error::other("manual takes a folder to write to"))?;
    std::fs::create_dir_all(&folder)?;
    for (name, text) in man::pages()?.into_iter().chain(completions::scripts()) {
        std::fs::write(folder.join(name), text)?;
    }
    Ok(())
}
