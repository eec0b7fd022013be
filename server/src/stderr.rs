//! Words for people, on stderr. The far end reads it, or does not: nothing may depend on that.

use std::fmt::Display;
use std::io::Write;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Says one line. Dropped where stderr is closed, or nobody has taken what was said before: the
/// thread that says it has more to do than to wait.
pub fn say(line: impl Display) {
    let stderr = std::io::stderr();
    let mut ready = [PollFd::new(&stderr, PollFlags::OUT)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    // A pipe that is ready takes PIPE_BUF bytes in one go, and a line is far shorter.
    if matches!(poll(&mut ready, Some(&now)), Ok(1)) {
        let line = format!("{line}\n");
        let _ = stderr.lock().write_all(&line.as_bytes()[..line.len().min(4096)]);
    }
}
