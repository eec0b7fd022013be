//! A stream: its state, and its two halves.
//!
//! A stream that is over is not in the connection's table any more. Its number is never used again,
//! so that a late frame can only mean the stream that is gone.

use super::receive::ReceiveHalf;
use super::send::SendHalf;

/// Where a stream stands.
///
/// ```text
///        client end                              server end
///
///          open()                                OPEN came
///            │ OPEN goes                             │
///            ▼                                       ▼
///        ┌─────────┐  REFUSED came        ┌─────────┐  refuse(): REFUSED goes
///        │ Opening ├──────────────► over  │ Offered ├──────────────────► over
///        └──┬────┬─┘                      └──┬────┬─┘
/// OPENED    │    │            accept():      │    │ CLOSE came: CLOSE goes
/// came      │    │            OPENED goes    │    └──────────────────► over
///           ▼    │                           ▼
///        ┌─────────┐   CLOSE came:        ┌─────────┐
///        │  Open   │   CLOSE goes         │  Open   │   likewise
///        │         ├──────────────► over  │         ├──────────────► over
///        └──┬──────┘                      └──┬──────┘
///           │    │ close(), or               │
///           │    │ the peer broke a rule:    │
///           ▼    ▼ CLOSE goes                ▼
///        ┌─────────┐                      ┌─────────┐
///        │ Closing ├──────────────► over  │ Closing ├──────────────► over
///        └─────────┘  CLOSE came,         └─────────┘  CLOSE came
///                     or REFUSED
/// ```
///
/// `CLOSE` is an end's last frame of a stream, and each end sends exactly one, except that a
/// `REFUSED` stands for the server end's: a client end that closes while it is being refused has
/// sent one too many, which the server end lets pass.
#[derive(Debug)]
pub(crate) enum State {
    /// `OPEN` is sent, or about to be; no answer yet. Client end only.
    Opening,
    /// `OPEN` came; the caller has not answered. Server end only.
    Offered,
    /// Messages go both ways.
    Open(Halves),
    /// We have sent `CLOSE`; the peer may not have seen it. What it sends is thrown away.
    Closing,
}

/// An open stream's two directions.
#[derive(Debug)]
pub(crate) struct Halves {
    pub send: SendHalf,
    pub receive: ReceiveHalf,
    /// Whether the stream is listed for a `CREDIT` frame.
    pub credit_due: bool,
}
