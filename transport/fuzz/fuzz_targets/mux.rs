//! Sequences of operations on both ends of a channel, against the model that the properties use: order,
//! credit, fairness, and that nothing lags in the end.
#![no_main]

#[path = "../../tests/mux_model/mod.rs"]
mod mux_model;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;

use mux_model::{Pair, Step};

#[derive(Arbitrary, Clone, Copy, Debug)]
struct At {
    client: bool,
    stream: u8,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Op {
    Open,
    Start(At, bool, u16),
    /// As many whole small messages.
    Flood(At, u8, u16),
    Extend(At, u16),
    Consume(At, u16),
    Close(At),
    Move(bool, u16, u16),
    Wait(u16),
}

impl Op {
    fn steps(self) -> Vec<Step> {
        let at = |at: At| (at.client, 1 + u32::from(at.stream % 4));
        let bytes = |bytes: u16| 1 + u32::from(bytes % 8000);
        let step = match self {
            Op::Flood(place, count, length) => {
                let (client, stream) = at(place);
                let length = 1 + u32::from(length % 1024);
                let start = Step::Start { client, stream, bulk: false, length };
                let extend = Step::Extend { client, stream, bytes: length };
                return vec![[start, extend]; usize::from(count % 16)].concat();
            }
            Op::Open => Step::Open,
            Op::Start(place, bulk, length) => {
                let (client, stream) = at(place);
                Step::Start { client, stream, bulk, length: bytes(length) }
            }
            Op::Extend(place, length) => {
                let (client, stream) = at(place);
                Step::Extend { client, stream, bytes: bytes(length) }
            }
            Op::Consume(place, length) => {
                let (client, stream) = at(place);
                Step::Consume { client, stream, bytes: bytes(length) }
            }
            Op::Close(place) => {
                let (client, stream) = at(place);
                Step::Close { client, stream }
            }
            Op::Move(client, max, deliver) => {
                Step::Move { client, max: 1 + usize::from(max), deliver: 1 + usize::from(deliver) }
            }
            Op::Wait(ms) => Step::Wait { ms: u32::from(ms) },
        };
        vec![step]
    }
}

fuzz_target!(|ops: Vec<Op>| {
    let mut pair = Pair::new();
    pair.apply(&Step::Open);
    pair.apply(&Step::Open);
    ops.iter().take(300).flat_map(|op| op.steps()).for_each(|step| pair.apply(&step));
    pair.settle();
});
