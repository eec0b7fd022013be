//! The qubes that this person has mounted from, the last one first: what completions offer.
//!
//! A list of at most [`MOST`] names in the person's state folder (XDG Base Directory Specification:
//! `$XDG_STATE_HOME`, else `~/.local/state`). Nobody depends on it: what cannot be read or written is left.

use std::fs;
use std::path::PathBuf;

use policy::Target;

/// How many are kept.
pub const MOST: usize = 20;

/// Those that are kept, the last one first.
pub fn servers() -> Vec<Target> {
    let text = file().and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
    text.lines().take(MOST).filter_map(|line| line.parse().ok()).collect()
}

/// Puts `server` first.
pub fn note(server: &Target) {
    let Some(path) = file() else { return };
    let mut servers = servers();
    servers.retain(|other| other != server);
    servers.insert(0, server.clone());
    servers.truncate(MOST);
    let lines: String = servers.iter().map(|server| format!("{server}\n")).collect();
    let Some(folder) = path.parent() else { return };
    let new = path.with_extension(format!("new-{}", std::process::id()));
    // Whole or not at all, as another command may do the same now.
    let written = fs::create_dir_all(folder).and_then(|()| fs::write(&new, lines));
    if written.and_then(|()| fs::rename(&new, &path)).is_err() {
        let _ = fs::remove_file(new);
    }
}

/// Where they are kept; nowhere for root in another's stead, whose files those would be.
fn file() -> Option<PathBuf> {
    if std::env::var_os("SUDO_UID").is_some() && rustix::process::geteuid().is_root() {
        return None;
    }
    let absolute =
        |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state =
        absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    Some(state.join("qubes-shared-folders/servers"))
}
