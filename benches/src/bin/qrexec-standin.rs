//! Takes the place of `qrexec-client-vm` where there is no Qubes: `qrexec-standin [--buffer-size=N]
//! TARGET SERVICE+ARG`, with the caller's end of the channel as its descriptors 0 and 1.
//!
//! [`benches::standin`] says what it does and which variables set it up; `--delay-us=N` adds to the way
//! of each byte, `--rate=N` limits each direction to N bytes a second.

use benches::standin::{self, Call, TROUBLE, USAGE, agent};
use std::env::args;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = args().skip(1).peekable();
    let is_agent = arguments.next_if(|first| first == agent::ARGUMENT).is_some();
    let call = match Call::parse(arguments) {
        Ok(call) => call,
        Err(why) => {
            eprintln!("qrexec-standin: {why}");
            return ExitCode::from(USAGE);
        }
    };
    let code = if is_agent { agent::run(&call).map(|()| 0) } else { standin::run(&call) };
    match code {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("qrexec-standin: {error:#}");
            ExitCode::from(TROUBLE)
        }
    }
}
