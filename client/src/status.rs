//! `--list`: the mounts of this person, a line each.

use std::io::Write;
use std::time::Duration;

use policy::printable;

use crate::daemon::control::{self, Event, FORM, Mount, Request, Want};
use crate::daemon::spawn;

/// How long a daemon may take to answer; one that does not is left out.
const PATIENCE: Duration = Duration::from_secs(2);

/// All mounts that this person's daemons hold.
pub fn mounts() -> Vec<Mount> {
    let request = Request { form: FORM, want: Want::List };
    let lists = spawn::connect_all().into_iter().filter_map(|socket| {
        socket.set_timeout(PATIENCE).ok()?;
        control::send(&socket, &request, None).ok()?;
        let mut all = Vec::new();
        while let Ok(Some((Event::Mount(mount), _))) = control::receive::<Event>(&socket) {
            all.push(mount);
        }
        Some(all)
    });
    lists.flatten().collect()
}

/// Writes them as a table. Errors are those of writing.
pub fn print(mounts: &[Mount], to: &mut impl Write) -> std::io::Result<()> {
    let mut rows =
        vec![["SERVER", "FOLDER", "MOUNT POINT", "BY", "MSIZE", "ACCESS"].map(String::from)];
    rows.extend(mounts.iter().map(|mount| {
        [
            printable(mount.server.as_bytes()).to_string(),
            printable(mount.folder.as_bytes()).to_string(),
            printable(&mount.mount_point).to_string(),
            mount.front_end.clone(),
            match mount.msize {
                0 => "-".to_owned(),
                msize => msize.to_string(),
            },
            if mount.read_only { "ro" } else { "rw" }.to_owned(),
        ]
    }));
    let mut widths = [0; 6];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            line += &format!("{cell:width$}  ");
        }
        writeln!(to, "{}", line.trim_end())?;
    }
    Ok(())
}
