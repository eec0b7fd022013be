//! `--watch`: the list again and again, as top(1) shows processes.
//!
//! On a terminal it has the alternate screen to itself, so that what was there before comes back at the end,
//! which is `q`, Ctrl-C or a signal. Elsewhere the lists follow each other.

use std::io::{IsTerminal, Read, Write};
use std::time::Duration;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};

use super::{Look, Show, look, print};

const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
const HOME: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";
/// Ctrl-C and Ctrl-D, which are bytes like others while signals are off.
const ENDS: [u8; 4] = [b'q', b'Q', 0x03, 0x04];

/// Shows the list every `pause` until it is ended. Errors are those of writing.
pub fn run(show: Show, pause: Duration) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(watch(show, pause))
}

async fn watch(show: Show, pause: Duration) -> std::io::Result<()> {
    let mut ends = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]
        .map(signal)
        .into_iter()
        .collect::<std::io::Result<Vec<_>>>()?;
    let screen = Screen::enter()?;
    let (key, mut keys) = tokio::sync::mpsc::unbounded_channel();
    if screen.is_some() {
        // Ends with the process: a read from a terminal cannot be taken back.
        std::thread::spawn(move || {
            let mut byte = [0];
            while std::io::stdin().read(&mut byte).is_ok_and(|count| count > 0) {
                if key.send(byte[0]).is_err() {
                    return;
                }
            }
        });
    }
    let mut before = None;
    loop {
        let now = look(before.as_ref());
        match &screen {
            Some(screen) => screen.draw(&now, show)?,
            None => {
                let mut out = std::io::stdout().lock();
                now.problems.iter().for_each(|problem| eprintln!("warning: {problem}"));
                print(&now, show, &mut out)?;
                if !show.json {
                    writeln!(out)?;
                }
                out.flush()?;
            }
        }
        before = Some(now);
        let ended = async {
            let [interrupt, terminate, hangup] = &mut ends[..] else { return };
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
                () = async {
                    while let Some(key) = keys.recv().await {
                        if ENDS.contains(&key) {
                            return;
                        }
                    }
                    // No keyboard: only a signal ends it.
                    std::future::pending().await
                } => {}
            }
        };
        tokio::select! {
            () = ended => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// A terminal with the alternate screen on; as it was before when dropped.
struct Screen {
    before: Option<Termios>,
}

impl Screen {
    /// Takes the terminal, where stdout is one.
    fn enter() -> std::io::Result<Option<Screen>> {
        if !std::io::stdout().is_terminal() {
            return Ok(None);
        }
        // Without a keyboard it ends by a signal only.
        let before = tcgetattr(rustix::stdio::stdin()).ok();
        if let Some(before) = &before {
            let mut raw = before.clone();
            raw.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG);
            tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &raw)?;
        }
        let screen = Screen { before };
        let mut out = std::io::stdout().lock();
        out.write_all(ENTER.as_bytes())?;
        out.flush()?;
        Ok(Some(screen))
    }

    /// Shows a look, cut to the terminal's size.
    fn draw(&self, look: &Look, show: Show) -> std::io::Result<()> {
        let size = tcgetwinsize(rustix::stdio::stdout()).ok();
        let (rows, columns) = size.map_or((24, 80), |size| (size.ws_row, size.ws_col));
        let (rows, columns) = (usize::from(rows.max(2)), usize::from(columns.max(20)));
        let mut text = Vec::new();
        print(look, show, &mut text)?;
        let text = String::from_utf8_lossy(&text);
        let problems = look.problems.iter().map(|problem| format!("warning: {problem}"));
        let lines = text.lines().map(str::to_owned).chain(problems);
        let mut page = String::from(HOME);
        for line in lines.take(rows - 1) {
            page.extend(line.chars().take(columns));
            page += CLEAR_LINE;
            page += "\r\n";
        }
        page += CLEAR_BELOW;
        let mut out = std::io::stdout().lock();
        out.write_all(page.as_bytes())?;
        out.write_all(b"q ends")?;
        out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(LEAVE.as_bytes());
        let _ = out.flush();
        if let Some(before) = &self.before {
            let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, before);
        }
    }
}
